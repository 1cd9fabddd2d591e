package http

import (
	"math/rand/v2"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// The first match of the order that a request satisfies is the one that takes it.
func TestOrderIsThatOfMatch(t *testing.T) {
	for _, kind := range []wire.RouteKind{wire.RouteHTTP, wire.RouteGRPC} {
		t.Run(string(kind), func(t *testing.T) {
			for seed := range uint64(100) {
				w := world{rand.New(rand.NewPCG(seed, 2))}
				routes := w.routes(kind)
				table := mustTable(t, routes...)
				order := table.Order()
				total := 0
				for _, r := range routes {
					total += len(r.Matches)
				}
				if len(order) != total {
					t.Fatalf("seed %d: %d of %d matches in the order", seed, len(order), total)
				}
				for range 40 {
					req := w.request()
					var first Ordered
					for _, o := range order {
						if _, ok := satisfies(&o.Rule.Route().Matches[o.Match], req); ok {
							first = o
							break
						}
					}
					rule, matched := table.Match(req)
					if rule != first.Rule || rule != nil && matched.Match != first.Match {
						t.Fatalf("seed %d: %+v takes another match than the first of the order", seed, *req)
					}
				}
			}
		})
	}
}

func TestAttached(t *testing.T) {
	producer, consumer := &wire.Route{Name: "p"}, &wire.Route{Name: "c", Consumer: true}
	both := []*wire.Route{producer, consumer}
	if got := Attached(wire.ProtocolTCP, both); len(got) != 0 {
		t.Errorf("opaque bytes have routes: %v", got)
	}
	if got := Attached(wire.ProtocolHTTP, both); len(got) != 1 || got[0] != consumer {
		t.Errorf("attached = %v, want the consumer route alone", got)
	}
	if both[0] != producer || both[1] != consumer {
		t.Error("the argument was changed")
	}
	if got := Attached(wire.ProtocolHTTP, both[:1]); len(got) != 1 {
		t.Errorf("attached = %v, want the producer route", got)
	}
}
