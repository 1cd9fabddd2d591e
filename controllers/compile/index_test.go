package compile

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLists: long lists, which are looked through by maps, are the same as short ones.
func TestLists(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	numbers := func() []int {
		out := make([]int, random.IntN(4*few))
		for i := range out {
			out[i] = random.IntN(6 * few)
		}
		return out
	}
	// once is the list without what is in it before.
	once := func(all []int) (out []int) {
		for i, n := range all {
			if !slices.Contains(all[:i], n) {
				out = append(out, n)
			}
		}
		return out
	}
	x, counts := make(index[int, string]), make(tally[int])
	var before []int
	for range 500 {
		given := numbers()
		var d distinct[int]
		for _, n := range given {
			d.add(n)
		}
		after := once(given)
		if !slices.Equal(d.list, after) {
			t.Fatalf("of %v %v are kept, want %v", given, d.list, after)
		}
		var want []int
		for _, n := range before {
			if !slices.Contains(after, n) {
				want = append(want, n)
			}
		}
		for _, n := range after {
			if !slices.Contains(before, n) {
				want = append(want, n)
			}
		}
		if got := x.move("a", before, after); !slices.Equal(got, want) {
			t.Fatalf("from %v to %v is said to change %v, want %v", before, after, got, want)
		}
		if got := counts.move(before, after); !slices.Equal(got, want) {
			t.Fatalf("from %v to %v is counted to change %v, want %v", before, after, got, want)
		}
		if len(x) != len(after) || len(counts) != len(after) {
			t.Fatalf("%d are led to and %d counted, want %d", len(x), len(counts), len(after))
		}
		for _, n := range after {
			if len(x[n]) != 1 || counts[n] != 1 {
				t.Fatalf("%d leads to %v and is counted %d times, want once", n, x[n], counts[n])
			}
		}
		before = after
	}
	// Others at the same place stay, and only the first and the last count.
	x.move("b", nil, before[:min(1, len(before))])
	if len(before) > 0 {
		if got := counts.move(nil, before[:1]); got != nil {
			t.Errorf("a second one changes %v", got)
		}
		x.move("a", before, nil)
		if got := counts.move(before, nil); slices.Contains(got, before[0]) || len(got) != len(before)-1 {
			t.Errorf("without the first one of two %v change, of %v", got, before)
		}
		if !slices.Equal(x[before[0]], []string{"b"}) || len(x) != 1 {
			t.Errorf("what is left is %v", x)
		}
	}
}
