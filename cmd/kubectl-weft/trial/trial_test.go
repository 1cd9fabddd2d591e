package trial

import (
	"net/netip"
	"strings"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// A pod of both address families is one pod.
func TestPods(t *testing.T) {
	endpoints := func(addresses ...string) (all []wire.Endpoint) {
		for _, a := range addresses {
			all = append(all, wire.Endpoint{Address: netip.MustParseAddrPort(a)})
		}
		return all
	}
	for want, all := range map[int][]wire.Endpoint{
		0: nil,
		1: endpoints("10.0.0.1:80", "[fd00::1]:80"),
		2: endpoints("[fd00::1]:80", "[fd00::2]:80"),
		3: endpoints("10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80", "10.0.0.3:80"),
	} {
		if got := pods(all); got != want {
			t.Errorf("of %v: %d pods, want %d", all, got, want)
		}
	}
}

// Policies that say the same are written alike, wherever what they say is held.
func TestPolicyTexts(t *testing.T) {
	policy := func() *wire.Policy {
		return &wire.Policy{Telemetry: &wire.Telemetry{AccessLog: &wire.AccessLog{Rules: []wire.AccessLogRule{{MinStatus: 500, SamplingRate: &wire.Fraction{Numerator: 1, Denominator: 2}}}}}}
	}
	one, other := policyTexts(policy()), policyTexts(policy())
	if len(one) != 1 || one[0] != other[0] || !strings.Contains(one[0], "500") {
		t.Errorf("%q and %q", one, other)
	}
}
