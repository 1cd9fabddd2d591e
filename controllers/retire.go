package controllers

import (
	"maps"
	"slices"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// retire returns the resources that proxies must keep although they are no longer wanted: those of
// destinations that pods may still send to, because no node has confirmed yet that it captures them no
// more. gone is all that was published and is not wanted, with what was retired earlier. A destination goes together
// with the routes, backends and endpoints of its own that are gone as well, so that a request in flight is treated as
// it was.
func retire(gone map[wire.Ref]*wire.Resource) map[wire.Ref]*wire.Resource {
	kept := map[wire.Ref]*wire.Resource{}
	destinations := map[string]bool{}
	for ref, r := range gone {
		if ref.Kind == wire.KindDestination && r.Destination.Number != 0 {
			kept[ref] = r
			destinations[ref.Key] = true
		}
	}
	if len(destinations) == 0 {
		return kept
	}
	needed := maps.Clone(destinations)
	for ref, r := range gone {
		if ref.Kind != wire.KindRoute || !slices.ContainsFunc(r.Route.Destinations, func(d string) bool { return destinations[d] }) {
			continue
		}
		kept[ref] = r
		for _, key := range backendsOf(r.Route) {
			needed[key] = true
		}
	}
	for ref, r := range gone {
		if needed[ref.Key] && (ref.Kind == wire.KindBackend || ref.Kind == wire.KindEndpoints) {
			kept[ref] = r
		}
	}
	return kept
}

// backendsOf returns the keys of all backends a route sends to, copies for mirrors included.
func backendsOf(r *wire.Route) []string {
	var keys []string
	mirrors := func(filters []wire.Filter) {
		for _, f := range filters {
			if f.Mirror != nil {
				keys = append(keys, f.Mirror.Backend)
			}
		}
	}
	mirrors(r.Filters)
	for _, b := range r.Backends {
		keys = append(keys, b.Backend)
		mirrors(b.Filters)
	}
	return keys
}

// namespacesOf returns the namespaces whose proxies the destinations among the resources need: that of
// the Service, whose proxies pick its endpoints, or for a Service outside the mesh the one that consumes
// it, which is the destination's scope.
func namespacesOf(resources map[wire.Ref]*wire.Resource) map[string]bool {
	namespaces := map[string]bool{}
	for _, r := range resources {
		if r.Destination == nil {
			continue
		}
		if consumer, ok := strings.CutPrefix(string(r.Scope), string(wire.ScopeNamespace(""))); ok {
			namespaces[consumer] = true
		} else {
			namespaces[r.Destination.Namespace] = true
		}
	}
	return namespaces
}

func index(resources []wire.Resource) map[wire.Ref]wire.Resource {
	out := make(map[wire.Ref]wire.Resource, len(resources))
	for _, r := range resources {
		out[r.Ref] = r
	}
	return out
}
