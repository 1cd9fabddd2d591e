package traffic

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Running is a load under way.
type Running struct {
	load    Load
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu       sync.Mutex
	progress Progress
}

// Start begins a load that ends with Stop.
func Start(load Load) *Running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Running{load: load, cancel: cancel}
	for i := range max(load.Workers, 1) {
		r.workers.Go(func() { r.work(ctx, i) })
	}
	return r
}

// Stop sends nothing more, waits for what is under way and returns all of it.
func (r *Running) Stop() Progress {
	r.cancel()
	r.workers.Wait()
	return r.Progress(0)
}

// Progress returns what is known now, with the samples from index on.
func (r *Running) Progress(index int) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress
	p.Samples = append([]Sample{}, p.Samples[min(index, len(p.Samples)):]...)
	return p
}

// work sends as worker i. Workers begin one after the other within one interval, so that their requests
// are spread evenly.
func (r *Running) work(ctx context.Context, i int) {
	workers := max(r.load.Workers, 1)
	var tick <-chan time.Time
	if r.load.Rate > 0 {
		interval := time.Duration(float64(workers) / r.load.Rate * float64(time.Second))
		first := time.NewTimer(interval * time.Duration(i) / time.Duration(workers))
		defer first.Stop()
		select {
		case <-ctx.Done():
			return
		case <-first.C:
		}
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		tick = ticker.C
	}
	client := NewClient()
	defer client.Close()
	var last Sample
	for n := i; ctx.Err() == nil; n++ {
		// What has begun is finished, so that a request which the end of the load cut off is none.
		a := client.Do(context.WithoutCancel(ctx), &r.load.Requests[n%len(r.load.Requests)])
		if r.load.NewConnections {
			client.Close()
		}
		last = r.add(last, sampleOf(&r.load.Requests[n%len(r.load.Requests)], &a))
		if tick == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick:
		}
	}
}

func (r *Running) add(last, s Sample) Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Sent++
	if s.Failure != "" {
		r.progress.Failed++
	}
	if same := last.Failure == s.Failure && last.Pod == s.Pod && last.Mark == s.Mark; !same || !r.load.ChangesOnly {
		r.progress.Samples = append(r.progress.Samples, s)
	}
	return s
}

func sampleOf(r *Request, a *Answer) Sample {
	s := Sample{Sent: a.Sent, Ended: a.Ended, Failure: a.Error}
	if s.Failure == "" && !succeeded(r.Protocol, a) {
		s.Failure = fmt.Sprintf("status %d %s %s", a.Status, a.Get("Weft-Reason"), a.Body)
	}
	if a.Echo != nil {
		s.Pod, s.Version, s.Mark = a.Echo.Pod, a.Echo.Version, a.Echo.Get(MarkHeader)
	}
	return s
}

// succeeded tells whether an answer is what a client hopes for: success, from a backend.
func succeeded(p Protocol, a *Answer) bool {
	switch p {
	case GRPC, TCP:
		return a.Status == 0 && a.Echo != nil
	case WebSocket:
		return a.Echo != nil
	default:
		return a.Status == http.StatusOK && a.Echo != nil
	}
}
