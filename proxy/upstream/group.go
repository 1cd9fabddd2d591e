package upstream

import (
	"math"
	"slices"
	"time"

	"weft.dev/weft/proxy/wire"
)

// group is what one choice is made from: the endpoints of a Backend, or the proxies of a namespace. It is
// immutable but for the state of its rings; a change of endpoints makes another.
type group struct {
	strategy strategy
	locality locality
	// slowStart is the window in which a member comes to its full share; zero means at once.
	slowStart time.Duration
	// every ring holds the members in the order of their addresses: every one all of them, serving those
	// that do not terminate, zones and nodes those of serving by where they are.
	every, serving *ring
	zones, nodes   map[string]*ring
}

// member is an endpoint as one group has it.
type member struct {
	*endpoint
	// id is the same in every proxy.
	id          uint64
	zone, node  string
	terminating bool
	// since is when the group got the member, in the time of the Set; never if it was among the first.
	since time.Duration
}

// never is before anything.
const never = time.Duration(math.MinInt64 / 2)

// locality says how far a group looks at where a client is.
//
// It follows Service.spec.trafficDistribution: endpoints in the client's zone (PreferSameZone, and
// PreferClose, its older name) take all of its requests for as long as one of them can be used, however
// many or few they are; PreferSameNode puts those on the client's node before. Kubernetes does not spread
// the load of a zone that has too few endpoints, and neither do we: who asks for it provides endpoints
// where the clients are.
type locality uint8

const (
	localityNone locality = iota
	localityZone
	localityNode
)

// distance is how far a member is from a client, at most 2. A client whose place is not known is equally
// far from all.
func (l locality) distance(m *member, wish *Wish) int {
	switch {
	case l == localityNone, l == localityNode && wish.Node != "" && m.node == wish.Node:
		return 0
	case wish.Zone != "" && m.zone == wish.Zone:
		return int(l) - 1
	}
	return int(l)
}

// Penalties add up to the rank of a member; the lowest rank is chosen from, whatever the algorithm. Below
// them is the distance.
const (
	penaltyAvoid       = 4
	penaltyTerminating = 8
	penaltyRefusing    = 16
)

// newGroup returns a group of members. It takes over from before, which may be nil, what must survive a
// change of endpoints.
func (s *Set) newGroup(b balancing, members []member, before *group) *group {
	now := s.elapsed()
	g := &group{strategy: b.strategy, locality: b.locality, slowStart: b.slowStart}
	slices.SortFunc(members, func(x, y member) int { return x.address.Compare(y.address) })
	var every, serving []*member
	zones, nodes := map[string][]*member{}, map[string][]*member{}
	known := before.since()
	for i := range members {
		m := &members[i]
		m.id = addressID(m.address)
		m.since = never
		if since, ok := known[m.endpoint]; ok {
			m.since = since
		} else if before.size() > 0 {
			m.since = now
		}
		every = append(every, m)
		if m.terminating {
			continue
		}
		serving = append(serving, m)
		if g.locality >= localityZone && m.zone != "" {
			zones[m.zone] = append(zones[m.zone], m)
		}
		if g.locality >= localityNode && m.node != "" {
			nodes[m.node] = append(nodes[m.node], m)
		}
	}
	if before == nil {
		before = &group{}
	}
	g.every = s.newRing(every, before.every)
	g.serving = g.every
	if len(serving) < len(every) {
		g.serving = s.newRing(serving, before.serving)
	}
	g.zones, g.nodes = s.newRings(zones, before.zones), s.newRings(nodes, before.nodes)
	return g
}

// size is the number of members.
func (g *group) size() int {
	if g == nil {
		return 0
	}
	return len(g.every.members)
}

// since returns when each member came.
func (g *group) since() map[*endpoint]time.Duration {
	since := make(map[*endpoint]time.Duration, g.size())
	if g != nil {
		for _, m := range g.every.members {
			since[m.endpoint] = m.since
		}
	}
	return since
}

// near returns the members that come first for a client, and their distance or more.
func (g *group) near(wish *Wish) (*ring, int) {
	if r := g.nodes[wish.Node]; r != nil {
		return r, 0
	}
	if r := g.zones[wish.Zone]; r != nil {
		return r, int(g.locality) - 1
	}
	return g.serving, int(g.locality)
}

// choice is one choice of a member.
type choice struct {
	set   *Set
	group *group
	wish  Wish
	now   time.Duration
	// limit is the worst rank that will do.
	limit int
}

// rank says what speaks against a member.
func (c *choice) rank(m *member) int {
	rank := c.group.locality.distance(m, &c.wish) + c.wish.against(m.endpoint)
	if m.terminating {
		rank += penaltyTerminating
	}
	if m.refusing(c.now) {
		rank += penaltyRefusing
	}
	if slices.Contains(c.wish.Avoid, m.address) {
		rank += penaltyAvoid
	}
	return rank
}

func (c *choice) usable(m *member) bool { return c.rank(m) <= c.limit }

// best returns the lowest rank among all members of the group.
func (c *choice) best() int {
	best := math.MaxInt
	for _, m := range c.group.every.members {
		best = min(best, c.rank(m))
	}
	return best
}

// preferred returns the member that the wish prefers, or nil if there is none that can be used.
func (c *choice) preferred() *member {
	if !c.wish.Prefer.IsValid() {
		return nil
	}
	const accepted = penaltyTerminating | (penaltyAvoid - 1) // and any distance
	for _, m := range c.group.every.members {
		if m.address == c.wish.Prefer && c.rank(m)&^accepted == 0 {
			return m
		}
	}
	return nil
}

// pick returns the endpoint to use, or nil if the group is empty, and whether every endpoint is refusing
// connections.
func (s *Set) pick(g *group, wish Wish) (chosen *endpoint, refusing bool) {
	if g.size() == 0 {
		return nil, false
	}
	c := choice{set: s, group: g, wish: wish, now: s.elapsed()}
	m := c.preferred()
	if m == nil {
		// The usual case: there is nothing against some of those nearby.
		var near *ring
		if near, c.limit = g.near(&c.wish); len(near.members) > 0 {
			m = g.strategy.pick(near, c)
		}
	}
	if m == nil {
		c.limit = c.best()
		refusing = c.limit >= penaltyRefusing
		m = g.strategy.pick(g.every, c)
	}
	m.probe(c.now)
	return m.endpoint, refusing
}

// balancing is what a Backend says about the choice among its endpoints.
type balancing struct {
	strategy  strategy
	locality  locality
	slowStart time.Duration
	hashKey   *wire.HashKey
}

// balancingOf returns what is in force for a Backend.
func balancingOf(backend *wire.Backend) balancing {
	policy := wire.Overlay(wire.DefaultPolicy(), backend.Policy).LoadBalancing
	b := balancing{strategy: strategies[*policy.Algorithm], slowStart: time.Duration(*policy.SlowStart)}
	if b.strategy == nil {
		b.strategy = peakEWMA{}
	}
	if *policy.Algorithm == wire.ConsistentHash {
		b.hashKey = policy.Hash
	}
	switch {
	case backend.Node:
		b.locality = localityNode
	case backend.Zone:
		b.locality = localityZone
	}
	return b
}
