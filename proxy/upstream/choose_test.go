package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// at returns the address 10.0.0.n:80.
func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 80)
}

// clock is a Set's clock in tests.
type clock struct{ now time.Time }

func (c *clock) options(namespace string) Options {
	c.now = time.Unix(1_700_000_000, 0)
	return Options{Namespace: namespace, Now: func() time.Time { return c.now }}
}

func proxy(n int, zone string) wire.Proxy {
	return wire.Proxy{Addresses: []netip.Addr{at(n).Addr(), netip.MustParseAddr("fd00::1")}, Zone: zone}
}

// picks counts where 1000 requests would go.
func picks(t *testing.T, s *Set, key string, avoid ...netip.AddrPort) map[string]int {
	t.Helper()
	count := map[string]int{}
	for range 1000 {
		e := choose(t, s, key, avoid...)
		count[fmt.Sprintf("%s %s", e.Kind(), e.Address())]++
	}
	return count
}

// names returns which endpoints were picked at all.
func names(count map[string]int) map[string]bool {
	set := map[string]bool{}
	for name := range count {
		set[name] = true
	}
	return set
}

func TestChoose(t *testing.T) {
	pod := func(n int) string { return fmt.Sprintf("pod 10.0.0.%d:80", n) }
	hop := func(n int) string { return fmt.Sprintf("hop 10.0.0.%d:15002", n) }
	hopAddress := func(n int) netip.AddrPort { return netip.AddrPortFrom(at(n).Addr(), wire.PortHop) }
	endpoints := func(list ...wire.Endpoint) map[string]*wire.Endpoints {
		return map[string]*wire.Endpoints{"x": {Endpoints: list}}
	}
	own := &wire.Backend{Namespace: "shop", Protocol: wire.ProtocolHTTP, Meshed: true, Port: 80, Addresses: []netip.Addr{at(99).Addr()}}
	meshed := &wire.Backend{Namespace: "bank", Protocol: wire.ProtocolHTTP, Meshed: true, Port: 80, Addresses: []netip.Addr{at(99).Addr()}}
	plain := &wire.Backend{Namespace: "bank", Protocol: wire.ProtocolHTTP, Port: 80}

	for name, tc := range map[string]struct {
		backend      *wire.Backend
		endpoints    map[string]*wire.Endpoints
		proxies      []wire.Proxy
		avoid        []netip.AddrPort
		refusing     []netip.AddrPort
		disconnected bool
		want         []string
		wantErr      error
	}{
		"unknown backend":              {wantErr: ErrUnknownBackend},
		"own namespace":                {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}), want: []string{pod(1)}},
		"own namespace, many":          {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2)}, wire.Endpoint{Address: at(3)}), want: []string{pod(1), pod(2), pod(3)}},
		"no Endpoints resource":        {backend: own, wantErr: ErrNoEndpoints},
		"no endpoint":                  {backend: own, endpoints: endpoints(), wantErr: ErrNoEndpoints},
		"other namespace, not meshed":  {backend: plain, endpoints: endpoints(wire.Endpoint{Address: at(1)}), want: []string{pod(1)}},
		"other namespace":              {backend: meshed, endpoints: endpoints(wire.Endpoint{Address: at(1)}), proxies: []wire.Proxy{proxy(2, "")}, want: []string{hop(2)}},
		"other namespace, no proxy":    {backend: meshed, endpoints: endpoints(wire.Endpoint{Address: at(1)}), wantErr: ErrNoEndpoints},
		"proxy without address":        {backend: meshed, proxies: []wire.Proxy{{Pod: "x"}}, wantErr: ErrNoEndpoints},
		"proxies of the same zone":     {backend: meshed, proxies: []wire.Proxy{proxy(1, "a"), proxy(2, "b"), proxy(3, "a")}, want: []string{hop(1), hop(3)}},
		"no proxy of the same zone":    {backend: meshed, proxies: []wire.Proxy{proxy(1, "b"), proxy(2, "c")}, want: []string{hop(1), hop(2)}},
		"zone counts less than avoid":  {backend: meshed, proxies: []wire.Proxy{proxy(1, "a"), proxy(2, "b")}, avoid: []netip.AddrPort{hopAddress(1)}, want: []string{hop(2)}},
		"all proxies to avoid":         {backend: meshed, proxies: []wire.Proxy{proxy(1, "a"), proxy(2, "b")}, avoid: []netip.AddrPort{hopAddress(1), hopAddress(2)}, want: []string{hop(1)}},
		"refusing proxy":               {backend: meshed, proxies: []wire.Proxy{proxy(1, "a"), proxy(2, "b")}, refusing: []netip.AddrPort{hopAddress(1)}, want: []string{hop(2)}},
		"terminating is the last":      {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2), Terminating: true}), want: []string{pod(1)}},
		"only terminating":             {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(2), Terminating: true}), want: []string{pod(2)}},
		"avoid":                        {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2)}), avoid: []netip.AddrPort{at(1)}, want: []string{pod(2)}},
		"nothing else than to avoid":   {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}), avoid: []netip.AddrPort{at(1)}, want: []string{pod(1)}},
		"avoided before terminating":   {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2), Terminating: true}), avoid: []netip.AddrPort{at(1)}, want: []string{pod(1)}},
		"terminating before refusing":  {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2), Terminating: true}), refusing: []netip.AddrPort{at(1)}, want: []string{pod(2)}},
		"refusing":                     {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2)}, wire.Endpoint{Address: at(3)}), refusing: []netip.AddrPort{at(1)}, want: []string{pod(2), pod(3)}},
		"all refusing":                 {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2)}), refusing: []netip.AddrPort{at(1), at(2)}, want: []string{pod(1), pod(2)}},
		"disconnected":                 {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}), disconnected: true, want: []string{pod(1)}},
		"disconnected, one refusing":   {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}, wire.Endpoint{Address: at(2)}), refusing: []netip.AddrPort{at(1)}, disconnected: true, want: []string{pod(2)}},
		"disconnected, all refusing":   {backend: own, endpoints: endpoints(wire.Endpoint{Address: at(1)}), refusing: []netip.AddrPort{at(1)}, disconnected: true, want: []string{"fallback 10.0.0.99:80"}},
		"disconnected, none known":     {backend: own, disconnected: true, want: []string{"fallback 10.0.0.99:80"}},
		"disconnected, no cluster IP":  {backend: plain, endpoints: endpoints(wire.Endpoint{Address: at(1)}), refusing: []netip.AddrPort{at(1)}, disconnected: true, want: []string{pod(1)}},
		"disconnected, hop refusing":   {backend: meshed, proxies: []wire.Proxy{proxy(1, "a")}, refusing: []netip.AddrPort{hopAddress(1)}, disconnected: true, want: []string{hop(1)}},
		"disconnected, no known proxy": {backend: meshed, disconnected: true, wantErr: ErrNoEndpoints},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			options := c.options("shop")
			options.Zone = "a"
			s := newTestSet(t, options)
			resources := Resources{Endpoints: tc.endpoints, Backends: map[string]*wire.Backend{}}
			if tc.backend != nil {
				resources.Backends["x"] = tc.backend
			}
			if tc.proxies != nil {
				resources.Proxies = map[string]*wire.Proxies{"bank": {Proxies: tc.proxies}}
			}
			s.Update(resources)
			s.SetDisconnected(tc.disconnected)
			for _, address := range tc.refusing {
				s.endpoints[address].refused()
			}
			if tc.wantErr != nil {
				if _, err := s.Choose(t.Context(), "x", Wish{Avoid: tc.avoid}); !errors.Is(err, tc.wantErr) {
					t.Errorf("error %v, want %v", err, tc.wantErr)
				}
				return
			}
			want := map[string]bool{}
			for _, name := range tc.want {
				want[name] = true
			}
			if diff := cmp.Diff(want, names(picks(t, s, "x", tc.avoid...))); diff != "" {
				t.Errorf("picked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChooseLocalNeverHops(t *testing.T) {
	s := newTestSet(t, Options{})
	resources := direct(at(1))
	resources.Backends["bank/ledger:80"] = &wire.Backend{Namespace: "bank", Meshed: true}
	resources.Backends["plain/old:80"] = &wire.Backend{Namespace: "plain"}
	resources.Endpoints["plain/old:80"] = resources.Endpoints[webKey]
	resources.Proxies = map[string]*wire.Proxies{"bank": {Proxies: []wire.Proxy{proxy(2, "")}}}
	view := s.Update(resources)
	if e, err := view.ChooseLocal(t.Context(), webKey, Wish{}); err != nil || e.Kind() != KindPod || e.BackendKey() != webKey {
		t.Errorf("own backend: %+v, %v", e, err)
	}
	for _, key := range []string{"bank/ledger:80", "plain/old:80", "shop/none:80"} {
		if _, err := view.ChooseLocal(t.Context(), key, Wish{}); !errors.Is(err, ErrUnknownBackend) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPinnedViewOutlivesChanges(t *testing.T) {
	s := newTestSet(t, Options{})
	before := s.Update(direct(at(1)))
	after := s.Update(Resources{})
	if _, err := after.Choose(t.Context(), webKey, Wish{}); !errors.Is(err, ErrUnknownBackend) {
		t.Errorf("after: %v", err)
	}
	if s.Pin() != after {
		t.Error("the new view is not current")
	}
	e, err := before.Choose(t.Context(), webKey, Wish{})
	if err != nil || e.Address() != at(1) {
		t.Errorf("before: %+v, %v", e, err)
	}
	if b, ok := before.Backend(webKey); !ok || b != e.Backend() {
		t.Errorf("backend %v, %v", b, ok)
	}
	if _, ok := after.Backend(webKey); ok {
		t.Error("the removed backend is still there")
	}
}

func TestStateIsSharedAndOutlivesChanges(t *testing.T) {
	s := newTestSet(t, Options{})
	s.Update(direct(at(1), at(2)))
	first := s.endpoints[at(1)]
	first.observe(time.Second, s.elapsed())
	s.Update(direct(at(1), at(3)))
	if s.endpoints[at(1)] != first {
		t.Error("the endpoint that stayed has a new state")
	}
	if web, rpc := choose(t, s, webKey, at(3)), choose(t, s, rpcKey, at(3)); web.state != rpc.state {
		t.Error("two backends do not share the state of an address")
	}
	if s.endpoints[at(2)] != nil {
		t.Error("an endpoint that nothing names is kept")
	}
	s.Update(Resources{})
	if len(s.endpoints) != 0 {
		t.Errorf("%d endpoints left", len(s.endpoints))
	}
}

func TestUnchangedResourcesAreNotRebuilt(t *testing.T) {
	s := newTestSet(t, Options{})
	resources := direct(at(1))
	proxies := &wire.Proxies{Proxies: []wire.Proxy{proxy(1, "")}}
	resources.Proxies = map[string]*wire.Proxies{"bank": proxies}
	before := s.Update(resources)

	changed := direct(at(2))
	changed.Backends[webKey], changed.Endpoints[webKey] = resources.Backends[webKey], resources.Endpoints[webKey]
	changed.Proxies = map[string]*wire.Proxies{"bank": proxies}
	after := s.Update(changed)
	if before.targets[webKey] != after.targets[webKey] || before.proxies["bank"] != after.proxies["bank"] {
		t.Error("an unchanged resource was rebuilt")
	}
	if before.targets[rpcKey] == after.targets[rpcKey] {
		t.Error("a changed resource was not rebuilt")
	}
	// The address is still named by the backend that stayed.
	if s.endpoints[at(1)].drained {
		t.Error("an endpoint in use was drained")
	}
}

func TestRefusingEndpointIsTriedAgainByOne(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	s.Update(direct(at(1), at(2)))
	e := s.endpoints[at(1)]
	s.endpoints[at(2)].inFlight.Store(100)

	avoided := func() bool { return !names(picks(t, s, webKey))["pod 10.0.0.1:80"] }
	for _, seconds := range []int{1, 2, 4, 8, 16, 16} {
		e.refused()
		c.now = c.now.Add(time.Duration(seconds)*time.Second - time.Millisecond)
		if !avoided() {
			t.Errorf("used before %d s have passed", seconds)
		}
		c.now = c.now.Add(time.Millisecond)
		if choose(t, s, webKey).Address() != at(1) {
			t.Errorf("not tried again after %d s", seconds)
		}
		if !avoided() {
			t.Error("others use it before the try has shown how it is")
		}
	}
	e.accepted()
	if avoided() {
		t.Error("still avoided after it accepted a connection")
	}
}
