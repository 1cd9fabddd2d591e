package upstream

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

var algorithms = []wire.Algorithm{wire.PeakEWMA, wire.LeastRequest, wire.RoundRobin, wire.Random, wire.ConsistentHash}

// keys are wishes with the hashes of key-0 to key-(n-1), in turn.
func keys(n int) func() Wish {
	next := 0
	return func() Wish {
		next++
		return Wish{Hash: Hash("key-" + strconv.Itoa(next%n)), Hashed: true}
	}
}

// Equal endpoints get equally many requests, whatever the algorithm.
func TestEqualEndpointsAreUsedEvenly(t *testing.T) {
	const n, rate = 10, 500
	for _, a := range algorithms {
		for _, seed := range []uint64{1, 2, 3} {
			t.Run(fmt.Sprint(a, " seed ", seed), func(t *testing.T) {
				s := newSimulation(t, seed, algorithm(a), addresses(n)...)
				s.wish = keys(1 << 30)
				// With 9 degrees of freedom a fair choice exceeds 27.9 once in a thousand times.
				bound := 27.9
				switch a {
				case wire.RoundRobin:
					bound = 0.01
				case wire.PeakEWMA:
					// It follows the latencies of the moment, so that requests are not independent.
					bound = 60
				default:
				}
				if got := unevenness(s.run(rate, 20*time.Second), n); got > bound {
					t.Errorf("chi-square %.1f, want at most %.1f", got, bound)
				}
			})
		}
	}
}

func TestLeastRequestTakesTheLessBusy(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	resources := direct(at(1), at(2))
	resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm(wire.LeastRequest)}
	s.Update(resources)
	s.endpoints[at(1)].inFlight.Store(4)
	s.endpoints[at(2)].inFlight.Store(5)
	s.endpoints[at(1)].observe(time.Second, s.elapsed()) // does not count
	if got := picks(t, s, webKey)["pod 10.0.0.1:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the less busy one", got)
	}
	s.endpoints[at(2)].inFlight.Store(4)
	if got := picks(t, s, webKey)["pod 10.0.0.1:80"]; got < 400 || got > 600 {
		t.Errorf("%d of 1000 went to one of two that are equally busy", got)
	}
}

// order returns the last numbers of the addresses of the next n choices.
func order(t *testing.T, s *Set, n int) []int {
	t.Helper()
	var list []int
	for range n {
		list = append(list, int(choose(t, s, webKey).Address().Addr().As4()[3]))
	}
	return list
}

func TestRoundRobin(t *testing.T) {
	var c clock
	options := c.options("shop")
	options.Random = func(n int) int { return n - 1 }
	s := newTestSet(t, options)
	update := func(list ...netip.AddrPort) {
		resources := direct(list...)
		resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm(wire.RoundRobin)}
		s.Update(resources)
	}
	for _, step := range []struct {
		what   string
		change func()
		want   []int
	}{
		{"begins anywhere", func() { update(at(1), at(2), at(3), at(4)) }, []int{4, 1, 2, 3, 4, 1}},
		{"goes on after a change", func() { update(at(1), at(2), at(3), at(4), at(5)) }, []int{2, 3, 4, 5, 1, 2}},
		{"goes on with the next if the endpoint whose turn it is goes", func() { update(at(1), at(2), at(4), at(5)) }, []int{4, 5, 1}},
		{"leaves out what refuses", func() { s.endpoints[at(2)].refused() }, []int{4, 5, 1, 4, 5, 1}},
		{"takes turns among what refuses", func() {
			for _, n := range []int{1, 4, 5} {
				s.endpoints[at(n)].refused()
			}
		}, []int{2, 4, 5, 1, 2}},
		{"begins anew with others", func() { update(at(7), at(8)) }, []int{7, 8, 7}},
		{"has nothing to go on with", func() { update(); update(at(1), at(2)) }, []int{2, 1, 2}},
	} {
		step.change()
		if got := order(t, s, len(step.want)); fmt.Sprint(got) != fmt.Sprint(step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
}

// Turns stay even however often the endpoints change.
func TestRoundRobinIsEvenOverChanges(t *testing.T) {
	s := newSimulation(t, 1, algorithm(wire.RoundRobin), addresses(5)...)
	given := map[netip.AddrPort]int{}
	for i := range 1000 {
		s.update(algorithm(wire.RoundRobin), append(addresses(5), at(100+i%2))...)
		for range 3 {
			given[choose(t, s.Set, webKey).Address()]++
		}
	}
	for _, a := range addresses(5) {
		if n := given[a]; n < 495 || n > 505 {
			t.Errorf("%s had %d of 3000 turns, want 500", a, n)
		}
	}
}

// What ranks endpoints comes before the algorithm.
func TestRanksCountForEveryAlgorithm(t *testing.T) {
	list := []wire.Endpoint{{Address: at(1)}, {Address: at(2)}, {Address: at(3)}, {Address: at(4), Terminating: true}}
	for name, tc := range map[string]struct {
		wish     Wish
		refusing []netip.AddrPort
		want     []int
	}{
		"nothing":                   {want: []int{1, 2, 3}},
		"avoid one":                 {wish: Wish{Avoid: []netip.AddrPort{at(1)}}, want: []int{2, 3}},
		"avoid all":                 {wish: Wish{Avoid: []netip.AddrPort{at(1), at(2), at(3)}}, want: []int{1, 2, 3}},
		"one refuses":               {refusing: []netip.AddrPort{at(2)}, want: []int{1, 3}},
		"only terminating is left":  {refusing: []netip.AddrPort{at(1), at(2), at(3)}, want: []int{4}},
		"all refuse":                {refusing: []netip.AddrPort{at(1), at(2), at(3), at(4)}, want: []int{1, 2, 3}},
		"prefer one":                {wish: Wish{Prefer: at(3)}, want: []int{3}},
		"prefer a terminating one":  {wish: Wish{Prefer: at(4)}, want: []int{4}},
		"prefer one to avoid":       {wish: Wish{Prefer: at(3), Avoid: []netip.AddrPort{at(3)}}, want: []int{1, 2}},
		"prefer one that refuses":   {wish: Wish{Prefer: at(3)}, refusing: []netip.AddrPort{at(3)}, want: []int{1, 2}},
		"avoid one, another is bad": {wish: Wish{Avoid: []netip.AddrPort{at(1)}}, refusing: []netip.AddrPort{at(2)}, want: []int{3}},
	} {
		for _, a := range algorithms {
			t.Run(fmt.Sprint(name, " ", a), func(t *testing.T) {
				var c clock
				s := newTestSet(t, c.options("shop"))
				resources := direct()
				resources.Endpoints[webKey] = &wire.Endpoints{Endpoints: list}
				resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm(a)}
				s.Update(resources)
				for _, address := range tc.refusing {
					s.endpoints[address].refused()
				}
				got, want, hashes := map[int]bool{}, map[int]bool{}, keys(200)
				for _, n := range tc.want {
					want[n] = true
				}
				for range 200 {
					wish := hashes()
					wish.Avoid, wish.Prefer = tc.wish.Avoid, tc.wish.Prefer
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

func TestUnknownAlgorithmIsTheDefault(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	resources := direct(at(1), at(2))
	resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm("Best")}
	s.Update(resources)
	s.endpoints[at(1)].observe(time.Second, 0)
	s.endpoints[at(2)].observe(time.Millisecond, 0)
	if got := picks(t, s, webKey)["pod 10.0.0.2:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the fast one", got)
	}
}

func TestChoosingMakesNoGarbage(t *testing.T) {
	for _, a := range algorithms {
		for name, wish := range map[string]Wish{
			"usual": {Hash: 7, Hashed: true, Zone: "z1"},
			"avoid": {Hash: 7, Hashed: true, Zone: "z1", Avoid: addresses(3)},
		} {
			t.Run(fmt.Sprint(a, " ", name), func(t *testing.T) {
				s := newSimulation(t, 1, &wire.LoadBalancing{Algorithm: &a, SlowStart: new(wire.Duration(time.Hour))}, addresses(20)...)
				s.endpoints[at(5)].refused()
				s.endpoints[at(6)].restart(s.elapsed())
				if n := testing.AllocsPerRun(100, func() { _, _ = s.Choose(t.Context(), webKey, wish) }); n > 0 {
					t.Errorf("%v allocations", n)
				}
			})
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, a := range algorithms {
		for _, n := range []int{3, 100} {
			for name, prepare := range map[string]func(*Set){
				"": func(*Set) {},
				// A tenth of the endpoints cannot be used.
				"/refusing": func(s *Set) {
					for i := 0; i <= n/10; i++ {
						s.endpoints[addresses(n)[i]].refused()
					}
				},
			} {
				b.Run(fmt.Sprintf("%s/%d%s", a, n, name), func(b *testing.B) {
					s := NewSet(Options{Namespace: "shop"})
					resources := direct(addresses(n)...)
					resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm(a)}
					s.Update(resources)
					for _, h := range s.endpoints {
						h.observe(time.Millisecond, s.elapsed())
					}
					prepare(s)
					b.ReportAllocs()
					hash := uint64(0)
					for b.Loop() {
						hash = hash*6364136223846793005 + 1442695040888963407
						if _, err := s.Choose(b.Context(), webKey, Wish{Hash: hash, Hashed: true}); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
