// Package standalone runs a mesh in this process, on loopback and without a cluster: the proxies of every enrolled
// namespace, an authority for their certificates, and backends where nothing else answers. It compiles with the
// operator's code and serves with the proxies'. It connects to loopback only, and needs no privileges.
package standalone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

const (
	// certificateLifetime outlives every run.
	certificateLifetime = 365 * 24 * time.Hour
	// drainLimit is how long connections may take to end.
	drainLimit = 5 * time.Second
	// defaultTrustDomain is that of a Mesh which does not say.
	defaultTrustDomain = "cluster.local"
)

// Options configure a Mesh; all may be left out.
type Options struct {
	// Callers are the ServiceAccounts that the clients of namespaces run as. Default: "default". If there are any, only
	// these namespaces have addresses for clients.
	Callers map[string]string
	// FirstPort is that of the first address for clients; others follow. Default: whichever are free.
	FirstPort int
	// Backends are the addresses, on loopback, where Service ports are served, by wire.ServicePortKey.
	Backends map[string]netip.AddrPort
	Log      *slog.Logger
}

// Address is where a client of a namespace reaches a Service port.
type Address struct {
	Namespace   string        `json:"namespace"`
	ServicePort string        `json:"servicePort"`
	Protocol    wire.Protocol `json:"protocol"`
	Address     string        `json:"address"`
}

// Mesh is a mesh that runs. Its methods may be called at any time, but nothing after Close.
type Mesh struct {
	options Options
	ca      *identity.CA
	network *network

	mu      sync.Mutex
	proxies map[string]*proxy
	numbers compile.Numbers
	// started counts proxies, for their addresses, opened addresses for clients.
	started, opened int
}

// Start returns a Mesh without objects.
func Start(options Options) (*Mesh, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	for key, address := range options.Backends {
		if !address.Addr().IsLoopback() {
			return nil, fmt.Errorf("backend %s: %s is not on loopback", key, address)
		}
	}
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	ca, err := identity.ParseCA(data)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	return &Mesh{options: options, ca: ca, network: newNetwork(), proxies: map[string]*proxy{}}, nil
}

// Applied is what came of applying objects.
type Applied struct {
	// Addresses are sorted by namespace and Service port.
	Addresses []Address
	// Rejected are the resources of which proxies have the previous version, or none.
	Rejected []wire.Rejection
	// BuiltIn are the Service ports that built-in backends serve, at least in part, sorted.
	BuiltIn []string
}

// Apply makes the objects of a snapshot the whole content of the mesh. The snapshot is not changed.
func (m *Mesh) Apply(s compile.Snapshot) (Applied, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Numbers, s.TrustBundle = m.numbers, m.ca.Bundle()
	s.EndpointSlices = m.endpointSlices(&s)
	result := compile.Compile(s)
	m.numbers = result.Numbers
	builtIn, err := m.network.serve(&s, result.Resources)
	if err != nil {
		return Applied{}, err
	}
	if err := m.changeProxies(result.Enrolled, trustDomain(&s)); err != nil {
		return Applied{}, err
	}
	// A proxy is told of others when those have what they are to serve.
	var rejected []wire.Rejection
	others := compile.Proxies(m.hops(), keys(m.proxies))
	for _, resources := range [][]wire.Resource{result.Resources, slices.Concat(result.Resources, others)} {
		rejected = nil
		for _, p := range m.proxies {
			rejected = append(rejected, p.apply(resources)...)
		}
	}
	addresses, err := m.addresses(result)
	if err != nil {
		return Applied{}, err
	}
	slices.SortFunc(rejected, func(x, y wire.Rejection) int { return cmp.Compare(x.String(), y.String()) })
	return Applied{Addresses: addresses, Rejected: slices.CompactFunc(rejected, func(x, y wire.Rejection) bool { return x.Ref == y.Ref }), BuiltIn: builtIn}, nil
}

func trustDomain(s *compile.Snapshot) string {
	if s.Mesh != nil && s.Mesh.Spec.TrustDomain != "" {
		return s.Mesh.Spec.TrustDomain
	}
	return defaultTrustDomain
}

func keys(proxies map[string]*proxy) map[string]bool {
	set := map[string]bool{}
	for namespace := range proxies {
		set[namespace] = true
	}
	return set
}

// hops are where the proxies of namespaces accept others.
func (m *Mesh) hops() map[string][]wire.Proxy {
	ready := map[string][]wire.Proxy{}
	for namespace, p := range m.proxies {
		ready[namespace] = []wire.Proxy{{Pod: meshv1alpha1.ProxyName, Addresses: []netip.Addr{p.address}}}
	}
	return ready
}

// changeProxies starts the proxies of namespaces that are new, and ends those of namespaces that have gone.
func (m *Mesh) changeProxies(enrolled []string, domain string) error {
	var left []*proxy
	for namespace, p := range m.proxies {
		if !slices.Contains(enrolled, namespace) || p.domain != domain {
			left = append(left, p)
			delete(m.proxies, namespace)
		}
	}
	errs := []error{closeAll(left)}
	for _, namespace := range enrolled {
		if m.proxies[namespace] != nil {
			continue
		}
		p, err := m.startProxy(namespace, domain)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		m.proxies[namespace] = p
	}
	return errors.Join(errs...)
}

// addresses opens one for every destination of every namespace that has clients, and closes those of destinations that
// have gone.
func (m *Mesh) addresses(result compile.Result) ([]Address, error) {
	all := []Address{}
	for _, namespace := range slices.Sorted(maps.Keys(m.proxies)) {
		if _, wanted := m.options.Callers[namespace]; !wanted && len(m.options.Callers) > 0 {
			continue
		}
		p := m.proxies[namespace]
		seen := map[string]bool{}
		for i := range result.Resources {
			r := &result.Resources[i]
			if r.Destination == nil || !visible(r, namespace) {
				continue
			}
			seen[r.Key] = true
			address, err := p.open(r.Key, m.listen)
			if err != nil {
				return nil, err
			}
			all = append(all, Address{
				Namespace: namespace, ServicePort: wire.ServicePortKey(r.Destination.Namespace, r.Destination.Service, r.Destination.Port),
				Protocol: r.Destination.Protocol, Address: address,
			})
		}
		p.closeOthers(seen)
	}
	slices.SortFunc(all, func(x, y Address) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.ServicePort, y.ServicePort))
	})
	return all, nil
}

// listen opens the next address for clients.
func (m *Mesh) listen() (net.Listener, error) {
	port := 0
	if m.options.FirstPort > 0 {
		port = m.options.FirstPort + m.opened
	}
	m.opened++
	return listen(port)
}

func listen(port int) (net.Listener, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))))
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return l, nil
}

// Exchanges returns what the proxy of a namespace remembers, nil if it has none.
func (m *Mesh) Exchanges() map[string]*admin.Exchanges {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]*admin.Exchanges{}
	for namespace, p := range m.proxies {
		all[namespace] = p.exchanges
	}
	return all
}

// Close ends proxies, each after its last request, then backends.
func (m *Mesh) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := closeAll(slices.Collect(maps.Values(m.proxies)))
	m.proxies = map[string]*proxy{}
	return errors.Join(err, m.network.close())
}

// visible tells whether the proxies of a namespace have a resource.
func visible(r *wire.Resource, namespace string) bool {
	return r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(namespace)
}

// proxy is the data plane of one namespace.
type proxy struct {
	namespace, domain string
	address           netip.Addr
	engine            *engine.Engine
	exchanges         *admin.Exchanges
	// own are its certificates, which nobody else has.
	own     []wire.Resource
	seq     uint64
	held    map[wire.Ref]string
	clients map[string]net.Listener
	serving sync.WaitGroup
}

func (m *Mesh) startProxy(namespace, domain string) (*proxy, error) {
	account := m.options.Callers[namespace]
	if account == "" {
		account = "default"
	}
	p := &proxy{namespace: namespace, domain: domain, exchanges: admin.NewExchanges(), held: map[wire.Ref]string{}, clients: map[string]net.Listener{}}
	for _, name := range []string{meshv1alpha1.ProxyName, account} {
		id := identity.ID{TrustDomain: domain, Namespace: namespace, ServiceAccount: name}
		pair, err := m.ca.Issue(id, certificateLifetime, time.Now())
		if err != nil {
			return nil, fmt.Errorf("issue the certificate of %s: %w", id, err)
		}
		p.own = append(p.own, wire.New(namespace+"/"+name, wire.ScopeNamespace(namespace), wire.Origin{}, &wire.Certificate{
			Namespace: namespace, ServiceAccount: name, SPIFFEID: id.String(),
			Chain: pair.Chain, Key: pair.Key, NotAfter: pair.NotAfter, Proxy: name == meshv1alpha1.ProxyName,
		}))
	}
	hop, err := listen(0)
	if err != nil {
		return nil, err
	}
	m.started++
	p.address = m.network.own(m.started)
	m.network.lead(netip.AddrPortFrom(p.address, wire.PortHop), hop.Addr().String())
	p.engine = engine.New(engine.Options{
		Namespace: namespace, Source: &wire.Workload{Pod: "client", Namespace: namespace, ServiceAccount: account},
		LeaveGrace: time.Millisecond, Exchanges: p.exchanges, Log: m.options.Log.With("proxy", namespace), Dial: m.network.dial,
	})
	// It ends with the engine.
	p.serving.Go(func() { _ = p.engine.ServeHop(hop) })
	return p, nil
}

// apply brings the proxy to what it sees of resources.
func (p *proxy) apply(all []wire.Resource) []wire.Rejection {
	p.seq++
	delta := wire.Delta{Seq: p.seq}
	seen := map[wire.Ref]bool{}
	for _, r := range slices.Concat(all, p.own) {
		if !visible(&r, p.namespace) {
			continue
		}
		seen[r.Ref] = true
		if p.held[r.Ref] != r.Version {
			delta.Upserted = append(delta.Upserted, r)
			p.held[r.Ref] = r.Version
		}
	}
	for ref := range p.held {
		if !seen[ref] {
			delta.Removed = append(delta.Removed, ref)
			delete(p.held, ref)
		}
	}
	return p.engine.Apply(delta)
}

// open returns where clients reach a destination.
func (p *proxy) open(key string, listen func() (net.Listener, error)) (string, error) {
	if l := p.clients[key]; l != nil {
		return l.Addr().String(), nil
	}
	l, err := listen()
	if err != nil {
		return "", err
	}
	p.clients[key] = l
	// It ends with the engine, or with the listener.
	p.serving.Go(func() { _ = p.engine.ServeCaptured(engine.Direct(l, key)) })
	return l.Addr().String(), nil
}

func (p *proxy) closeOthers(seen map[string]bool) {
	for key, l := range p.clients {
		if !seen[key] {
			_ = l.Close() // nobody is told of it any more
			delete(p.clients, key)
		}
	}
}

// closeAll closes proxies at once, since each waits for its connections.
func closeAll(proxies []*proxy) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	errs := make([]error, len(proxies))
	var closing sync.WaitGroup
	for i, p := range proxies {
		closing.Go(func() {
			errs[i] = p.engine.Shutdown(ctx)
			p.serving.Wait()
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}
