package rules_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func allowances(port uint16, texts ...string) []rules.Allowance {
	var out []rules.Allowance
	for _, prefix := range prefixes(texts...) {
		out = append(out, rules.Allowance{Port: port, From: prefix})
	}
	return out
}

func TestBuildInbound(t *testing.T) {
	admitting := func(strict bool) *wire.Capture {
		return &wire.Capture{Admitted: addresses("10.0.0.2", "::ffff:10.0.0.1", "fd00::1"), Strict: strict}
	}
	known := func(ports ...wire.InboundPort) *wire.Inbound { return &wire.Inbound{Ports: ports} }
	tests := map[string]struct {
		pod        rules.Pod
		ipv4, ipv6 *rules.Inbound
	}{
		"namespace not enrolled": {pod: rules.Pod{}},
		"nothing strict and nothing known": {
			pod: rules.Pod{Capture: admitting(false)},
		},
		"no published port": {
			pod: rules.Pod{Capture: admitting(true), Inbound: known()},
		},
		"something strict and nothing known": {
			pod:  rules.Pod{Capture: admitting(true), Node: addresses("10.0.0.254"), Addresses: addresses("10.0.0.9", "fd00::9")},
			ipv4: &rules.Inbound{Closed: true, Admitted: addresses("10.0.0.1", "10.0.0.2", "10.0.0.9", "10.0.0.254")},
			ipv6: &rules.Inbound{Closed: true, Admitted: addresses("fd00::1", "fd00::9")},
		},
		"something strict and nothing known, opted out": {
			pod:  rules.Pod{Capture: admitting(true), OptedOut: true},
			ipv4: &rules.Inbound{Closed: true, Admitted: addresses("10.0.0.1", "10.0.0.2")},
			ipv6: &rules.Inbound{Closed: true, Admitted: addresses("fd00::1")},
		},
		"a proxy": {
			pod: rules.Pod{Capture: admitting(true), Proxy: true},
		},
		"a pod that says that it is a proxy": {
			pod:  rules.Pod{Proxy: true, Inbound: known(wire.InboundPort{Port: 80, Strict: true})},
			ipv4: &rules.Inbound{Strict: []uint16{80}},
			ipv6: &rules.Inbound{Strict: []uint16{80}},
		},
		"the operator is away": {
			pod:  rules.Pod{Closed: true, Node: addresses("10.0.0.254")},
			ipv4: &rules.Inbound{Closed: true, Admitted: addresses("10.0.0.254")},
			ipv6: &rules.Inbound{Closed: true},
		},
		"ports of both kinds": {
			pod: rules.Pod{Capture: admitting(true), Inbound: known(
				wire.InboundPort{Port: 9000, Strict: true}, wire.InboundPort{Port: 80}, wire.InboundPort{Port: 8080, Strict: true},
			)},
			ipv4: &rules.Inbound{Strict: []uint16{8080, 9000}, Counted: []uint16{80}, Admitted: addresses("10.0.0.1", "10.0.0.2")},
			ipv6: &rules.Inbound{Strict: []uint16{8080, 9000}, Counted: []uint16{80}, Admitted: addresses("fd00::1")},
		},
		"a pod that is to have a proxy of its own and has none": {
			pod:  rules.Pod{Capture: admitting(true), Node: addresses("10.0.0.254"), Inbound: &wire.Inbound{Alone: true, Ports: []wire.InboundPort{{Port: 80, Strict: true}}}},
			ipv4: &rules.Inbound{Strict: []uint16{80}, Admitted: addresses("10.0.0.254")},
			ipv6: &rules.Inbound{Strict: []uint16{80}},
		},
		"a port that is named twice": {
			pod:  rules.Pod{Inbound: known(wire.InboundPort{Port: 80}, wire.InboundPort{Port: 80, Strict: true})},
			ipv4: &rules.Inbound{Strict: []uint16{80}},
			ipv6: &rules.Inbound{Strict: []uint16{80}},
		},
		"allowed callers": {
			pod: rules.Pod{Inbound: known(
				wire.InboundPort{Port: 80, Strict: true, Allowed: prefixes("10.1.2.3/32", "10.1.0.0/16", "10.0.0.7/24", "fd00::/8", "::ffff:10.9.0.0/112", "10.1.2.3/32")},
				wire.InboundPort{Port: 81, Allowed: prefixes("10.1.2.3/32", "::/0")},
			)},
			ipv4: &rules.Inbound{
				Strict: []uint16{80}, Counted: []uint16{81},
				Allowed: append(allowances(80, "10.0.0.0/24", "10.1.0.0/16", "10.9.0.0/16"), allowances(81, "10.1.2.3/32")...),
			},
			ipv6: &rules.Inbound{
				Strict: []uint16{80}, Counted: []uint16{81},
				Allowed: append(allowances(80, "fd00::/8"), allowances(81, "::/0")...),
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rules.Build(tc.pod, "", func(netip.Addr) bool { return true })
			if diff := cmp.Diff([]*rules.Inbound{tc.ipv4, tc.ipv6}, []*rules.Inbound{got.IPv4.Inbound, got.IPv6.Inbound}, compare); diff != "" {
				t.Errorf("tables differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	tables := rules.Build(rules.Pod{
		Capture: &wire.Capture{Admitted: addresses("10.0.0.1", "fd00::1")},
		Inbound: &wire.Inbound{Ports: []wire.InboundPort{
			{Port: 80, Strict: true, Allowed: prefixes("10.1.0.0/16", "fd01::/16")}, {Port: 81, Strict: true}, {Port: 82},
		}},
	}, "", nil)
	for _, tc := range []struct {
		port   uint16
		caller string
		want   bool
	}{
		{80, "10.0.0.1", false}, {80, "::ffff:10.0.0.1", false}, {80, "fd00::1", false},
		{80, "10.1.2.3", false}, {80, "fd01::9", false}, {81, "10.1.2.3", true}, {81, "fd01::9", true},
		{80, "10.0.0.2", true}, {80, "fd00::2", true}, {82, "10.0.0.2", false}, {83, "10.0.0.2", false},
	} {
		if got := tables.Refuses(tc.port, netip.MustParseAddr(tc.caller)); got != tc.want {
			t.Errorf("%s at port %d: refused %v, want %v", tc.caller, tc.port, got, tc.want)
		}
	}
	if (rules.Tables{}).Refuses(80, netip.MustParseAddr("10.0.0.2")) {
		t.Error("a pod without rules refuses a caller")
	}
}
