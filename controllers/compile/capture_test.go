package compile

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/proxy/wire"
)

func TestCapture(t *testing.T) {
	destination := func(key string, scope wire.Scope, number uint16, port uint16, addresses ...string) *wire.Resource {
		d := &wire.Destination{Port: port, Number: number}
		for _, a := range addresses {
			d.Addresses = append(d.Addresses, netip.MustParseAddr(a))
		}
		return new(wire.New(key, scope, wire.Origin{}, d))
	}
	captured := func(address string, port, number uint16) wire.CapturedPort {
		return wire.CapturedPort{Address: netip.MustParseAddr(address), Port: port, Number: number}
	}
	first, second := wire.Proxy{Pod: "weft-proxy-1"}, wire.Proxy{Pod: "weft-proxy-2"}

	cases := map[string]struct {
		destinations []*wire.Resource
		routes       []*wire.Resource
		proxies      []wire.Proxy
		want         wire.Capture
	}{
		"nothing is acknowledged yet": {
			proxies: []wire.Proxy{first},
			want:    wire.Capture{Proxies: []wire.Proxy{first}},
		},
		"every family of a cluster IP leads to the one number": {
			destinations: []*wire.Resource{destination("demo/echo:80", wire.ScopeMesh, 20000, 80, "10.96.0.1", "fd00::1")},
			want:         wire.Capture{Ports: []wire.CapturedPort{captured("10.96.0.1", 80, 20000), captured("fd00::1", 80, 20000)}},
		},
		"the order is by address and port, and by pod": {
			destinations: []*wire.Resource{
				destination("demo/b:80", wire.ScopeMesh, 20001, 80, "10.96.0.2"),
				destination("demo/a:443", wire.ScopeMesh, 20002, 443, "10.96.0.1"),
				destination("demo/a:80", wire.ScopeMesh, 20003, 80, "10.96.0.1"),
			},
			proxies: []wire.Proxy{second, first},
			want: wire.Capture{
				Ports: []wire.CapturedPort{
					captured("10.96.0.1", 80, 20003), captured("10.96.0.1", 443, 20002), captured("10.96.0.2", 80, 20001),
				},
				Proxies: []wire.Proxy{first, second},
			},
		},
		"a Service outside the mesh is captured for its consumers alone": {
			destinations: []*wire.Resource{
				destination("plain/a:80@demo", wire.ScopeNamespace("demo"), 20000, 80, "10.96.0.1"),
				destination("plain/b:80@shop", wire.ScopeNamespace("shop"), 20001, 80, "10.96.0.2"),
			},
			want: wire.Capture{Ports: []wire.CapturedPort{captured("10.96.0.1", 80, 20000)}},
		},
		"ports with a route that the namespace sees are marked": {
			destinations: []*wire.Resource{
				destination("demo/a:80", wire.ScopeMesh, 20000, 80, "10.96.0.1"),
				destination("demo/b:80", wire.ScopeMesh, 20001, 80, "10.96.0.2"),
				destination("demo/c:80", wire.ScopeMesh, 20002, 80, "10.96.0.3"),
				destination("demo/d:80", wire.ScopeMesh, 20003, 80, "10.96.0.4"),
			},
			routes: []*wire.Resource{
				new(wire.New("producer", wire.ScopeMesh, wire.Origin{}, &wire.Route{Destinations: []string{"demo/a:80"}})),
				new(wire.New("consumer", wire.ScopeNamespace("demo"), wire.Origin{}, &wire.Route{Destinations: []string{"demo/b:80"}})),
				new(wire.New("foreign", wire.ScopeNamespace("shop"), wire.Origin{}, &wire.Route{Destinations: []string{"demo/c:80"}})),
			},
			want: wire.Capture{Ports: []wire.CapturedPort{
				{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Number: 20000, Routed: true},
				{Address: netip.MustParseAddr("10.96.0.2"), Port: 80, Number: 20001, Routed: true},
				captured("10.96.0.3", 80, 20002), captured("10.96.0.4", 80, 20003),
			}},
		},
		"what has no number cannot be captured": {
			destinations: []*wire.Resource{destination("demo/echo:80", wire.ScopeMesh, 0, 80, "10.96.0.1")},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			proxies := append([]wire.Proxy(nil), tc.proxies...)
			got := Capture("demo", tc.destinations, Routed("demo", tc.routes), tc.proxies, nil, false)
			if diff := cmp.Diff(tc.want, *got.Capture, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("capture (-want +got):\n%s", diff)
			}
			if got.Key != "demo" || got.Scope != wire.ScopeNodes {
				t.Errorf("%s has scope %q, want Capture/demo for nodes", got.Ref, got.Scope)
			}
			if diff := cmp.Diff(proxies, tc.proxies, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the proxies given were changed:\n%s", diff)
			}
		})
	}
}
