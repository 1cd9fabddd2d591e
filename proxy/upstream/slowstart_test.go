package upstream

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// ramped returns a policy with slow start.
func ramped(a wire.Algorithm, window time.Duration) *wire.LoadBalancing {
	return &wire.LoadBalancing{Algorithm: &a, SlowStart: new(wire.Duration(window))}
}

// ramp checks the share of the endpoint that is new now, among n, in each tenth of a window of 100 s. It
// may be up to most times the linear one before the window is over.
func ramp(t *testing.T, s *simulation, fresh netip.AddrPort, n int, most float64) {
	t.Helper()
	for tenth := range 12 {
		got := share(s.run(500, 10*time.Second), fresh)
		// In the middle of that tenth it has this weight, the others have 1 each.
		weight := min(1, max(0.1, (float64(tenth)+0.5)/10))
		want := weight / (weight + float64(n-1))
		highest := min(want*most, 1/float64(n))*1.15 + 0.004
		if lowest := want*0.8 - 0.002; got < lowest || got > highest {
			t.Errorf("share %.4f in tenth %d, want between %.4f and %.4f", got, tenth+1, lowest, highest)
		}
	}
}

func TestSlowStart(t *testing.T) {
	const n = 5
	// Of two instances the idle one is taken, and one in slow start is: hence up to twice as much.
	for a, most := range map[wire.Algorithm]float64{wire.PeakEWMA: 2, wire.LeastRequest: 2, wire.RoundRobin: 1, wire.Random: 1} {
		t.Run(fmt.Sprint("new endpoint ", a), func(t *testing.T) {
			policy := ramped(a, 100*time.Second)
			s := newSimulation(t, 1, policy, addresses(n-1)...)
			s.run(500, 10*time.Second)
			s.update(policy, addresses(n)...)
			ramp(t, s, at(n), n, most)
		})
		t.Run(fmt.Sprint("after an ejection ", a), func(t *testing.T) {
			s := newSimulation(t, 1, ramped(a, 100*time.Second), addresses(n)...)
			s.run(500, 10*time.Second)
			s.endpoints[at(2)].restart(s.elapsed())
			ramp(t, s, at(2), n, most)
		})
	}
}

// A change of other endpoints, or of the policy, begins no window anew.
func TestSlowStartIsOnlyForNewEndpoints(t *testing.T) {
	s := newSimulation(t, 1, nil, addresses(4)...)
	s.update(nil, addresses(5)...)
	s.run(500, 50*time.Second)
	policy := ramped(wire.Random, 100*time.Second)
	s.update(policy, addresses(5)...)
	if got := share(s.run(500, 20*time.Second), at(5)); got < 0.09 || got > 0.16 {
		t.Errorf("share %.3f after half of the window", got)
	}
	s.run(500, 40*time.Second)
	s.update(policy, append(addresses(5), at(6))...)
	given := s.run(500, 10*time.Second)
	if old, fresh := share(given, at(5)), share(given, at(6)); old < 0.15 || fresh > 0.05 {
		t.Errorf("shares %.3f of an endpoint whose window is over and %.3f of a new one", old, fresh)
	}
}

func TestFirstEndpointsHaveTheirFullShare(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			policy := ramped(a, time.Hour)
			s := newSimulation(t, 1, policy, addresses(3)...)
			draws := 0
			random := s.options.Random
			s.options.Random = func(n int) int {
				if n == slowStartGrain {
					draws++
				}
				return random(n)
			}
			s.run(100, time.Second)
			// The same when a Service had no endpoint for some time.
			s.update(policy)
			s.update(policy, addresses(4)...)
			s.run(100, time.Second)
			if draws > 0 {
				t.Errorf("%d draws for the admission of endpoints that are all equally new", draws)
			}
		})
	}
}

// However new endpoints are, a request has one.
func TestSlowStartLeavesNoRequestAlone(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			policy := ramped(a, time.Hour)
			s := newSimulation(t, 1, policy, at(100))
			s.update(policy, addresses(5)...)
			given := s.run(500, 10*time.Second)
			for _, address := range addresses(5) {
				if got := share(given, address); got < 0.12 || got > 0.28 {
					t.Errorf("share %.3f of one of five equally new endpoints", got)
				}
			}
			// One that is alone has everything, new or not.
			s.update(policy, at(1))
			s.endpoints[at(1)].restart(s.elapsed())
			if got := share(s.run(100, time.Second), at(1)); got != 1 {
				t.Errorf("share %.3f of the only endpoint", got)
			}
		})
	}
}

// Keys would have other endpoints from request to request.
func TestSlowStartIsNotForHashes(t *testing.T) {
	policy := ramped(wire.ConsistentHash, time.Hour)
	s := newSimulation(t, 1, policy, addresses(4)...)
	s.update(policy, addresses(5)...)
	if got := moved(assign(t, s.Set, 1000), assign(t, s.Set, 1000)); got > 0 {
		t.Errorf("%.1f%% of the keys have several endpoints", got*100)
	}
}
