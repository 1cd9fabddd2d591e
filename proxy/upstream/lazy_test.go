package upstream

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// TestOfManyBackendsThoseAreReadyThatAreUsed: what nobody sends to has no endpoints to be kept, and a request that began
// with an earlier configuration leaves nothing behind.
func TestOfManyBackendsThoseAreReadyThatAreUsed(t *testing.T) {
	address := func(i, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(port))
	}
	key := func(i int) string { return fmt.Sprintf("shop/s%d:80", i) }
	resources := Resources{Backends: map[string]*wire.Backend{}, Endpoints: map[string]*wire.Endpoints{}}
	for i := range fewBackends + 10 {
		resources.Backends[key(i)] = &wire.Backend{Namespace: "shop", Service: fmt.Sprintf("s%d", i), Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true}
		resources.Endpoints[key(i)] = &wire.Endpoints{Endpoints: []wire.Endpoint{{Address: address(i, 8080)}}}
	}
	checked := *resources.Backends[key(7)]
	checked.Policy = &wire.Policy{HealthCheck: &wire.HealthCheck{Type: wire.HealthCheckTCP, Interval: 3600e9, Timeout: 1e9, Healthy: 1, Unhealthy: 1}}
	resources.Backends[key(7)] = &checked
	s := NewSet(Options{Namespace: "shop"})
	defer s.Close()
	s.Update(resources)
	if len(s.endpoints) != 1 || s.endpoints[address(7, 8080)] == nil {
		t.Errorf("%d endpoints are kept before anybody has sent anything, want the one that is checked", len(s.endpoints))
	}
	if got := choose(t, s, key(1)).Address(); got != address(1, 8080) {
		t.Errorf("chose %s, want %s", got, address(1, 8080))
	}
	if len(s.endpoints) != 2 || len(s.services) != 2 {
		t.Errorf("%d endpoints and %d services are kept, want 2", len(s.endpoints), len(s.services))
	}

	// What is in use is ready again at once when it changes.
	old := s.Pin()
	resources.Endpoints = maps.Clone(resources.Endpoints)
	for _, i := range []int{1, 2} {
		resources.Endpoints[key(i)] = &wire.Endpoints{Endpoints: []wire.Endpoint{{Address: address(i, 9090)}}}
	}
	s.Update(resources)
	if s.endpoints[address(1, 9090)] == nil || s.endpoints[address(2, 9090)] != nil {
		t.Error("after a change, what was in use should be ready, and nothing else")
	}
	to, err := old.Choose(t.Context(), key(2), Wish{})
	if err != nil || to.Address() != address(2, 8080) {
		t.Errorf("a request that began before is sent to %v (%v), want %s", to, err, address(2, 8080))
	}
	if got := choose(t, s, key(2)).Address(); got != address(2, 9090) {
		t.Errorf("chose %s, want %s", got, address(2, 9090))
	}
	s.Update(Resources{})
	if len(s.endpoints) != 0 || len(s.services) != 0 {
		t.Errorf("%d endpoints and %d services are left", len(s.endpoints), len(s.services))
	}
}
