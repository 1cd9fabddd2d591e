package upstream

import (
	"errors"
	"net/netip"

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
func (k Kind) String() string { panic("not yet") }

// Endpoint is one choice of where to send a request. It stays usable when the configuration changes.
// The zero Endpoint is not usable.
type Endpoint struct {
	state   *endpoint
	backend *wire.Backend
	key     string
	kind    Kind
}

// Address is what is dialled; engines name it in the avoid list of a retry.
func (e Endpoint) Address() netip.AddrPort { panic("not yet") }

// Kind says what is behind the address.
func (e Endpoint) Kind() Kind { return e.kind }

// BackendKey is the key of the Backend that this endpoint was chosen for.
func (e Endpoint) BackendKey() string { return e.key }

// Backend is what this endpoint was chosen for.
func (e Endpoint) Backend() *wire.Backend { return e.backend }

// Backend returns the Backend of that key.
func (v *View) Backend(key string) (*wire.Backend, bool) { panic("not yet") }

// Choose picks an endpoint for one try of a request: a proxy of the Backend's namespace if that is
// another, enrolled one, else one of the Backend's own endpoints. Two random candidates are compared by
// latency and requests in flight. Endpoints that refused a connection a moment ago, terminating ones,
// those in avoid, and proxies of other zones are used only when nothing better is left, in this order from
// the worst. The error wraps ErrUnknownBackend or ErrNoEndpoints.
func (v *View) Choose(backend string, avoid []netip.AddrPort) (Endpoint, error) { panic("not yet") }

// ChooseLocal is Choose for requests that arrived over the hop: they go to endpoints of this namespace
// and nowhere else, so that a request never takes a second hop. Backends of other namespaces are unknown.
func (v *View) ChooseLocal(backend string, avoid []netip.AddrPort) (Endpoint, error) {
	panic("not yet")
}
