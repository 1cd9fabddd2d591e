package compile

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestNetworks holds the arithmetic of networks to what it means for each address of a small one, in both
// families.
func TestNetworks(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		base := []netip.Addr{netip.MustParseAddr("10.1.2.0"), netip.MustParseAddr("fd00::1:200")}[seed%2]
		random := func(n int) []netip.Prefix {
			var out []netip.Prefix
			for range rng.IntN(n) {
				bytes := base.AsSlice()
				bytes[len(bytes)-1] = byte(rng.IntN(256))
				a, _ := netip.AddrFromSlice(bytes)
				out = append(out, netip.PrefixFrom(a, base.BitLen()-rng.IntN(9)))
			}
			return out
		}
		prefixes, parts := random(6), random(4)
		left := disjoint(without(prefixes, parts))
		for i, p := range left {
			if p != p.Masked() || i > 0 && (p.Compare(left[i-1]) <= 0 || p.Overlaps(left[i-1])) {
				t.Fatalf("seed %d: %v are not sorted, overlap or have host bits", seed, left)
			}
		}
		for last := range 256 {
			bytes := base.AsSlice()
			bytes[len(bytes)-1] = byte(last)
			a, _ := netip.AddrFromSlice(bytes)
			in := func(prefixes []netip.Prefix) bool {
				return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
			}
			if want := in(prefixes) && !in(parts); in(left) != want {
				t.Fatalf("seed %d: %v without %v is %v: %v is in it %v, want %v", seed, prefixes, parts, left, a, in(left), want)
			}
		}
	}
}
