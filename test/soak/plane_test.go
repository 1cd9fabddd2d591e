package soak

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

// near is the namespace of the clients, far the one on the other side of the hop.
const (
	near = "shop"
	far  = "stock"
	// changeEvery is the pause between two changes of the configuration.
	changeEvery = 10 * time.Millisecond
)

// plane is the proxy of namespace near and two of namespace far, whose configuration changes in ways that no request may
// notice.
type plane struct {
	near *engine.Engine
	far  []*engine.Engine
	ca   *identitytest.CA
	seq  uint64
	// http and grpc are the addresses of backends, web, calls and farCalls those that clients know.
	http, grpc           []string
	web, calls, farCalls string
}

// proxies stand for the addresses of the proxies of far.
var proxies = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 2})}

func newPlane(t *testing.T, of engine.HTTPEngine) *plane {
	p := &plane{
		ca:   identitytest.NewCA(t, "cluster.local"),
		http: []string{httpBackend(t, "v1"), httpBackend(t, "v1"), httpBackend(t, "v2"), httpBackend(t, "far"), httpBackend(t, "far")},
		grpc: []string{grpcBackend(t), grpcBackend(t)},
	}
	options := engine.Options{Namespace: far, HTTP: of, LeaveGrace: time.Millisecond, Exchanges: admin.NewExchanges(), Log: slog.New(slog.DiscardHandler)}
	listeners := map[string]string{}
	for _, address := range proxies {
		e := newEngine(t, options)
		l := listen(t)
		go func() { _ = e.ServeHop(l) }() // it ends with its engine
		listeners[netip.AddrPortFrom(address, wire.PortHop).String()] = l.Addr().String()
		p.far = append(p.far, e)
	}
	options.Namespace, options.Source = near, &wire.Workload{Namespace: near, ServiceAccount: "client"}
	options.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if listener := listeners[address]; listener != "" {
			address = listener
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	p.near = newEngine(t, options)
	p.configure(t)
	p.web, p.calls, p.farCalls = p.listen(t, key(near, "web")), p.listen(t, key(near, "calls")), p.listen(t, key(far, "calls"))
	return p
}

func newEngine(t *testing.T, options engine.Options) *engine.Engine {
	e := engine.New(options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return e
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listen returns where clients find a destination.
func (p *plane) listen(t *testing.T, key string) string {
	l := listen(t)
	go func() { _ = p.near.ServeCaptured(engine.Direct(l, key)) }() // it ends with its engine
	return l.Addr().String()
}

func key(namespace, service string) string { return wire.ServicePortKey(namespace, service, 80) }

func resource(key string, content any) wire.Resource {
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, content)
}

// configure gives all proxies what they need at first.
func (p *plane) configure(t *testing.T) {
	destination := func(namespace, service string, protocol wire.Protocol) wire.Resource {
		return resource(key(namespace, service), &wire.Destination{Namespace: namespace, Service: service, Port: 80, Protocol: protocol})
	}
	backend := func(namespace, service string, protocol wire.Protocol) wire.Resource {
		return resource(key(namespace, service), &wire.Backend{Namespace: namespace, Service: service, Port: 80, Protocol: protocol, Meshed: true})
	}
	items, calls := backend(far, "items", wire.ProtocolHTTP), backend(far, "calls", wire.ProtocolH2C)
	p.apply(t, p.near,
		resource("mesh", p.ca.Mesh()), resource(near+"/client", p.ca.Issue(t, near, "client")), resource(near+"/weft-proxy", p.ca.IssueProxy(t, near)),
		destination(near, "web", wire.ProtocolHTTP), destination(near, "calls", wire.ProtocolH2C), destination(far, "calls", wire.ProtocolH2C),
		backend(near, "v1", wire.ProtocolHTTP), backend(near, "v2", wire.ProtocolHTTP), backend(near, "calls", wire.ProtocolH2C), items, calls,
		endpoints(near, "v1", p.http[:2]...), endpoints(near, "v2", p.http[2]), endpoints(near, "calls", p.grpc...), peers(proxies...),
		p.route("/v1", key(near, "v1")), p.route("/v2", key(near, "v2")), p.route("/far", key(far, "items")), p.mirrored(),
	)
	p.applyFar(t,
		resource("mesh", p.ca.Mesh()), resource(far+"/weft-proxy", p.ca.IssueProxy(t, far)), items, calls,
		endpoints(far, "items", p.http[3:]...), endpoints(far, "calls", p.grpc...),
	)
}

func peers(addresses ...netip.Addr) wire.Resource {
	all := &wire.Proxies{}
	for _, a := range addresses {
		all.Proxies = append(all.Proxies, wire.Proxy{Pod: a.String(), Addresses: []netip.Addr{a}})
	}
	return resource(far, all)
}

func endpoints(namespace, service string, addresses ...string) wire.Resource {
	e := &wire.Endpoints{}
	for _, a := range addresses {
		e.Endpoints = append(e.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(a)})
	}
	return resource(key(namespace, service), e)
}

// route sends a prefix to a backend; every time another header is set on the way, and every other time there are limits
// that no request meets.
func (p *plane) route(prefix, backend string, more ...wire.Filter) wire.Resource {
	r := &wire.Route{
		Kind: wire.RouteHTTP, Namespace: near, Name: prefix[1:], Destinations: []string{key(near, "web")},
		Matches:  []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: prefix}}},
		Backends: []wire.WeightedBackend{{Backend: backend, Weight: 1}},
		Filters: append(more, wire.Filter{RequestHeaders: &wire.HeaderModifier{
			Set: []wire.HeaderField{{Name: "X-Change", Value: strconv.FormatUint(p.seq, 10)}},
		}}),
	}
	if p.seq%2 == 0 {
		limit := wire.Duration(time.Hour)
		r.Policy = &wire.Policy{Timeouts: &wire.Timeouts{Request: &limit, Idle: &limit}}
	}
	return resource(r.Key(), r)
}

// mirrored is a route whose requests another backend gets as well.
func (p *plane) mirrored() wire.Resource {
	return p.route("/mirrored", key(near, "v1"), wire.Filter{Mirror: &wire.Mirror{Backend: key(near, "v2"), Numerator: 1, Denominator: 1}})
}

func (p *plane) apply(t *testing.T, e *engine.Engine, upserted ...wire.Resource) {
	p.seq++
	if rejected := e.Apply(wire.Delta{Seq: p.seq, Upserted: upserted}); len(rejected) > 0 {
		t.Errorf("rejected: %v", rejected)
	}
}

func (p *plane) applyFar(t *testing.T, upserted ...wire.Resource) {
	for _, e := range p.far {
		p.apply(t, e, upserted...)
	}
}

// churn changes the configuration until it is told to stop.
func (p *plane) churn(t *testing.T, stop <-chan struct{}) {
	ticker := time.NewTicker(changeEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		switch n % 16 {
		case 0:
			p.apply(t, p.near, p.route("/v1", key(near, "v1")))
		case 1:
			p.apply(t, p.near, endpoints(near, "v1", p.http[0]))
		case 2:
			p.apply(t, p.near, endpoints(near, "v1", p.http[1], p.http[0]))
		case 3:
			p.apply(t, p.near, p.route("/v2", key(near, "v2")), p.route("/v1", key(near, "v1")))
		case 4:
			p.applyFar(t, endpoints(far, "items", p.http[4]))
		case 5:
			p.applyFar(t, endpoints(far, "items", p.http[3:]...))
		case 6:
			p.apply(t, p.near, p.route("/far", key(far, "items")), p.mirrored())
		case 7:
			p.apply(t, p.near, endpoints(near, "calls", p.grpc[n/16%2]))
		case 8:
			p.apply(t, p.near, endpoints(near, "calls", p.grpc...))
		case 9:
			p.applyFar(t, endpoints(far, "calls", p.grpc[n/16%2]))
		case 10:
			p.applyFar(t, endpoints(far, "calls", p.grpc...))
		case 11:
			p.apply(t, p.near, peers(proxies[n/16%2]))
		case 12:
			p.apply(t, p.near, peers(proxies...))
		case 13: // about every ten seconds
			if n/16%64 == 0 {
				p.apply(t, p.near, resource(near+"/client", p.ca.Issue(t, near, "client")))
			}
		case 14:
			if n/16%64 == 32 {
				p.applyFar(t, resource(far+"/weft-proxy", p.ca.IssueProxy(t, far)))
			}
		}
	}
}
