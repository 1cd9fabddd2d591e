package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// unboundedQueue is the queue of an instance that never says no.
const unboundedQueue = 1 << 16

// capability is what an instance can do.
type capability struct {
	// mean is how long a request takes on average: the share spread of it is distributed exponentially, and
	// the rest is the same for all.
	mean   time.Duration
	spread float64
	// queue is how many requests wait for their turn. What exceeds it is answered 503 at once, but the
	// instance has less time for others then: the share refusal of mean, each time.
	queue   int
	refusal float64
}

// instance is an application that does one request at a time, in the order in which they come, and does them
// whether their client still waits or not, since few applications notice. How much it gets done does not
// depend on how late timers are: what it does next begins when the last was due to end.
type instance struct {
	capability
	jobs chan job
	// slowdown multiplies how long a request takes; refused counts answers of 503 whose cost is not paid yet.
	slowdown atomic.Int64
	refused  atomic.Int64
	arrived  func()
	working  sync.WaitGroup
}

// job is a request in the queue.
type job struct {
	arrived time.Time
	done    chan struct{}
}

// newInstance starts an instance that ends with ctx. It calls arrived for each request that reaches it.
func newInstance(ctx context.Context, c capability, random *rand.Rand, arrived func()) *instance {
	i := &instance{capability: c, jobs: make(chan job, c.queue), arrived: arrived}
	i.slowdown.Store(1)
	i.working.Go(func() { i.work(ctx, random) })
	return i
}

// ServeHTTP implements http.Handler.
func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.arrived()
	j := job{time.Now(), make(chan struct{})}
	select {
	case i.jobs <- j:
	default:
		i.refused.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	select {
	case <-j.done:
		w.Header().Set("Content-Length", strconv.Itoa(0))
	case <-r.Context().Done():
	}
}

func (i *instance) work(ctx context.Context, random *rand.Rand) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var free time.Time
	for {
		select {
		case j := <-i.jobs:
			cost := time.Duration(i.refusal * float64(i.mean) * float64(i.refused.Swap(0)))
			free = i.next(free, j.arrived, cost, random.ExpFloat64())
			timer.Reset(time.Until(free))
			select {
			case <-timer.C:
				close(j.done)
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// next returns when a request that has arrived is done by an instance that is free from some time on and has
// something else to do first. exponential is of the exponential distribution with mean 1.
func (i *instance) next(free, arrived time.Time, first time.Duration, exponential float64) time.Time {
	if free.Before(arrived) {
		free = arrived
	}
	takes := float64(i.mean) * (1 - i.spread + i.spread*exponential) * float64(i.slowdown.Load())
	return free.Add(first + time.Duration(takes))
}
