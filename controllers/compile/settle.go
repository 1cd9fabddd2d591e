package compile

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

// settle finds out what has become of the facts about ports. Each step leaves its facts as they will be, and lets
// those routes begin anew that a fact has changed for: nothing that they say in the steps before is another for it.
func (p *pass) settle() {
	p.decide()
	p.attach()
	p.number()
	p.speak()
	p.conflict()
	p.use()
}

// decide decides again which policy applies where, and notes whom that concerns.
func (p *pass) decide() {
	for namespace := range p.deciding {
		for _, t := range p.world.policies.settle(namespace, p.objects.policies[namespace], p.targets()) {
			p.decided(t)
		}
	}
}

// targets are what policies can be for.
func (c *Compiler) targets() *targetObjects { return &targetObjects{c.world, c.objects.routes} }

// decided notes that another policy applies to a target.
func (p *pass) decided(t Target) {
	switch {
	case t.isRoute():
		if u := p.units[t.whole()]; u != nil {
			p.compiling[u] = true
		}
		return
	case t.Kind == kindService:
		p.relevel(types.NamespacedName{Namespace: t.Namespace, Name: t.Name})
		return
	}
	for _, name := range p.objects.servicesIn[t.Namespace] {
		p.relevel(name)
	}
	for _, u := range p.unitsIn[t.Namespace] {
		p.compiling[u] = true
	}
}

// relevel notes that policies say something else of a Service.
func (p *pass) relevel(name types.NamespacedName) {
	p.exposing[name] = true
	for _, at := range p.Compiler.places[name] {
		p.places[at] = true
	}
	// What results for a route is shown with what results for its Services.
	for _, u := range p.mentions[name] {
		if len(p.objects.policies[u.id.Namespace]) > 0 {
			p.telling[u.id.Namespace] = true
		}
	}
}

// attach finds the places that routes mean and those that are destinations.
func (p *pass) attach() {
	touched := make(map[place]bool)
	for name := range p.services {
		own := p.world.ownPlaces(name)
		for _, at := range p.destinations.move(p.own[name], own) {
			touched[at] = true
		}
		// A Service of the same name may be another one, with another number.
		for _, at := range own {
			touched[at] = true
		}
		for _, at := range p.Compiler.places[name] {
			touched[at] = true
		}
		if len(own) == 0 {
			delete(p.own, name)
		} else {
			p.own[name] = own
		}
	}
	for _, u := range p.settling.list {
		p.begin(u)
		wanted := placesOf(u.parents(), anyPlace)
		p.attachable.move(u, u.wanted, wanted)
		consumed := placesOf(u.parents(), consumedPlace)
		for _, at := range p.destinations.move(u.consumed, consumed) {
			touched[at] = true
		}
		u.wanted, u.consumed = wanted, consumed
	}
	p.begun = len(p.settling.list)
	for at := range touched {
		if p.destinations[at] > 0 {
			p.unnumbered[at] = true
			continue
		}
		delete(p.numberOf, at)
		delete(p.unnumbered, at)
		p.places[at] = true
	}
}

// begin attaches a route anew.
func (p *pass) begin(u *unit) {
	if u.route != nil {
		u.route.parents = nil
		p.world.attach(u.route)
	}
}

// ownPlaces are the TCP ports of a Service that is captured in its own namespace, each once.
func (w *world) ownPlaces(name types.NamespacedName) []place {
	svc := w.services[name]
	if svc == nil || !w.enrolment.has(name.Namespace) || w.uncaptured(svc) != nil {
		return nil
	}
	var places distinct[place]
	for i := range svc.Spec.Ports {
		if port := &svc.Spec.Ports[i]; isTCP(port) {
			places.add(place{service: name, port: uint16(port.Port)})
		}
	}
	return places.list
}

// number gives destinations their numbers, as far as there are some left.
func (p *pass) number() {
	waiting := make([]place, 0, len(p.unnumbered))
	for at := range p.unnumbered {
		waiting = append(waiting, at)
	}
	slices.SortFunc(waiting, comparePlaces)
	clear(p.unnumbered)
	for _, at := range waiting {
		number, fresh := p.numbers.want(p.world.numberKey(at))
		p.delta.Numbers = p.delta.Numbers || fresh
		if number == 0 {
			p.unnumbered[at] = true
		}
		if before, known := p.numberOf[at]; known && before == number {
			continue
		}
		p.numberOf[at] = number
		p.places[at] = true
		for _, u := range p.attachable[at] {
			p.settling.add(u)
		}
	}
}

// again takes the routes that are settled, from one on, through steps.
func (p *pass) again(from int, steps ...func(*unit)) {
	for _, u := range p.settling.list[from:] {
		for _, step := range steps {
			step(u)
		}
	}
}

// speak finds out which ports that declare nothing are HTTP because a route says so.
func (p *pass) speak() {
	p.again(p.begun, p.begin)
	p.again(0, p.leaveUnnumbered)
	settled := len(p.settling.list)
	for _, u := range p.settling.list[:settled] {
		spoken := placesOf(u.parents(), spokenPlace)
		for _, at := range p.spoken.move(u.spoken, spoken) {
			for _, other := range p.attachable[at] {
				p.settling.add(other)
			}
		}
		u.spoken = spoken
	}
	p.again(settled, p.begin, p.leaveUnnumbered)
}

// conflict finds out which GRPCRoutes come before HTTPRoutes.
func (p *pass) conflict() {
	settled := len(p.settling.list)
	first := make(map[group]Target)
	var touched []group
	p.again(0, p.leaveUndeclared)
	for _, u := range p.settling.list {
		groups := groupsOf(u.parents())
		gone, come := differences(u.groups, groups)
		for _, g := range append(gone, come...) {
			if _, known := first[g]; !known {
				first[g] = winner(p.grpc[g])
				touched = append(touched, g)
			}
		}
		p.grpc.move(u, u.groups, groups)
		u.groups = groups
	}
	for _, g := range touched {
		if winner(p.grpc[g]) == first[g] {
			continue
		}
		for _, u := range p.attachable[g.place] {
			p.settling.add(u)
		}
	}
	p.again(settled, p.begin, p.leaveUnnumbered, p.leaveUndeclared)
}

// use concludes what the routes apply to and finds out what they take the protocols of ports for.
func (p *pass) use() {
	for _, u := range p.settling.list {
		p.leaveConflicted(u)
		for _, parent := range u.parents() {
			parent.conclude()
		}
		var says []saying
		if u.route != nil {
			says = p.world.sayings(u.route)
		}
		for _, s := range tally[saying](p.uses).move(u.says, says) {
			p.places[s.place] = true
			// Whether a GRPCRoute can send to a port depends on its protocol.
			for _, other := range p.mentions[s.place.service] {
				if other.route != nil && other.id.Kind == string(wire.RouteGRPC) {
					p.compiling[other] = true
				}
			}
		}
		u.says = says
		p.compiling[u] = true
		p.touch(u.id.Namespace)
	}
}
