package compile

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// compiledRule is one rule of a route, not yet attached to anything.
//
// A rule is valid or it answers 500: an invalid one keeps those of its matches that can be told and
// loses everything else, so that its requests neither reach a backend without what the rule demands nor
// fall through to a less specific rule. Of the two ways that the Gateway API offers for partially
// invalid routes this is the first, "Drop Rule". A route without any valid rule is not accepted, but its
// rules are sent all the same: requests to its parents that match nothing get a 404 as they would if the
// route were valid.
type compiledRule struct {
	content wire.Route
	// places are the backends that the rule refers to.
	places []place
	// invalid is what makes the rule invalid; unresolved are references whose share of requests fails.
	invalid    []fault
	unresolved []fault
}

// compiledRoute is a route as proxies receive it, once for each side that it has parents on.
type compiledRoute struct {
	route     *route
	sides     map[bool]*compiledSide
	resources []wire.Resource
	// places are all backends referred to.
	places []place
}

// compiledSide is a route's rules as a producer or as a consumer route.
type compiledSide struct {
	rules []compiledRule
	// refs are the resources that the rules consist of and rest on; none if they are not in force.
	refs []wire.Ref
}

func (w *world) compileRoute(r *route, u uses) compiledRoute {
	c := compiledRoute{route: r, sides: make(map[bool]*compiledSide)}
	for _, p := range r.parents {
		if c.sides[p.consumer] != nil {
			continue
		}
		resolver := resolver{world: w, route: r, consumer: p.consumer}
		inForce := r.inForce(p.consumer)
		if inForce {
			resolver.uses = u
		}
		side := &compiledSide{rules: resolver.compileRules()}
		c.sides[p.consumer] = side
		if inForce {
			c.attach(side, p.consumer)
		}
	}
	return c
}

// attach makes resources of a side's rules for its destinations.
func (c *compiledRoute) attach(side *compiledSide, consumer bool) {
	var destinations []string
	for _, p := range c.route.parents {
		if p.consumer != consumer {
			continue
		}
		for _, at := range p.places {
			destinations = append(destinations, at.key())
		}
	}
	slices.Sort(destinations)
	destinations = slices.Compact(destinations)
	scope := wire.ScopeMesh
	if consumer {
		scope = wire.ScopeNamespace(c.route.meta.Namespace)
	}
	for i := range side.rules {
		rule := &side.rules[i]
		rule.content.Destinations = destinations
		resource := wire.New(rule.content.Key(), scope, c.route.origin(), &rule.content)
		c.resources = append(c.resources, resource)
		side.refs = append(side.refs, resource.Ref)
		for _, p := range rule.places {
			side.refs = append(side.refs, wire.Ref{Kind: wire.KindBackend, Key: p.key()})
		}
		c.places = append(c.places, rule.places...)
	}
}

// compileRules compiles all rules of the resolver's route. A route without rules becomes one rule that
// matches nothing, so that it is attached all the same.
func (r *resolver) compileRules() []compiledRule {
	if len(r.route.rules) == 0 {
		return []compiledRule{{content: r.newContent(0)}}
	}
	compiled := make([]compiledRule, len(r.route.rules))
	for i := range r.route.rules {
		compiled[i] = r.compileRule(i)
	}
	return compiled
}

func (r *resolver) newContent(i int) wire.Route {
	return wire.Route{
		Kind:      r.route.kind,
		Namespace: r.route.meta.Namespace,
		Name:      r.route.meta.Name,
		Rule:      i,
		Consumer:  r.consumer,
		Created:   r.route.meta.CreationTimestamp.UTC(),
	}
}

func (r *resolver) compileRule(i int) compiledRule {
	in := &r.route.rules[i]
	c := compiledRule{content: r.newContent(i)}
	c.content.RuleName = in.name
	prefixOnly := r.route.kind == wire.RouteHTTP
	for j, m := range in.matches {
		if len(m.faults) > 0 {
			c.invalid = append(c.invalid, allUnder(fmt.Sprintf("matches[%d]", j), m.faults)...)
			continue
		}
		c.content.Matches = append(c.content.Matches, m.wire)
		prefixOnly = prefixOnly && m.wire.Path.Type == wire.MatchPrefix
	}

	filters := filterSet{resolve: r.resolve, prefixOnly: prefixOnly}
	filters.compile(in.filters)
	c.take("", &filters)
	backends := c.backends(r, in, prefixOnly)
	if redirect := redirectAt(in.filters); redirect >= 0 && len(in.backends) > 0 {
		at := fmt.Sprintf("filters[%d]", redirect)
		c.invalid = incompatible("requestRedirect", "a redirect cannot be combined with backendRefs").under(at).appendTo(c.invalid)
	}
	own, faults := r.route.ownLevel(in)
	c.invalid = append(c.invalid, faults...)

	at := fmt.Sprintf("spec.rules[%d]", i)
	c.invalid, c.unresolved = allUnder(at, c.invalid), allUnder(at, c.unresolved)
	if len(c.invalid) > 0 {
		c.places = nil
		return c
	}
	c.content.Filters = filters.filters
	c.content.Backends = backends
	policy := routeParts(merge(r.world.routeLevels(r.route, r.consumer, in, own)))
	c.content.Policy = nameSession(policy, c.content.Key())
	return c
}

// backends compiles the backendRefs. One that cannot be resolved keeps its share, which is answered
// with 500.
func (c *compiledRule) backends(r *resolver, in *rule, prefixOnly bool) []wire.WeightedBackend {
	var out []wire.WeightedBackend
	for i := range in.backends {
		ref := &in.backends[i]
		at := fmt.Sprintf("backendRefs[%d]", i)
		weighted := wire.WeightedBackend{Weight: valueOr(ref.Weight, 1)}
		if weighted.Weight < 0 {
			c.invalid = unsupported("weight", "%d is negative", weighted.Weight).under(at).appendTo(c.invalid)
		}
		p, f := r.resolve(&ref.BackendObjectReference)
		if f != nil {
			c.unresolved = f.under(at).appendTo(c.unresolved)
		} else {
			weighted.Backend = p.key()
			c.places = append(c.places, p)
		}
		filters := filterSet{resolve: r.resolve, prefixOnly: prefixOnly}
		filters.compile(ref.filters)
		c.take(at, &filters)
		weighted.Filters = filters.filters
		out = append(out, weighted)
	}
	return out
}

// take adds what a set of filters found out. at is the field that holds the filters, if it is not the
// rule itself.
func (c *compiledRule) take(at string, s *filterSet) {
	c.places = append(c.places, s.mirrors...)
	c.invalid = append(c.invalid, allUnder(at, s.invalid)...)
	c.unresolved = append(c.unresolved, allUnder(at, s.unresolved)...)
}

func redirectAt(filters []gwv1.HTTPRouteFilter) int {
	for i := range filters {
		if filters[i].Type == gwv1.HTTPRouteFilterRequestRedirect {
			return i
		}
	}
	return -1
}
