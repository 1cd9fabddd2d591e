package compile

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// pass is one change on its way through a Compiler: what it has reached so far, and what comes of it.
type pass struct {
	*Compiler
	delta Delta
	// settling are the routes whose parents are found out anew; compiling are further ones that are compiled anew,
	// and reporting those of which only the status may be another.
	settling distinct[*unit]
	// begun is how many of them have been attached anew.
	begun                int
	compiling, reporting map[*unit]bool
	// places are to be looked at: whether there are resources for them, and what these say.
	places map[place]bool
	// services have changed; endpoints are those whose slices have.
	services, endpoints map[types.NamespacedName]bool
	// exposing are the Services whose exposures are made anew.
	exposing map[types.NamespacedName]bool
	// deciding are the namespaces in which what policies apply to is decided anew; telling those whose policies'
	// statuses are made anew; authorizing and judging are these for authorizations.
	deciding, telling, authorizing, judging map[string]bool
}

func newPass(c *Compiler) *pass {
	return &pass{
		Compiler: c, delta: newDelta(),
		compiling: make(map[*unit]bool), reporting: make(map[*unit]bool), places: make(map[place]bool),
		services: make(map[types.NamespacedName]bool), endpoints: make(map[types.NamespacedName]bool),
		exposing: make(map[types.NamespacedName]bool), deciding: make(map[string]bool), telling: make(map[string]bool),
		authorizing: make(map[string]bool), judging: make(map[string]bool),
	}
}

// takeSettings takes settings that do not concern everything.
func (p *pass) takeSettings(s *Snapshot) {
	if s != nil {
		sameAccounts := maps.Equal(s.ServiceAccounts, p.settings.ServiceAccounts) && (s.ServiceAccounts == nil) == (p.settings.ServiceAccounts == nil)
		sameKeys := maps.Equal(s.KeySets, p.settings.KeySets) && (s.KeySets == nil) == (p.settings.KeySets == nil)
		if !sameAccounts || !sameKeys || s.Mesh != p.settings.Mesh {
			for namespace := range p.objects.authorizations {
				p.authorizing[namespace] = true
			}
		}
		p.set(*s)
	}
	if s != nil || len(p.resources) == 0 {
		mesh, _ := meshResource(p.settings)
		p.put(mesh)
	}
}

func (p *pass) takeNumbers(unused []NumberKey) {
	for _, key := range unused {
		if p.numbers.forget(key) {
			p.delta.Numbers = true
		}
	}
	if !p.delta.Numbers {
		return
	}
	gone := make(map[NumberKey]bool, len(unused))
	for _, key := range unused {
		gone[key] = true
	}
	for at := range p.numberOf {
		if gone[p.world.numberKey(at)] {
			p.unnumbered[at] = true
		}
	}
}

func (p *pass) takeServices(services map[types.NamespacedName]*corev1.Service) {
	for name, svc := range services {
		before := p.world.services[name]
		switch {
		case before == svc, before != nil && svc != nil && sameState(before, svc):
			continue
		case svc == nil:
			delete(p.world.services, name)
			p.objects.servicesIn.drop(name.Namespace, name)
		default:
			p.world.services[name] = svc
			if before == nil {
				p.objects.servicesIn.add(name.Namespace, name)
			}
		}
		p.services[name], p.exposing[name] = true, true
		p.touch(name.Namespace)
		for _, u := range p.mentions[name] {
			p.settling.add(u)
		}
		for _, at := range p.Compiler.places[name] {
			p.places[at] = true
		}
	}
}

// sameState tells that an object is as it was: the API server gives every state of one a version.
func sameState(before, now metav1.Object) bool {
	return before.GetResourceVersion() != "" && before.GetUID() == now.GetUID() && before.GetResourceVersion() == now.GetResourceVersion()
}

// touch notes that something in a namespace has changed that policies of any kind may be for.
func (p *pass) touch(namespace string) {
	if len(p.objects.policies[namespace]) > 0 {
		p.deciding[namespace], p.telling[namespace] = true, true
	}
	if len(p.objects.authorizations[namespace]) > 0 {
		p.authorizing[namespace] = true
	}
}

func (p *pass) takeRoute(id Target, r routeObject) {
	before := p.objects.routes[id]
	if before == r || before.exists() && r.exists() && sameState(before.meta(), r.meta()) {
		return
	}
	if r.exists() {
		p.objects.routes[id] = r
	} else {
		delete(p.objects.routes, id)
	}
	p.touch(id.Namespace)
	u := p.units[id]
	switch attached := r.attached(); {
	case !attached && u == nil:
		return
	case !attached:
		u.route = nil
	case u == nil:
		u = &unit{id: id}
		p.units[id] = u
		p.unitsIn.add(id.Namespace, u)
		fallthrough
	default:
		u.route = r.read()
	}
	var services []types.NamespacedName
	if u.route != nil {
		services = servicesOf(u.route)
	}
	p.mentions.move(u, u.services, services)
	u.services = services
	p.settling.add(u)
}

func (p *pass) takePolicies(policies map[types.NamespacedName]*meshv1alpha1.MeshPolicy) {
	for name, object := range policies {
		in := p.objects.policies[name.Namespace]
		before := in[name.Name]
		switch {
		case before == nil && object == nil, before != nil && before.object == object,
			before != nil && object != nil && sameState(before.object, object):
			continue
		case object == nil:
			delete(in, name.Name)
			delete(p.policies, name)
			p.delta.Policies[name] = nil
		default:
			if in == nil {
				in = make(map[string]*policy)
				p.objects.policies[name.Namespace] = in
			}
			in[name.Name] = newPolicy(object)
		}
		p.deciding[name.Namespace], p.telling[name.Namespace] = true, true
	}
}

func (p *pass) takeAuthorizations(authorizations map[types.NamespacedName]*meshv1alpha1.MeshAuthorization) {
	for name, object := range authorizations {
		in := p.objects.authorizations[name.Namespace]
		switch before := in[name.Name]; {
		case before == object, before != nil && object != nil && sameState(before, object):
			continue
		case object == nil:
			delete(in, name.Name)
			delete(p.statuses, name)
			p.delta.Authorizations[name] = nil
		default:
			if in == nil {
				in = make(map[string]*meshv1alpha1.MeshAuthorization)
				p.objects.authorizations[name.Namespace] = in
			}
			in[name.Name] = object
		}
		p.authorizing[name.Namespace] = true
	}
}

func (p *pass) takeSlices(slicesOf map[types.NamespacedName][]*discoveryv1.EndpointSlice) {
	for name, list := range slicesOf {
		if slices.Equal(p.slices[name], list) {
			continue
		}
		if len(list) == 0 {
			delete(p.slices, name)
		} else {
			p.slices[name] = list
		}
		p.endpoints[name] = true
	}
}

// put publishes a resource. One that says what is published already is not another.
func (p *pass) put(r wire.Resource) {
	if was, known := p.resources[r.Ref]; known && sameResource(was, &r) {
		return
	}
	p.resources[r.Ref], p.delta.Resources[r.Ref] = &r, &r
	p.changed(&r)
}

// remove takes a resource away, if it is there.
func (p *pass) remove(ref wire.Ref) {
	if was, known := p.resources[ref]; known {
		delete(p.resources, ref)
		p.delta.Resources[ref] = nil
		p.changed(was)
	}
}

func sameResource(a, b *wire.Resource) bool {
	return a.Version == b.Version && a.Scope == b.Scope && a.Origin == b.Origin
}

// changed notes whose statuses depend on a resource of a Service. Who compiles a route has touched its namespace.
func (p *pass) changed(r *wire.Resource) {
	var namespace string
	switch {
	case r.Destination != nil:
		namespace = r.Destination.Namespace
	case r.Backend != nil:
		namespace = r.Backend.Namespace
	}
	if len(p.objects.policies[namespace]) > 0 {
		p.telling[namespace] = true
	}
}
