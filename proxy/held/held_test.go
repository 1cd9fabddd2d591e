package held

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func TestSetIsWhatIsInForce(t *testing.T) {
	resource := func(name string, port uint16) wire.Resource {
		origin := wire.Origin{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: name}
		return wire.New("shop/"+name, wire.ScopeNamespace("shop"), origin, &wire.Backend{Namespace: "shop", Service: name, Port: port})
	}
	one, two, three := resource("one", 1), resource("two", 1), resource("three", 1)
	twoLater, threeLater := resource("two", 2), resource("three", 2)
	var s Set
	s.Apply(wire.Delta{Upserted: []wire.Resource{two, one, three}}, nil)
	s.Apply(wire.Delta{Upserted: []wire.Resource{twoLater, threeLater}, Removed: []wire.Ref{one.Ref}}, []wire.Rejection{{Ref: three.Ref, Version: threeLater.Version}})
	want := []wire.Held{{Ref: three.Ref, Version: three.Version}, {Ref: two.Ref, Version: twoLater.Version}}
	if diff := cmp.Diff(want, s.Versions()); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	for _, r := range []wire.Resource{three, twoLater} {
		if got, ok := s.Get(r.Ref); !ok || got != r {
			t.Errorf("%s is %+v, %t, want %+v", r.Ref, got, ok, r)
		}
	}
	if _, ok := s.Get(one.Ref); ok {
		t.Errorf("%s is there, although it was removed", one.Ref)
	}
}

// TestSetFollowsAnySequence compares a Set with a map.
func TestSetFollowsAnySequence(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var s Set
	want := map[wire.Ref]wire.Resource{}
	for step := range 300 {
		var d wire.Delta
		var rejected []wire.Rejection
		for range rng.IntN(3) {
			ref := wire.Ref{Kind: []wire.Kind{wire.KindBackend, wire.KindRoute}[rng.IntN(2)], Key: strconv.Itoa(rng.IntN(40))}
			d.Removed = append(d.Removed, ref)
			delete(want, ref)
		}
		for range rng.IntN(6) {
			key, origin := strconv.Itoa(rng.IntN(40)), wire.Origin{Kind: strconv.Itoa(rng.IntN(3)), Name: strconv.Itoa(rng.IntN(3))}
			r := wire.New(key, wire.Scope(strconv.Itoa(rng.IntN(3))), origin, &wire.Backend{Port: uint16(rng.IntN(3))})
			if rng.IntN(2) == 0 {
				r = wire.New(key, wire.ScopeMesh, origin, &wire.Route{Rule: rng.IntN(3)})
			}
			if rng.IntN(4) == 0 {
				r.Version = []string{"", "7", "0123456789ABCDEF", r.Version + "0"}[rng.IntN(4)]
			}
			if rng.IntN(5) == 0 {
				rejected = append(rejected, wire.Rejection{Ref: r.Ref})
			}
			d.Upserted = append(d.Upserted, r)
		}
		refused := map[wire.Ref]bool{}
		for _, r := range rejected {
			refused[r.Ref] = true
		}
		for _, r := range d.Upserted {
			if !refused[r.Ref] {
				want[r.Ref] = r
			}
		}
		s.Apply(d, rejected)
		got := map[wire.Ref]wire.Resource{}
		for _, h := range s.Versions() {
			r, ok := s.Get(h.Ref)
			if !ok || r.Version != h.Version {
				t.Fatalf("step %d: %s is %t of version %q, listed as %q", step, h.Ref, ok, r.Version, h.Version)
			}
			got[h.Ref] = r
		}
		if s.Len() != len(want) {
			t.Fatalf("step %d: there are %d, want %d", step, s.Len(), len(want))
		}
		if !maps.Equal(want, got) {
			t.Fatalf("step %d: (-want +got)\n%s", step, cmp.Diff(want, got))
		}
	}
}
