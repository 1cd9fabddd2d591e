package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// compare looks into the values of netip by their text.
var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func addresses(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func proxy(zone string, texts ...string) wire.Proxy {
	return wire.Proxy{Zone: zone, Addresses: addresses(texts...)}
}

func port(address string, port, number uint16) wire.CapturedPort {
	return wire.CapturedPort{Address: netip.MustParseAddr(address), Port: port, Number: number}
}

func TestBuild(t *testing.T) {
	ports := map[netip.AddrPort]uint16{netip.MustParseAddrPort("10.96.0.7:80"): 20000}
	ports6 := map[netip.AddrPort]uint16{netip.MustParseAddrPort("[fd00::7]:80"): 20000}
	tests := map[string]struct {
		pod  rules.Pod
		zone string
		dead []netip.Addr
		want rules.Tables
	}{
		"namespace not enrolled": {},
		"enrolled, nothing to capture": {
			pod:  rules.Pod{Capture: &wire.Capture{}},
			want: rules.Tables{IPv4: rules.Table{Capture: true}, IPv6: rules.Table{Capture: true}},
		},
		"a proxy beside the pod": {
			pod: rules.Pod{Sidecar: true, Addresses: addresses("10.0.0.9", "fd00:1::9"), Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000), port("fd00::7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.2", "fd00:1::2")},
			}},
			dead: addresses("10.0.0.9"),
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Proxies: addresses("10.0.0.9"), Ports: map[netip.AddrPort]uint16{netip.MustParseAddrPort("10.96.0.7:80"): wire.PortCaptured}},
				IPv6: rules.Table{Capture: true, Proxies: addresses("fd00:1::9"), Ports: map[netip.AddrPort]uint16{netip.MustParseAddrPort("[fd00::7]:80"): wire.PortCaptured}},
			},
		},
		"a proxy beside a pod whose address is not known": {
			pod: rules.Pod{Sidecar: true, Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.2", "fd00:1::2")},
			}},
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Refused: []netip.AddrPort{netip.MustParseAddrPort("10.96.0.7:80")}, Ports: map[netip.AddrPort]uint16{netip.MustParseAddrPort("10.96.0.7:80"): wire.PortCaptured}},
				IPv6: rules.Table{Capture: true},
			},
		},
		"both families": {
			pod: rules.Pod{Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000), port("fd00::7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.2", "fd00:1::2"), proxy("", "10.0.0.1", "fd00:1::1")},
			}},
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Ports: ports, Proxies: addresses("10.0.0.1", "10.0.0.2")},
				IPv6: rules.Table{Capture: true, Ports: ports6, Proxies: addresses("fd00:1::1", "fd00:1::2")},
			},
		},
		"addresses in their IPv6 form": {
			pod: rules.Pod{Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("::ffff:10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "::ffff:10.0.0.1")},
			}},
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Ports: ports, Proxies: addresses("10.0.0.1")},
				IPv6: rules.Table{Capture: true},
			},
		},
		"the pod has addresses of one family": {
			pod: rules.Pod{
				Addresses: addresses("::ffff:10.0.0.9"),
				Capture: &wire.Capture{
					Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000), port("fd00::7", 80, 20000)},
					Proxies: []wire.Proxy{proxy("", "10.0.0.1", "fd00:1::1")},
				},
			},
			want: rules.Tables{IPv4: rules.Table{Capture: true, Ports: ports, Proxies: addresses("10.0.0.1")}},
		},
		"a proxy has addresses of one family": {
			pod:  rules.Pod{Addresses: addresses("fd00:1::1"), Proxy: true},
			want: rules.Tables{IPv6: rules.Table{Redirect: true}},
		},
		"a dead proxy gets nothing": {
			pod: rules.Pod{Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.1"), proxy("", "10.0.0.2")},
			}},
			dead: addresses("10.0.0.1"),
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Ports: ports, Proxies: addresses("10.0.0.2")},
				IPv6: rules.Table{Capture: true},
			},
		},
		"no proxy lives": {
			pod: rules.Pod{Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.1")},
			}},
			dead: addresses("10.0.0.1"),
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Ports: ports},
				IPv6: rules.Table{Capture: true},
			},
		},
		"proxies of the same zone are preferred": {
			zone: "a",
			pod: rules.Pod{Capture: &wire.Capture{
				Proxies: []wire.Proxy{proxy("b", "10.0.0.1"), proxy("a", "10.0.0.2"), proxy("", "10.0.0.3")},
			}},
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Proxies: addresses("10.0.0.2")},
				IPv6: rules.Table{Capture: true},
			},
		},
		"no proxy of the same zone lives": {
			zone: "a",
			pod: rules.Pod{Capture: &wire.Capture{
				Proxies: []wire.Proxy{proxy("b", "10.0.0.1"), proxy("a", "10.0.0.2"), proxy("", "10.0.0.3")},
			}},
			dead: addresses("10.0.0.2"),
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Proxies: addresses("10.0.0.1", "10.0.0.3")},
				IPv6: rules.Table{Capture: true},
			},
		},
		"the zone of the node is not known": {
			pod: rules.Pod{Capture: &wire.Capture{
				Proxies: []wire.Proxy{proxy("", "10.0.0.1"), proxy("a", "10.0.0.2")},
			}},
			want: rules.Tables{
				IPv4: rules.Table{Capture: true, Proxies: addresses("10.0.0.1", "10.0.0.2")},
				IPv6: rules.Table{Capture: true},
			},
		},
		"a proxy is redirected and never captured": {
			pod: rules.Pod{Proxy: true, Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.1")},
			}},
			want: rules.Tables{IPv4: rules.Table{Redirect: true}, IPv6: rules.Table{Redirect: true}},
		},
		"opted out": {
			pod: rules.Pod{OptedOut: true, Capture: &wire.Capture{
				Ports:   []wire.CapturedPort{port("10.96.0.7", 80, 20000)},
				Proxies: []wire.Proxy{proxy("", "10.0.0.1")},
			}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			live := func(address netip.Addr) bool {
				for _, dead := range tc.dead {
					if dead == address {
						return false
					}
				}
				return true
			}
			got := rules.Build(tc.pod, tc.zone, live)
			if !got.Equal(tc.want) {
				t.Errorf("tables differ (-want +got):\n%s", cmp.Diff(tc.want, got, compare))
			}
		})
	}
}

func TestDiff(t *testing.T) {
	one, two := netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("10.96.0.2:80")
	tests := map[string]struct {
		have, want rules.Table
		change     rules.Change
	}{
		"equal": {
			have: rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{one: 1}, Proxies: addresses("10.0.0.1")},
			want: rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{one: 1}, Proxies: addresses("10.0.0.1")},
		},
		"first rules":       {want: rules.Table{Capture: true}, change: rules.Change{Rebuild: true}},
		"first redirect":    {want: rules.Table{Redirect: true}, change: rules.Change{Rebuild: true}},
		"first strict port": {want: rules.Table{Inbound: &rules.Inbound{Strict: []uint16{1}}}, change: rules.Change{Rebuild: true}},
		"another strict port": {
			have:   rules.Table{Inbound: &rules.Inbound{Strict: []uint16{1, 3}}},
			want:   rules.Table{Inbound: &rules.Inbound{Strict: []uint16{2, 3}}},
			change: rules.Change{Inbound: rules.InboundChange{Close: []uint16{2}, Open: []uint16{1}}},
		},
		"a port becomes strict": {
			have:   rules.Table{Inbound: &rules.Inbound{Counted: []uint16{1, 2}}},
			want:   rules.Table{Inbound: &rules.Inbound{Counted: []uint16{2}, Strict: []uint16{1}}},
			change: rules.Change{Inbound: rules.InboundChange{Close: []uint16{1}, Uncount: []uint16{1}}},
		},
		"the ports become known": {
			have:   rules.Table{Inbound: &rules.Inbound{Closed: true}},
			want:   rules.Table{Inbound: &rules.Inbound{Counted: []uint16{2}}},
			change: rules.Change{Inbound: rules.InboundChange{Closed: true, Count: []uint16{2}}},
		},
		"a proxy for another": {
			have:   rules.Table{Inbound: &rules.Inbound{Admitted: addresses("10.0.0.1", "10.0.0.2")}},
			want:   rules.Table{Inbound: &rules.Inbound{Admitted: addresses("10.0.0.2", "10.0.0.3")}},
			change: rules.Change{Inbound: rules.InboundChange{Admit: addresses("10.0.0.3"), Dismiss: addresses("10.0.0.1")}},
		},
		"other callers allowed": {
			have:   rules.Table{Inbound: &rules.Inbound{Allowed: allowances(80, "10.0.0.0/24", "10.0.2.0/24")}},
			want:   rules.Table{Inbound: &rules.Inbound{Allowed: allowances(80, "10.0.1.0/24", "10.0.2.0/24")}},
			change: rules.Change{Inbound: rules.InboundChange{Allow: allowances(80, "10.0.1.0/24"), Disallow: allowances(80, "10.0.0.0/24")}},
		},
		"more of them": {
			have:   rules.Table{Inbound: &rules.Inbound{Allowed: allowances(80, "10.0.0.0/24")}},
			want:   rules.Table{Inbound: &rules.Inbound{Allowed: allowances(80, "10.0.0.0/16")}},
			change: rules.Change{Inbound: rules.InboundChange{Allow: allowances(80, "10.0.0.0/16"), Disallow: allowances(80, "10.0.0.0/24"), Overlap: true}},
		},
		"ports come and go": {
			have:   rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{one: 1}},
			want:   rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{two: 2}},
			change: rules.Change{Remove: []rules.Port{{Destination: one, Number: 1}}, Add: []rules.Port{{Destination: two, Number: 2}}},
		},
		"another number": {
			have:   rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{one: 1, two: 2}},
			want:   rules.Table{Capture: true, Ports: map[netip.AddrPort]uint16{one: 3, two: 2}},
			change: rules.Change{Remove: []rules.Port{{Destination: one, Number: 1}}, Add: []rules.Port{{Destination: one, Number: 3}}},
		},
		"another proxy": {
			have:   rules.Table{Capture: true, Proxies: addresses("10.0.0.1")},
			want:   rules.Table{Capture: true, Proxies: addresses("10.0.0.2")},
			change: rules.Change{Proxies: true},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rules.Diff(tc.have, tc.want)
			if diff := cmp.Diff(tc.change, got, compare); diff != "" {
				t.Errorf("change differs (-want +got):\n%s", diff)
			}
			if got.None() != tc.have.Equal(tc.want) {
				t.Errorf("None() is %v for tables whose equality is %v", got.None(), tc.have.Equal(tc.want))
			}
		})
	}
}

// A pod that leaves the mesh keeps its established connections, which need a translating chain.
func TestKeep(t *testing.T) {
	have := rules.Tables{IPv4: rules.Table{Capture: true, Proxies: addresses("10.0.0.1")}}
	got := rules.Keep(have, rules.Tables{IPv6: rules.Table{Redirect: true}})
	want := rules.Tables{IPv4: rules.Table{Capture: true}, IPv6: rules.Table{Redirect: true}}
	if !got.Equal(want) {
		t.Errorf("tables differ (-want +got):\n%s", cmp.Diff(want, got, compare))
	}
}

func TestOnlyRoutedPortsAreRefusedAndOnlyWithoutProxies(t *testing.T) {
	web, api := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")
	proxy := netip.MustParseAddr("10.244.0.9")
	capture := &wire.Capture{
		Ports: []wire.CapturedPort{
			{Address: web, Port: 443, Number: 20001},
			{Address: web, Port: 80, Number: 20000, Routed: true},
			{Address: api, Port: 80, Number: 20000, Routed: true},
		},
		Proxies: []wire.Proxy{{Addresses: []netip.Addr{proxy}}},
	}
	dead := rules.Build(rules.Pod{Capture: capture}, "", func(netip.Addr) bool { return false })
	if want := []netip.AddrPort{netip.AddrPortFrom(web, 80)}; !slices.Equal(dead.IPv4.Refused, want) {
		t.Errorf("IPv4 refuses %v, want %v", dead.IPv4.Refused, want)
	}
	if want := []netip.AddrPort{netip.AddrPortFrom(api, 80)}; !slices.Equal(dead.IPv6.Refused, want) {
		t.Errorf("IPv6 refuses %v, want %v", dead.IPv6.Refused, want)
	}
	live := rules.Build(rules.Pod{Capture: capture}, "", func(netip.Addr) bool { return true })
	if len(live.IPv4.Refused) > 0 {
		t.Errorf("with a live proxy IPv4 refuses %v", live.IPv4.Refused)
	}
	if !rules.Diff(live.IPv4, dead.IPv4).Proxies || !rules.Diff(dead.IPv4, live.IPv4).Proxies {
		t.Error("the change between refusing and capturing was not seen")
	}
}
