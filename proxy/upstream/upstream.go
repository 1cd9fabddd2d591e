// Package upstream owns everything about sending to a backend: choosing an endpoint, the connections to
// it, the hop to the proxies of another namespace, and the state that decides which endpoint is good
// and how much more it may be given (requests in flight, latency, ejections, health checks, limits). That
// state belongs to the endpoint's address or to the Backend: it outlives configuration changes and is shared
// by all routes.
//
// The package must not decide whether a request is repeated. It lets an application see a request at most
// once and says precisely what is known about a failure (see Error); retries, budgets and deadlines belong
// to the proxy that matched the route.
package upstream

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
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
	// Watch is called before a handshake, and the function it returns after it. Until release is called, drain
	// is called once the peer's chain has no trusted root any more, and cut some time later. An error means
	// that it has none already.
	Watch() func(state tls.ConnectionState, drain, cut func()) (release func(), err error)
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
	// DialContext opens TCP connections. Default: a net.Dialer with keep-alive probes.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// DialTimeout bounds connecting, TLS and protocol handshake included, where the Backend's policy says
	// nothing. Default: 2 s.
	DialTimeout time.Duration
	// IdleTimeout closes connections that were not used for so long. Default: 60 s.
	IdleTimeout time.Duration
	// MaxIdlePerEndpoint bounds idle HTTP/1.1 connections per endpoint. Default: 256.
	MaxIdlePerEndpoint int
	// MaxIdle bounds idle HTTP/1.1 connections of the whole Set. Default: 8192.
	MaxIdle int
	// OwnHTTP1 speaks HTTP/1.1 with package h1 instead of net/http.
	OwnHTTP1 bool
	// Measures is told about the health of endpoints. Default: nobody is.
	Measures Measures
	// Now is the clock of latencies and refusals. Default: time.Now.
	Now func() time.Time
	// Random returns a uniform number in [0, n). Default: math/rand/v2.IntN.
	Random func(n int) int
}

// withDefaults returns the options with every field set but Zone and Identity.
func (o Options) withDefaults() Options {
	if o.DialContext == nil {
		dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5,
		}}
		o.DialContext = dialer.DialContext
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 2 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	if o.MaxIdlePerEndpoint == 0 {
		o.MaxIdlePerEndpoint = 256
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = 8192
	}
	if o.Measures == nil {
		o.Measures = unmeasured{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.IntN
	}
	return o
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
	options      Options
	start        time.Time
	current      atomic.Pointer[View]
	disconnected atomic.Bool
	idle         atomic.Int32 // idle HTTP/1.1 connections

	http1, h2c, hop *http.Transport

	mu        sync.Mutex // serializes Update and Close
	endpoints map[netip.AddrPort]*held
	services  map[string]*service
	checks    checks
	closed    bool

	// health guards the states of endpoints and the memberships in services; s.mu may be held.
	health sync.Mutex
}

// held is an endpoint and how often the current view names it.
type held struct {
	*endpoint
	count int
}

// View is an immutable configuration of a Set. A request pins the View it began with, so that a change
// of configuration never makes a backend or an endpoint disappear under it.
type View struct {
	set       *Set
	resources Resources
	targets   map[string]*target
	proxies   map[string]*group
	// hops are the services of proxies.
	hops map[string]*service
}

// target is a Backend with what can be dialled for it; direct and fallback are nil if it is reached over
// the hop.
type target struct {
	key              string
	backend          *wire.Backend
	direct, fallback *group
	// hashKey is what requests are hashed by here, nil if they are not.
	hashKey *wire.HashKey
	// service is that of the endpoints, nil if the Backend is reached over the hop.
	service *service
}

// NewSet returns an empty Set. Close releases its connections.
func NewSet(options Options) *Set {
	s := &Set{options: options.withDefaults(), endpoints: map[netip.AddrPort]*held{}, services: map[string]*service{}, checks: newChecks()}
	s.start = s.options.Now()
	s.http1, s.h2c, s.hop = newTransports(s.options)
	s.current.Store(&View{set: s})
	return s
}

// Update makes resources the current view with one atomic swap and returns it. Endpoints that no backend
// names any longer are drained: idle connections are closed, active requests finish. A resource that is
// the same pointer as before costs nothing but the comparison.
func (s *Set) Update(resources Resources) *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	next := &View{
		set: s, resources: resources,
		targets: make(map[string]*target, len(resources.Backends)),
		proxies: make(map[string]*group, len(resources.Proxies)),
		hops:    make(map[string]*service, len(resources.Proxies)),
	}
	replicas := next.Replicas()
	// What is kept must be held before what is replaced is released, or a shared endpoint would be
	// drained between the two.
	var released []*group
	for key, backend := range resources.Backends {
		was := old.targets[key]
		if was != nil && was.backend == backend && old.resources.Endpoints[key] == resources.Endpoints[key] {
			next.targets[key] = was
			if was.service != nil && replicas != old.Replicas() {
				was.service.limit(limitsOf(backend.Policy, replicas))
			}
			continue
		}
		t := s.newTarget(key, backend, resources.Endpoints[key], was)
		if t.service != nil {
			t.service.limit(limitsOf(backend.Policy, replicas))
		}
		next.targets[key] = t
		if was != nil {
			released = append(released, was.direct, was.fallback)
		}
	}
	for namespace, proxies := range resources.Proxies {
		if old.resources.Proxies[namespace] == proxies {
			next.proxies[namespace], next.hops[namespace] = old.proxies[namespace], old.hops[namespace]
			continue
		}
		g := s.proxyGroup(proxies, old.proxies[namespace])
		next.proxies[namespace], next.hops[namespace] = g, s.serviceOf(namespace+"/*")
		s.configure(next.hops[namespace], ejectionPolicy(nil), g.judged())
		released = append(released, old.proxies[namespace])
	}
	for key, was := range old.targets {
		is := next.targets[key]
		if is == nil {
			released = append(released, was.direct, was.fallback)
		}
		if was.service != nil && (is == nil || is.service == nil) {
			s.forget(was.service)
		}
	}
	for namespace, was := range old.proxies {
		if next.proxies[namespace] == nil {
			released = append(released, was)
			s.forget(old.hops[namespace])
		}
	}
	s.current.Store(next)
	s.updateChecks(next)
	for _, g := range released {
		s.release(g)
	}
	return next
}

// Pin returns the current view.
func (s *Set) Pin() *View { return s.current.Load() }

// Replicas is how many ready proxies the namespace of this one has, itself included, at least 1: what a
// limit is divided by.
func (v *View) Replicas() int {
	proxies := v.resources.Proxies[v.set.options.Namespace]
	if proxies == nil {
		return 1
	}
	return max(1, len(proxies.Proxies))
}

// Choose is Pin().Choose.
func (s *Set) Choose(ctx context.Context, backend string, wish Wish) (Endpoint, error) {
	return s.Pin().Choose(ctx, backend, wish)
}

// SetDisconnected tells whether the stream to the operator is lost. While it is, and every known endpoint
// of a backend refuses connections, Choose falls back to the Service's cluster IP, because kube-proxy may
// know pods that this proxy does not. It never replaces the hop: that would be plain text.
func (s *Set) SetDisconnected(disconnected bool) { s.disconnected.Store(disconnected) }

// Close closes idle connections, lets active ones finish, and ends health checks. A closed Set still sends, but keeps no
// connection for reuse.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.stopChecks()
	for _, h := range s.endpoints {
		h.drain()
	}
	s.mu.Unlock()
	s.checks.ended.Wait()
}

// hops tells whether a Backend is reached through the proxies of its namespace.
func (s *Set) hops(b *wire.Backend) bool { return b.Meshed && b.Namespace != s.options.Namespace }

// newTarget returns the target of a Backend. It goes on where was, which may be nil, is. s.mu is held.
func (s *Set) newTarget(key string, backend *wire.Backend, endpoints *wire.Endpoints, was *target) *target {
	t := &target{key: key, backend: backend}
	if s.hops(backend) {
		return t
	}
	var before *group
	if was != nil {
		before = was.direct
	}
	var members []member
	if endpoints != nil {
		members = make([]member, len(endpoints.Endpoints))
		for i, e := range endpoints.Endpoints {
			members[i] = member{endpoint: s.hold(e.Address), zone: e.Zone, node: e.Node, terminating: e.Terminating}
		}
	}
	b := balancingOf(backend)
	t.hashKey = b.hashKey
	t.direct = s.newGroup(b, members, before)
	if b.hashKey != nil {
		t.direct.serving.tabulate()
	}
	t.service = s.serviceOf(key)
	s.configure(t.service, ejectionPolicy(backend.Policy), t.direct.judged())
	addresses := make([]member, len(backend.Addresses))
	for i, address := range backend.Addresses {
		addresses[i] = member{endpoint: s.hold(netip.AddrPortFrom(address, backend.Port))}
	}
	t.fallback = s.newGroup(balancing{strategy: peakEWMA{}}, addresses, nil)
	return t
}

func (s *Set) proxyGroup(proxies *wire.Proxies, before *group) *group {
	var members []member
	for _, p := range proxies.Proxies {
		if len(p.Addresses) > 0 {
			members = append(members, member{endpoint: s.hold(netip.AddrPortFrom(p.Addresses[0], wire.PortHop)), zone: p.Zone})
		}
	}
	return s.newGroup(balancing{strategy: peakEWMA{}, locality: localityZone}, members, before)
}

// hold returns the endpoint at an address, making it if needed, and counts one more use. s.mu is held.
func (s *Set) hold(address netip.AddrPort) *endpoint {
	h := s.endpoints[address]
	if h == nil {
		h = &held{endpoint: &endpoint{set: s, address: address, drained: s.closed}}
		s.endpoints[address] = h
	}
	h.count++
	return h.endpoint
}

// release takes back the holds of a group and drains endpoints that nothing holds. s.mu is held.
func (s *Set) release(g *group) {
	if g == nil {
		return
	}
	for _, m := range g.every.members {
		h := s.endpoints[m.address]
		if h.count--; h.count == 0 {
			delete(s.endpoints, m.address)
			h.drain()
		}
	}
}

// elapsed is the time since the Set's start.
func (s *Set) elapsed() time.Duration { return s.options.Now().Sub(s.start) }
