package engine

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

func budgetLimits(percent int, interval time.Duration, minRetries int, minInterval time.Duration) *wire.RetryBudget {
	return &wire.RetryBudget{
		Percent: &percent, Interval: new(wire.Duration(interval)),
		MinRetries: &minRetries, MinInterval: new(wire.Duration(minInterval)),
	}
}

// grant counts how many of the retries asked for at one time a budget allows.
func grant(b *budget, now time.Time, limits *wire.RetryBudget, asked int) int {
	granted := 0
	for range asked {
		if b.retry(now, limits) {
			granted++
		}
	}
	return granted
}

func TestBudget(t *testing.T) {
	type moment struct {
		after    time.Duration
		requests int
		// asked retries, of which want are allowed.
		asked, want int
	}
	twenty := budgetLimits(20, 10*time.Second, 0, time.Second)
	tests := map[string]struct {
		limits  *wire.RetryBudget
		moments []moment
	}{
		"a share of the requests": {twenty, []moment{{0, 100, 50, 20}, {0, 5, 5, 1}}},
		"none without requests":   {twenty, []moment{{0, 0, 5, 0}}},
		"requests are forgotten after the interval": {twenty, []moment{
			{0, 100, 10, 10}, {9 * time.Second, 0, 20, 10}, {2 * time.Second, 0, 5, 0},
		}},
		"retries are forgotten after the interval": {twenty, []moment{
			{0, 100, 20, 20}, {9 * time.Second, 100, 40, 20}, {2 * time.Second, 0, 5, 0}, {8 * time.Second, 50, 20, 10},
		}},
		"some are always allowed": {budgetLimits(20, 10*time.Second, 3, time.Second), []moment{
			{0, 0, 10, 3}, {900 * time.Millisecond, 0, 10, 0}, {200 * time.Millisecond, 0, 10, 3},
		}},
		"those count towards the share": {budgetLimits(20, 10*time.Second, 3, time.Second), []moment{
			{0, 10, 10, 3}, {100 * time.Millisecond, 0, 10, 0}, {2 * time.Second, 15, 10, 3},
		}},
		"a hundred percent do not limit": {budgetLimits(100, time.Second, 0, time.Second), []moment{{0, 1, 1000, 1000}}},
		"nothing is allowed":             {budgetLimits(0, time.Second, 0, time.Second), []moment{{0, 1000, 10, 0}}},
		"long pauses leave nothing behind": {twenty, []moment{
			{0, 100, 0, 0}, {1000 * time.Hour, 10, 10, 2}, {1000 * time.Hour, 0, 10, 0},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			b := newBudget(now)
			for i, m := range tc.moments {
				now = now.Add(m.after)
				for range m.requests {
					b.request(now, tc.limits)
				}
				if got := grant(b, now, tc.limits, m.asked); got != m.want {
					t.Errorf("moment %d: %d of %d retries allowed, want %d", i, got, m.asked, m.want)
				}
			}
		})
	}
}

func TestRoutesShareTheBudgetOfTheirBackend(t *testing.T) {
	now := time.Now()
	b := newBudget(now)
	one, other := budgetLimits(20, 10*time.Second, 0, time.Second), budgetLimits(50, time.Minute, 0, 2*time.Second)
	b.request(now, other)
	for range 99 {
		b.request(now, one)
	}
	if got := grant(b, now, one, 100); got != 19 {
		t.Errorf("%d retries allowed, want 20%% of the 99 requests since its interval is measured", got)
	}
	if got := grant(b, now, other, 100); got != 31 {
		t.Errorf("%d retries allowed, want what the other route has left of 50", got)
	}
	// A request that is not retried still carries those that are.
	for range 100 {
		b.request(now, nil)
	}
	if got := grant(b, now, other, 100); got != 50 {
		t.Errorf("%d retries allowed, want 50 for 100 more requests", got)
	}
}

func TestBudgetMeasuresABoundedNumberOfIntervals(t *testing.T) {
	now := time.Now()
	b := newBudget(now)
	for i := range 100 {
		b.request(now, budgetLimits(20, time.Duration(i+1)*time.Second, 0, time.Second))
	}
	if n := len(*b.windows.Load()); n > maxBudgetWindows {
		t.Errorf("%d windows, want at most %d", n, maxBudgetWindows)
	}
	if got := grant(b, now, budgetLimits(20, 100*time.Second, 5, time.Second), 10); got != 5 {
		t.Errorf("%d retries allowed, want the 5 that always are", got)
	}
}

// TestBudgetBoundsAStorm lets every request fail, at rates that change, and wants as many retries as it
// can get: whenever one is granted, the retries of the last interval are within the share of its requests
// or of the rate that is always allowed, and hardly any that are within it are refused.
func TestBudgetBoundsAStorm(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		percent, minRetries := random.IntN(60), random.IntN(4)
		interval := time.Duration(1+random.IntN(20)) * time.Second
		l := budgetLimits(percent, interval, minRetries, time.Second)
		start := time.Now()
		now, b := start, newBudget(start)
		var requests, retries []time.Duration
		within := func(events []time.Duration, age time.Duration) int {
			first, _ := slices.BinarySearch(events, now.Sub(start)-age+1)
			return len(events) - first
		}
		part := interval / budgetBuckets
		for range 5_000 {
			now = now.Add(time.Duration(random.ExpFloat64() * float64(time.Millisecond) * float64(1+random.IntN(20))))
			b.request(now, l)
			requests = append(requests, now.Sub(start))
			for b.retry(now, l) {
				retries = append(retries, now.Sub(start))
				share := within(retries, interval-part)*100 <= percent*within(requests, interval)
				rate := within(retries, time.Second-time.Second/budgetBuckets) <= minRetries
				if !share && !rate {
					t.Fatalf("seed %d: after %s a retry is one too many: %d within %s of %d requests, limit %d%% or %d per second",
						seed, now.Sub(start), within(retries, interval), interval, within(requests, interval), percent, minRetries)
				}
			}
			if (within(retries, interval)+1)*100 <= percent*within(requests, interval-part) {
				t.Fatalf("seed %d: after %s a retry was refused: %d within %s of %d requests, limit %d%%",
					seed, now.Sub(start), within(retries, interval), interval, within(requests, interval), percent)
			}
		}
		if percent > 5 && minRetries == 0 && len(retries)*100 > percent*len(requests) {
			t.Errorf("seed %d: %d retries of %d requests in all, limit %d%%", seed, len(retries), len(requests), percent)
		}
	}
}

func TestBudgetCountsWhatComesAtOnce(t *testing.T) {
	const goroutines, each = 8, 1000
	l := budgetLimits(20, time.Minute, 0, time.Second)
	now := time.Now()
	b := newBudget(now)
	var running sync.WaitGroup
	granted := make([]int, goroutines)
	for i := range goroutines {
		running.Go(func() {
			for range each {
				b.request(now, l)
				granted[i] += grant(b, now, l, 1)
			}
		})
	}
	running.Wait()
	granted[0] += grant(b, now, l, goroutines*each)
	total := 0
	for _, n := range granted {
		total += n
	}
	if want := goroutines * each / 5; total != want {
		t.Errorf("%d retries of %d requests, want %d", total, goroutines*each, want)
	}
}

// BenchmarkBudget counts the requests that all pass one budget at once.
func BenchmarkBudget(b *testing.B) {
	l := budgetLimits(20, 10*time.Second, 10, time.Second)
	counted := newBudget(time.Now())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			counted.request(time.Now(), l)
		}
	})
}
