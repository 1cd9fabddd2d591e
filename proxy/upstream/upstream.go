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
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Identity provides the TLS configuration for the hop. identity.Store implements it.
type Identity interface {
	// ClientConfig returns the configuration that presents the certificate of a ServiceAccount of this
	// namespace and accepts only proxies of the namespace called that run as the ServiceAccount peer. It returns the same pointer for as
	// long as neither the certificate nor the trust bundle changed; another pointer makes the Set dial
	// new connections and let the old ones finish. The configuration is shared and must not be modified.
	ClientConfig(serviceAccount, namespace, peer string) (*tls.Config, error)
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
	// Sidecar tells that the proxy is beside one pod. It dials no pod in plain text but its own: Backends of its own
	// namespace are reached as those of others are. Nor does it ever fall back to a cluster IP, where its own pod's
	// connections are captured.
	Sidecar bool
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
	// OwnHTTP2 speaks HTTP/2 with package h2 instead of net/http.
	OwnHTTP2 bool
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
	// Own are the addresses of the pod that the proxy is beside, by the keys of the Backends that they serve.
	Own map[string]netip.AddrPort
}

// Set holds all endpoints of one proxy process. It is safe for concurrent use.
type Set struct {
	options      Options
	start        time.Time
	current      atomic.Pointer[View]
	disconnected atomic.Bool
	idle         atomic.Int32 // idle HTTP/1.1 connections

	http1, h2c, hop *http.Transport

	mu sync.Mutex // serializes Update and Close
	// holding guards endpoints and what holds them; s.mu and what admits requests may be held.
	holding   sync.Mutex
	endpoints map[netip.AddrPort]*endpoint
	services  map[string]*service
	checks    checks
	// closed is guarded by both.
	closed bool

	// health guards the states of endpoints and the memberships in services; s.mu may be held.
	health sync.Mutex
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

// target is a Backend with what can be dialled for it.
type target struct {
	key       string
	backend   *wire.Backend
	endpoints *wire.Endpoints
	// spoken is how many pods the Backend has that are not on their way out, if all have proxies of their own.
	spoken int
	// ready tells that direct, hashKey and service are there. They are written once, under Set.mu.
	ready atomic.Bool
	// own is the pod that the proxy is beside, nil if that does not serve the Backend.
	own *group
	// direct is nil if the Backend is reached through the proxies of its namespace.
	direct *group
	// fallback are the Service's cluster IPs, nil until they are needed.
	fallback atomic.Pointer[group]
	// hashKey is what requests are hashed by here, nil if they are not.
	hashKey *wire.HashKey
	// service is that of the endpoints, nil if the Backend is reached over the hop.
	service *service
	// released tells that no view has the target any more. Guarded by Set.holding.
	released bool
}

// NewSet returns an empty Set. Close releases its connections.
func NewSet(options Options) *Set {
	s := &Set{options: options.withDefaults(), endpoints: map[netip.AddrPort]*endpoint{}, services: map[string]*service{}, checks: newChecks()}
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
	var replaced []*target
	many := len(resources.Backends) > fewBackends
	for key, backend := range resources.Backends {
		was := old.targets[key]
		if was != nil && was.backend == backend && old.resources.Endpoints[key] == resources.Endpoints[key] &&
			old.resources.Own[key] == resources.Own[key] {
			next.targets[key] = was
			if was.service != nil && replicas != old.Replicas() {
				was.service.limit(limitsOf(backend.Policy, replicas))
			}
			continue
		}
		t := &target{key: key, backend: backend, endpoints: resources.Endpoints[key]}
		t.spoken = t.endpoints.Speaking()
		t.own = s.ownGroup(resources.Own[key])
		used := was != nil && was.direct != nil
		if !many || used || s.hops(backend, t.endpoints) || backend.Policy != nil && backend.Policy.HealthCheck != nil {
			s.prepare(t, was, replicas)
		}
		next.targets[key] = t
		if was != nil {
			replaced = append(replaced, was)
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
			replaced = append(replaced, was)
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
	for _, t := range replaced {
		released = append(released, t.direct, t.own, s.retire(t))
	}
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

// Sharing is how many proxies count the rate limits of a Backend, this one among them: what those are divided by. Where all
// its pods have proxies of their own, which each of these knows, it is they that do, otherwise those of the namespace.
func (v *View) Sharing(backend string) int {
	if t := v.targets[backend]; v.set.options.Sidecar && t != nil && t.spoken > 0 {
		return t.spoken
	}
	return v.Replicas()
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
	s.stopChecks()
	s.holding.Lock()
	s.closed = true
	endpoints := slices.Collect(maps.Values(s.endpoints))
	s.holding.Unlock()
	for _, e := range endpoints {
		e.drain()
	}
	s.mu.Unlock()
	s.checks.ended.Wait()
}

// hops tells whether a Backend is reached through the proxies of its namespace: its endpoints are picked there. They
// are picked here, whoever's they are, if all of them have proxies of their own.
func (s *Set) hops(b *wire.Backend, endpoints *wire.Endpoints) bool {
	return b.Meshed && (s.options.Sidecar || b.Namespace != s.options.Namespace) && !endpoints.SpeakHop()
}

// ownGroup is what is behind an address of the pod that the proxy is beside; nil if there is none. s.mu is held.
func (s *Set) ownGroup(address netip.AddrPort) *group {
	if !address.IsValid() {
		return nil
	}
	return s.newGroup(balancing{strategy: peakEWMA{}}, []member{{endpoint: s.hold(address)}}, nil)
}

// fewBackends is how many are prepared at once. Of more, those are that somebody has sent to.
const fewBackends = 256

// usable returns a target that is ready.
func (s *Set) usable(t *target) *target {
	if t.ready.Load() {
		return t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.ready.Load() {
		s.prepare(t, nil, s.current.Load().Replicas())
	}
	return t
}

// prepare makes a target ready. It goes on where was, which may be nil, is. s.mu is held.
func (s *Set) prepare(t, was *target, replicas int) {
	defer t.ready.Store(true)
	if s.hops(t.backend, t.endpoints) {
		return
	}
	var before *group
	if was != nil {
		before = was.direct
	}
	var members []member
	if t.endpoints != nil {
		members = make([]member, len(t.endpoints.Endpoints))
		for i, e := range t.endpoints.Endpoints {
			members[i] = member{endpoint: s.hold(e.Address), zone: e.Zone, node: e.Node, terminating: e.Terminating}
			members[i].speaks(e.ServiceAccount)
		}
	}
	b := balancingOf(t.backend)
	t.hashKey = b.hashKey
	t.direct = s.newGroup(b, members, before)
	if b.hashKey != nil {
		t.direct.serving.tabulate()
	}
	if t.released {
		// The request that wants it began with a configuration that is not in force any more. Nobody would take back
		// what it holds, nor judge its endpoints.
		t.service = &service{key: t.key}
		t.service.policy.Store(ejectionPolicy(t.backend.Policy))
		t.service.due.Store(math.MaxInt64)
		s.release(t.direct)
	} else {
		t.service = s.serviceOf(t.key)
		s.configure(t.service, ejectionPolicy(t.backend.Policy), t.direct.judged())
	}
	t.service.limit(limitsOf(t.backend.Policy, replicas))
}

// fallbackOf returns the cluster IPs of a Backend whose endpoints are picked here.
func (s *Set) fallbackOf(t *target) *group {
	if g := t.fallback.Load(); g != nil {
		return g
	}
	var members []member
	for _, address := range t.backend.Addresses {
		if !s.options.Sidecar {
			members = append(members, member{endpoint: s.hold(netip.AddrPortFrom(address, t.backend.Port))})
		}
	}
	g := s.newGroup(balancing{strategy: peakEWMA{}}, members, nil)
	s.holding.Lock()
	kept := !t.released && t.fallback.CompareAndSwap(nil, g)
	s.holding.Unlock()
	if !kept {
		// Another request was first, or the configuration has gone on, and nobody would release it later.
		s.release(g)
	}
	return g
}

// retire notes that no view has a target any more, and returns its fallback, which may be nil.
func (s *Set) retire(t *target) *group {
	s.holding.Lock()
	defer s.holding.Unlock()
	t.released = true
	return t.fallback.Load()
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

// hold returns the endpoint at an address, making it if needed, and counts one more use.
func (s *Set) hold(address netip.AddrPort) *endpoint {
	s.holding.Lock()
	defer s.holding.Unlock()
	e := s.endpoints[address]
	if e == nil {
		e = &endpoint{set: s, address: address, drained: s.closed, health: health{state: &steady}}
		s.endpoints[address] = e
	}
	e.holds++
	return e
}

// release takes back the holds of a group and drains endpoints that nothing holds.
func (s *Set) release(g *group) {
	if g == nil {
		return
	}
	for _, m := range g.every.members {
		if s.letGo(m.endpoint) {
			m.drain()
		}
	}
}

// letGo takes back one hold and tells whether it was the last one.
func (s *Set) letGo(e *endpoint) bool {
	s.holding.Lock()
	defer s.holding.Unlock()
	if e.holds--; e.holds > 0 {
		return false
	}
	delete(s.endpoints, e.address)
	return true
}

// elapsed is the time since the Set's start.
func (s *Set) elapsed() time.Duration { return s.options.Now().Sub(s.start) }
