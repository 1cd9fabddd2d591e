package http

import (
	"fmt"
	"math/bits"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// Rule is one compiled rule of a route. It is immutable and safe for concurrent use; Exchange runs its
// filters.
type Rule struct {
	route    *wire.Route
	fullName string
	filters  filters
	backends []backend
	// total is the sum of the weights.
	total uint64
	// cors tells that filters answer preflight requests: the rule's, or those of all backends.
	cors bool
}

type backend struct {
	key string
	// below is the sum of the weights up to and including this backend's.
	below   uint64
	filters filters
}

func newRule(route *wire.Route) (*Rule, error) {
	r := &Rule{route: route, fullName: route.Namespace + "/" + route.Name}
	prefixOnly := route.Kind == wire.RouteHTTP && prefixMatchesOnly(route.Matches)
	var err error
	if r.filters, err = newFilters(route.Filters, prefixOnly); err != nil {
		return nil, err
	}
	for i := range route.Backends {
		wb := &route.Backends[i]
		if wb.Weight < 0 {
			return nil, fmt.Errorf("backend %d: weight %d is negative", i, wb.Weight)
		}
		r.total += uint64(wb.Weight)
		b := backend{key: wb.Backend, below: r.total}
		if b.filters, err = newFilters(wb.Filters, prefixOnly); err != nil {
			return nil, fmt.Errorf("backend %d: %w", i, err)
		}
		r.backends = append(r.backends, b)
	}
	r.cors = r.filters.haveCORS() ||
		len(r.backends) > 0 && !slices.ContainsFunc(r.backends, func(b backend) bool { return !b.filters.haveCORS() })
	return r, nil
}

// prefixMatchesOnly tells whether every request to a rule has a matched prefix.
func prefixMatchesOnly(matches []wire.Match) bool {
	for i := range matches {
		m := &matches[i]
		if m.Path != nil && m.Path.Type != wire.MatchPrefix {
			return false
		}
	}
	return true
}

// Route returns what the rule was compiled from: its names (for metrics and logs), timeouts and retries.
// It is shared and must not be changed.
func (r *Rule) Route() *wire.Route { return r.route }

// Backends returns the number of backends. They are addressed by their index in Route().Backends.
func (r *Rule) Backends() int { return len(r.backends) }

// Backend returns the key of a wire.Backend. It is empty if the reference could not be resolved: the
// request is then answered with 500, or UNAVAILABLE for a GRPCRoute.
func (r *Rule) Backend(i int) string { return r.backends[i].key }

// Pick chooses a backend by weight. random must be uniformly distributed over all its values. It is not
// ok if there is no backend or all weights are zero; the request is then answered with 500, or
// UNAVAILABLE for a GRPCRoute.
func (r *Rule) Pick(random uint64) (i int, ok bool) {
	if r.total == 0 {
		return 0, false
	}
	point := scale(random, r.total)
	for point >= r.backends[i].below {
		i++
	}
	return i, true
}

// scale maps a number that is uniformly distributed over uint64 to one over [0, n).
func scale(random, n uint64) uint64 {
	hi, _ := bits.Mul64(random, n)
	return hi
}
