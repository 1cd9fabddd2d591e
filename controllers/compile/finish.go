package compile

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

// finish makes resources and statuses of what the change has reached.
func (p *pass) finish() Delta {
	p.compileRoutes()
	p.publish()
	p.authorize()
	p.expose()
	p.report()
	return p.delta
}

func (p *pass) compileRoutes() {
	for u := range p.compiling {
		var before []wire.Ref
		for i := range u.compiled.resources {
			before = append(before, u.compiled.resources[i].Ref)
		}
		u.compiled = compiledRoute{}
		if u.route != nil {
			u.compiled = p.world.compileRoute(u.route, p.uses)
		}
		after := make([]wire.Ref, len(u.compiled.resources))
		for i := range u.compiled.resources {
			after[i] = u.compiled.resources[i].Ref
			p.put(u.compiled.resources[i])
		}
		for _, ref := range except(before, after) {
			p.remove(ref)
		}
		var sends distinct[place]
		for _, at := range u.compiled.places {
			sends.add(at)
		}
		for _, at := range p.senders.move(u, u.sends, sends.list) {
			p.places[at] = true
		}
		u.sends = sends.list
		p.touch(u.id.Namespace)
	}
}

// publish makes the resources of places.
func (p *pass) publish() {
	for name := range p.endpoints {
		for _, at := range p.Compiler.places[name] {
			if !p.places[at] {
				p.publishEndpoints(*p.resources[wire.Ref{Kind: wire.KindBackend, Key: at.key()}], at)
			}
		}
	}
	for at := range p.places {
		var destination, backend, endpoints wire.Ref
		key := at.key()
		destination.Kind, destination.Key = wire.KindDestination, key
		backend.Kind, backend.Key = wire.KindBackend, key
		endpoints.Kind, endpoints.Key = wire.KindEndpoints, key
		_, known := p.resources[backend]
		number := p.numberOf[at]
		if number != 0 {
			p.version(destination, p.attachable[at], func() { p.put(p.world.destination(at, number, p.uses)) })
		} else {
			p.version(destination, p.attachable[at], func() { p.remove(destination) })
		}
		if number == 0 && len(p.senders[at]) == 0 {
			p.version(backend, p.senders[at], func() { p.remove(backend) })
			p.remove(endpoints)
			if known {
				p.Compiler.places.drop(at.service, at)
			}
			continue
		}
		r := p.world.backend(at, p.uses)
		p.version(backend, p.senders[at], func() { p.put(r) })
		if !known {
			p.Compiler.places.add(at.service, at)
		}
		p.publishEndpoints(r, at)
	}
}

func (p *pass) publishEndpoints(backend wire.Resource, at place) {
	if p.withEndpoints {
		p.put(Endpoints(backend, p.world.services[at.service], p.slices[at.service]))
	}
}

// version has the statuses of routes made anew that a resource is of, if its version changes.
func (p *pass) version(ref wire.Ref, of []*unit, change func()) {
	before := p.versionOf(ref)
	change()
	if p.versionOf(ref) == before {
		return
	}
	for _, u := range of {
		p.reporting[u] = true
	}
}

// versionOf returns the version of a resource, empty if there is none.
func (c *Compiler) versionOf(ref wire.Ref) string {
	if r := c.resources[ref]; r != nil {
		return r.Version
	}
	return ""
}

// authorize makes the authorizations of namespaces anew.
func (p *pass) authorize() {
	for namespace := range p.authorizing {
		before := make(map[wire.Ref]string)
		for _, a := range p.authorizations[namespace] {
			for _, r := range a.resources {
				before[r.Ref] = r.Version
			}
		}
		all := p.readAuthorizations(namespace)
		if len(all) == 0 {
			delete(p.authorizations, namespace)
			delete(p.objects.authorizations, namespace)
		} else {
			p.authorizations[namespace] = all
		}
		same := true
		for _, a := range all {
			for _, r := range a.resources {
				same = same && before[r.Ref] == r.Version
				delete(before, r.Ref)
				p.put(r)
			}
		}
		for ref := range before {
			p.remove(ref)
		}
		if !same || len(before) > 0 {
			for _, name := range p.objects.servicesIn[namespace] {
				p.exposing[name] = true
			}
		}
		p.judging[namespace] = true
	}
}

// expose makes the exposures of Services anew.
func (p *pass) expose() {
	byNamespace := make(map[string][]types.NamespacedName)
	for name := range p.exposing {
		byNamespace[name.Namespace] = append(byNamespace[name.Namespace], name)
	}
	for namespace, names := range byNamespace {
		var exposures []Exposure
		for _, name := range names {
			exposures = append(exposures, p.exposuresOf(name)...)
		}
		before := p.exposures[namespace]
		var others []Exposure
		for i := range before {
			if !p.exposing[types.NamespacedName{Namespace: namespace, Name: before[i].Service}] {
				others = append(others, before[i])
			}
		}
		next := slices.Concat(others, exposures)
		slices.SortStableFunc(next, func(a, b Exposure) int { return compareServicePorts(a.ServicePort, b.ServicePort) })
		if slices.EqualFunc(before, next, Exposure.equal) {
			continue
		}
		if len(next) == 0 {
			delete(p.exposures, namespace)
		} else {
			p.exposures[namespace] = next
		}
		p.delta.Exposures[namespace] = next
		if len(p.authorizations[namespace]) > 0 {
			p.judging[namespace] = true
		}
		if len(p.objects.policies[namespace]) > 0 {
			p.telling[namespace] = true
		}
	}
}

// report makes statuses.
func (p *pass) report() {
	for u := range p.compiling {
		p.reporting[u] = true
	}
	for u := range p.reporting {
		if u.route == nil {
			delete(p.units, u.id)
			p.unitsIn.drop(u.id.Namespace, u)
			p.delta.Routes[u.id] = nil
			continue
		}
		status := p.status(&u.compiled)
		u.status, p.delta.Routes[u.id] = status, &status
	}
	for namespace := range p.telling {
		p.tell(namespace)
	}
	for namespace := range p.judging {
		for _, a := range p.authorizations[namespace] {
			s := a.status(p.exposures[namespace])
			p.statuses[s.Name], p.delta.Authorizations[s.Name] = s, &s
		}
	}
}

// tell makes the statuses of a namespace's MeshPolicies.
func (p *pass) tell(namespace string) {
	in := p.objects.policies[namespace]
	for _, object := range in {
		s := p.policyStatus(object)
		p.policies[s.Name], p.delta.Policies[s.Name] = s, &s
	}
	if len(in) == 0 {
		delete(p.objects.policies, namespace)
	}
}
