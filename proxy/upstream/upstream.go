// Package upstream owns everything about sending to a backend: choosing an endpoint, the connections to
// it, the hop to the proxies of another namespace, and the state that decides which endpoint is good
// (requests in flight, latency, refused connections). That state belongs to the endpoint's address: it
// outlives configuration changes and is shared by all routes.
//
// The package must not decide whether a request is repeated. It sends a request at most once and says
// precisely what is known about a failure (see Error); retries, budgets and deadlines belong to the
// proxy that matched the route.
package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Identity provides the TLS configuration for the hop. identity.Store implements it.
type Identity interface {
	// ClientConfig returns the configuration that presents the certificate of a ServiceAccount of this
	// namespace and accepts only the proxies of the namespace called. It returns the same pointer for as
	// long as neither the certificate nor the trust bundle changed; another pointer makes the Set dial
	// new connections and let the old ones finish. The configuration is shared and must not be modified.
	ClientConfig(serviceAccount, namespace string) (*tls.Config, error)
}

// Options configure a Set. Only Namespace is required; the zero value of every other field means the
// default that its comment names.
type Options struct {
	// Namespace is the one this proxy serves: Backends of other enrolled namespaces are reached over the
	// hop, those of this one directly.
	Namespace string
	// Zone is this proxy's own; proxies of the same zone are preferred for the hop.
	Zone string
	// Identity provides certificates for the hop; without it every hop fails with ReasonIdentity.
	Identity Identity
	// DialContext opens TCP connections. Default: a net.Dialer with keep-alive probes that notice a dead
	// idle peer within about six seconds.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// DialTimeout bounds connecting, TLS and protocol handshake included. Default: 2 s.
	DialTimeout time.Duration
	// IdleTimeout closes connections that were not used for so long. Default: 60 s.
	IdleTimeout time.Duration
	// MaxIdlePerEndpoint bounds idle HTTP/1.1 connections per endpoint. Default: 256.
	MaxIdlePerEndpoint int
	// MaxIdle bounds idle HTTP/1.1 connections of the whole Set. Default: 8192.
	MaxIdle int
	// Now is the clock of latencies and refusals. Default: time.Now.
	Now func() time.Time
	// Random returns a uniform number in [0, n). Default: math/rand/v2.IntN.
	Random func(n int) int
}

// Resources is the complete view of what can be sent to. The Set keeps the maps and what they point to;
// nobody may change them afterwards.
type Resources struct {
	// Backends and Endpoints are keyed by wire.ServicePortKey, Proxies by namespace.
	Backends  map[string]*wire.Backend
	Endpoints map[string]*wire.Endpoints
	Proxies   map[string]*wire.Proxies
}

// Set holds all endpoints of one proxy process. It is safe for concurrent use.
type Set struct {
	options Options
	current atomic.Pointer[View]

	mu sync.Mutex
}

// View is an immutable configuration of a Set. A request pins the View it began with, so that a change
// of configuration never makes a backend or an endpoint disappear under it.
type View struct {
	set *Set
}

// NewSet returns an empty Set. Close releases its connections.
func NewSet(options Options) *Set {
	s := &Set{options: options}
	s.current.Store(&View{set: s})
	return s
}

// Update makes resources the current view with one atomic swap and returns it. Endpoints that no backend
// names any longer are drained: idle connections are closed, active requests finish. Resources that are
// the same pointer as before cost nothing but the comparison.
func (s *Set) Update(resources Resources) *View { panic("not yet") }

// Pin returns the current view.
func (s *Set) Pin() *View { return s.current.Load() }

// SetDisconnected tells whether the stream to the operator is lost. While it is, and every known endpoint
// of a backend refuses connections, Choose falls back to the Service's cluster IP, because kube-proxy may
// know pods that this proxy does not. It never replaces the hop: that would be plain text.
func (s *Set) SetDisconnected(disconnected bool) { panic("not yet") }

// Close closes idle connections and lets active ones finish. A closed Set still works, but keeps no
// connection for reuse.
func (s *Set) Close() { panic("not yet") }

// Choose is Pin().Choose.
func (s *Set) Choose(backend string, avoid []netip.AddrPort) (Endpoint, error) {
	return s.Pin().Choose(backend, avoid)
}
