package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// What stands for the status of a request without an answer.
const (
	// gaveUp is that of a request that had no answer in time, broke that of one that was cut off before.
	gaveUp = 0
	broke  = -1
)

// poisson returns when requests of a load are due that come independently of each other: rate a second, from
// one time up to another.
func poisson(random *rand.Rand, rate float64, from, to time.Duration) []time.Duration {
	var due []time.Duration
	for at := from; ; {
		at += time.Duration(random.ExpFloat64() / rate * float64(time.Second))
		if at >= to {
			return due
		}
		due = append(due, at)
	}
}

// ticks returns the times from one up to and without another that are some step apart.
func ticks(from, to, step time.Duration) []time.Duration {
	var due []time.Duration
	for at := from; at < to; at += step {
		due = append(due, at)
	}
	return due
}

// pace calls send for every time that is due, counted from start, until all are sent or ctx ends. A send
// that takes long delays no other: what is late because the machine was busy is sent at once.
func pace(ctx context.Context, start time.Time, due []time.Duration, send func(at time.Duration)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, at := range due {
		if wait := time.Until(start.Add(at)); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		send(at)
	}
}

// openLoop sends requests when they are due, however slow the answers are, and gives each up some time
// after it was due.
type openLoop struct {
	client  *http.Client
	url     string
	timeout time.Duration

	mu       sync.Mutex
	outcomes []outcome
	// late is how long after they were due requests were sent.
	late []time.Duration
}

// run sends what is due from start until all is sent or ctx ends, and returns when all requests sent have
// ended.
func (l *openLoop) run(ctx context.Context, start time.Time, due []time.Duration) {
	var under sync.WaitGroup
	pace(ctx, start, due, func(at time.Duration) {
		late := time.Since(start) - at
		under.Go(func() {
			o := l.send(context.WithoutCancel(ctx), start, at)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.outcomes, l.late = append(l.outcomes, o), append(l.late, late)
		})
	})
	under.Wait()
}

func (l *openLoop) send(ctx context.Context, start time.Time, at time.Duration) outcome {
	ctx, cancel := context.WithDeadline(ctx, start.Add(at+l.timeout))
	defer cancel()
	status, err := get(ctx, l.client, l.url)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		status = gaveUp
	default:
		status = broke
	}
	return outcome{at: at, took: time.Since(start) - at, status: status}
}

// get sends one request, reads the whole answer and returns its status.
func get(ctx context.Context, client *http.Client, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("get: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("get: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, fmt.Errorf("get: %w", err)
	}
	return res.StatusCode, nil
}
