package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		// Not in order.
		hundred[i] = time.Duration((i*37)%100+1) * ms
	}
	tests := map[string]struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		"none":                         {p: 0.5},
		"one":                          {values: []time.Duration{7 * ms}, p: 0.01, want: 7 * ms},
		"lower middle of two":          {values: []time.Duration{9 * ms, 1 * ms}, p: 0.5, want: 1 * ms},
		"middle of three":              {values: []time.Duration{9 * ms, 1 * ms, 5 * ms}, p: 0.5, want: 5 * ms},
		"p50 of a hundred":             {values: hundred, p: 0.5, want: 50 * ms},
		"p99 of a hundred":             {values: hundred, p: 0.99, want: 99 * ms},
		"the largest":                  {values: hundred, p: 1, want: 100 * ms},
		"the smallest":                 {values: hundred, p: 0, want: 1 * ms},
		"negative ones are values too": {values: []time.Duration{2 * ms, -3 * ms, 1 * ms}, p: 0, want: -3 * ms},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := append([]time.Duration{}, tc.values...)
			if got := percentile(tc.values, tc.p); got != tc.want {
				t.Errorf("percentile(%v) = %v, want %v", tc.p, got, tc.want)
			}
			if diff := cmp.Diff(before, append([]time.Duration{}, tc.values...)); diff != "" {
				t.Errorf("the values were changed (-before +after):\n%s", diff)
			}
		})
	}
}

// threeEdits is a measurement of three edits, the last of which had no effect.
func threeEdits() *measurement {
	return &measurement{
		edits: []edit{
			{effect: 30 * ms, everywhere: 31 * ms, watch: 10 * ms, programmed: 40 * ms, gap: 1 * ms},
			{effect: 15 * ms, everywhere: 18 * ms, watch: 20 * ms, programmed: 50 * ms, gap: 2 * ms},
			{watch: 30 * ms},
		},
		requests: 4000, elapsed: 2 * time.Second, failed: 3,
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	want := `ms                n       p50       p90       p99       max
effect            2     15.00     30.00     30.00     30.00
watch             3     20.00     30.00     30.00     30.00
difference        2     -5.00     20.00     20.00     20.00
everywhere        2     18.00     31.00     31.00     31.00
programmed        2     40.00     50.00     50.00     50.00
probe gap         2      1.00      2.00      2.00      2.00
`
	if diff := cmp.Diff(want, table(threeEdits().rows())); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestResultsSayWhichGoalsWereMet(t *testing.T) {
	t.Parallel()
	slow := &measurement{
		edits:    []edit{{effect: 71 * ms, watch: 20 * ms}},
		requests: 10, elapsed: 20 * ms, wrong: 1,
	}
	nothing := &measurement{edits: []edit{{}, {}}}
	tests := map[string]struct {
		measured *measurement
		want     []string
	}{
		"a good run but for three answers and an edit": {
			measured: threeEdits(),
			want: []string{
				"effect p50 minus watch p50: -5.00 ms, goal <= 50: met",
				"mean time between probes: 0.50 ms, goal <= 1: met",
				"edits without effect: 1.00 edits, goal <= 0: not met",
				"answers other than 200: 3.00 answers, goal <= 0: not met",
				"answers from the wrong backend: 0.00 answers, goal <= 0: met",
			},
		},
		"slow, coarse and wrong": {
			measured: slow,
			want: []string{
				"effect p50 minus watch p50: 51.00 ms, goal <= 50: not met",
				"mean time between probes: 2.00 ms, goal <= 1: not met",
				"edits without effect: 0.00 edits, goal <= 0: met",
				"answers other than 200: 0.00 answers, goal <= 0: met",
				"answers from the wrong backend: 1.00 answers, goal <= 0: not met",
			},
		},
		"nothing came": {
			measured: nothing,
			want: []string{
				"effect p50 minus watch p50: none, goal <= 50: not met",
				"mean time between probes: none, goal <= 1: not met",
				"edits without effect: 2.00 edits, goal <= 0: not met",
				"answers other than 200: 0.00 answers, goal <= 0: met",
				"answers from the wrong backend: 0.00 answers, goal <= 0: met",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, r := range tc.measured.results(tc.measured.rows()) {
				if r.Goal != "" {
					got = append(got, r.String())
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("goals (-want +got):\n%s", diff)
			}
		})
	}
}
