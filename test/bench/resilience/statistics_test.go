package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func TestQuantile(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*ms)
	}
	tests := map[string]struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		"nothing was measured":            {nil, 0.99, 0},
		"one value is every quantile":     {[]time.Duration{7 * ms}, 0.01, 7 * ms},
		"the median of an even number":    {[]time.Duration{4 * ms, 1 * ms, 3 * ms, 2 * ms}, 0.5, 2 * ms},
		"p99 of a hundred leaves one out": {hundred, 0.99, 99 * ms},
		"the whole is the maximum":        {hundred, 1, 100 * ms},
		"no share at all is the minimum":  {hundred, 0, 1 * ms},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := quantile(tc.values, tc.p); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	values := []float64{3, 1, 2, 3}
	for i, want := range []int{4, 1, 2, 4} {
		if got := place(values, i); got != want {
			t.Errorf("%v is in place %d of %v, want %d", values[i], got, values, want)
		}
	}
}

func TestOutcomesAreChosen(t *testing.T) {
	t.Parallel()
	var (
		early  = outcome{at: 0, took: 1500 * ms, status: 200}
		first  = outcome{at: time.Second, took: time.Second, status: 503}
		last   = outcome{at: 2*time.Second - 1, took: 1, status: 200}
		beyond = outcome{at: 2 * time.Second, status: 200}
		given  = outcome{at: time.Second, took: 900 * ms, status: gaveUp}
	)
	all := []outcome{early, first, last, beyond, given}
	for name, tc := range map[string]struct{ got, want []outcome }{
		"by when they were due":    {dueBetween(all, time.Second, 2*time.Second), []outcome{first, last, given}},
		"by when they ended":       {endedBetween(all, time.Second, 2*time.Second), []outcome{early, given}},
		"by their answer":          {withStatus(all, 200), []outcome{early, last, beyond}},
		"by not having an answer":  {withStatus(all, gaveUp), []outcome{given}},
		"and none may be the rest": {dueBetween(all, time.Hour, 2*time.Hour), nil},
	} {
		if diff := cmp.Diff(tc.want, tc.got, cmp.AllowUnexported(outcome{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 1}, times([]outcome{first, last})); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	if got := rate(30, 4*time.Second); got != 7.5 {
		t.Errorf("30 in 4s are %v a second, want 7.5", got)
	}
	if got := percentage(1, 8); got != 12.5 {
		t.Errorf("1 of 8 is %v%%, want 12.5%%", got)
	}
	if got := percentage(0, 0); got != 0 {
		t.Errorf("nothing of nothing is %v%%, want 0%%", got)
	}
}

// every returns arrivals of one request each 10ms in [from, to), of which every nth reaches instance 3 and
// the others 0.
func every(nth int, from, to time.Duration) []arrival {
	var out []arrival
	for i := 0; from < to; i, from = i+1, from+10*ms {
		a := arrival{at: from}
		if nth > 0 && i%nth == 0 {
			a.instance = 3
		}
		out = append(out, a)
	}
	return out
}

func TestShare(t *testing.T) {
	t.Parallel()
	arrivals := append(every(10, 0, time.Second), every(100, time.Second, 3*time.Second)...)
	tests := map[string]struct {
		from, to time.Duration
		want     float64
		wantAll  int
	}{
		"before the change":    {0, time.Second, 10, 100},
		"after the change":     {time.Second, 3 * time.Second, 1, 200},
		"over both":            {0, 3 * time.Second, 4, 300},
		"when nothing arrives": {4 * time.Second, 5 * time.Second, 0, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, all := share(arrivals, 3, tc.from, tc.to)
			if got != tc.want || all != tc.wantAll {
				t.Errorf("%v%% of %d, want %v%% of %d", got, all, tc.want, tc.wantAll)
			}
		})
	}
}

func TestRegained(t *testing.T) {
	t.Parallel()
	const window = 500 * ms
	tests := map[string]struct {
		arrivals []arrival
		want     time.Duration
		wantOK   bool
	}{
		"the share never fell": {every(10, 0, 6*time.Second), window, true},
		"it comes back two seconds later": {
			append(every(0, 0, 3*time.Second), every(10, 3*time.Second, 6*time.Second)...),
			// 3 of the 50 requests of a window are more than 5%; the third comes 200ms after the first.
			2*time.Second + 250*ms, true,
		},
		"a share from before does not count": {
			append(every(2, 0, time.Second), every(0, time.Second, 6*time.Second)...), 0, false,
		},
		"it stays too small":          {every(50, 0, 6*time.Second), 0, false},
		"it comes back after the end": {append(every(0, 0, 6*time.Second), every(2, 6*time.Second, 9*time.Second)...), 0, false},
		"nothing arrives":             {nil, 0, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := regained(tc.arrivals, 3, 5, time.Second, 6*time.Second, window)
			if got != tc.want || ok != tc.wantOK {
				t.Errorf("%s, %t; want %s, %t", got, ok, tc.want, tc.wantOK)
			}
		})
	}
}

func TestWilson(t *testing.T) {
	t.Parallel()
	// The first three are usual examples at 95%. Nothing of n excludes z²/(n+z²) and more, and all of n the
	// complement.
	tests := map[string]struct {
		hits, n int
		z       float64
		want    interval
	}{
		"half of ten":     {5, 10, 1.959963984540054, interval{0.2366, 0.7634}},
		"one of ten":      {1, 10, 1.959963984540054, interval{0.0179, 0.4042}},
		"ten of hundred":  {10, 100, 1.959963984540054, interval{0.0552, 0.1744}},
		"none":            {0, 100, 2, interval{0, 0.0385}},
		"all":             {100, 100, 2, interval{0.9615, 1}},
		"no observations": {0, 0, z999, interval{0, 1}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := wilson(tc.hits, tc.n, tc.z)
			if math.Abs(got.low-tc.want.low) > 5e-5 || math.Abs(got.high-tc.want.high) > 5e-5 {
				t.Errorf("[%.4f, %.4f], want [%.4f, %.4f]", got.low, got.high, tc.want.low, tc.want.high)
			}
		})
	}
}

// TestWilsonHoldsSharesThatAreNear: an end of the interval is the share of which the observation is exactly
// z standard deviations away, which is what makes it one.
func TestWilsonHoldsSharesThatAreNear(t *testing.T) {
	t.Parallel()
	const n = 100_000
	for _, hits := range []int{1, 1000, 20_000, 50_000, 99_000} {
		got, p := wilson(hits, n, z999), float64(hits)/n
		for _, end := range []float64{got.low, got.high} {
			if z := math.Abs(p-end) / math.Sqrt(end*(1-end)/n); math.Abs(z-z999) > 1e-6 {
				t.Errorf("%d of %d: end %v is %v standard deviations away, want %v", hits, n, end, z, z999)
			}
		}
		if !got.holds(p) || got.holds(got.low-1e-9) || got.holds(got.high+1e-9) {
			t.Errorf("%d of %d: [%v, %v] does not end where it says", hits, n, got.low, got.high)
		}
	}
}
