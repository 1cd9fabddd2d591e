package findings

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// rules tells what is wrong with rules that are in force.
func (a *analysis) rules() {
	tables := map[string]*phttp.Table{}
	for key, routes := range a.attachedTo() {
		tables[key], _ = phttp.NewTable(routes)
		for _, route := range routes {
			a.reached(tables[key], route)
		}
	}
	ready := a.readyBackends()
	for i := range a.mesh.Compiled.Resources {
		if route := a.mesh.Compiled.Resources[i].Route; route != nil {
			a.rule(route, ready)
		}
	}
}

// attachedTo returns the routes that compete with each other: of one destination the producer routes, and the
// consumer routes of each namespace.
func (a *analysis) attachedTo() map[string][]*wire.Route {
	groups := map[string][]*wire.Route{}
	for i := range a.mesh.Compiled.Resources {
		route := a.mesh.Compiled.Resources[i].Route
		if route == nil {
			continue
		}
		for _, key := range route.Destinations {
			if route.Consumer {
				key += " from " + route.Namespace
			}
			groups[key] = append(groups[key], route)
		}
	}
	return groups
}

func ruleName(r *wire.Route) string {
	if r.RuleName != "" {
		return "rule " + strconv.Quote(r.RuleName)
	}
	return "rule " + strconv.Itoa(r.Rule)
}

func (a *analysis) rule(route *wire.Route, ready func(string) bool) {
	object := routeObject(route.Kind, route.Namespace, route.Name)
	if len(route.Matches) == 0 {
		return // a route without rules refuses everything, and is meant to
	}
	total := int64(0)
	for _, b := range route.Backends {
		total += int64(b.Weight)
		if b.Weight > 0 && b.Backend != "" && !ready(b.Backend) {
			a.add(NoEndpoints, object, "%s sends to %s, which has no ready pod", ruleName(route), b.Backend)
		}
	}
	switch {
	case len(route.Backends) > 0 && total == 0:
		a.add(WeightsZero, object, "%s has %d backends, all of weight 0", ruleName(route), len(route.Backends))
	case len(route.Backends) == 0 && !slices.ContainsFunc(route.Filters, func(f wire.Filter) bool { return f.Redirect != nil }) &&
		!a.dropped(object):
		a.add(NoBackends, object, "%s has no backendRefs", ruleName(route))
	}
}

// dropped tells that the rules of a route are known to be invalid, which is said already.
func (a *analysis) dropped(object mesh.Object) bool {
	return slices.ContainsFunc(a.found, func(f Finding) bool {
		return f.Object == object && (f.Code == RuleDropped || f.Code == RouteNotAccepted)
	})
}

// readyBackends tells which backends have a ready pod. Where nothing is known of pods all are taken for ready.
func (a *analysis) readyBackends() func(string) bool {
	counts := map[string]int{}
	for _, r := range a.mesh.Compiled.Resources {
		if r.Endpoints != nil {
			counts[r.Key] = len(r.Endpoints.Endpoints)
		}
	}
	known := a.mesh.Live || len(a.mesh.Snapshot.EndpointSlices) > 0
	return func(key string) bool { return !known || counts[key] > 0 }
}

// strange is what a request has where a match says nothing, so that no other match is likely to ask for it.
const strange = "weft-nobody-asks-for-this"

// reached finds matches of a route that no request comes to: it makes the least request that each asks for, and
// sees who takes it. Matches with regular expressions are left out, since no request for them can be made up.
func (a *analysis) reached(table *phttp.Table, route *wire.Route) {
	for i := range route.Matches {
		req, ok := witness(route.Kind, &route.Matches[i])
		if !ok {
			continue
		}
		rule, matched := table.Match(&req)
		if rule == nil {
			continue // two conditions on one header: nothing can be said
		}
		winner := rule.Route()
		if winner.Key() == route.Key() && matched.Match == i {
			continue
		}
		by := ruleName(winner) + " of the same route"
		if winner.Namespace != route.Namespace || winner.Name != route.Name || winner.Kind != route.Kind {
			by = ruleName(winner) + " of " + string(winner.Kind) + " " + winner.Namespace + "/" + winner.Name
		}
		a.add(RuleNeverReached, routeObject(route.Kind, route.Namespace, route.Name),
			"matches[%d] of %s: %s, match %d, takes its requests", i, ruleName(route), by, matched.Match)
	}
}

// witness returns the least request that a match asks for.
func witness(kind wire.RouteKind, m *wire.Match) (phttp.Request, bool) {
	req := phttp.Request{Method: m.Method, Scheme: "http", Authority: strange}
	if req.Method == "" {
		req.Method = "WEFT"
	}
	path := "/" + strange
	switch {
	case kind == wire.RouteGRPC:
		req.Method = "POST"
		service, method := strange, strange
		if m.GRPC != nil {
			if m.GRPC.Type != wire.MatchExact {
				return req, false
			}
			service, method = cmp.Or(m.GRPC.Service, strange), cmp.Or(m.GRPC.Method, strange)
		}
		path = "/" + service + "/" + method
	case m.Path == nil:
	case m.Path.Type == wire.MatchExact:
		path = m.Path.Value
	case m.Path.Type == wire.MatchPrefix:
		path = strings.TrimSuffix(m.Path.Value, "/") + "/" + strange
	default:
		return req, false
	}
	var query []string
	for _, q := range m.Query {
		if q.Type != wire.MatchExact {
			return req, false
		}
		query = append(query, url.QueryEscape(q.Name)+"="+url.QueryEscape(q.Value))
	}
	for _, h := range m.Headers {
		if h.Type != wire.MatchExact {
			return req, false
		}
		if strings.EqualFold(h.Name, "host") {
			req.Authority = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return req, req.SetTarget(path) == nil
}
