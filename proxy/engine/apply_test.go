package engine

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

func TestResourcesThatCannotBeUsedAreRejected(t *testing.T) {
	destination := func(edit func(*wire.Destination)) wire.Resource {
		d := &wire.Destination{Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolHTTP}
		edit(d)
		return resource(key("cart"), d)
	}
	tests := map[string]struct {
		resource wire.Resource
		want     string
	}{
		"no content": {wire.Resource{Ref: wire.Ref{Kind: wire.KindRoute, Key: "a"}}, "no content"},
		"another kind's key": {
			resource("shop/other:80", &wire.Destination{Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolHTTP}),
			"key",
		},
		"number out of range": {destination(func(d *wire.Destination) { d.Number = wire.MinNumber - 1 }), "number"},
		"number taken":        {destination(func(d *wire.Destination) { d.Number = 20000 }), "belongs to shop/other:80"},
		"protocol":            {destination(func(d *wire.Destination) { d.Protocol = "SCTP" }), "SCTP"},
		"expression": {
			route("r", "cart", func(r *wire.Route) {
				r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchRegex, Value: "("}}}
			}),
			"missing closing )",
		},
		"timeout":   {route("r", "cart", func(r *wire.Route) { r.Policy = timeouts(-1, 0) }), "negative"},
		"code":      {route("r", "cart", func(r *wire.Route) { r.Policy = retries(1, 0, 42) }), "42"},
		"algorithm": {balanced(&wire.LoadBalancing{Algorithm: new(wire.Algorithm("Best"))}), "Best"},
		"hash":      {balanced(&wire.LoadBalancing{Hash: &wire.HashKey{Type: "Body"}}), "Body"},
		"hash name": {balanced(&wire.LoadBalancing{Hash: &wire.HashKey{Type: wire.HashCookie}}), "no name"},
		"endpoint":  {resource(key("cart"), &wire.Endpoints{Endpoints: []wire.Endpoint{{}}}), "not usable"},
		"proxies":   {resource("stock", &wire.Proxies{Proxies: []wire.Proxy{{Pod: "p"}}}), "no address"},
		"workload":  {resource("192.0.2.1", &wire.Workload{Address: netip.MustParseAddr("192.0.2.2")}), "key"},
		"mesh":      {resource("mesh", &wire.Mesh{TrustDomain: "a b"}), "trust domain"},
		"not ours":  {resource("shop", &wire.Capture{}), "node agents"},
		"no secret": {resource("shop/a", &wire.Certificate{Namespace: namespace, ServiceAccount: "a"}), "trust bundle"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(resource("shop/other:80", &wire.Destination{
				Namespace: namespace, Service: "other", Port: 80, Number: 20000, Protocol: wire.ProtocolHTTP,
			}))
			rejected := p.delta(wire.Delta{Upserted: []wire.Resource{tc.resource}})
			if len(rejected) != 1 || rejected[0].Ref != tc.resource.Ref || rejected[0].Version != tc.resource.Version {
				t.Fatalf("rejected = %v, want %s", rejected, tc.resource.Ref)
			}
			if !strings.Contains(rejected[0].Reason, tc.want) {
				t.Errorf("reason = %q, want %q in it", rejected[0].Reason, tc.want)
			}
		})
	}
}

func TestRejectedResourceKeepsItsPreviousVersion(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "service"))...)
	p.apply(backend("v1", wire.ProtocolHTTP, named(t, "v1"))...)
	p.apply(backend("v2", wire.ProtocolHTTP, named(t, "v2"))...)
	good := func(r *wire.Route) { r.Backends = to("v1") }
	p.apply(route("r", "cart", good))
	address := p.listen(key("cart"))
	rejected := p.delta(wire.Delta{Upserted: append(backend("v1", wire.ProtocolHTTP, named(t, "moved")),
		route("r", "cart", func(r *wire.Route) {
			r.Matches = []wire.Match{{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "["}}}}
			r.Backends = to("v2")
		}),
	)})
	if len(rejected) != 1 {
		t.Fatalf("rejected = %v, want the route alone", rejected)
	}
	if got := get(t, address, "/"); got.body != "moved" {
		t.Errorf("answer = %v, want that of the previous route with the rest of the delta", got)
	}
	if got := metrics(t, p.engine, "weft_config_rejections_total"); got["kind=Route"] != 1 {
		t.Errorf("rejections = %v, want one of a route", got)
	}
}

func TestDestinationsExchangeNumbersInOneDelta(t *testing.T) {
	destination := func(service string, number uint16) wire.Resource {
		return resource(key(service), &wire.Destination{
			Namespace: namespace, Service: service, Port: 80, Number: number, Protocol: wire.ProtocolHTTP,
		})
	}
	p := newProxy(t)
	p.apply(destination("a", 20001), destination("b", 20002))
	p.apply(destination("a", 20002), destination("b", 20001))
	got := map[uint16]string{}
	for _, number := range []uint16{20001, 20002} {
		got[number] = p.engine.config.Load().find(Target{Number: number}).key
	}
	if diff := cmp.Diff(map[uint16]string{20001: key("b"), 20002: key("a")}, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
	// A number that a removed destination had is free.
	p.delta(wire.Delta{Upserted: []wire.Resource{destination("c", 20001)}, Removed: []wire.Ref{{Kind: wire.KindDestination, Key: key("b")}}})
	if d := p.engine.config.Load().find(Target{Number: 20001}); d.key != key("c") {
		t.Errorf("number leads to %s, want its new owner", d.key)
	}
}

func TestReadyNeedsConfigurationAndTheProxysCertificate(t *testing.T) {
	p := newProxy(t, func(o *Options) { o.Source = nil })
	ca := identitytest.NewCA(t, "cluster.local")
	probes := func() map[string]int {
		got := map[string]int{}
		for _, path := range []string{"/healthz", "/readyz", "/accepting"} {
			w := httptest.NewRecorder()
			p.engine.HealthHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			got[path] = w.Code
		}
		return got
	}
	notReady := map[string]int{"/healthz": 200, "/readyz": 503, "/accepting": 503}
	if diff := cmp.Diff(notReady, probes()); diff != "" {
		t.Errorf("before any configuration (-want +got):\n%s", diff)
	}
	p.apply(resource("mesh", ca.Mesh()), resource("shop/client", ca.Issue(t, namespace, "client")))
	if diff := cmp.Diff(notReady, probes()); diff != "" {
		t.Errorf("without a certificate of its own (-want +got):\n%s", diff)
	}
	p.apply(resource("shop/weft-proxy", ca.IssueProxy(t, namespace)))
	if diff := cmp.Diff(map[string]int{"/healthz": 200, "/readyz": 200, "/accepting": 200}, probes()); diff != "" {
		t.Errorf("with everything (-want +got):\n%s", diff)
	}
}

// BenchmarkApply shows that a change costs what changes: one route among many destinations.
func BenchmarkApply(b *testing.B) {
	for _, destinations := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) {
			e := New(Options{Namespace: namespace, Source: &wire.Workload{}, LeaveGrace: time.Nanosecond})
			defer func() { _ = e.Shutdown(context.Background()) }()
			delta := wire.Delta{Seq: 1}
			for i := range destinations {
				delta.Upserted = append(delta.Upserted, service(fmt.Sprintf("s%d", i), wire.ProtocolHTTP, "192.0.2.1:80")...)
			}
			e.Apply(delta)
			edits := [2]wire.Resource{}
			for i := range edits {
				edits[i] = route("r", "s0", func(r *wire.Route) {
					r.Backends = to("s0", "s1")
					r.Backends[0].Weight = int32(i)
				})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if rejected := e.Apply(wire.Delta{Seq: 2, Upserted: edits[i%2 : i%2+1]}); len(rejected) > 0 {
					b.Fatal(rejected)
				}
			}
		})
	}
}
