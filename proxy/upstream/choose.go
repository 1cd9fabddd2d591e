package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"weft.dev/weft/proxy/wire"
)

// ErrUnknownBackend tells that the view has no Backend of that key; GEP-1294 answers such a share of
// requests with 500.
var ErrUnknownBackend = errors.New("unknown backend")

// ErrNoEndpoints tells that a known Backend has no endpoint, or its namespace no proxy, to send to:
// answered with 503.
var ErrNoEndpoints = errors.New("no endpoints")

// ErrNoHealthyEndpoints tells that a known Backend has endpoints, but all are ejected or fail their health
// check, and its policy does not say that they are used all the same: answered with 503.
var ErrNoHealthyEndpoints = errors.New("no healthy endpoints")

// Kind says what an Endpoint is.
type Kind uint8

const (
	// KindPod is a pod's target port, spoken to in plain text.
	KindPod Kind = iota
	// KindHop is a proxy of the Backend's namespace, spoken to over mutual TLS: it picks the pod.
	KindHop
	// KindSidecar is a pod, spoken to over mutual TLS with its own proxy. The address is the pod's target port.
	KindSidecar
	// KindFallback is the Service's cluster IP (see Set.SetDisconnected).
	KindFallback
)

// String returns the value used in logs and metric labels: "pod", "hop", "sidecar" or "fallback".
func (k Kind) String() string {
	switch k {
	case KindPod:
		return "pod"
	case KindHop:
		return "hop"
	case KindSidecar:
		return "sidecar"
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
	// probe tells that the endpoint is ejected and this request finds out whether it is well again.
	probe bool
	// reserved is what counts against limits already; nil if there are none.
	reserved *reservation
}

// Address is what is dialled, or the port of a pod that is reached by the pod's own proxy; engines name it in the avoid
// list of a retry.
func (e Endpoint) Address() netip.AddrPort { return e.state.address }

// Hop tells that there is a proxy behind the address, spoken to over mutual TLS.
func (e Endpoint) Hop() bool { return e.kind == KindHop || e.kind == KindSidecar }

// dialed is the address that is dialled.
func (e Endpoint) dialed() string {
	if e.kind == KindSidecar {
		return netip.AddrPortFrom(e.state.address.Addr(), wire.PortHop).String()
	}
	return e.state.address.String()
}

// hopKey tells connections of the hop apart: who is presented, and who is expected.
func (e Endpoint) hopKey(call Call) poolKey {
	key := poolKey{poolHop, call.Source.ServiceAccount, e.target.backend.Namespace, wire.ProxyAccount}
	if account := e.state.account.Load(); e.kind == KindSidecar && account != nil {
		key.peer = *account
	}
	return key
}

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
// another, enrolled one, else one of the Backend's own endpoints, by the algorithm that its policy names.
// Whatever that is, endpoints that refused a connection a moment ago, terminating ones, those to avoid, and
// those farther from the client, where that matters, are used only when nothing better is left, in this
// order from the worst. An endpoint to prefer comes before all of that. Endpoints that are ejected or fail
// their health check are not used, except that an ejected one gets a single request when its time is over.
// The error wraps ErrUnknownBackend, ErrNoEndpoints or ErrNoHealthyEndpoints.
//
// Limits of the Backend (wire.CircuitBreaking) make the request wait until there is room, at most as long as
// they say and ctx lasts: then the error is an *Error, with ReasonFull if it is the limits'. What is chosen
// counts as a request until RoundTrip or Dial has ended it, so one of them must follow, or Release.
func (v *View) Choose(ctx context.Context, backend string, wish Wish) (Endpoint, error) {
	t, ok := v.targets[backend]
	if !ok {
		return Endpoint{}, fmt.Errorf("%w %s", ErrUnknownBackend, backend)
	}
	if !v.set.hops(t.backend, t.endpoints) {
		return v.chooseLocal(ctx, t, wish)
	}
	g, hop := v.proxies[t.backend.Namespace], v.hops[t.backend.Namespace]
	state, probe, _, err := v.set.choose(hop, g, Wish{Avoid: wish.Avoid, Zone: v.set.options.Zone})
	if err != nil {
		return Endpoint{}, fmt.Errorf("%w: all proxies of namespace %s are ejected", err, t.backend.Namespace)
	}
	if state == nil {
		return Endpoint{}, fmt.Errorf("%w: no proxy of namespace %s is ready", ErrNoEndpoints, t.backend.Namespace)
	}
	return Endpoint{state: state, target: t, kind: KindHop, probe: probe}, nil
}

// ChooseLocal is Choose for requests that arrived over the hop: they go to endpoints of this namespace
// and nowhere else, so that a request goes through no third proxy but that of the pod. Backends of other namespaces are
// unknown. The proxy beside a pod sends them to that pod.
func (v *View) ChooseLocal(ctx context.Context, backend string, wish Wish) (Endpoint, error) {
	t, ok := v.targets[backend]
	if !ok || t.backend.Namespace != v.set.options.Namespace {
		return Endpoint{}, fmt.Errorf("%w %s", ErrUnknownBackend, backend)
	}
	if !v.set.options.Sidecar {
		return v.chooseLocal(ctx, t, wish)
	}
	state, _ := v.set.pick(t.own, wish)
	if state == nil {
		return Endpoint{}, fmt.Errorf("%w %s of this pod", ErrUnknownBackend, backend)
	}
	return Endpoint{state: state, target: t, kind: KindPod}, nil
}

func (v *View) chooseLocal(ctx context.Context, t *target, wish Wish) (Endpoint, error) {
	t = v.set.usable(t)
	if t.service.limits.Load() != nil {
		return v.admit(ctx, t, wish)
	}
	to, _, err := v.chooseWithin(t, wish)
	return to, err
}

// chooseWithin picks an endpoint within the limits of the wish, or names the limit that all have reached.
func (v *View) chooseWithin(t *target, wish Wish) (to Endpoint, full string, err error) {
	state, probe, refusing, err := v.set.choose(t.service, t.direct, wish)
	kind := KindPod
	if state != nil {
		if state.account.Load() != nil {
			kind = KindSidecar
		}
	}
	if (state == nil || refusing) && v.set.disconnected.Load() {
		if fallback, _ := v.set.pick(v.set.fallbackOf(t), wish); fallback != nil {
			state, kind, err = fallback, KindFallback, nil
		}
	}
	switch {
	case err != nil:
		return Endpoint{}, "", fmt.Errorf("%w: those of %s are ejected or fail their health check", err, t.key)
	case state == nil:
		return Endpoint{}, "", fmt.Errorf("%w: %s has none", ErrNoEndpoints, t.key)
	case wish.limits != nil:
		if full = wish.limits.full(state, wish.exclusive); full != "" {
			return Endpoint{}, full, nil
		}
	}
	return Endpoint{state: state, target: t, kind: kind, probe: probe}, "", nil
}
