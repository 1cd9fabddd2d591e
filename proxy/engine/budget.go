package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/wire"
)

const (
	// budgetBuckets is how many parts an interval has: what lies longer ago than the interval is forgotten
	// one part at a time.
	budgetBuckets = 16
	// maxBudgetWindows bounds how many different intervals one budget measures at once. All routes to a
	// backend share its budget, but each may have its own interval.
	maxBudgetWindows = 8
)

// budget bounds the retries to one backend by its requests (GEP-3388), so that a backend which fails
// because it has too much to do does not get a multiple of it. The routes to the backend share the counts;
// each request brings its own limits.
//
// Requests are those of clients: retries are no base for further retries. It is safe for concurrent use,
// and counting a request takes no lock. A nil budget does not limit.
type budget struct {
	start   time.Time
	windows atomic.Pointer[[]*budgetWindow]
	// granting makes the decision about a retry and its counting one step.
	granting sync.Mutex
}

func newBudget(start time.Time) *budget {
	b := &budget{start: start}
	b.windows.Store(new([]*budgetWindow))
	return b
}

// request counts a request. Those that cannot be retried, whose limits are nil, count only once another
// route measures.
func (b *budget) request(now time.Time, limits *wire.RetryBudget) {
	if b == nil {
		return
	}
	if limits != nil {
		b.window(time.Duration(*limits.Interval))
		b.window(time.Duration(*limits.MinInterval))
	}
	at := now.Sub(b.start)
	for _, w := range *b.windows.Load() {
		w.requests.add(w.bucket(at))
	}
}

// retry tells whether another retry is within the limits, and counts it if so.
func (b *budget) retry(now time.Time, limits *wire.RetryBudget) bool {
	if b == nil {
		return true
	}
	b.granting.Lock()
	defer b.granting.Unlock()
	at := now.Sub(b.start)
	window, least := b.window(time.Duration(*limits.Interval)), b.window(time.Duration(*limits.MinInterval))
	share := uint64(*limits.Percent)
	if share < 100 &&
		(window.retries.sum(window.bucket(at))+1)*100 > share*window.requests.sum(window.bucket(at)) &&
		least.retries.sum(least.bucket(at)) >= uint64(*limits.MinRetries) {
		return false
	}
	for _, w := range *b.windows.Load() {
		w.retries.add(w.bucket(at))
	}
	return true
}

// window returns what measures an interval, making it if needed. A new one takes the place of the oldest
// if there are too many; having seen no requests, it allows less than it might.
func (b *budget) window(interval time.Duration) *budgetWindow {
	width := max(interval/budgetBuckets, 1)
	for {
		old := b.windows.Load()
		for _, w := range *old {
			if w.width == width {
				return w
			}
		}
		w := &budgetWindow{width: width}
		kept := (*old)[max(0, len(*old)+1-maxBudgetWindows):]
		next := append(append(make([]*budgetWindow, 0, len(kept)+1), kept...), w)
		if b.windows.CompareAndSwap(old, &next) {
			return w
		}
	}
}

// reached keeps what outlives configurations of a backend, from its first use on: few of many backends are used.
type reached struct {
	since atomic.Pointer[reachedBackend]
}

type reachedBackend struct {
	budget *budget
	// inbound are the metrics of what comes over the hop.
	inbound ruleSeries
}

// reach returns what is kept of a backend, nil if it is not configured.
func (e *Engine) reach(cfg *config, backend string) *reachedBackend {
	r := cfg.reached.get(backend)
	if r == nil {
		return nil
	}
	if known := r.since.Load(); known != nil {
		return known
	}
	r.since.CompareAndSwap(nil, &reachedBackend{
		budget: newBudget(time.Now()), inbound: ruleSeries{metrics: e.metrics, listener: listenerHop, destination: backend},
	})
	return r.since.Load()
}

// budgetOf returns the budget of a backend, nil if it is not configured.
func (e *Engine) budgetOf(cfg *config, backend string) *budget {
	if known := e.reach(cfg, backend); known != nil {
		return known.budget
	}
	return nil
}

// inbound returns the metrics of what comes over the hop for a backend of this namespace, nil if there is none of that
// key.
func (e *Engine) inbound(cfg *config, backend string) *ruleSeries {
	if b, ok := cfg.view.Backend(backend); !ok || b.Namespace != e.options.Namespace {
		return nil
	}
	return &e.reach(cfg, backend).inbound
}

// budgetWindow counts over one interval.
type budgetWindow struct {
	// width of a bucket.
	width             time.Duration
	requests, retries slidingCount
}

// bucket returns the number of the bucket of a time.
func (w *budgetWindow) bucket(at time.Duration) uint32 { return uint32(at / w.width) }

// slidingCount counts events in the last budgetBuckets buckets. Each element packs the number of its bucket
// and the count, so that a bucket which comes around again begins anew in one step.
type slidingCount [budgetBuckets]atomic.Uint64

func (c *slidingCount) add(bucket uint32) {
	element := &c[bucket%budgetBuckets]
	for {
		old := element.Load()
		next := uint64(bucket)<<32 | 1
		switch behind := bucket - uint32(old>>32); {
		case behind == 0 && uint32(old) != 0:
			next = old + 1
		case behind > 1<<31 && uint32(old) != 0:
			// Another goroutine is ahead of this one by a whole interval.
			return
		}
		if element.CompareAndSwap(old, next) {
			return
		}
	}
}

func (c *slidingCount) sum(bucket uint32) uint64 {
	var total uint64
	for i := range c {
		element := c[i].Load()
		if bucket-uint32(element>>32) < budgetBuckets {
			total += uint64(uint32(element))
		}
	}
	return total
}
