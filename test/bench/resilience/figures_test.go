package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/bench/figures"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	second := time.Second
	outcomes := []outcome{
		// Due before and answered within, due within and answered after.
		{at: 9 * second / 10, took: second / 5, status: 200},
		{at: 2900 * ms, took: second / 5, status: 200},
		{at: 1 * second, took: 10 * ms, status: 200},
		{at: 2 * second, took: 20 * ms, status: 503},
		{at: 2 * second, took: second / 2, status: gaveUp},
		{at: 2 * second, took: second / 2, status: gaveUp},
		{at: 8 * second, took: 0, status: broke},
	}
	late := []time.Duration{1 * ms, 2 * ms, 3 * ms}
	arrivals := []arrival{{at: second / 2}, {at: second}, {at: second, instance: 1}, {at: 2 * second}, {at: 3 * second}}
	got := judge(outcomes, late, arrivals, second, 3*second)
	want := offered{
		load: 2.5, goodput: 1, refused: 0.5, gaveUp: 1, tries: 1.5, p50: 10 * ms, p99: 200 * ms,
		quality: quality{broke: 1, late: 3 * ms},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(offered{}, quality{})); diff != "" {
		t.Errorf("judge (-want +got):\n%s", diff)
	}
}

// met returns the names of the figures with a goal and whether they met it.
func met(all []figures.Figure) map[string]bool {
	goals := map[string]bool{}
	for _, f := range all {
		if f.Met != nil {
			goals[f.Name] = *f.Met
		}
	}
	return goals
}

// valued returns the values of figures by their names.
func valued(all []figures.Figure) map[string]float64 {
	values := map[string]float64{}
	for _, f := range all {
		values[f.Name] = *f.Value
	}
	return values
}

func TestWorst(t *testing.T) {
	t.Parallel()
	got := worst(quality{0, 3 * ms}, quality{2, ms}, quality{1, 2 * ms}, quality{})
	if diff := cmp.Diff(map[string]float64{"requests cut off": 3, lateFigure: 3}, valued(got)); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"requests cut off": false}, met(got)); diff != "" {
		t.Errorf("goals (-want +got):\n%s", diff)
	}
	if !met(worst(quality{0, time.Hour}))["requests cut off"] {
		t.Error("a goal is missed although nothing was cut off")
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	late := func(scenario string, d time.Duration) figures.Figure {
		return figures.New(scenario+": "+lateFigure, milliseconds(d), "ms")
	}
	got := busy([]figures.Figure{late("slow", lateLimit), late("storm", lateLimit+5*ms), figures.New("storm: p99", 999, "ms")})
	if strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "storm: ") || !strings.Contains(got, "25 ms late") {
		t.Errorf("%q, want a line about storm alone", got)
	}
}

func TestSlowFigures(t *testing.T) {
	t.Parallel()
	win := slowResult{after: 1, p99: 30 * ms, recovery: time.Second, recovered: true}
	slower := slowResult{after: 3, p99: 90 * ms, recovery: time.Second, recovered: true}
	goals := func(share, sharePlace, latencyPlace, recovery bool) map[string]bool {
		return map[string]bool{
			"PeakEWMA: share of the slow one": share, "PeakEWMA: place by share": sharePlace,
			"PeakEWMA: place by p99": latencyPlace, "PeakEWMA: in use again after": recovery,
			"requests cut off": true,
		}
	}
	tests := map[string]struct {
		first, second slowResult
		want          map[string]bool
	}{
		"it wins":                      {win, slower, goals(true, true, true, true)},
		"it loses":                     {slower, win, goals(false, false, false, true)},
		"it is no better than another": {win, win, goals(true, false, false, true)},
		"it never uses the slow one again": {
			slowResult{after: 1, p99: 30 * ms}, slower, goals(true, true, true, false),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, met(slowFigures([]slowResult{tc.first, tc.second, slower}, recoveryLimit))); diff != "" {
				t.Errorf("met (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecoveryHasNoGoalIfItWasNotWatchedForLong(t *testing.T) {
	t.Parallel()
	all := []slowResult{{}, {}, {}}
	if _, judged := met(slowFigures(all, recoveryLimit-1))["PeakEWMA: in use again after"]; judged {
		t.Error("a recovery is missed that may have come later")
	}
	all[0] = slowResult{recovery: time.Second, recovered: true}
	if !met(slowFigures(all, recoveryLimit-1))["PeakEWMA: in use again after"] {
		t.Error("a recovery within a second does not count")
	}
}

func TestOverloadBound(t *testing.T) {
	t.Parallel()
	// 16 requests at 200 a second take 80ms.
	if got, want := overloadBound(200), 80*ms+overloadPending+overloadMargin; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTookOfNothing(t *testing.T) {
	t.Parallel()
	if f := took("p99", 0).AtMost(1); f.Value != nil || *f.Met {
		t.Errorf("%s, want no value that meets no goal", f)
	}
	if f := took("p99", 1500*time.Microsecond).AtMost(1.5); *f.Value != 1.5 || !*f.Met {
		t.Errorf("%s, want 1.5 ms", f)
	}
}

func TestSplitFigures(t *testing.T) {
	t.Parallel()
	const share, count, failures, connections = "20% on it", "it: requests for each share", "it: not answered 200", "it: connections"
	tests := map[string]struct {
		result splitResult
		want   map[string]bool
		goal   string
	}{
		"the declared share is in the interval": {
			splitResult{percent: 20, first: 2100, second: 7900},
			map[string]bool{share: true, count: true, failures: true, connections: true}, "19.691 <= 20 <= 22.371",
		},
		"it is just outside": {
			splitResult{percent: 20, first: 2133, second: 7867},
			map[string]bool{share: false, count: true, failures: true, connections: true}, "20.013 <= 20 <= 22.709",
		},
		"there were fewer requests than planned": {
			splitResult{percent: 20, first: 2000, second: 7999},
			map[string]bool{share: true, count: false, failures: true, connections: true}, "18.718 <= 20 <= 21.350",
		},
		"requests failed": {
			splitResult{percent: 20, first: 2000, second: 8000, failed: 1},
			map[string]bool{share: true, count: true, failures: false, connections: true}, "18.717 <= 20 <= 21.348",
		},
		"nothing was counted": {
			splitResult{percent: 20},
			map[string]bool{share: false, count: false, failures: true, connections: true}, "0.000 <= 20 <= 100.000",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := splitFigures(&splitProtocol{name: "it"}, []splitResult{tc.result}, 10_000, 2)
			if diff := cmp.Diff(tc.want, met(got)); diff != "" {
				t.Errorf("met (-want +got):\n%s", diff)
			}
			if got[0].Goal != tc.goal {
				t.Errorf("goal %q, want %q", got[0].Goal, tc.goal)
			}
		})
	}
}

func TestSplitFiguresCountConnections(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		one         bool
		connections int
		want        bool
	}{{true, 1, true}, {true, 2, false}, {false, 1, false}, {false, 9, true}} {
		p := &splitProtocol{name: "it", one: tc.one}
		got := met(splitFigures(p, []splitResult{{percent: 50, first: 1, second: 1}}, 2, tc.connections))
		if got["it: connections"] != tc.want {
			t.Errorf("%d connections, one only: %t; met is %t", tc.connections, tc.one, !tc.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	good, bad := figures.New("p99", 5, "ms").AtMost(5), figures.New("goodput", 80, "%").AtLeast(85)
	if got, want := verdict([]figures.Figure{good, figures.New("load", 1, "")}), "all of 1 goals were met"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := verdict([]figures.Figure{good, bad}); !strings.HasPrefix(got, "1 of 2 goals were not met") || !strings.Contains(got, "goodput: 80.00 %") {
		t.Errorf("%q does not name what was missed", got)
	}
}
