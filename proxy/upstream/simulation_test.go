package upstream

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// simulation sends requests through a Set in virtual time: what an endpoint does with one takes as long as
// latency says.
type simulation struct {
	*Set
	t       testing.TB
	clock   *clock
	random  *rand.Rand
	latency func(at netip.AddrPort) time.Duration
	wish    func() Wish
	ends    ends
}

// newSimulation returns a simulation of backend webKey, with the same outcome for the same seed.
func newSimulation(t testing.TB, seed uint64, policy *wire.LoadBalancing, addresses ...netip.AddrPort) *simulation {
	t.Helper()
	s := &simulation{t: t, clock: &clock{}, random: rand.New(rand.NewPCG(seed, 0))}
	options := s.clock.options("shop")
	options.Random = s.random.IntN
	s.Set = newTestSet(t, options)
	s.latency = func(netip.AddrPort) time.Duration { return s.around(10 * time.Millisecond) }
	s.wish = func() Wish { return Wish{} }
	s.update(policy, addresses...)
	return s
}

// update changes policy and endpoints.
func (s *simulation) update(policy *wire.LoadBalancing, addresses ...netip.AddrPort) {
	resources := direct(addresses...)
	resources.Backends[webKey].Policy = &wire.Policy{LoadBalancing: policy}
	s.Update(resources)
}

// around returns a random duration with an exponential part of half the mean.
func (s *simulation) around(mean time.Duration) time.Duration {
	return mean/2 + time.Duration(s.random.ExpFloat64()*float64(mean/2))
}

// run sends requests at random times, so many per second, for some time, and returns how many each endpoint
// was given.
func (s *simulation) run(rate float64, duration time.Duration) map[netip.AddrPort]int {
	s.t.Helper()
	given := map[netip.AddrPort]int{}
	until := s.clock.now.Add(duration)
	for {
		next := s.clock.now.Add(time.Duration(s.random.ExpFloat64() / rate * float64(time.Second)))
		for len(s.ends) > 0 && !s.ends[0].at.After(next) {
			end := heap.Pop(&s.ends).(end)
			s.clock.now = end.at
			end.endpoint.inFlight.Add(-1)
			end.endpoint.answered(end.took, s.elapsed())
		}
		if next.After(until) {
			s.clock.now = until
			return given
		}
		s.clock.now = next
		chosen, err := s.Choose(s.t.Context(), webKey, s.wish())
		if err != nil {
			s.t.Fatal(err)
		}
		given[chosen.Address()]++
		took := s.latency(chosen.Address())
		chosen.state.inFlight.Add(1)
		chosen.state.asked(s.elapsed())
		heap.Push(&s.ends, end{at: next.Add(took), took: took, endpoint: chosen.state})
	}
}

// end is when a request is answered.
type end struct {
	at       time.Time
	took     time.Duration
	endpoint *endpoint
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// addresses returns the first n of the addresses at 1, 2, ...
func addresses(n int) []netip.AddrPort {
	list := make([]netip.AddrPort, n)
	for i := range list {
		list[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)}), 80)
	}
	return list
}

func algorithm(a wire.Algorithm) *wire.LoadBalancing { return &wire.LoadBalancing{Algorithm: &a} }

// share is what part of all requests an endpoint was given.
func share(given map[netip.AddrPort]int, address netip.AddrPort) float64 {
	all := 0
	for _, n := range given {
		all += n
	}
	return float64(given[address]) / float64(all)
}

// unevenness is Pearson's chi-square statistic of a distribution over n equal endpoints.
func unevenness(given map[netip.AddrPort]int, n int) float64 {
	all := 0
	for _, count := range given {
		all += count
	}
	want, sum := float64(all)/float64(n), float64(n-len(given))*float64(all)/float64(n)
	for _, count := range given {
		sum += math.Pow(float64(count)-want, 2) / want
	}
	return sum
}
