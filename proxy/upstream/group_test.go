package upstream

import (
	"fmt"
	"net/netip"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// Endpoints near the client are preferred as Service.spec.trafficDistribution says: for as long as one of
// them can be used, it gets everything.
func TestEndpointsNearby(t *testing.T) {
	list := []wire.Endpoint{
		{Address: at(1), Zone: "z1", Node: "n1"}, {Address: at(2), Zone: "z1", Node: "n1"},
		{Address: at(3), Zone: "z1", Node: "n2"},
		{Address: at(4), Zone: "z2", Node: "n3"}, {Address: at(5), Zone: "z2", Node: "n3", Terminating: true},
		{Address: at(6)},
		{Address: at(7), Zone: "z4", Terminating: true},
	}
	some := func(numbers ...int) []netip.AddrPort {
		var list []netip.AddrPort
		for _, n := range numbers {
			list = append(list, at(n))
		}
		return list
	}
	zone, node := wire.Backend{Zone: true}, wire.Backend{Node: true}
	for name, tc := range map[string]struct {
		backend  wire.Backend
		wish     Wish
		refusing []netip.AddrPort
		want     []int
	}{
		"no preference":                   {wish: Wish{Zone: "z1", Node: "n1"}, want: []int{1, 2, 3, 4, 6}},
		"zone":                            {backend: zone, wish: Wish{Zone: "z1", Node: "n1"}, want: []int{1, 2, 3}},
		"zone with one endpoint":          {backend: zone, wish: Wish{Zone: "z2"}, want: []int{4}},
		"zone without endpoints":          {backend: zone, wish: Wish{Zone: "z3"}, want: []int{1, 2, 3, 4, 6}},
		"zone of a terminating one":       {backend: zone, wish: Wish{Zone: "z4"}, want: []int{1, 2, 3, 4, 6}},
		"zone not known":                  {backend: zone, want: []int{1, 2, 3, 4, 6}},
		"zone, some refuse":               {backend: zone, wish: Wish{Zone: "z1"}, refusing: some(1, 3), want: []int{2}},
		"zone, all refuse":                {backend: zone, wish: Wish{Zone: "z1"}, refusing: some(1, 2, 3), want: []int{4, 6}},
		"zone, a retry stays":             {backend: zone, wish: Wish{Zone: "z1", Avoid: some(1)}, want: []int{2, 3}},
		"zone, a retry leaves":            {backend: zone, wish: Wish{Zone: "z2", Avoid: some(4)}, want: []int{1, 2, 3, 6}},
		"zone, everything refuses":        {backend: zone, wish: Wish{Zone: "z1"}, refusing: some(1, 2, 3, 4, 5, 6, 7), want: []int{1, 2, 3}},
		"zone, a session elsewhere":       {backend: zone, wish: Wish{Zone: "z1", Prefer: at(4)}, want: []int{4}},
		"node":                            {backend: node, wish: Wish{Zone: "z1", Node: "n1"}, want: []int{1, 2}},
		"node with one endpoint":          {backend: node, wish: Wish{Zone: "z1", Node: "n2"}, want: []int{3}},
		"node without endpoints":          {backend: node, wish: Wish{Zone: "z1", Node: "n9"}, want: []int{1, 2, 3}},
		"node and zone without endpoints": {backend: node, wish: Wish{Zone: "z3", Node: "n9"}, want: []int{1, 2, 3, 4, 6}},
		"node not known":                  {backend: node, wish: Wish{Zone: "z1"}, want: []int{1, 2, 3}},
		"nothing known":                   {backend: node, want: []int{1, 2, 3, 4, 6}},
		"node, all refuse":                {backend: node, wish: Wish{Zone: "z1", Node: "n1"}, refusing: some(1, 2), want: []int{3}},
		"node, the zone refuses":          {backend: node, wish: Wish{Zone: "z1", Node: "n1"}, refusing: some(1, 2, 3), want: []int{4, 6}},
		"node, a retry goes to the zone":  {backend: node, wish: Wish{Zone: "z1", Node: "n2", Avoid: some(3)}, want: []int{1, 2}},
	} {
		for _, a := range algorithms {
			t.Run(fmt.Sprint(name, " ", a), func(t *testing.T) {
				var c clock
				s := newTestSet(t, c.options("shop"))
				backend := tc.backend
				backend.Namespace, backend.Meshed, backend.Policy = "shop", true, &wire.Policy{LoadBalancing: algorithm(a)}
				s.Update(Resources{
					Backends:  map[string]*wire.Backend{webKey: &backend},
					Endpoints: map[string]*wire.Endpoints{webKey: {Endpoints: list}},
				})
				for _, address := range tc.refusing {
					s.endpoints[address].refused()
				}
				got, want, hashes := map[int]bool{}, map[int]bool{}, keys(200)
				for _, n := range tc.want {
					want[n] = true
				}
				for range 200 {
					wish := hashes()
					wish.Avoid, wish.Prefer, wish.Zone, wish.Node = tc.wish.Avoid, tc.wish.Prefer, tc.wish.Zone, tc.wish.Node
					e, err := s.Choose(t.Context(), webKey, wish)
					if err != nil {
						t.Fatal(err)
					}
					got[int(e.Address().Addr().As4()[3])] = true
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("chose %v, want %v", got, want)
				}
			})
		}
	}
}
