package outlier

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func defaults() Policy { return PolicyOf(wire.DefaultPolicy().OutlierEjection) }

func TestFailuresInARow(t *testing.T) {
	verdicts := map[byte]Verdict{'+': Success, '-': Failure, '.': Neutral}
	for name, tc := range map[string]struct {
		limit    int
		requests string
		want     string // x where there are too many
	}{
		"five in a row":            {5, "-----", "    x"},
		"a success between":        {5, "----+-----", "         x"},
		"nobody's fault between":   {5, "--..--.-", "       x"},
		"one is enough":            {1, "+-", " x"},
		"more, if it stays in use": {2, "----", " xxx"},
		"disabled":                 {0, "----------", "          "},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaults()
			p.ConsecutiveFailures = tc.limit
			var s State
			for i := range tc.requests {
				var tooMany bool
				s, tooMany = s.Record(p, verdicts[tc.requests[i]])
				if want := i < len(tc.want) && tc.want[i] == 'x'; tooMany != want {
					t.Fatalf("after %q: too many is %v", tc.requests[:i+1], tooMany)
				}
			}
		})
	}
}

func TestFailuresThatSetAnEndpointApart(t *testing.T) {
	for name, tc := range map[string]struct {
		limit           int
		recently, since Sample
		want            int
	}{
		"it has no peers":                     {5, Sample{}, Sample{}, 5},
		"its peers do well":                   {5, Sample{Requests: 100}, Sample{Requests: 15}, 5},
		"few of their requests fail":          {5, Sample{Requests: 100, Failures: 10}, Sample{}, 5},
		"a third of theirs fail":              {5, Sample{Requests: 300, Failures: 100}, Sample{Requests: 15}, 11},
		"half of theirs fail":                 {5, Sample{Requests: 100, Failures: 50}, Sample{}, 17},
		"half of theirs have begun to fail":   {5, Sample{Requests: 300}, Sample{Requests: 15, Failures: 8}, 19},
		"one of them may be by chance":        {5, Sample{Requests: 300}, Sample{Requests: 14, Failures: 1}, 5},
		"none of very few is none":            {5, Sample{}, Sample{Requests: 1}, 5},
		"nearly all of theirs fail":           {5, Sample{Requests: 100, Failures: 99}, Sample{}, 1146},
		"all of theirs fail":                  {5, Sample{Requests: 100, Failures: 100}, Sample{}, math.MaxInt},
		"theirs are too few to say":           {5, Sample{Requests: 19, Failures: 19}, Sample{}, 5},
		"one failure is enough if peers work": {1, Sample{Requests: 100, Failures: 5}, Sample{}, 1},
		"and not if half of theirs fail":      {1, Sample{Requests: 100, Failures: 50}, Sample{}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaults()
			p.ConsecutiveFailures = tc.limit
			if got := p.Apart(tc.recently, tc.since); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

func TestEjectionsDoubleUntilTheEndpointBehaves(t *testing.T) {
	p := defaults()
	var s State
	now := time.Hour
	eject := func(want time.Duration) {
		t.Helper()
		s = s.Eject(p, now, 0)
		if got := s.Until() - now; got != want {
			t.Errorf("ejected for %v, want %v", got, want)
		}
		if s.Due(s.Until()-1) || !s.Due(s.Until()) {
			t.Error("a probe is not due exactly at the end")
		}
		now = s.Until()
	}
	fail := func(want time.Duration) {
		t.Helper()
		s = s.Probed(now).Conclude(p, Failure, now, 0)
		if got := s.Until() - now; got != want {
			t.Errorf("ejected for %v after a failed probe, want %v", got, want)
		}
		now = s.Until()
	}
	behave := func(behaves time.Duration) {
		t.Helper()
		s = s.Probed(now).Conclude(p, Success, now, 0)
		if s.Ejected {
			t.Error("still ejected after a successful probe")
		}
		now += behaves
	}
	eject(5 * time.Second)
	fail(10 * time.Second)
	fail(20 * time.Second)
	behave(0)
	eject(40 * time.Second)
	behave(40 * time.Second) // that one is forgiven
	eject(40 * time.Second)
	behave((40 + 20) * time.Second)
	eject(20 * time.Second)
	behave((20+10+5)*time.Second - 1)
	eject(10 * time.Second)
	behave((10 + 5) * time.Second)
	eject(5 * time.Second)
	for _, seconds := range []int{10, 20, 40, 80, 160, 300, 300, 300} {
		fail(time.Duration(seconds) * time.Second)
	}
	behave((300 + 160 + 80 + 40 + 20 + 10 + 5) * time.Second)
	eject(5 * time.Second)
}

func TestProbe(t *testing.T) {
	p := defaults()
	const end = 5 * time.Second
	ejected := State{}.Eject(p, 0, 0)
	probed := ejected.Probed(end)
	for name, tc := range map[string]struct {
		state     State
		now       time.Duration
		due       bool
		streaming bool
	}{
		"not before the end":          {state: ejected, now: end - 1},
		"at the end":                  {state: ejected, now: end, due: true},
		"only one":                    {state: probed, now: end},
		"none while there is one":     {state: probed, now: 2*end - 1},
		"another if nothing is heard": {state: probed, now: 2 * end, due: true},
		"no verdict, so another":      {state: probed.Conclude(p, Neutral, end, 0), now: end, due: true},
		"answering":                   {state: probed.Answered(end, 0), now: end + answeredFor - 1},
		"answering for long":          {state: probed.Answered(end, 0), now: end + answeredFor, streaming: true},
		"in use again":                {state: probed.Conclude(p, Success, end, 0), now: time.Hour},
		"failed":                      {state: probed.Conclude(p, Failure, end, 0), now: 3*end - 1},
		"failed, after its time":      {state: probed.Conclude(p, Failure, end, 0), now: 3 * end, due: true},
		"a verdict without a probe":   {state: ejected.Conclude(p, Success, end, 0), now: end, due: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.state.Due(tc.now); got != tc.due {
				t.Errorf("due: %v", got)
			}
			if got := tc.state.Streaming(tc.now); got != tc.streaming {
				t.Errorf("streaming: %v", got)
			}
		})
	}
}

func TestProbeOfASlowEndpointMustBeFast(t *testing.T) {
	p := defaults()
	const bar = 40 * time.Millisecond
	due := State{}.Eject(p, 0, bar)
	now := due.Until()
	if s := due.Probed(now).Conclude(p, Success, now, bar); s.Ejected {
		t.Error("a fast answer does not end the ejection")
	}
	again := due.Probed(now).Conclude(p, Success, now, bar+1)
	if !again.Ejected || again.Until() != now+2*p.EjectionTime {
		t.Errorf("a slow answer: %+v", again)
	}
	if again.Probed(again.Until()).Answered(again.Until(), bar+1).Streaming(again.Until() + time.Minute) {
		t.Error("a slow answer that goes on counts as a success")
	}
	if s := again.Probed(again.Until()).Conclude(p, Success, again.Until(), bar+1); !s.Ejected {
		t.Error("the bar is forgotten with the second ejection")
	}
}

func TestBarOfPeers(t *testing.T) {
	const ms = time.Millisecond
	of := func(d time.Duration) Sample { return Sample{Requests: 20, Timed: 20, Latency: d} }
	for name, tc := range map[string]struct {
		factor  int
		samples []Sample
		want    time.Duration
	}{
		"odd":             {3, []Sample{of(30 * ms), of(10 * ms), of(20 * ms)}, 60 * ms},
		"even":            {3, []Sample{of(30 * ms), of(10 * ms)}, 60 * ms},
		"one":             {3, []Sample{of(10 * ms)}, 30 * ms},
		"the floor":       {3, []Sample{of(ms / 10)}, ms},
		"too few":         {3, []Sample{{Requests: 19, Timed: 19, Latency: ms}}, 0},
		"nobody":          {3, nil, 0},
		"without latency": {0, []Sample{of(10 * ms)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaults()
			p.LatencyFactor = tc.factor
			if got := Bar(p, tc.samples); got != tc.want {
				t.Errorf("the bar is %s, want %s", got, tc.want)
			}
		})
	}
	failed := State{}.Eject(defaults(), 0, 0).Against(ms)
	if now := failed.Until(); failed.Probed(now).Conclude(defaults(), Success, now, time.Hour).Ejected {
		t.Error("an endpoint that was not ejected for its latency is held to one")
	}
	slow := State{}.Eject(defaults(), 0, ms).Against(0)
	if now := slow.Until(); !slow.Probed(now).Conclude(defaults(), Success, now, 2*ms).Ejected {
		t.Error("the bar is forgotten although there is no other")
	}
}

func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	fine := Sample{Requests: 100, Timed: 100, Latency: 10 * ms}
	failing := func(n int) Sample { return Sample{Requests: 100, Failures: n, Timed: 100 - n, Latency: 10 * ms} }
	slow := func(d time.Duration) Sample { return Sample{Requests: 100, Timed: 100, Latency: d} }
	for name, tc := range map[string]struct {
		rate, factor int
		samples      []Sample
		want         []Outlier
	}{
		"all fine":             {90, 3, []Sample{fine, fine, fine}, nil},
		"disabled":             {0, 0, []Sample{fine, failing(99), slow(time.Hour)}, nil},
		"exactly the rate":     {90, 0, []Sample{fine, failing(10)}, nil},
		"below the rate":       {90, 0, []Sample{fine, failing(11)}, []Outlier{{1, SuccessRate, 0}}},
		"the worst first":      {90, 0, []Sample{failing(20), failing(90), failing(30)}, []Outlier{{1, SuccessRate, 0}, {2, SuccessRate, 0}, {0, SuccessRate, 0}}},
		"too few requests":     {90, 3, []Sample{fine, {Requests: 19, Failures: 19}, {Requests: 19, Timed: 19, Latency: time.Hour}}, nil},
		"exactly the factor":   {0, 3, []Sample{fine, fine, slow(30 * ms)}, nil},
		"over the factor":      {0, 3, []Sample{fine, fine, slow(31 * ms)}, []Outlier{{2, Latency, 30 * ms}}},
		"one of two":           {0, 3, []Sample{slow(100 * ms), fine}, []Outlier{{0, Latency, 30 * ms}}},
		"median of even peers": {0, 2, []Sample{slow(10 * ms), slow(20 * ms), slow(41 * ms), slow(30 * ms), slow(1 * ms)}, []Outlier{{2, Latency, 30 * ms}}},
		"most are slow":        {0, 3, []Sample{fine, slow(100 * ms), slow(100 * ms), slow(100 * ms)}, nil},
		"no peer":              {0, 3, []Sample{slow(time.Hour)}, nil},
		"no peer with enough":  {0, 3, []Sample{slow(time.Hour), {Requests: 5, Timed: 5, Latency: ms}}, nil},
		"too fast to matter":   {0, 3, []Sample{slow(50 * time.Microsecond), slow(900 * time.Microsecond)}, nil},
		"failing before slow":  {90, 3, []Sample{slow(time.Second), fine, fine, failing(50)}, []Outlier{{3, SuccessRate, 0}, {0, Latency, 30 * ms}}},
		"no requests":          {90, 3, []Sample{{}, {}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaults()
			p.SuccessRatePercent, p.LatencyFactor = tc.rate, tc.factor
			if diff := cmp.Diff(tc.want, Judge(p, tc.samples)); diff != "" {
				t.Errorf("outliers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllowedAndPanic(t *testing.T) {
	for _, tc := range []struct{ n, percent, want int }{
		{0, 50, 0}, {1, 100, 0}, {2, 0, 1}, {2, 100, 1}, {3, 50, 1}, {4, 50, 2}, {5, 50, 2}, {5, 100, 4}, {10, 10, 1}, {10, 5, 1}, {10, 29, 2},
	} {
		if got := Allowed(tc.n, tc.percent); got != tc.want {
			t.Errorf("of %d endpoints at %d%%: %d, want %d", tc.n, tc.percent, got, tc.want)
		}
	}
	for _, tc := range []struct {
		usable, n, percent int
		want               bool
	}{
		{3, 10, 30, false}, {2, 10, 30, true}, {0, 10, 0, false}, {0, 1, 1, true}, {0, 0, 30, false}, {10, 10, 100, false},
	} {
		if got := Panic(tc.usable, tc.n, tc.percent); got != tc.want {
			t.Errorf("%d usable of %d at %d%%: %v", tc.usable, tc.n, tc.percent, got)
		}
	}
}

// TestShareOfAnEndpointThatNeverRecovers plays a Service with one endpoint that answers every probe with a
// failure and counts what it gets after its ejection.
func TestShareOfAnEndpointThatNeverRecovers(t *testing.T) {
	p := defaults()
	const perSecond = 50
	s := State{}.Eject(p, 0, 0)
	probes, total := 0, 0
	for now := time.Duration(0); now < 10*time.Minute; now += time.Second / perSecond {
		total++
		if s.Due(now) {
			probes++
			s = s.Probed(now).Conclude(p, Failure, now, 0)
		}
		if share := float64(probes) / float64(total); share > 0.01 {
			t.Fatalf("%.2f%% of requests after %v", 100*share, now)
		}
	}
	if probes < 5 || probes > 8 {
		t.Errorf("%d probes in 10 minutes", probes)
	}
}

// TestAnyHistory holds what must be true after any sequence of events.
func TestAnyHistory(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	p := defaults()
	for range 2000 {
		var s State
		var now time.Duration
		probes := 0
		for range 60 {
			now += time.Duration(random.Int64N(int64(20 * time.Second)))
			v := Verdict(random.IntN(3))
			before := s
			switch {
			case !s.Ejected:
				var tooMany bool
				if s, tooMany = s.Record(p, v); tooMany {
					s = s.Eject(p, now, 0)
				}
				probes = 0
			case s.Due(now):
				s = s.Probed(now)
				if probes++; s.Due(now) {
					t.Fatalf("two probes at once: %+v", s)
				}
			case probes > 0:
				s = s.Conclude(p, v, now, 0)
			}
			if s.Ejected && s.Next() == never || !s.Ejected && s.Next() != never {
				t.Fatalf("nothing is due: %+v", s)
			}
			if s.Ejected && s.Until() != before.Until() {
				if lasts := s.Until() - now; lasts < p.EjectionTime || lasts > p.MaxEjectionTime {
					t.Fatalf("ejected for %v: %+v", lasts, s)
				}
				if before.Ejected && s.lasts < before.lasts {
					t.Fatalf("a failed probe made the ejection shorter: %+v", s)
				}
			}
			if before.Ejected && !s.Ejected && v != Success {
				t.Fatalf("in use again without a success: %+v", before)
			}
		}
	}
}
