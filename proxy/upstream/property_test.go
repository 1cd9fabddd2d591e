package upstream

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// circumstances are a random Service and a random request to it.
type circumstances struct {
	backend   wire.Backend
	endpoints []wire.Endpoint
	refusing  []netip.AddrPort
	wish      Wish
}

func randomCircumstances(r *rand.Rand, a wire.Algorithm) circumstances {
	zones, nodes := []string{"", "z1", "z2", "z3"}, []string{"", "n1", "n2", "n3", "n4"}
	one := func(of []string) string { return of[r.IntN(len(of))] }
	c := circumstances{
		backend: wire.Backend{
			Namespace: "shop", Meshed: true, Zone: r.IntN(2) == 0, Node: r.IntN(3) == 0,
			Policy: &wire.Policy{LoadBalancing: ramped(a, time.Duration(r.IntN(2))*time.Hour)},
		},
		wish: Wish{Zone: one(zones), Node: one(nodes), Hash: r.Uint64(), Hashed: r.IntN(4) > 0},
	}
	for _, address := range addresses(1 + r.IntN(12)) {
		c.endpoints = append(c.endpoints, wire.Endpoint{Address: address, Zone: one(zones), Node: one(nodes), Terminating: r.IntN(4) == 0})
		if r.IntN(3) == 0 {
			c.refusing = append(c.refusing, address)
		}
		if r.IntN(4) == 0 {
			c.wish.Avoid = append(c.wish.Avoid, address)
		}
	}
	if r.IntN(3) == 0 {
		c.wish.Prefer = addresses(14)[r.IntN(14)]
	}
	return c
}

// order says what speaks against an endpoint, the worst first.
func (c *circumstances) order(e wire.Endpoint) [4]int {
	against := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	sameZone := c.wish.Zone != "" && e.Zone == c.wish.Zone
	sameNode := c.wish.Node != "" && e.Node == c.wish.Node
	distance := 0
	switch {
	case c.backend.Node && !sameNode:
		distance = 2 - against(sameZone)
	case c.backend.Zone && !c.backend.Node:
		distance = against(!sameZone)
	}
	return [4]int{
		against(slices.Contains(c.refusing, e.Address)), against(e.Terminating),
		against(slices.Contains(c.wish.Avoid, e.Address)), distance,
	}
}

// allowed returns what may be chosen.
func (c *circumstances) allowed() []netip.AddrPort {
	if i := slices.IndexFunc(c.endpoints, func(e wire.Endpoint) bool { return e.Address == c.wish.Prefer }); i >= 0 {
		if o := c.order(c.endpoints[i]); o[0] == 0 && o[2] == 0 {
			return []netip.AddrPort{c.wish.Prefer}
		}
	}
	compare := func(x, y wire.Endpoint) int {
		a, b := c.order(x), c.order(y)
		return slices.Compare(a[:], b[:])
	}
	best := slices.MinFunc(c.endpoints, compare)
	var allowed []netip.AddrPort
	for _, e := range c.endpoints {
		if compare(e, best) == 0 {
			allowed = append(allowed, e.Address)
		}
	}
	return allowed
}

// Whatever the circumstances and the algorithm, a request has an endpoint, and none for which there is a
// better one.
func TestNoBetterEndpointIsPassedOver(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			for seed := range uint64(500) {
				r := rand.New(rand.NewPCG(seed, 0))
				c := randomCircumstances(r, a)
				s := newSimulation(t, seed, nil)
				update := func(list []wire.Endpoint) {
					s.Update(Resources{
						Backends:  map[string]*wire.Backend{webKey: &c.backend},
						Endpoints: map[string]*wire.Endpoints{webKey: {Endpoints: list}},
					})
				}
				update(c.endpoints[:1+len(c.endpoints)/2]) // some are older than others
				update(c.endpoints)
				for _, address := range c.refusing {
					s.endpoints[address].refused()
				}
				allowed := c.allowed()
				for range 20 {
					e, err := s.Choose(t.Context(), webKey, c.wish)
					if err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					if !slices.Contains(allowed, e.Address()) {
						t.Fatalf("seed %d: chose %s, want one of %v\n%+v", seed, e.Address(), allowed, c)
					}
				}
			}
		})
	}
}
