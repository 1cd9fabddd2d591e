package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestPoisson(t *testing.T) {
	t.Parallel()
	seeded := func() []time.Duration {
		return poisson(rand.New(rand.NewPCG(7, 7)), 1000, time.Second, 11*time.Second)
	}
	due := seeded()
	if !slices.Equal(due, seeded()) {
		t.Error("one seed gives two loads")
	}
	if !slices.IsSorted(due) || due[0] < time.Second || due[len(due)-1] >= 11*time.Second {
		t.Errorf("from %s to %s, want sorted between 1s and 11s", due[0], due[len(due)-1])
	}
	// Counts of a Poisson process have the variance of their mean, and so has its number in each second.
	if n := len(due); n < 9500 || n > 10500 {
		t.Errorf("%d requests in 10s, want 10000 within five standard deviations", n)
	}
	for from := time.Second; from < 11*time.Second; from += time.Second {
		n := 0
		for _, at := range due {
			if at >= from && at < from+time.Second {
				n++
			}
		}
		if n < 842 || n > 1158 {
			t.Errorf("%d requests in the second from %s, want 1000 within five standard deviations", n, from)
		}
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]time.Duration{1, 3, 5}, ticks(1, 7, 2)); diff != "" {
		t.Errorf("ticks (-want +got):\n%s", diff)
	}
	if got := ticks(7, 7, 2); got != nil {
		t.Errorf("ticks of nothing: %v", got)
	}
}

func TestPaceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*ms)
		defer cancel()
		var sent []time.Duration
		start := time.Now()
		pace(ctx, start, ticks(0, time.Hour, 10*ms), func(at time.Duration) { sent = append(sent, at) })
		if diff := cmp.Diff([]time.Duration{0, 10 * ms, 20 * ms}, sent); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		if took := time.Since(start); took != 25*ms {
			t.Errorf("ended after %s, want %s", took, 25*ms)
		}
	})
}

// answers is a transport that does something for each path.
type answers func(ctx context.Context) (status int, err error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status, err := a(r.Context())
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, nil
}

// TestOpenLoop: slow answers delay no request, times count from when a request was due, and what has no
// answer is told from what has.
func TestOpenLoop(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer answers
		want   outcome
	}{
		"an answer": {
			answers(func(context.Context) (int, error) { <-time.After(30 * ms); return 200, nil }),
			outcome{took: 30 * ms, status: 200},
		},
		"no answer in time": {
			answers(func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }),
			outcome{took: 100 * ms, status: gaveUp},
		},
		"a connection that breaks": {
			answers(func(context.Context) (int, error) { return 0, errors.New("connection reset") }),
			outcome{status: broke},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &openLoop{client: &http.Client{Transport: tc.answer}, url: serviceURL, timeout: 100 * ms}
				due := []time.Duration{10 * ms, 10 * ms, 15 * ms, 200 * ms}
				l.run(t.Context(), time.Now(), due)
				var want []outcome
				for _, at := range due {
					tc.want.at = at
					want = append(want, tc.want)
				}
				sorted := cmpopts.SortSlices(func(a, b outcome) bool { return a.at < b.at })
				if diff := cmp.Diff(want, l.outcomes, cmp.AllowUnexported(outcome{}), sorted); diff != "" {
					t.Errorf("outcomes (-want +got):\n%s", diff)
				}
				if late := quantile(l.late, 1); len(l.late) != len(due) || late != 0 {
					t.Errorf("%d of %d requests were sent up to %s late", len(l.late), len(due), late)
				}
			})
		})
	}
}
