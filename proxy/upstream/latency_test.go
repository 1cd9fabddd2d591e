package upstream

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

func TestFastEndpointIsPreferred(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	s.Update(direct(at(1), at(2)))
	slow, fast := s.endpoints[at(1)], s.endpoints[at(2)]
	slow.observe(50*time.Millisecond, s.elapsed())
	fast.observe(5*time.Millisecond, s.elapsed())
	if got := picks(t, s, webKey)["pod 10.0.0.2:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the fast endpoint", got)
	}
	// Requests in flight count: 8 waiting on the fast one cost as much as one on the slow one.
	fast.inFlight.Store(20)
	if got := picks(t, s, webKey)["pod 10.0.0.1:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the idle endpoint", got)
	}
	fast.inFlight.Store(0)
	// A peak counts at once, and is forgotten with time.
	fast.observe(10*time.Second, s.elapsed())
	if got := picks(t, s, webKey)["pod 10.0.0.1:80"]; got != 1000 {
		t.Errorf("%d of 1000 went away from the endpoint with the peak", got)
	}
	for range 120 {
		c.now = c.now.Add(time.Second)
		slow.observe(50*time.Millisecond, s.elapsed()) // it gets the traffic meanwhile
	}
	if got := picks(t, s, webKey)["pod 10.0.0.2:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the endpoint whose peak is long ago", got)
	}
}

func TestAboutEqualEndpointsShareTheLoad(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	s.Update(direct(at(1), at(2), at(3)))
	for n, microseconds := range map[int]int{1: 200, 2: 250, 3: 230} {
		s.endpoints[at(n)].observe(time.Duration(microseconds)*time.Microsecond, s.elapsed())
	}
	for name, n := range picks(t, s, webKey) {
		if n < 250 || n > 420 {
			t.Errorf("%s got %d of 1000", name, n)
		}
	}
}

func TestNewEndpointIsTriedOnceFirst(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	s.Update(direct(at(1), at(2)))
	s.endpoints[at(1)].observe(time.Millisecond, s.elapsed())
	fresh := s.endpoints[at(2)]
	if got := picks(t, s, webKey)["pod 10.0.0.2:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the endpoint without a sample", got)
	}
	fresh.inFlight.Add(1)
	fresh.asked(s.elapsed())
	if got := picks(t, s, webKey)["pod 10.0.0.1:80"]; got != 1000 {
		t.Errorf("%d of 1000 went to the known endpoint while the other is tried", got)
	}
}

func TestLatencyEstimate(t *testing.T) {
	var l latency
	now := time.Duration(0)
	estimate := func() time.Duration {
		microseconds, known := l.estimate(now)
		if !known {
			return 0
		}
		return time.Duration(math.Round(microseconds)) * time.Microsecond
	}
	if got := estimate(); got != 0 {
		t.Errorf("%v without a sample", got)
	}
	const ms = time.Millisecond
	for i, step := range []struct {
		after, sample, want time.Duration
	}{
		{0, 10 * ms, 10 * ms},
		{0, 100 * ms, 100 * ms}, // a peak counts at once
		{0, 10 * ms, 100 * ms},  // a good answer right after does not
		{2 * time.Second, 10 * ms, 36788 * time.Microsecond},
		{time.Second, 5 * ms, 22313 * time.Microsecond},
		{8 * time.Second, 10 * ms, 10 * ms},
		{time.Hour, 10 * ms, 10 * ms},
		{50 * 24 * time.Hour, 20 * ms, 20 * ms}, // the stamp has wrapped
		{0, 0, 20 * ms},
	} {
		now += step.after
		l.observe(step.sample, now)
		if got := estimate(); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	l.observeAtLeast(5*ms, now)
	if got := estimate(); got != 20*ms {
		t.Errorf("%v after a request that was given up early", got)
	}
	l.observeAtLeast(5*time.Second, now)
	if got := estimate(); got != 5*time.Second {
		t.Errorf("%v after a request that was given up late", got)
	}
	now += forgetTime - ms
	if got := estimate(); got == 0 {
		t.Error("forgotten early")
	}
	now += ms
	if got := estimate(); got != 0 {
		t.Errorf("%v remembered for too long", got)
	}
}

func TestSilence(t *testing.T) {
	const (
		ms    = time.Millisecond
		start = time.Hour
	)
	timeout := &Error{Reason: ReasonTimeout}
	refusal := &Error{Reason: ReasonRefused}
	for name, tc := range map[string]struct {
		do   func(l *latency)
		want time.Duration // at 100 ms; negative if it is not silent
	}{
		"never asked":               {func(*latency) {}, -1},
		"asked":                     {func(l *latency) { l.asked(start) }, 100 * ms},
		"asked several times":       {func(l *latency) { l.asked(start); l.asked(start + 50*ms) }, 100 * ms},
		"answered":                  {func(l *latency) { l.asked(start); l.answered(30*ms, start+30*ms) }, -1},
		"answered another":          {func(l *latency) { l.asked(start); l.asked(start + 10*ms); l.answered(20*ms, start+30*ms) }, -1},
		"asked since":               {func(l *latency) { l.asked(start); l.answered(10*ms, start+10*ms); l.asked(start + 70*ms) }, 30 * ms},
		"given up, nothing is left": {func(l *latency) { l.asked(start); l.failed(timeout, 50*ms, start+50*ms) }, -1},
		"given up, one is left":     {func(l *latency) { l.asked(start); l.asked(start); l.failed(timeout, 50*ms, start+50*ms) }, 100 * ms},
		"refused, one is left":      {func(l *latency) { l.asked(start); l.asked(start); l.failed(refusal, 50*ms, start+50*ms) }, -1},
		"asked again after long":    {func(l *latency) { l.asked(start + 90*ms - 2*silenceTime); l.asked(start + 90*ms) }, 10 * ms},
		"silent for too long":       {func(l *latency) { l.asked(start + 50*ms - silenceTime) }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var l latency
			tc.do(&l)
			microseconds, silent := l.silence(start + 100*ms)
			got := time.Duration(microseconds) * time.Microsecond
			if silent != (tc.want >= 0) || silent && got != tc.want {
				t.Errorf("silent %v for %v, want %v", silent, got, tc.want)
			}
		})
	}
}

// One of ten instances becomes 20 times slower, and is well again later. What a proxy gives it must fall
// within a second, stay small and come back.
func TestSlowInstanceIsLeftAndComesBack(t *testing.T) {
	const (
		mostInFirstSecond = 0.03 // it is still fast for what began before
		mostAfter         = 0.02
		leastBack         = 0.05
		recovery          = 10 // seconds
	)
	for _, rate := range []float64{50, 200, 1000} {
		for _, usual := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
			t.Run(fmt.Sprintf("%.0f per second of %v", rate, usual), func(t *testing.T) {
				s := newSimulation(t, 1, algorithm(wire.PeakEWMA), addresses(10)...)
				slower := 1.0
				s.latency = func(a netip.AddrPort) time.Duration {
					if a == at(1) {
						return s.around(time.Duration(slower * float64(usual)))
					}
					return s.around(usual)
				}
				s.run(rate, 10*time.Second)
				slower = 20
				if got := share(s.run(rate, time.Second), at(1)); got > mostInFirstSecond {
					t.Errorf("share %.4f in the first second", got)
				}
				if got := share(s.run(rate, time.Second), at(1)); got > mostAfter {
					t.Errorf("share %.4f a second later", got)
				}
				if got := share(s.run(rate, time.Minute), at(1)); got > mostAfter || got == 0 {
					t.Errorf("share %.4f in the minute after, want some but little", got)
				}
				slower = 1
				s.run(rate, recovery*time.Second)
				if got := share(s.run(rate, 5*time.Second), at(1)); got < leastBack {
					t.Errorf("share %.4f after it has been well for %d s", got, recovery)
				}
			})
		}
	}
}

// An instance that answers nothing at all is left as soon as others would have answered.
func TestSilentInstanceIsLeft(t *testing.T) {
	s := newSimulation(t, 1, algorithm(wire.PeakEWMA), addresses(10)...)
	s.run(200, 10*time.Second)
	s.latency = func(a netip.AddrPort) time.Duration {
		if a == at(1) {
			return time.Hour
		}
		return s.around(10 * time.Millisecond)
	}
	if got := s.run(200, time.Second)[at(1)]; got == 0 || got > 10 {
		t.Errorf("%d requests in the first second, want a few", got)
	}
	// From time to time it is asked whether it is well.
	if got := s.run(200, time.Minute)[at(1)]; got == 0 || got > 60 {
		t.Errorf("%d requests in the minute after, want a few", got)
	}
}

// Requests that are answered late by intention, such as watches, must not keep others from their instance.
func TestHangingRequestsDoNotStarveAnInstance(t *testing.T) {
	s := newSimulation(t, 1, algorithm(wire.PeakEWMA), addresses(4)...)
	s.run(100, 5*time.Second)
	hanging := 0
	s.latency = func(a netip.AddrPort) time.Duration {
		if a == at(1) && hanging < 3 {
			hanging++
			return time.Hour
		}
		return s.around(10 * time.Millisecond)
	}
	s.run(100, 30*time.Second)
	if hanging < 3 {
		t.Fatalf("%d requests hang", hanging)
	}
	// Three requests in flight make it four times as expensive, which is what least request would say too.
	if got := share(s.run(100, time.Minute), at(1)); got < 0.01 {
		t.Errorf("share %.4f of the instance with hanging requests", got)
	}
}
