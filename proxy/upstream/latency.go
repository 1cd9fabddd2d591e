package upstream

import (
	"math"
	"sync/atomic"
	"time"
)

// How latency becomes cost. The estimate is a decaying peak: a slower answer counts at once, and what is
// left of it shrinks by decayTime, until it meets the answers of the day. An endpoint that is cheaper than
// others is tried, so this decides how soon one that was slow is: after decayTime * ln(20) = 6 s if it was
// 20 times slower than the others, and after forgetTime, by a single request, however slow it was. If that
// is answered well, the endpoint is back among its equals; if not, it is out for as long again.
const (
	decayTime  = 2 * time.Second
	forgetTime = 10 * time.Second
	// costFloor is the latency below which differences do not matter.
	costFloor = 500 * time.Microsecond
	// unknownLatency is what an endpoint without an estimate counts as while it is being tried, so that it
	// takes one request at a time until it has one.
	unknownLatency = time.Second
	// failureLatency is what a broken connection counts as at least, so that failing fast attracts nothing.
	failureLatency = 100 * time.Millisecond
	// costTolerance is the factor within which two costs are equal: small differences are noise, and
	// following them would give nearly all requests of a calm service to one pod.
	costTolerance = 1.25
	// silenceTime is how long silence counts against an endpoint before it is tried once more. It bounds
	// the harm of a request that is meant to be answered late, such as a long poll.
	silenceTime = 10 * time.Second
)

// latency is what is known of how fast an endpoint answers.
//
// An answer that is late shows only when it comes. Until then silence shows: the endpoint has been asked,
// and has answered nothing since. So a slow endpoint costs more after as many milliseconds as others take
// to answer. The age of its oldest request would not do, because an endpoint may well hold some requests
// for hours (watches, long polls) and answer all others at once.
type latency struct {
	// peak packs the estimate in microseconds (float32) and when it was made, in milliseconds since the
	// Set's start (uint32, wrapping). Zero means that there is none. Concurrent updates may lose one of two
	// samples.
	peak atomic.Uint64
	// unanswered counts requests whose answer has not begun.
	unanswered atomic.Int32
	// silentSince is when the first request after the last answer was sent, in nanoseconds since the Set's
	// start; zero if there is none.
	silentSince atomic.Int64
}

// asked notes that a request is being sent. Exactly one of answered and failed follows.
func (l *latency) asked(now time.Duration) {
	l.unanswered.Add(1)
	since := l.silentSince.Load()
	if since == 0 || now-time.Duration(since) > silenceTime {
		l.silentSince.CompareAndSwap(since, max(1, int64(now)))
	}
}

// answered notes that the answer to a request has begun.
func (l *latency) answered(took, now time.Duration) {
	l.ended(true)
	l.observe(took, now)
}

// failed notes that a request failed, and lets the estimate show what is the endpoint's fault.
func (l *latency) failed(err *Error, took, now time.Duration) {
	switch err.Reason {
	case ReasonReset, ReasonProtocol, ReasonRefused:
		l.ended(true)
		l.observe(max(took, failureLatency), now)
	case ReasonTimeout, ReasonCanceled:
		l.ended(false)
		if !err.NotSent {
			l.observeAtLeast(took, now)
		}
	default:
		l.ended(false)
	}
}

// ended ends a request. What the endpoint says about one of them ends its silence.
func (l *latency) ended(spoken bool) {
	if l.unanswered.Add(-1) == 0 || spoken {
		l.silentSince.Store(0)
	}
}

// observe adds a sample.
func (l *latency) observe(sample, now time.Duration) {
	old := l.peak.Load()
	estimate := max(1, float64(sample.Microseconds()))
	if peak, age := unpackLatency(old, now); old != 0 {
		estimate = max(estimate, faded(peak, age))
	}
	l.peak.CompareAndSwap(old, packLatency(estimate, now))
}

// observeAtLeast adds the time of a request that was given up: its true latency is not known, only that it
// is not less.
func (l *latency) observeAtLeast(sample, now time.Duration) {
	if peak, age := unpackLatency(l.peak.Load(), now); float64(sample.Microseconds()) > faded(peak, age) {
		l.observe(sample, now)
	}
}

// estimate returns the expected latency in microseconds, false if it is not known.
func (l *latency) estimate(now time.Duration) (microseconds float64, known bool) {
	if packed := l.peak.Load(); packed != 0 {
		peak, age := unpackLatency(packed, now)
		microseconds, known = faded(peak, age), age < forgetTime
	}
	return microseconds, known
}

// silence is how long the endpoint has not answered, in microseconds; silent tells that it was asked
// something since, and not too long ago.
func (l *latency) silence(now time.Duration) (microseconds float64, silent bool) {
	since := l.silentSince.Load()
	if since == 0 {
		return 0, false
	}
	age := now - time.Duration(since)
	return float64(age.Microseconds()), age <= silenceTime
}

// cost is what one more request would be up against, in microseconds.
func (e *endpoint) cost(now time.Duration) float64 {
	expected, known := e.estimate(now)
	silence, silent := e.silence(now)
	switch {
	case silent && known:
		expected = max(expected, silence)
	case silent:
		// It is being tried.
		expected = max(float64(unknownLatency.Microseconds()), silence)
	case !known:
		expected = 0
	}
	return (expected + float64(costFloor.Microseconds())) * float64(e.inFlight.Load()+1)
}

// faded is what is left of a peak after some time.
func faded(peak float64, age time.Duration) float64 {
	return peak * math.Exp(-float64(age)/float64(decayTime))
}

func packLatency(microseconds float64, now time.Duration) uint64 {
	return uint64(math.Float32bits(float32(microseconds)))<<32 | uint64(uint32(now.Milliseconds()))
}

func unpackLatency(packed uint64, now time.Duration) (microseconds float64, age time.Duration) {
	microseconds = float64(math.Float32frombits(uint32(packed >> 32)))
	// The difference of unsigned numbers is right across a wrap; a clock that another goroutine read a
	// little earlier must not look like one of 49 days later.
	age = time.Duration(int32(uint32(now.Milliseconds())-uint32(packed))) * time.Millisecond
	return microseconds, max(0, age)
}
