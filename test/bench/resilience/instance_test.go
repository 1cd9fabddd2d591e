package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhenAnInstanceIsDone(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := start.Add
	tests := map[string]struct {
		spread        float64
		slowdown      int64
		free, arrived time.Time
		first         time.Duration
		exponential   float64
		want          time.Time
	}{
		"it had nothing to do":                  {0, 1, at(0), at(30 * ms), 0, 1, at(40 * ms)},
		"it was busy when the request came":     {0, 1, at(50 * ms), at(30 * ms), 0, 1, at(60 * ms)},
		"it is slow":                            {0, 20, at(0), at(30 * ms), 0, 1, at(230 * ms)},
		"refusals take its time":                {0, 1, at(50 * ms), at(30 * ms), 3 * ms, 1, at(63 * ms)},
		"refusals take as long when it is slow": {0, 2, at(50 * ms), at(30 * ms), 3 * ms, 1, at(73 * ms)},
		"an easy request":                       {1, 1, at(0), at(0), 0, 0.1, at(1 * ms)},
		"a hard request":                        {1, 1, at(0), at(0), 0, 4, at(40 * ms)},
		"a quarter of the time is random":       {0.25, 1, at(0), at(0), 0, 4, at(17500 * time.Microsecond)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := &instance{capability: capability{mean: 10 * ms, spread: tc.spread}}
			i.slowdown.Store(tc.slowdown)
			if got := i.next(tc.free, tc.arrived, tc.first, tc.exponential); !got.Equal(tc.want) {
				t.Errorf("done after %s, want %s", got.Sub(start), tc.want.Sub(start))
			}
		})
	}
}

// serve sends a request to an instance and returns the status of its answer and when that came.
func serve(ctx context.Context, i *instance, start time.Time) (status int, at time.Duration) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	return w.Code, time.Since(start)
}

// TestInstance: requests that come at once are answered one after the other, those that find the queue full
// at once with 503, and what that costs delays the next one.
func TestInstance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		arrived := 0
		i := newInstance(ctx, capability{mean: 10 * ms, queue: 1, refusal: 0.1}, rand.New(rand.NewPCG(1, 1)), func() { arrived++ })
		defer i.working.Wait()
		defer stop()
		start := time.Now()
		type answer struct {
			status int
			at     time.Duration
		}
		answers := make([]answer, 5)
		var sent sync.WaitGroup
		for n := range answers {
			sent.Go(func() { answers[n].status, answers[n].at = serve(ctx, i, start) })
			// Whoever came before is where it will wait.
			synctest.Wait()
		}
		sent.Wait()
		want := []answer{{200, 10 * ms}, {200, 23 * ms}, {503, 0}, {503, 0}, {503, 0}}
		for n := range want {
			if answers[n] != want[n] {
				t.Errorf("request %d: %d after %s, want %d after %s", n, answers[n].status, answers[n].at, want[n].status, want[n].at)
			}
		}
		if arrived != len(want) {
			t.Errorf("%d requests were counted, want %d", arrived, len(want))
		}
	})
}

// TestInstanceWorksForClientsThatGaveUp: their requests take their time all the same.
func TestInstanceWorksForClientsThatGaveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		i := newInstance(ctx, capability{mean: 10 * ms, queue: 9}, rand.New(rand.NewPCG(1, 1)), func() {})
		defer i.working.Wait()
		defer stop()
		start := time.Now()
		impatient, giveUp := context.WithTimeout(ctx, ms)
		defer giveUp()
		if _, at := serve(impatient, i, start); at != ms {
			t.Errorf("a client gave up after %s, want %s", at, ms)
		}
		if status, at := serve(ctx, i, start); status != http.StatusOK || at != 20*ms {
			t.Errorf("the next one: %d after %s, want 200 after %s", status, at, 20*ms)
		}
	})
}
