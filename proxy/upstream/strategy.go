package upstream

import (
	"sync"
	"sync/atomic"

	"weft.dev/weft/proxy/wire"
)

// strategy is an algorithm of load balancing. What it must remember is in the ring, so that a strategy is
// shared by all of them.
type strategy interface {
	// pick returns one of the members of a ring, which is not empty, that will do; nil if none of them
	// does. It must not be the strategy that leaves a request without an endpoint, so it looks at every
	// member before it gives up. It makes no garbage, hence the choice by value.
	pick(r *ring, c choice) *member
}

// strategies are the algorithms by name.
var strategies = map[wire.Algorithm]strategy{
	wire.PeakEWMA:       peakEWMA{},
	wire.LeastRequest:   leastRequest{},
	wire.RoundRobin:     roundRobin{},
	wire.Random:         uniform{},
	wire.ConsistentHash: consistentHash{},
}

// Balances tells whether an algorithm is known. Backends with one that is not are balanced by PeakEWMA.
func Balances(algorithm wire.Algorithm) bool { return strategies[algorithm] != nil }

// ring is a list of members that a strategy picks from, with what strategies remember about it.
type ring struct {
	members []*member
	// turn counts the turns that roundRobin has given.
	turn atomic.Uint64

	tabled sync.Once
	table  []uint32
}

// newRing returns a ring of members whose round goes on where that of before, which may be nil, is; a first
// one begins anywhere, so that the proxies of a namespace do not all begin with the same endpoint.
func (s *Set) newRing(members []*member, before *ring) *ring {
	r := &ring{members: members}
	if len(members) == 0 {
		return r
	}
	if before == nil || len(before.members) == 0 {
		r.turn.Store(uint64(s.options.Random(len(members))))
		return r
	}
	place := make(map[*endpoint]int, len(members))
	for i, m := range members {
		place[m.endpoint] = i
	}
	turn := before.turn.Load()
	for i := range uint64(len(before.members)) {
		if next, ok := place[before.members[(turn+i)%uint64(len(before.members))].endpoint]; ok {
			r.turn.Store(uint64(next))
			break
		}
	}
	return r
}

func (s *Set) newRings(lists map[string][]*member, before map[string]*ring) map[string]*ring {
	if len(lists) == 0 {
		return nil
	}
	rings := make(map[string]*ring, len(lists))
	for name, members := range lists {
		rings[name] = s.newRing(members, before[name])
	}
	return rings
}

// draws is how often a random member is drawn again because it will not do, before all are looked at.
const draws = 4

// draw returns the index of a random member that will do, other than that of index but; -1 if it did not
// meet one soon.
func (c *choice) draw(r *ring, but int) int {
	n := len(r.members)
	if but >= 0 {
		n--
	}
	if n == 0 {
		return -1
	}
	for range draws {
		i := c.set.options.Random(n)
		if but >= 0 && i >= but {
			i++
		}
		if m := r.members[i]; c.usable(m) && c.admits(m) {
			return i
		}
	}
	return -1
}

// two returns two random members that will do, the same one twice if there is no other, and nil if there is
// none at all.
func (c *choice) two(r *ring) (first, second *member) {
	i := c.draw(r, -1)
	if i >= 0 {
		if len(r.members) == 1 {
			return r.members[i], r.members[i]
		}
		if j := c.draw(r, i); j >= 0 {
			return r.members[i], r.members[j]
		}
	}
	// Reservoir sampling of two: every member that will do is equally likely to be one. Those in slow start
	// that are not admitted now come second to those that are.
	var admitted, others reservoir
	for _, m := range r.members {
		switch {
		case !c.usable(m):
		case c.admits(m):
			admitted.add(m, c.set.options.Random)
		default:
			others.add(m, c.set.options.Random)
		}
	}
	if admitted.count == 0 {
		admitted = others
	}
	return admitted.first, admitted.second
}

// reservoir is a random sample of two in random order.
type reservoir struct {
	first, second *member
	count         int
}

func (r *reservoir) add(m *member, random func(int) int) {
	r.count++
	switch r.count {
	case 1:
		r.first, r.second = m, m
	case 2:
		r.second = m
		if random(2) == 0 {
			r.first, r.second = m, r.first
		}
	default:
		switch random(r.count) {
		case 0:
			r.first = m
		case 1:
			r.second = m
		}
	}
}

// peakEWMA takes the one of two random members that is likely to answer first.
type peakEWMA struct{}

func (peakEWMA) pick(r *ring, c choice) *member {
	first, second := c.two(r)
	if first != second && second.cost(c.now)*costTolerance < first.cost(c.now) {
		return second
	}
	return first
}

// leastRequest takes the one of two random members that has fewer requests.
type leastRequest struct{}

func (leastRequest) pick(r *ring, c choice) *member {
	first, second := c.two(r)
	if first != second && second.inFlight.Load() < first.inFlight.Load() {
		return second
	}
	return first
}

// uniform takes any member.
type uniform struct{}

func (uniform) pick(r *ring, c choice) *member {
	if i := c.draw(r, -1); i >= 0 {
		return r.members[i]
	}
	first, _ := c.two(r)
	return first
}

// roundRobin takes one member after the other. A member that will not do, or is not admitted by slow start,
// loses its turn to the next; the round moves on with it, so that the turns of others stay equally many.
type roundRobin struct{}

func (roundRobin) pick(r *ring, c choice) *member {
	n := uint64(len(r.members))
	for _, all := range [...]bool{false, true} {
		for range n {
			if m := r.members[(r.turn.Add(1)-1)%n]; c.usable(m) && (all || c.admits(m)) {
				return m
			}
		}
	}
	// Others may have taken the turns between.
	for _, m := range r.members {
		if c.usable(m) {
			return m
		}
	}
	return nil
}
