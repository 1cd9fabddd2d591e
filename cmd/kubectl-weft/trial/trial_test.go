package trial

import (
	"net/netip"
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
