package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft.dev/weft/proxy/wire"
)

// ErrUnknownBackend tells that the view has no Backend of that key; GEP-1294 answers such a share of
// requests with 500.
var ErrUnknownBackend = errors.New("unknown backend")

// ErrNoEndpoints tells that a known Backend has no endpoint, or its namespace no proxy, to send to:
// answered with 503.
var ErrNoEndpoints = errors.New("no endpoints")

// Kind says what an Endpoint is.
type Kind uint8

const (
	// KindPod is a pod's target port, spoken to in plain text.
	KindPod Kind = iota
	// KindHop is a proxy of another namespace, spoken to over mutual TLS.
	KindHop
	// KindFallback is the Service's cluster IP (see Set.SetDisconnected).
	KindFallback
)

// String returns the value used in logs and metric labels: "pod", "hop" or "fallback".
func (k Kind) String() string {
	switch k {
	case KindPod:
		return "pod"
	case KindHop:
		return "hop"
	case KindFallback:
		return "fallback"
	default:
		return fmt.Sprintf("kind-%d", uint8(k))
	}
}

// Endpoint is one choice of where to send a request. It stays usable when the configuration changes.
// The zero Endpoint is not usable.
type Endpoint struct {
	state  *endpoint
	target *target
	kind   Kind
}

// Address is what is dialled; engines name it in the avoid list of a retry.
func (e Endpoint) Address() netip.AddrPort { return e.state.address }

// Kind says what is behind the address.
func (e Endpoint) Kind() Kind { return e.kind }

// BackendKey is the key of the Backend that this endpoint was chosen for.
func (e Endpoint) BackendKey() string { return e.target.key }

// Backend is what this endpoint was chosen for.
func (e Endpoint) Backend() *wire.Backend { return e.target.backend }

// Backend returns the Backend of that key.
func (v *View) Backend(key string) (*wire.Backend, bool) {
	t, ok := v.targets[key]
	if !ok {
		return nil, false
	}
	return t.backend, true
}

// Choose picks an endpoint for one try of a request: a proxy of the Backend's namespace if that is
// another, enrolled one, else one of the Backend's own endpoints. Two random candidates are compared by
// latency and requests in flight. Endpoints that refused a connection a moment ago, terminating ones,
// those to avoid, and proxies of other zones are used only when nothing better is left, in this order from
// the worst. An endpoint to prefer comes before all of that. The error wraps ErrUnknownBackend or
// ErrNoEndpoints.
func (v *View) Choose(ctx context.Context, backend string, wish Wish) (Endpoint, error) {
	t, ok := v.targets[backend]
	if !ok {
		return Endpoint{}, fmt.Errorf("%w %s", ErrUnknownBackend, backend)
	}
	if !v.set.hops(t.backend) {
		return v.chooseLocal(ctx, t, &wish)
	}
	g := v.proxies[t.backend.Namespace]
	state, _ := v.set.pick(g, &Wish{Avoid: wish.Avoid})
	if state == nil {
		return Endpoint{}, fmt.Errorf("%w: no proxy of namespace %s is ready", ErrNoEndpoints, t.backend.Namespace)
	}
	return Endpoint{state: state, target: t, kind: KindHop}, nil
}

// ChooseLocal is Choose for requests that arrived over the hop: they go to endpoints of this namespace
// and nowhere else, so that a request never takes a second hop. Backends of other namespaces are unknown.
func (v *View) ChooseLocal(ctx context.Context, backend string, wish Wish) (Endpoint, error) {
	t, ok := v.targets[backend]
	if !ok || t.backend.Namespace != v.set.options.Namespace {
		return Endpoint{}, fmt.Errorf("%w %s", ErrUnknownBackend, backend)
	}
	return v.chooseLocal(ctx, t, &wish)
}

func (v *View) chooseLocal(ctx context.Context, t *target, wish *Wish) (Endpoint, error) {
	state, refusing := v.set.pick(t.direct, wish)
	kind := KindPod
	if (state == nil || refusing) && v.set.disconnected.Load() {
		if fallback, _ := v.set.pick(t.fallback, wish); fallback != nil {
			state, kind = fallback, KindFallback
		}
	}
	if state == nil {
		return Endpoint{}, fmt.Errorf("%w: %s has none", ErrNoEndpoints, t.key)
	}
	return Endpoint{state: state, target: t, kind: kind}, nil
}

// group is a list of endpoints to choose from. Preferred ones are those that are neither terminating nor
// in another zone.
type group struct {
	preferred, others []*endpoint
	// otherPenalty ranks others against endpoints to avoid.
	otherPenalty int
}

// Penalties add up to the rank of a candidate; the lowest rank wins, whatever the cost.
const (
	penaltyZone        = 1
	penaltyAvoid       = 2
	penaltyTerminating = 4
	penaltyRefusing    = 8
)

func (g *group) size() int {
	if g == nil {
		return 0
	}
	return len(g.preferred) + len(g.others)
}

// pick returns the endpoint to use, or nil if the group is empty, and whether every endpoint is refusing
// connections.
func (s *Set) pick(g *group, wish *Wish) (chosen *endpoint, refusing bool) {
	if g.size() == 0 {
		return nil, false
	}
	now := s.elapsed()
	if chosen = g.find(wish, now); chosen != nil {
		chosen.probe(now)
		return chosen, false
	}
	chosen = s.pickPreferred(g.preferred, wish.Avoid, now)
	if chosen == nil {
		chosen, refusing = s.pickRanked(g, wish.Avoid, now)
	}
	chosen.probe(now)
	return chosen, refusing
}

// pickPreferred is the usual case: two random candidates have nothing against them.
func (s *Set) pickPreferred(candidates []*endpoint, avoid []netip.AddrPort, now time.Duration) *endpoint {
	if len(candidates) == 0 {
		return nil
	}
	i := s.options.Random(len(candidates))
	first, second := candidates[i], candidates[i]
	if len(candidates) > 1 {
		j := s.options.Random(len(candidates) - 1)
		if j >= i {
			j++
		}
		second = candidates[j]
	}
	if rank(first, 0, avoid, now) > 0 || rank(second, 0, avoid, now) > 0 {
		return nil
	}
	return cheaper(first, second, now)
}

// pickRanked looks at all candidates and compares two random ones of the best rank.
func (s *Set) pickRanked(g *group, avoid []netip.AddrPort, now time.Duration) (chosen *endpoint, refusing bool) {
	var first, second *endpoint
	best, count := worstRank, 0
	consider := func(e *endpoint, penalty int) {
		r := rank(e, penalty, avoid, now)
		switch {
		case r > best:
			return
		case r < best:
			best, count, first, second = r, 1, e, e
			return
		}
		// Reservoir sampling of two: every candidate of the best rank is equally likely to be one.
		count++
		if count == 2 {
			second = e
			if s.options.Random(2) == 0 {
				first, second = second, first
			}
		} else if k := s.options.Random(count); k == 0 {
			first = e
		} else if k == 1 {
			second = e
		}
	}
	for _, e := range g.preferred {
		consider(e, 0)
	}
	for _, e := range g.others {
		consider(e, g.otherPenalty)
	}
	return cheaper(first, second, now), best >= penaltyRefusing
}

// worstRank is more than any rank.
const worstRank = 1 << 16

func rank(e *endpoint, penalty int, avoid []netip.AddrPort, now time.Duration) int {
	if e.refusing(now) {
		penalty += penaltyRefusing
	}
	if slices.Contains(avoid, e.address) {
		penalty += penaltyAvoid
	}
	return penalty
}

// cheaper returns the better of two; first, which is random, if they are about equal.
func cheaper(first, second *endpoint, now time.Duration) *endpoint {
	if first != second && second.cost(now)*costTolerance < first.cost(now) {
		return second
	}
	return first
}
