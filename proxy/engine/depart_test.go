package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// clusterIP returns the resources of a Service whose cluster IP is at address, with other endpoints.
func clusterIP(t *testing.T, service, address string, protocol wire.Protocol, endpoints ...string) (string, []wire.Resource) {
	t.Helper()
	vip := netip.MustParseAddrPort(address)
	key := wire.ServicePortKey(namespace, service, vip.Port())
	set := &wire.Endpoints{}
	for _, endpoint := range endpoints {
		set.Endpoints = append(set.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(endpoint)})
	}
	addresses := []netip.Addr{vip.Addr()}
	return key, []wire.Resource{
		resource(key, &wire.Destination{Namespace: namespace, Service: service, Port: vip.Port(), Number: 20000, Addresses: addresses, Protocol: protocol}),
		resource(key, &wire.Backend{Namespace: namespace, Service: service, Port: vip.Port(), Addresses: addresses, Protocol: protocol, Meshed: true}),
		resource(key, set),
	}
}

func refs(resources []wire.Resource) []wire.Ref {
	var refs []wire.Ref
	for i := range resources {
		refs = append(refs, resources[i].Ref)
	}
	return refs
}

// TestDepartedDestinationIsServedOn removes a Service from the mesh under an open connection.
func TestDepartedDestinationIsServedOn(t *testing.T) {
	p := newProxy(t)
	key, resources := clusterIP(t, "cart", named(t, "cluster IP"), wire.ProtocolHTTP, named(t, "endpoint"))
	redirect := route("r", "cart", func(r *wire.Route) {
		r.Destinations = []string{key}
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchExact, Value: "/moved"}}, {}}
		r.Backends = []wire.WeightedBackend{{Backend: key, Weight: 1}}
		r.Filters = []wire.Filter{{ResponseHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-Rule", Value: "last"}}}}}
	})
	resources = append(resources, redirect)
	p.apply(resources...)
	address := p.listen(key)

	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
		t.Run(name, func(t *testing.T) {
			p.apply(resources...)
			if got := do(t, c, request(t, http.MethodGet, address, "/", nil)); got.body != "endpoint" {
				t.Fatalf("answer = %v, want the endpoint's", got)
			}
			// First the destination goes, then, in another delta, what is behind it.
			p.delta(wire.Delta{Removed: []wire.Ref{resources[0].Ref}})
			got := do(t, c, request(t, http.MethodPost, address, "/", strings.NewReader("order")))
			if got.body != "endpoint" || got.header.Get("X-Rule") != "last" {
				t.Errorf("answer = %v %v, want the endpoint's by the last configuration", got, got.header)
			}
			p.delta(wire.Delta{Removed: refs(resources[1:])})
			res, err := c.Do(request(t, http.MethodPost, address, "/", strings.NewReader("order")))
			if err != nil {
				t.Fatalf("post: %v", err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(body) != "cluster IP" {
				t.Errorf("answer = %q, %v, want that of the Service's cluster IP", body, err)
			}
			if got := metrics(t, p.engine, "weft_fallbacks_total")["reason=departed"]; got == 0 {
				t.Error("the fallback was not counted")
			}
			if name == "HTTP/1.1" && !res.Close {
				t.Error("the answer does not end the connection")
			}
		})
	}
}

func TestDepartedDestinationEndsHTTP2ConnectionsGracefully(t *testing.T) {
	p := newProxy(t)
	key, resources := clusterIP(t, "cart", named(t, "cluster IP"), wire.ProtocolHTTP, named(t, "endpoint"))
	p.apply(resources...)
	address := p.listen(key)
	dials := 0
	c := client(t, h2c)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	do(t, c, request(t, http.MethodGet, address, "/", nil))
	p.delta(wire.Delta{Removed: refs(resources)})
	for range 3 {
		do(t, c, request(t, http.MethodGet, address, "/", nil))
	}
	if dials < 2 {
		t.Errorf("%d connections for requests before and after the departure, want a GOAWAY between them", dials)
	}
}

func TestConnectionsReachTheirMaximumAge(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	address := p.listen(key("cart"))
	c := client(t)
	res, err := c.Do(request(t, http.MethodGet, address, "/", nil))
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if res.Close {
		t.Error("a connection ended although there is no maximum age")
	}
	ca := identitytest.NewCA(t, "cluster.local")
	mesh := ca.Mesh()
	mesh.MaxConnectionAge = 1
	p.apply(resource("mesh", mesh))
	res, err = c.Do(request(t, http.MethodGet, address, "/", nil))
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	_ = res.Body.Close()
	if !res.Close {
		t.Error("a connection goes on beyond its maximum age")
	}
}

func TestClusterIPIsTheLastResortWithoutTheOperator(t *testing.T) {
	closed := ports.Refusing(t).String()
	p := newProxy(t)
	key, resources := clusterIP(t, "cart", named(t, "cluster IP"), wire.ProtocolHTTP, closed)
	p.apply(resources...)
	address := p.listen(key)
	if got := get(t, address, "/"); got.reason() != string(reason.Connect) {
		t.Errorf("answer = %v, want 503: the operator would tell of other endpoints", got)
	}
	p.engine.SetDisconnected(true)
	if got := get(t, address, "/"); got.body != "cluster IP" {
		t.Errorf("answer = %v, want that of the Service's cluster IP", got)
	}
	if got := metrics(t, p.engine, "weft_fallbacks_total")["reason=disconnected"]; got == 0 {
		t.Error("the fallback was not counted")
	}
	p.engine.SetDisconnected(false)
	if got := get(t, address, "/"); got.reason() != string(reason.Connect) {
		t.Errorf("answer = %v, want 503 again", got)
	}
}
