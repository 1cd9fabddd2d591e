package upstream

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func TestPreferredEndpointIsTaken(t *testing.T) {
	endpoints := []wire.Endpoint{{Address: at(1)}, {Address: at(2)}, {Address: at(3), Terminating: true}}
	for name, tc := range map[string]struct {
		wish     Wish
		refusing []netip.AddrPort
		want     []netip.AddrPort
	}{
		"usable":             {wish: Wish{Prefer: at(1)}, want: []netip.AddrPort{at(1)}},
		"still serving":      {wish: Wish{Prefer: at(3)}, want: []netip.AddrPort{at(3)}},
		"gone":               {wish: Wish{Prefer: at(4)}, want: []netip.AddrPort{at(1), at(2)}},
		"refusing":           {wish: Wish{Prefer: at(1)}, refusing: []netip.AddrPort{at(1)}, want: []netip.AddrPort{at(2)}},
		"failed before":      {wish: Wish{Prefer: at(1), Avoid: []netip.AddrPort{at(1)}}, want: []netip.AddrPort{at(2)}},
		"another one failed": {wish: Wish{Prefer: at(1), Avoid: []netip.AddrPort{at(2)}}, want: []netip.AddrPort{at(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			s := newTestSet(t, c.options("shop"))
			resources := direct()
			resources.Endpoints[webKey] = &wire.Endpoints{Endpoints: endpoints}
			s.Update(resources)
			for _, address := range tc.refusing {
				s.endpoints[address].refused()
			}
			got, want := map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
			for _, address := range tc.want {
				want[address] = true
			}
			for range 200 {
				e, err := s.Choose(t.Context(), webKey, tc.wish)
				if err != nil {
					t.Fatal(err)
				}
				got[e.Address()] = true
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("picked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	s := newTestSet(t, Options{})
	resources := direct(at(1), at(2))
	resources.Backends["bank/ledger:80"] = &wire.Backend{Namespace: "bank", Meshed: true}
	resources.Endpoints["bank/ledger:80"] = resources.Endpoints[webKey]
	resources.Backends["shop/new:80"] = &wire.Backend{Namespace: "shop", Meshed: true}
	view := s.Update(resources)
	for key, want := range map[string][]netip.AddrPort{
		webKey: {at(1), at(2)}, "bank/ledger:80": nil, "shop/new:80": nil, "shop/none:80": nil,
	} {
		if diff := cmp.Diff(want, view.Addresses(key), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
}
