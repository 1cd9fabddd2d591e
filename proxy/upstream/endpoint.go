package upstream

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	phttp "weft.dev/weft/proxy/http"
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
	latency
	// refusals counts failed connects since the last success; until refusedUntil, in nanoseconds since
	// the Set's start, the endpoint is avoided.
	refusals     atomic.Uint32
	refusedUntil atomic.Int64
	// restarted is when the endpoint last came back from an ejection, in nanoseconds since the Set's start;
	// zero means never.
	restarted atomic.Int64

	// account is the ServiceAccount of the pod's own proxy, nil if there is none.
	account atomic.Pointer[string]

	health
	occupied

	mu      sync.Mutex
	pools   map[poolKey]pool
	drained bool
	// holds counts the groups that have the endpoint. Guarded by Set.holding.
	holds int32
}

// poolKey separates connections that must not be shared.
type poolKey struct {
	protocol poolProtocol
	// serviceAccount is who is presented, namespace and peer who is expected; only the hop has them.
	serviceAccount, namespace, peer string
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
	acquire(ctx context.Context, to Endpoint, fresh bool) (lease, error)
	// drain closes idle connections; active ones are closed when their requests have finished, later ones
	// after one use.
	drain()
	// closeIdle closes connections that no request uses.
	closeIdle()
}

// lease is the right to send one request on a connection. Exactly one of release and discard ends it.
type lease interface {
	// roundTrip sends a request. fields are those of req as they were received, nil if that is not known.
	roundTrip(req *http.Request, fields phttp.Header) (*http.Response, error)
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

// speaks takes the ServiceAccount of the pod's own proxy, empty if the pod has none.
func (e *endpoint) speaks(account string) {
	switch {
	case account != "":
		e.account.Store(&account)
	case e.account.Load() != nil:
		e.account.Store(nil)
	}
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

// idle is how many HTTP/1.1 connections wait for a request.
func (e *endpoint) idle() int {
	p := e.http1Pool()
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// closeLongestIdle closes the HTTP/1.1 connection that has waited the longest and tells whether there was
// one.
func (e *endpoint) closeLongestIdle() bool {
	p := e.http1Pool()
	if p == nil {
		return false
	}
	p.mu.Lock()
	taken := p.takeLocked(min(1, len(p.idle)))
	p.mu.Unlock()
	for _, l := range taken {
		l.discard()
	}
	return len(taken) > 0
}

// http1Pool returns the pool of HTTP/1.1 connections, nil if there has been none.
func (e *endpoint) http1Pool() *http1Pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, _ := e.pools[poolKey{protocol: poolHTTP1}].(*http1Pool)
	return p
}
