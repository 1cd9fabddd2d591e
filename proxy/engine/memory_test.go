package engine

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// services returns what the operator sends of so many Services, each with one route and one endpoint, as it arrives:
// no string is shared.
func services(t *testing.T, n int) []wire.Resource {
	t.Helper()
	var sent []wire.Resource
	for i := range n {
		name := fmt.Sprintf("service-%05d", i)
		key := wire.ServicePortKey(namespace, name, 80)
		scope := wire.ScopeNamespace(namespace)
		origin := wire.Origin{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name}
		ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		route := &wire.Route{
			Kind: wire.RouteHTTP, Namespace: namespace, Name: name, Destinations: []string{key}, Created: time.Unix(1e9, 0).UTC(),
			Matches:  []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/"}}},
			Backends: []wire.WeightedBackend{{Backend: key, Weight: 1}},
		}
		sent = append(sent,
			wire.New(key, scope, origin, &wire.Destination{
				Namespace: namespace, Service: name, Port: 80, Number: uint16(wire.MinNumber + i), Addresses: []netip.Addr{ip}, Protocol: wire.ProtocolHTTP,
			}),
			wire.New(key, scope, origin, &wire.Backend{
				Namespace: namespace, Service: name, Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Addresses: []netip.Addr{ip},
			}),
			wire.New(key, scope, origin, &wire.Endpoints{Endpoints: []wire.Endpoint{
				{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 8080)},
			}}),
			wire.New(route.Key(), scope, wire.Origin{APIVersion: "gateway.networking.k8s.io/v1", Kind: "HTTPRoute", Namespace: namespace, Name: name}, route),
		)
	}
	data, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	var received []wire.Resource
	if err := json.Unmarshal(data, &received); err != nil {
		t.Fatal(err)
	}
	return received
}

// heap is what is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have over one collection
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIdleServicesTakeLittleMemory bounds what a proxy holds of a Service that nobody has called yet, with its route and
// its endpoint: the configuration itself is 850 bytes of it.
func TestIdleServicesTakeLittleMemory(t *testing.T) {
	const n, most = 2000, 2200
	p := newProxy(t)
	before := heap()
	p.apply(services(t, n)...)
	if each := (heap() - before) / n; each > most {
		t.Errorf("%d bytes for each Service, want at most %d", each, most)
	} else {
		t.Logf("%d bytes for each Service", each)
	}
	runtime.KeepAlive(p)
}
