package engine

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// hashedBy returns the resources of a Service of pods a to e, of which each answers with its name, balanced
// by what key says.
func hashedBy(t *testing.T, hash *wire.HashKey) []wire.Resource {
	var addresses []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		addresses = append(addresses, named(t, name))
	}
	resources := service("web", wire.ProtocolHTTP, addresses...)
	for i := range resources {
		if b := resources[i].Backend; b != nil {
			balanced := *b
			balanced.Policy = &wire.Policy{LoadBalancing: &wire.LoadBalancing{Algorithm: new(wire.ConsistentHash), Hash: hash}}
			resources[i] = resource(key("web"), &balanced)
		}
	}
	return resources
}

// balanced returns a backend with that part of a policy.
func balanced(b *wire.LoadBalancing) wire.Resource {
	return resource(key("cart"), &wire.Backend{
		Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolHTTP, Policy: &wire.Policy{LoadBalancing: b},
	})
}

// spread sends requests with the keys 0 to 19, each several times, and returns how many pods answered in
// all. The test fails if a key has several.
func spread(t *testing.T, send func(key string) string) int {
	t.Helper()
	pods := map[string]bool{}
	for i := range 20 {
		first := ""
		for range 5 {
			pod := send(fmt.Sprint("key-", i))
			if first == "" {
				first = pod
			}
			if pod != first {
				t.Fatalf("key %d was answered by %s and %s", i, first, pod)
			}
		}
		pods[first] = true
	}
	return len(pods)
}

func TestRequestsOfOneHashHaveOnePod(t *testing.T) {
	for name, tc := range map[string]struct {
		key *wire.HashKey
		put func(req *http.Request, key string)
	}{
		"header": {&wire.HashKey{Type: wire.HashHeader, Name: "x-user"}, func(req *http.Request, key string) {
			req.Header.Set("X-User", key)
		}},
		"cookie": {&wire.HashKey{Type: wire.HashCookie, Name: "sid"}, func(req *http.Request, key string) {
			req.Header.Set("Cookie", "theme=dark; sid="+key)
		}},
		"query parameter": {&wire.HashKey{Type: wire.HashQueryParameter, Name: "user"}, func(req *http.Request, key string) {
			req.URL.RawQuery = "a=b&user=" + key
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(hashedBy(t, tc.key)...)
			address, c := p.listen(key("web")), client(t)
			if n := spread(t, func(key string) string {
				req := request(t, http.MethodGet, address, "/", nil)
				tc.put(req, key)
				return do(t, c, req).body
			}); n < 3 {
				t.Errorf("20 keys have only %d of 5 pods", n)
			}
		})
	}
}

func TestRequestsWithoutAHashAreSpread(t *testing.T) {
	p := newProxy(t)
	p.apply(hashedBy(t, &wire.HashKey{Type: wire.HashHeader, Name: "x-user"})...)
	address, c := p.listen(key("web")), client(t)
	pods := map[string]bool{}
	for range 50 {
		pods[do(t, c, request(t, http.MethodGet, address, "/", nil)).body] = true
	}
	if len(pods) < 2 {
		t.Errorf("only %v answered", pods)
	}
}

// A filter may set what is hashed.
func TestFiltersCountForTheHash(t *testing.T) {
	p := newProxy(t)
	p.apply(hashedBy(t, &wire.HashKey{Type: wire.HashHeader, Name: "x-user"})...)
	p.apply(route("fixed", "web", func(r *wire.Route) {
		r.Backends = to("web")
		r.Filters = []wire.Filter{{RequestHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "x-user", Value: "same"}}}}}
	}))
	address, c := p.listen(key("web")), client(t)
	if n := spread(t, func(key string) string {
		req := request(t, http.MethodGet, address, "/", nil)
		req.Header.Set("X-User", key)
		return do(t, c, req).body
	}); n != 1 {
		t.Errorf("%d pods answered requests that a filter has made equal", n)
	}
}

func TestClientsKeepTheirPod(t *testing.T) {
	for _, protocol := range []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolTCP} {
		t.Run(string(protocol), func(t *testing.T) {
			p := newProxy(t)
			resources := hashedBy(t, &wire.HashKey{Type: wire.HashSourceAddress})
			for i := range resources {
				if b := resources[i].Backend; b != nil {
					b.Protocol = protocol
				}
				if d := resources[i].Destination; d != nil {
					d.Protocol = protocol
				}
			}
			p.apply(resources...)
			address := p.listen(key("web"))
			pods := map[string]bool{}
			for range 20 {
				// A connection of its own comes from another port of the same address.
				c := client(t)
				pods[do(t, c, request(t, http.MethodGet, address, "/", nil)).body] = true
				c.CloseIdleConnections()
			}
			if len(pods) != 1 {
				t.Errorf("one client was served by %v", pods)
			}
		})
	}
}

// The proxy that picks the pod hashes, so it is the callee's policy that counts.
func TestHashIsTakenBehindTheHop(t *testing.T) {
	h := newHop(t, 2, wire.ProtocolHTTP)
	var list []wire.Endpoint
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		list = append(list, wire.Endpoint{Address: netip.MustParseAddrPort(named(t, name))})
	}
	for _, peer := range h.peers {
		peer.apply(resource(stockKey, &wire.Backend{
			Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true,
			Policy: &wire.Policy{LoadBalancing: &wire.LoadBalancing{
				Algorithm: new(wire.ConsistentHash), Hash: &wire.HashKey{Type: wire.HashHeader, Name: "x-user"},
			}},
		}), resource(stockKey, &wire.Endpoints{Endpoints: list}))
	}
	address, c := h.listen(stockKey), client(t)
	if n := spread(t, func(key string) string {
		req := request(t, http.MethodGet, address, "/", nil)
		req.Header.Set("X-User", key)
		return do(t, c, req).body
	}); n < 3 {
		t.Errorf("20 keys have only %d of 5 pods", n)
	}
}

// Zone and node of the client's workload decide, in its own namespace and behind the hop.
func TestEndpointsNearTheClientArePreferred(t *testing.T) {
	near := func(node, zone bool) (backend *wire.Backend, endpoints *wire.Endpoints) {
		backend = &wire.Backend{Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Zone: zone, Node: node}
		endpoints = &wire.Endpoints{}
		for _, e := range []wire.Endpoint{{Zone: "z1", Node: "n1"}, {Zone: "z1", Node: "n2"}, {Zone: "z2", Node: "n3"}} {
			e.Address = netip.MustParseAddrPort(server(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, e.Node)
			}))
			endpoints.Endpoints = append(endpoints.Endpoints, e)
		}
		return backend, endpoints
	}
	answered := func(t *testing.T, address string) string {
		t.Helper()
		c, nodes := client(t), map[string]bool{}
		for range 60 {
			nodes[do(t, c, request(t, http.MethodGet, address, "/", nil)).body] = true
		}
		return fmt.Sprint(nodes)
	}
	cases := map[string]struct {
		node, zone bool
		want       string
	}{
		"no preference": {want: "map[n1:true n2:true n3:true]"},
		"zone":          {zone: true, want: "map[n1:true n2:true]"},
		"node":          {node: true, want: "map[n1:true]"},
	}
	place := func(o *Options) {
		o.Source = &wire.Workload{Namespace: namespace, ServiceAccount: "client", Node: "n1", Zone: "z1"}
		o.Zone = "z2" // the proxy's own does not count
	}
	for name, tc := range cases {
		t.Run("own namespace, "+name, func(t *testing.T) {
			p := newProxy(t, place)
			b, endpoints := near(tc.node, tc.zone)
			b.Namespace, b.Service = namespace, "web"
			p.apply(resource(key("web"), &wire.Destination{Namespace: namespace, Service: "web", Port: 80, Protocol: wire.ProtocolHTTP}),
				resource(key("web"), b), resource(key("web"), endpoints))
			if got := answered(t, p.listen(key("web"))); got != tc.want {
				t.Errorf("answered by %s, want %s", got, tc.want)
			}
		})
		t.Run("hop, "+name, func(t *testing.T) {
			h := newHop(t, 1, wire.ProtocolHTTP)
			h.engine.options.Source.Node, h.engine.options.Source.Zone = "n1", "z1"
			b, endpoints := near(tc.node, tc.zone)
			b.Namespace, b.Service = stock, "api"
			h.peers[0].apply(resource(stockKey, b), resource(stockKey, endpoints))
			if got := answered(t, h.listen(stockKey)); got != tc.want {
				t.Errorf("answered by %s, want %s", got, tc.want)
			}
		})
	}
}
