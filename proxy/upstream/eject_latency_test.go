package upstream

import (
	"testing"
	"time"

	"weft.dev/weft/proxy/upstream/outlier"
	"weft.dev/weft/proxy/wire"
)

func TestEjectionByLatency(t *testing.T) {
	x := newEjecting(t, 4, func(p *wire.OutlierEjection) { p.LatencyFactor = new(5) })
	interval := func(slow time.Duration) {
		for i := 2; i <= 4; i++ {
			x.answer(i, 20, outlier.Success, 10*time.Millisecond)
		}
		x.answer(1, 20, outlier.Success, slow)
		x.pass(10 * time.Second)
		x.answer(2, 1, outlier.Success, 10*time.Millisecond)
	}
	interval(50 * time.Millisecond)
	x.wantUsed(1, 2, 3, 4)
	interval(60 * time.Millisecond)
	x.wantUsed(2, 3, 4)
	x.pass(5 * time.Second)
	// It answers, but as slowly as before.
	e := choose(t, x.set, webKey)
	x.set.judged(e.state, outlier.Success, 60*time.Millisecond, e.probe)
	x.wantUsed(2, 3, 4)
	x.pass(10 * time.Second)
	e = choose(t, x.set, webKey)
	x.set.judged(e.state, outlier.Success, 50*time.Millisecond, e.probe)
	x.wantUsed(1, 2, 3, 4)
	// A request that was given up has taken at least so long.
	for i := 2; i <= 4; i++ {
		x.answer(i, 20, outlier.Success, 10*time.Millisecond)
	}
	x.answer(1, 10, outlier.Success, 10*time.Millisecond)
	for range 10 {
		x.set.endpoints[at(1)].outlasted(5 * time.Millisecond)
		x.set.endpoints[at(1)].outlasted(time.Second)
	}
	x.pass(10 * time.Second)
	x.answer(2, 1, outlier.Success, 10*time.Millisecond)
	x.wantUsed(2, 3, 4)
}

// TestBarFollowsThePeers: an endpoint that was slow beside its peers comes back once they have become as slow as it is,
// and not before.
func TestBarFollowsThePeers(t *testing.T) {
	x := newEjecting(t, 3, func(p *wire.OutlierEjection) {
		p.LatencyFactor, p.MaxEjectionTime = new(5), new(wire.Duration(5*time.Second))
	})
	interval := func(peers time.Duration, busy ...int) {
		for _, i := range busy {
			x.answer(i, 20, outlier.Success, peers)
		}
		x.pass(10 * time.Second)
		x.answer(2, 1, outlier.Success, peers)
	}
	probe := func() {
		e := choose(t, x.set, webKey)
		if !e.probe {
			t.Fatal("the request is no probe")
		}
		x.set.judged(e.state, outlier.Success, 10*time.Millisecond, true)
	}
	x.answer(1, 20, outlier.Success, 10*time.Millisecond)
	interval(time.Millisecond, 2, 3)
	x.wantState("2 usable, 1 ejected, 0 unhealthy")
	x.pass(5 * time.Second)
	probe()
	x.wantState("2 usable, 1 ejected, 0 unhealthy")
	// Of peers without enough requests nothing is learnt.
	interval(10 * time.Millisecond)
	probe()
	x.wantState("2 usable, 1 ejected, 0 unhealthy")
	interval(10*time.Millisecond, 2, 3)
	probe()
	x.wantState("3 usable, 0 ejected, 0 unhealthy")
}
