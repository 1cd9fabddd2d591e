package upstream

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// hashed returns a Set that balances webKey by hash over endpoints.
func hashed(t testing.TB, list ...netip.AddrPort) *Set {
	t.Helper()
	var c clock
	s := newTestSet(t, c.options("shop"))
	rehash(s, list...)
	return s
}

func rehash(s *Set, list ...netip.AddrPort) {
	resources := direct(list...)
	resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: algorithm(wire.ConsistentHash)}
	s.Update(resources)
}

// assign returns the endpoint of each of the keys 0 to n-1.
func assign(t testing.TB, s *Set, n int) []netip.AddrPort {
	t.Helper()
	list := make([]netip.AddrPort, n)
	for i := range list {
		e, err := s.Choose(t.Context(), webKey, Wish{Hash: Hash("key-" + strconv.Itoa(i)), Hashed: true})
		if err != nil {
			t.Fatal(err)
		}
		list[i] = e.Address()
	}
	return list
}

// moved returns which part of the keys of one assignment have another endpoint in a second one, of those
// that had and have none of except.
func moved(before, after []netip.AddrPort, except ...netip.AddrPort) float64 {
	n := 0
	for i := range before {
		if before[i] != after[i] && !slices.Contains(except, before[i]) && !slices.Contains(except, after[i]) {
			n++
		}
	}
	return float64(n) / float64(len(before))
}

func TestMaglevTableIsEven(t *testing.T) {
	for _, n := range []int{2, 3, 10, 100, 600} {
		s := hashed(t, addresses(n)...)
		slots := make([]int, n)
		members := s.Pin().targets[webKey].direct.serving.members
		for _, i := range maglev(members) {
			slots[i]++
		}
		least, most := slices.Min(slots), slices.Max(slots)
		// Members take turns, so that the shares differ by one slot at most.
		if most-least > 1 {
			t.Errorf("%d endpoints have between %d and %d slots", n, least, most)
		}
	}
}

func TestTableSizeIsPrime(t *testing.T) {
	for d := 2; d*d <= tableSize; d++ {
		if tableSize%d == 0 {
			t.Fatalf("%d divides it: permutations of slots would not reach all of them", d)
		}
	}
}

// One endpoint more or less moves the keys that it gets or had, and few others, however many there are.
func TestFewKeysMove(t *testing.T) {
	const sample = 20_000
	for _, n := range []int{1, 2, 3, 5, 10, 11, 50, 100, 101, 655, 656} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			all := addresses(n + 1)
			more := all[n/2]
			s := hashed(t, slices.Delete(slices.Clone(all), n/2, n/2+1)...)
			before := assign(t, s, sample)
			rehash(s, all...)
			after := assign(t, s, sample)
			gained := 0
			for i := range after {
				if after[i] == more {
					gained++
				}
			}
			if want := float64(sample) / float64(n+1); float64(gained) < want/2 || float64(gained) > want*2 {
				t.Errorf("the new endpoint has %d of %d keys, want about %.0f", gained, sample, want)
			}
			if other := moved(before, after, more); other > 0.01 {
				t.Errorf("%.1f%% of the keys moved between endpoints that stayed", other*100)
			}
			rehash(s, slices.Delete(slices.Clone(all), n/2, n/2+1)...)
			if back := moved(before, assign(t, s, sample)); back > 0 {
				t.Errorf("%.1f%% of the keys are not back after the endpoint went", back*100)
			}
		})
	}
}

// Only the keys of an endpoint that cannot be used go elsewhere, evenly, and they come back.
func TestKeysOfUnusableEndpointsComeBack(t *testing.T) {
	const n, sample = 10, 20_000
	s := hashed(t, addresses(n)...)
	before := assign(t, s, sample)
	bad := []netip.AddrPort{at(3), at(7)}
	for _, address := range bad {
		s.endpoints[address].refused()
	}
	during := assign(t, s, sample)
	if other := moved(before, during, bad...); other > 0 {
		t.Errorf("%.2f%% of the keys of usable endpoints moved", other*100)
	}
	given := map[netip.AddrPort]int{}
	for i := range before {
		if slices.Contains(bad, during[i]) {
			t.Fatalf("key %d is at %s", i, during[i])
		}
		if slices.Contains(bad, before[i]) {
			given[during[i]]++
		}
	}
	// With 7 degrees of freedom a fair choice exceeds 24.3 once in a thousand times.
	if got := unevenness(given, n-len(bad)); got > 24.3 {
		t.Errorf("their keys are spread with chi-square %.1f: %v", got, given)
	}
	for _, address := range bad {
		s.endpoints[address].accepted()
	}
	if other := moved(before, assign(t, s, sample)); other > 0 {
		t.Errorf("%.2f%% of the keys are not back", other*100)
	}
}

// A retry goes to the same other endpoint from every proxy.
func TestReplicasAgree(t *testing.T) {
	const sample = 2000
	for _, n := range []int{1, 2, 7, 100} {
		list := addresses(n)
		first := hashed(t, list...)
		// The other has seen the endpoints come and go, in another order.
		second := hashed(t, at(200), at(201))
		shuffled := slices.Clone(list)
		rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		rehash(second, shuffled[:n/2]...)
		rehash(second, shuffled...)
		if got := moved(assign(t, first, sample), assign(t, second, sample)); got > 0 {
			t.Errorf("of %d endpoints the proxies choose another for %.1f%% of the keys", n, got*100)
		}
		first.endpoints[list[0]].refused()
		second.endpoints[list[0]].refused()
		if got := moved(assign(t, first, sample), assign(t, second, sample)); got > 0 {
			t.Errorf("with one of %d refusing the proxies choose another for %.1f%% of the keys", n, got*100)
		}
	}
}

// Proxies of different versions run side by side, so the hashes must not change: these are of the algorithms
// as they are published.
func TestHashesStayTheSame(t *testing.T) {
	if got, want := Hash(""), mix(0xcbf29ce484222325); got != want {
		t.Errorf("hash of nothing: %#x, want %#x", got, want)
	}
	if got, want := Hash("foobar"), mix(0x85944171f73967e8); got != want {
		t.Errorf("hash of foobar: %#x, want %#x", got, want)
	}
	// The first output of SplitMix64 of seed 0 is the mix of its increment.
	if got, want := mix(0x9e3779b97f4a7c15), uint64(0xe220a8397b1dcdaf); got != want {
		t.Errorf("mix: %#x, want %#x", got, want)
	}
	v4, mapped := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1")
	if HashAddress(v4) != HashAddress(mapped) {
		t.Error("an address has another hash in its IPv6 form")
	}
}

func TestRequestsWithoutHashFollowLatency(t *testing.T) {
	s := hashed(t, at(1), at(2))
	s.endpoints[at(1)].observe(time.Second, 0)
	s.endpoints[at(2)].observe(time.Millisecond, 0)
	if got := picks(t, s, webKey)["pod 10.0.0.2:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the fast one", got)
	}
}

func TestHashKey(t *testing.T) {
	s := newTestSet(t, Options{})
	hash := &wire.HashKey{Type: wire.HashHeader, Name: "x-user"}
	policy := func(a wire.Algorithm) *wire.Policy {
		return &wire.Policy{LoadBalancing: &wire.LoadBalancing{Algorithm: &a, Hash: hash}}
	}
	view := s.Update(Resources{Backends: map[string]*wire.Backend{
		"hashed":   {Namespace: "shop", Meshed: true, Policy: policy(wire.ConsistentHash)},
		"outside":  {Namespace: "plain", Policy: policy(wire.ConsistentHash)},
		"hop":      {Namespace: "bank", Meshed: true, Policy: policy(wire.ConsistentHash)},
		"other":    {Namespace: "shop", Meshed: true, Policy: policy(wire.RoundRobin)},
		"no key":   {Namespace: "shop", Meshed: true, Policy: &wire.Policy{LoadBalancing: algorithm(wire.ConsistentHash)}},
		"defaults": {Namespace: "shop", Meshed: true},
	}})
	for key, want := range map[string]*wire.HashKey{"hashed": hash, "outside": hash} {
		if got := view.HashKey(key); got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
	for _, key := range []string{"hop", "other", "no key", "defaults", "unknown"} {
		if got := view.HashKey(key); got != nil {
			t.Errorf("%s: %v, want none", key, got)
		}
	}
}

func BenchmarkMaglev(b *testing.B) {
	for _, n := range []int{2, 10, 100, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := hashed(b, addresses(n)...)
			members := s.Pin().targets[webKey].direct.serving.members
			b.ReportAllocs()
			for b.Loop() {
				maglev(members)
			}
		})
	}
}
