// Package hygiene_test runs the corpus of malformed and hostile messages against the engines of the data
// plane: bytes over TCP on one side, a backend that follows a script on the other, and a verdict on what a
// user could see.
package hygiene_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

// patience is how long a test waits for what must happen. It is only used up by a failure.
const patience = time.Minute

// near is the namespace of the clients, far that of backends on the other side of the hop.
const (
	near = "shop"
	far  = "stock"
)

// hopAddress stands for the proxy of namespace far.
var hopAddress = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// kind is a way in which requests pass through the data plane.
type kind struct {
	name string
	http engine.HTTPEngine
	// hop tells that two proxies are between client and backend.
	hop bool
	// breaks are the cases in which it does not do what the RFC asks, and why.
	breaks map[string]string
}

const noVia = "applications have not asked for a mesh, and some switch off what they do otherwise when they see Via"

var kinds = []kind{
	{name: "std", http: engine.HTTPStd, breaks: map[string]string{"Via": noVia}},
	{name: "std over the hop", http: engine.HTTPStd, hop: true, breaks: map[string]string{"Via": noVia}},
	{name: "weft", http: engine.HTTPWeft, breaks: map[string]string{"Via": noVia}},
	{name: "weft over the hop", http: engine.HTTPWeft, hop: true, breaks: map[string]string{"Via": noVia}},
}

// kindOf returns the kind of a name.
func kindOf(name string) kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	panic("no kind " + name)
}

// plane is the data plane between clients and backends: one proxy, or one on each side of the hop. Every
// backend has a listener of its own in front.
type plane struct {
	client, server *engine.Engine
	namespace      string
	seq            uint64
}

func (k kind) start(t testing.TB) *plane {
	t.Helper()
	options := engine.Options{
		Namespace: near, Source: &wire.Workload{Namespace: near, ServiceAccount: "client"},
		LeaveGrace: time.Millisecond, Log: slog.New(slog.DiscardHandler), HTTP: k.http,
	}
	if !k.hop {
		e := newEngine(t, options)
		return &plane{client: e, server: e, namespace: near}
	}
	l := listen(t)
	options.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, l.Addr().String())
	}
	p := &plane{client: newEngine(t, options), namespace: far}
	options.Namespace, options.Source, options.Dial = far, nil, nil
	p.server = newEngine(t, options)
	serve(t, l, func() error { return p.server.ServeHop(l) })
	ca := identitytest.NewCA(t, "cluster.local")
	p.apply(t, p.server, resource(far, "mesh", ca.Mesh()), resource(far, "stock/weft-proxy", ca.IssueProxy(t, far)))
	p.apply(t, p.client,
		resource(near, "mesh", ca.Mesh()), resource(near, "shop/client", ca.Issue(t, near, "client")),
		resource(near, "shop/weft-proxy", ca.IssueProxy(t, near)),
		resource(near, far, &wire.Proxies{Proxies: []wire.Proxy{{Pod: "far", Addresses: []netip.Addr{hopAddress}}}}),
	)
	return p
}

func newEngine(t testing.TB, options engine.Options) *engine.Engine {
	t.Helper()
	e := engine.New(options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// What cases leave open is cut.
		_ = e.Shutdown(ctx)
	})
	return e
}

func resource(namespace, key string, content any) wire.Resource {
	return wire.New(key, wire.ScopeNamespace(namespace), wire.Origin{}, content)
}

func (p *plane) apply(t testing.TB, e *engine.Engine, resources ...wire.Resource) {
	t.Helper()
	p.seq++
	if rejected := e.Apply(wire.Delta{Seq: p.seq, Upserted: resources}); len(rejected) > 0 {
		t.Fatalf("rejected: %v", rejected)
	}
}

// service leads to a backend and returns the address where clients find it.
func (p *plane) service(t testing.TB, name, backend string, protocol wire.Protocol) string {
	t.Helper()
	key := wire.ServicePortKey(p.namespace, name, 80)
	leads := resource(p.namespace, key, &wire.Backend{Namespace: p.namespace, Service: name, Port: 80, Protocol: protocol, Meshed: true})
	p.apply(t, p.server, leads, resource(p.namespace, key,
		&wire.Endpoints{Endpoints: []wire.Endpoint{{Address: netip.MustParseAddrPort(backend)}}}))
	p.apply(t, p.client, leads, resource(near, key,
		&wire.Destination{Namespace: p.namespace, Service: name, Port: 80, Protocol: protocol}))
	l := listen(t)
	serve(t, l, func() error { return p.client.ServeCaptured(engine.Direct(l, key)) })
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

// serve accepts until the end of the test.
func serve(t testing.TB, l net.Listener, accept func() error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It ends with its listener, by an error or by none.
		_ = accept()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// dial connects to a listener with a deadline for all that follows.
func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	return c
}
