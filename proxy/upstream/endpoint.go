package upstream

import (
	"context"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// How latency becomes cost: an exponentially weighted moving average that jumps to peaks at once and
// forgets with decayTime (peak EWMA), plus a floor below which differences do not matter, times the
// requests in flight.
const (
	decayTime = 10 * time.Second
	costFloor = 500 * time.Microsecond
	// unknownLatency makes an endpoint without a sample take one request at a time until it has one.
	unknownLatency = time.Second
	// failureLatency is what a broken connection counts as at least, so that failing fast attracts nothing.
	failureLatency = 100 * time.Millisecond
	// costTolerance is the factor within which two costs are equal: small differences are noise, and
	// following them would give nearly all requests of a calm service to one pod.
	costTolerance = 1.25
)

// How long an endpoint that refused a connection is avoided: doubling from the first to the second.
const (
	firstRefusal = time.Second
	lastRefusal  = 16 * time.Second
)

// endpoint is the state of one address. It outlives configurations: a Set has one per address that any
// backend names, and Views share it.
type endpoint struct {
	set     *Set
	address netip.AddrPort

	inFlight atomic.Int32
	// latency packs the average in microseconds (float32) and when it was taken, in milliseconds since
	// the Set's start (uint32, wrapping). Zero means that there is no sample. Concurrent updates may
	// lose one of two samples.
	latency atomic.Uint64
	// refusals counts failed connects since the last success; until refusedUntil, in nanoseconds since
	// the Set's start, the endpoint is avoided.
	refusals     atomic.Uint32
	refusedUntil atomic.Int64
	// restarted is when the endpoint last came back from an ejection, in nanoseconds since the Set's start;
	// zero means never.
	restarted atomic.Int64

	mu      sync.Mutex
	pools   map[poolKey]pool
	drained bool
}

// poolKey separates connections that must not be shared.
type poolKey struct {
	protocol poolProtocol
	// serviceAccount and namespace are who is presented and who is expected; only the hop has them.
	serviceAccount, namespace string
}

type poolProtocol uint8

const (
	poolHTTP1 poolProtocol = iota
	poolH2C
	poolHop
)

// pool holds the connections of one endpoint and poolKey.
type pool interface {
	// acquire returns a connection on which a request may be sent at once; fresh means that none that was
	// idle will do. Errors are of type *Error.
	acquire(ctx context.Context, fresh bool) (lease, error)
	// drain closes idle connections; active ones are closed when their requests have finished, later ones
	// after one use.
	drain()
	// closeIdle closes connections that no request uses.
	closeIdle()
}

// lease is the right to send one request on a connection. Exactly one of release and discard ends it.
type lease interface {
	roundTrip(req *http.Request) (*http.Response, error)
	// reused tells whether the connection was made for an earlier request, alive whether it could take
	// another one.
	reused() bool
	alive() bool
	// failure says what an error of roundTrip means, as far as the connection knows: the reason, and
	// whether the request was provably not processed.
	failure(err error) (reason Reason, notSent bool)
	// release gives the connection back after the response was read to its end.
	release()
	// discard gives it up after anything else.
	discard()
}

// pool returns the endpoint's pool of that key, making it if needed.
func (e *endpoint) pool(key poolKey) pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.pools[key]; ok {
		return p
	}
	var p pool
	if key.protocol == poolHTTP1 {
		p = &http1Pool{endpoint: e}
	} else {
		p = &http2Pool{endpoint: e, key: key}
	}
	if e.drained {
		p.drain()
	}
	if e.pools == nil {
		e.pools = map[poolKey]pool{}
	}
	e.pools[key] = p
	return p
}

// drain ends the endpoint's life: no configuration names it any longer.
func (e *endpoint) drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drained = true
	for _, p := range e.pools {
		p.drain()
	}
}

// observe adds a latency sample.
func (e *endpoint) observe(latency time.Duration) {
	now := e.set.elapsed()
	old := e.latency.Load()
	average := max(1, float64(latency.Microseconds()))
	if previous, age := unpackLatency(old, now); old != 0 && average < previous {
		weight := math.Exp(-float64(age) / float64(decayTime))
		average = previous*weight + average*(1-weight)
	}
	e.latency.CompareAndSwap(old, packLatency(average, now))
}

// observeAtLeast adds the time of a request that was given up: its true latency is not known, only that it
// is not less.
func (e *endpoint) observeAtLeast(latency time.Duration) {
	if average, _ := unpackLatency(e.latency.Load(), 0); float64(latency.Microseconds()) > average {
		e.observe(latency)
	}
}

// cost is what one more request would be up against, in microseconds.
func (e *endpoint) cost(now time.Duration) float64 {
	inFlight := float64(e.inFlight.Load())
	packed := e.latency.Load()
	if packed == 0 {
		return inFlight * float64(unknownLatency.Microseconds())
	}
	average, age := unpackLatency(packed, now)
	if age > 10*time.Millisecond {
		// An endpoint that gets no requests is slowly forgiven, so that it is tried again.
		average *= math.Exp(-float64(age) / float64(decayTime))
	}
	return (average + float64(costFloor.Microseconds())) * (inFlight + 1)
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

// refused records a failed connect.
func (e *endpoint) refused() {
	e.refusals.Add(1)
	e.refusedUntil.Store(int64(e.set.elapsed() + e.refusalTime()))
}

// accepted records a successful connect.
func (e *endpoint) accepted() {
	if e.refusals.Load() > 0 {
		e.refusals.Store(0)
	}
}

// refusing tells whether the endpoint refused a connection so recently that others come first.
func (e *endpoint) refusing(now time.Duration) bool {
	return e.refusals.Load() > 0 && int64(now) < e.refusedUntil.Load()
}

// probe is called when the endpoint was chosen: if that is the first try after a refusal, others keep
// avoiding it until the try has shown how it is.
func (e *endpoint) probe(now time.Duration) {
	if e.refusals.Load() == 0 {
		return
	}
	if until := e.refusedUntil.Load(); until <= int64(now) {
		e.refusedUntil.CompareAndSwap(until, int64(now+e.refusalTime()))
	}
}

func (e *endpoint) refusalTime() time.Duration {
	doublings := min(max(1, e.refusals.Load()), 16) - 1
	return min(firstRefusal<<doublings, lastRefusal)
}
