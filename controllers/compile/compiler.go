package compile

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// Compiler holds a snapshot with what it means, and brings both to the next one at the cost of what has changed and
// of what depends on it. Whatever the way that led to it, a Compiler says what Compile says of the same snapshot:
// Compile is a Compiler that has seen one change. Nothing of what it hands out may be changed.
//
// Routes depend on each other only through facts about ports, which are counted: who attaches to a port, who says
// that it speaks HTTP, which GRPCRoute comes first there, and what routes take its protocol for. A change goes
// through these facts in their order, and on to other routes only where one of them has become another.
type Compiler struct {
	// settings is the snapshot without its lists of objects, namespaces excepted.
	settings Snapshot
	world    *world
	// withEndpoints tells that Endpoints are made; slices are those of each Service.
	withEndpoints bool
	slices        map[types.NamespacedName][]*discoveryv1.EndpointSlice
	objects       objects

	numbers numbering
	// units are the routes with a Service parent; unitsIn those of each namespace; mentions the Services that they
	// refer to.
	units    map[Target]*unit
	unitsIn  index[string, *unit]
	mentions index[types.NamespacedName, *unit]
	// own are the places that a Service is a destination at by itself, destinations counts why a place is one, and
	// numberOf is its number, 0 if there was none left.
	own          map[types.NamespacedName][]place
	destinations tally[place]
	numberOf     map[place]uint16
	unnumbered   map[place]bool
	// attachable are the routes with a parent at a place, whether they apply there or not; spoken counts those that
	// say that it speaks HTTP; grpc are the GRPCRoutes of a group.
	attachable index[place, *unit]
	spoken     tally[place]
	grpc       index[group, *unit]
	uses       uses
	// senders are the routes that send to a place; places those of each Service that there are resources for.
	senders index[place, *unit]
	places  index[types.NamespacedName, place]

	authorizations map[string][]*authorization
	// exposures are sorted in each namespace.
	exposures map[string][]Exposure
	policies  map[types.NamespacedName]PolicyStatus
	statuses  map[types.NamespacedName]AuthorizationStatus
	resources map[wire.Ref]*wire.Resource
}

// objects are the objects of a snapshot that are not in its world.
type objects struct {
	servicesIn     index[string, types.NamespacedName]
	routes         routeObjects
	policies       map[string]map[string]*policy
	authorizations map[string]map[string]*meshv1alpha1.MeshAuthorization
}

// Changes are what makes the next snapshot of one: objects by name, nil for those that are gone. Those that are the
// same cost nothing.
type Changes struct {
	// Settings is what the next snapshot says beside its lists of objects other than Namespaces, and its Numbers; nil
	// if that is the same.
	Settings           *Snapshot
	Services           map[types.NamespacedName]*corev1.Service
	HTTPRoutes         map[types.NamespacedName]*gwv1.HTTPRoute
	GRPCRoutes         map[types.NamespacedName]*gwv1.GRPCRoute
	MeshPolicies       map[types.NamespacedName]*meshv1alpha1.MeshPolicy
	MeshAuthorizations map[types.NamespacedName]*meshv1alpha1.MeshAuthorization
	// EndpointSlices are all slices of Services of which some have changed.
	EndpointSlices map[types.NamespacedName][]*discoveryv1.EndpointSlice
	// Numbers are those that nothing uses any more and that may be given out again.
	Numbers []NumberKey
}

// Delta is what a change of the snapshot means: what is other than before, nil for what is gone.
type Delta struct {
	Resources      map[wire.Ref]*wire.Resource
	Routes         map[Target]*RouteStatus
	Policies       map[types.NamespacedName]*PolicyStatus
	Authorizations map[types.NamespacedName]*AuthorizationStatus
	// Exposures are all of each namespace in which some have changed.
	Exposures map[string][]Exposure
	// Numbers tells that there are others.
	Numbers bool
}

func newDelta() Delta {
	return Delta{
		Resources: make(map[wire.Ref]*wire.Resource), Routes: make(map[Target]*RouteStatus),
		Policies: make(map[types.NamespacedName]*PolicyStatus), Authorizations: make(map[types.NamespacedName]*AuthorizationStatus),
		Exposures: make(map[string][]Exposure),
	}
}

// Then returns the delta that has the effect of d and then of next. It may change d.
func (d Delta) Then(next Delta) Delta {
	if d.Resources == nil {
		return next
	}
	maps.Copy(d.Resources, next.Resources)
	maps.Copy(d.Routes, next.Routes)
	maps.Copy(d.Policies, next.Policies)
	maps.Copy(d.Authorizations, next.Authorizations)
	maps.Copy(d.Exposures, next.Exposures)
	d.Numbers = d.Numbers || next.Numbers
	return d
}

// NewCompiler returns a Compiler of a snapshot, and what it means. Endpoints are made even of a snapshot without slices.
func NewCompiler(s Snapshot) (*Compiler, Delta) {
	c := newCompiler(s, true)
	return c, c.take(changesOf(s)).finish()
}

func newCompiler(s Snapshot, withEndpoints bool) *Compiler {
	c := &Compiler{
		withEndpoints: withEndpoints,
		slices:        make(map[types.NamespacedName][]*discoveryv1.EndpointSlice),
		objects: objects{
			servicesIn: make(index[string, types.NamespacedName]), routes: make(routeObjects, len(s.HTTPRoutes)+len(s.GRPCRoutes)),
			policies:       make(map[string]map[string]*policy),
			authorizations: make(map[string]map[string]*meshv1alpha1.MeshAuthorization),
		},
		numbers: newNumbering(s.Numbers),
		units:   make(map[Target]*unit), unitsIn: make(index[string, *unit]), mentions: make(index[types.NamespacedName, *unit]),
		own: make(map[types.NamespacedName][]place), destinations: make(tally[place]), numberOf: make(map[place]uint16),
		unnumbered: make(map[place]bool), attachable: make(index[place, *unit]), spoken: make(tally[place]),
		grpc: make(index[group, *unit]), uses: make(uses),
		senders: make(index[place, *unit]), places: make(index[types.NamespacedName, place]),
		authorizations: make(map[string][]*authorization), exposures: make(map[string][]Exposure),
		policies: make(map[types.NamespacedName]PolicyStatus), statuses: make(map[types.NamespacedName]AuthorizationStatus),
		resources: make(map[wire.Ref]*wire.Resource),
	}
	c.set(s)
	c.world = newWorld(c.settings)
	return c
}

// set keeps the settings of a snapshot.
func (c *Compiler) set(s Snapshot) {
	c.settings = s
	c.settings.Services, c.settings.HTTPRoutes, c.settings.GRPCRoutes = nil, nil, nil
	c.settings.MeshPolicies, c.settings.MeshAuthorizations, c.settings.EndpointSlices = nil, nil, nil
	c.settings.Numbers = nil
}

// changesOf are all objects of a snapshot.
func changesOf(s Snapshot) Changes {
	ch := Changes{
		Services: byName(s.Services), HTTPRoutes: byName(s.HTTPRoutes), GRPCRoutes: byName(s.GRPCRoutes),
		MeshPolicies: byName(s.MeshPolicies), MeshAuthorizations: byName(s.MeshAuthorizations),
		EndpointSlices: make(map[types.NamespacedName][]*discoveryv1.EndpointSlice),
	}
	for _, slice := range s.EndpointSlices {
		name := SliceService(slice)
		ch.EndpointSlices[name] = append(ch.EndpointSlices[name], slice)
	}
	return ch
}

func byName[T interface {
	GetNamespace() string
	GetName() string
}](objects []T) map[types.NamespacedName]T {
	out := make(map[types.NamespacedName]T, len(objects))
	for _, o := range objects {
		out[namespacedName(o)] = o
	}
	return out
}

// Update makes the snapshot the next one and returns what that means. The cost is that of the change, unless the
// settings concern everything: which namespaces are enrolled or starting, and the defaults of the Mesh.
func (c *Compiler) Update(ch Changes) Delta {
	if ch.Settings != nil && !c.world.sameFor(*ch.Settings) {
		return c.rebuild(ch)
	}
	return c.take(ch).finish()
}

// take takes the objects of a change and settles the facts about ports anew.
func (c *Compiler) take(ch Changes) *pass {
	p := newPass(c)
	p.takeSettings(ch.Settings)
	p.takeNumbers(ch.Numbers)
	p.takeServices(ch.Services)
	for name, r := range ch.HTTPRoutes {
		p.takeRoute(Target{Kind: string(wire.RouteHTTP), Namespace: name.Namespace, Name: name.Name}, routeObject{http: r})
	}
	for name, r := range ch.GRPCRoutes {
		p.takeRoute(Target{Kind: string(wire.RouteGRPC), Namespace: name.Namespace, Name: name.Name}, routeObject{grpc: r})
	}
	p.takePolicies(ch.MeshPolicies)
	p.takeAuthorizations(ch.MeshAuthorizations)
	p.takeSlices(ch.EndpointSlices)
	p.settle()
	return p
}

// rebuild compiles everything anew.
func (c *Compiler) rebuild(ch Changes) Delta {
	settings := *ch.Settings
	next := newCompiler(settings, c.withEndpoints)
	next.numbers = c.numbers.clone()
	all := c.all()
	maps.Copy(all.Services, ch.Services)
	maps.Copy(all.HTTPRoutes, ch.HTTPRoutes)
	maps.Copy(all.GRPCRoutes, ch.GRPCRoutes)
	maps.Copy(all.MeshPolicies, ch.MeshPolicies)
	maps.Copy(all.MeshAuthorizations, ch.MeshAuthorizations)
	maps.Copy(all.EndpointSlices, ch.EndpointSlices)
	all.Numbers = ch.Numbers
	d := next.take(all).finish()
	for ref, was := range c.resources {
		now, still := next.resources[ref]
		switch {
		case !still:
			d.Resources[ref] = nil
		case sameResource(was, now):
			delete(d.Resources, ref)
			next.resources[ref] = was
		}
	}
	goneFrom(d.Routes, c.units, next.units)
	goneFrom(d.Policies, c.policies, next.policies)
	goneFrom(d.Authorizations, c.statuses, next.statuses)
	for namespace := range c.exposures {
		if _, still := next.exposures[namespace]; !still {
			d.Exposures[namespace] = nil
		}
	}
	*c = *next
	return d
}

// goneFrom notes those of before that are not in next.
func goneFrom[K comparable, V, D any](d map[K]*D, before, next map[K]V) {
	for key := range before {
		if _, still := next[key]; !still {
			d[key] = nil
		}
	}
}

// all are all objects of the snapshot.
func (c *Compiler) all() Changes {
	ch := Changes{
		Services:       maps.Clone(c.world.services),
		EndpointSlices: maps.Clone(c.slices),
		HTTPRoutes:     make(map[types.NamespacedName]*gwv1.HTTPRoute), GRPCRoutes: make(map[types.NamespacedName]*gwv1.GRPCRoute),
		MeshPolicies:       make(map[types.NamespacedName]*meshv1alpha1.MeshPolicy),
		MeshAuthorizations: make(map[types.NamespacedName]*meshv1alpha1.MeshAuthorization),
	}
	for id, r := range c.objects.routes {
		name := types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
		if r.http != nil {
			ch.HTTPRoutes[name] = r.http
		} else {
			ch.GRPCRoutes[name] = r.grpc
		}
	}
	for _, in := range c.objects.policies {
		for _, p := range in {
			ch.MeshPolicies[namespacedName(p.object)] = p.object
		}
	}
	for _, in := range c.objects.authorizations {
		for _, a := range in {
			ch.MeshAuthorizations[namespacedName(a)] = a
		}
	}
	return ch
}

// Numbers are the destination numbers given out.
func (c *Compiler) Numbers() Numbers { return c.numbers.given }

// Holder is whom a destination number was given to.
func (c *Compiler) Holder(number uint16) (key NumberKey, given bool) {
	key, given = c.numbers.holders[number]
	return key, given
}

// TrustBundle is the one of the snapshot.
func (c *Compiler) TrustBundle() string { return c.settings.TrustBundle }

// Enrolled are the names of enrolled namespaces, sorted.
func (c *Compiler) Enrolled() []string { return c.world.enrolment.names }

// Result is what the snapshot means as a whole.
func (c *Compiler) Result() Result {
	_, faults := meshResource(c.settings)
	result := Result{
		Numbers: c.numbers.given, Enrolled: c.world.enrolment.names,
		MeshFaults: append(fieldFaults("spec", faults), fieldFaults("spec.defaults", c.world.policies.meshFaults)...),
	}
	for _, ref := range slices.SortedFunc(maps.Keys(c.resources), compareRefs) {
		result.Resources = append(result.Resources, *c.resources[ref])
	}
	for _, namespace := range slices.Sorted(maps.Keys(c.exposures)) {
		result.Exposures = append(result.Exposures, c.exposures[namespace]...)
	}
	for _, u := range slices.SortedFunc(maps.Values(c.units), func(a, b *unit) int { return compareTargets(a.id, b.id) }) {
		result.Routes = append(result.Routes, u.status)
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.policies), compareNames) {
		result.Policies = append(result.Policies, c.policies[name])
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.statuses), compareNames) {
		result.Authorizations = append(result.Authorizations, c.statuses[name])
	}
	return result
}
