// Package outlier decides when an endpoint is taken out of use because it fails or is much slower than its
// peers, and when it is tried again. Everything here is a function from values to values: time comes in as
// the time elapsed since some start, and who counts requests and keeps the State of an endpoint is the
// caller's business.
package outlier

import (
	"cmp"
	"math"
	"slices"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Policy is wire.OutlierEjection with every field set; see there.
type Policy struct {
	ConsecutiveFailures, SuccessRatePercent, LatencyFactor int
	Interval                                               time.Duration
	MinRequests                                            int
	EjectionTime, MaxEjectionTime                          time.Duration
	MaxEjectedPercent, PanicPercent                        int
}

// PolicyOf copies a policy of which every field is set.
func PolicyOf(w *wire.OutlierEjection) Policy {
	return Policy{
		ConsecutiveFailures: *w.ConsecutiveFailures,
		SuccessRatePercent:  *w.SuccessRatePercent,
		LatencyFactor:       *w.LatencyFactor,
		Interval:            time.Duration(*w.Interval),
		MinRequests:         *w.MinRequests,
		EjectionTime:        time.Duration(*w.EjectionTime),
		MaxEjectionTime:     time.Duration(*w.MaxEjectionTime),
		MaxEjectedPercent:   *w.MaxEjectedPercent,
		PanicPercent:        *w.PanicPercent,
	}
}

// ByInterval tells whether endpoints are judged by what they did in an interval.
func (p Policy) ByInterval() bool { return p.SuccessRatePercent > 0 || p.LatencyFactor > 0 }

// length is how long an ejection that was doubled level times lasts. At least a millisecond, so that a policy without
// time still lets a single request through at once.
//
// An endpoint that does not recover gets one request per ejection, so after n of them, in a time of
// (2^n-1)*EjectionTime: at the default of 5 s three in 35 s and six in the first 5 minutes. At 50 requests
// per second that is 0.4% of what the Service got after 5 s, 0.17% after 35 s and 0.04% after 5 minutes.
func (p Policy) length(level int) time.Duration {
	longest := max(p.MaxEjectionTime, p.EjectionTime)
	length := max(p.EjectionTime, time.Millisecond)
	for ; level > 0 && length < longest; level-- {
		length *= 2
	}
	return min(length, max(longest, time.Millisecond))
}

// Allowed is how many of n endpoints may be ejected at once: a share of percent, but of several one may
// always be, and the last never is.
func Allowed(n, percent int) int { return max(0, min(max(1, n*percent/100), n-1)) }

// Panic tells whether so few of n endpoints are usable that all of them are used.
func Panic(usable, n, percent int) bool { return usable*100 < n*percent }

// Verdict is what one request says about its endpoint.
type Verdict uint8

const (
	// Neutral is a request that says nothing, for example because the client went away.
	Neutral Verdict = iota
	// Success is an answer that is no failure.
	Success
	// Failure is what wire.OutlierEjection calls one.
	Failure
)

// Cause is why an endpoint was ejected, a label of metrics.
type Cause string

// The causes. Probe is the failure of the request that was let through after an ejection.
const (
	ConsecutiveFailures Cause = "consecutive_failures"
	SuccessRate         Cause = "success_rate"
	Latency             Cause = "latency"
	Probe               Cause = "probe"
)

// State is what is known about one endpoint. The zero State is that of one that is new.
type State struct {
	// Failures counts those in a row while the endpoint is in use.
	Failures int
	// Ejected endpoints are not in use. After until one request is let through, the probe.
	Ejected bool

	until, lasts time.Duration
	// level is how often the next ejection is doubled, less what is forgiven until then; returned is when
	// the last one ended.
	level    int
	returned time.Duration
	// bar is how long the answer to a probe may take; zero means that it does not matter.
	bar time.Duration
	// probing tells that the probe is under way, answered that its response has begun, at since.
	probing, answered bool
	since             time.Duration
	// lapses is when another probe may be sent although there is no verdict on this one.
	lapses time.Duration
}

// few is the share of failures up to which failing sets an endpoint apart at once.
const few = 0.1

// Apart returns how many failures in a row set an endpoint apart from its peers: ConsecutiveFailures if few of
// their requests failed. It is told what they did recently, and what they did since its failures began, which
// shows before everything else that all have begun to fail.
//
// Where peers fail as well, an endpoint is no outlier: they have more to do than they can and refuse the rest,
// or what all of them need is gone. To take one out would give the others its load on top. So there must be as
// many failures in a row as are as unlikely at the share of the peers as ConsecutiveFailures are where few
// fail: an endpoint that always fails still has them soon, unless all its peers always fail as well.
func (p Policy) Apart(recently, since Sample) int {
	share := 0.0
	if recently.Requests >= max(p.MinRequests, 1) {
		share = float64(recently.Failures) / float64(recently.Requests)
	}
	if since.Failures > 0 {
		// They are few, so that one more might as well have failed.
		share = max(share, (float64(since.Failures)+0.5)/float64(since.Requests+1))
	}
	switch {
	case share <= few:
		return p.ConsecutiveFailures
	case share >= 1:
		return math.MaxInt
	}
	return int(math.Ceil(float64(p.ConsecutiveFailures) * math.Log(few) / math.Log(share)))
}

// Record takes in the verdict on a request of an endpoint that is in use, and tells whether the endpoint
// has failed too often in a row. It is the caller who ejects it, if there is room.
func (s State) Record(p Policy, v Verdict) (next State, tooMany bool) {
	switch {
	case s.Ejected, v == Neutral:
		return s, false
	case v == Success:
		s.Failures = 0
		return s, false
	}
	s.Failures++
	return s, p.ConsecutiveFailures > 0 && s.Failures >= p.ConsecutiveFailures
}

// Eject takes the endpoint out of use. bar is how long the answer to a probe may take, zero if that does
// not matter.
//
// Each ejection is twice as long as the one before. An endpoint that is in use for as long as its last
// ejection lasted is forgiven that one, so that the next is as if it had not been; if it goes on behaving
// it is forgiven the one before after half that time, and so on: everything, after twice the longest.
func (s State) Eject(p Policy, now, bar time.Duration) State {
	level := s.level
	if !s.Ejected {
		for behaved := now - s.returned; level > 0 && behaved >= p.length(level-1); level-- {
			behaved -= p.length(level - 1)
		}
	}
	lasts := p.length(level)
	next := State{Ejected: true, until: now + lasts, lasts: lasts, level: level, bar: bar}
	if p.length(level+1) > lasts {
		next.level++ // or what is at its longest already would take ever longer to be forgiven
	}
	return next
}

// Return puts the endpoint into use again.
func (s State) Return(now time.Duration) State { return State{level: s.level, returned: now} }

// answeredFor is how long a response may go on before the probe counts as a success although it has not
// ended: what streams for hours must not keep its endpoint out for hours.
const answeredFor = time.Second

// never is later than anything.
const never = time.Duration(1<<63 - 1)

// Next is when something is due for the endpoint: a probe, or the verdict on one whose response has begun
// well; never while it is in use.
func (s State) Next() time.Duration {
	switch {
	case !s.Ejected:
		return never
	case s.answered:
		return s.since + answeredFor
	case s.probing:
		return s.lapses
	}
	return s.until
}

// Until is when the ejection ends at the earliest.
func (s State) Until() time.Duration { return s.until }

// Streaming tells that the probe's response has gone on long enough to be taken for a success.
func (s State) Streaming(now time.Duration) bool { return s.Ejected && s.answered && now >= s.Next() }

// Due tells whether the next request may be the probe.
func (s State) Due(now time.Duration) bool { return s.Ejected && !s.answered && now >= s.Next() }

// Probed lets one request through. Should there never be a verdict on it, another one is after as long as
// the ejection lasted.
func (s State) Probed(now time.Duration) State {
	s.probing, s.lapses = true, now+s.lasts
	return s
}

// Answered notes that the response to the probe has begun, took after the request, and is no failure as far
// as can be told.
func (s State) Answered(now, took time.Duration) State {
	if s.probing && !s.slow(took) {
		s.answered, s.since = true, now
	}
	return s
}

// Against measures the next probe against the present bar of the peers instead of that of when the endpoint was ejected:
// what has become as slow for all is no reason to stay out. Zero says that no bar is known, and endpoints that were not
// ejected for their latency have none.
func (s State) Against(bar time.Duration) State {
	if s.bar > 0 && bar > 0 {
		s.bar = bar
	}
	return s
}

func (s State) slow(took time.Duration) bool { return s.bar > 0 && took > s.bar }

// Conclude takes in the verdict on the probe, whose response began took after the request. Without a
// verdict the next request is the probe.
func (s State) Conclude(p Policy, v Verdict, now, took time.Duration) State {
	switch {
	case !s.probing:
		return s
	case v == Neutral:
		s.probing, s.answered = false, false
		return s
	case v == Failure, s.slow(took):
		return s.Eject(p, now, s.bar)
	}
	return s.Return(now)
}

// Sample is what an endpoint did in an interval.
type Sample struct {
	Requests, Failures int
	// Timed is how many latencies Latency is the mean of.
	Timed   int
	Latency time.Duration
}

// Outlier is an endpoint that stands out. Bar is the latency that it should have kept to, zero if that is
// not the cause.
type Outlier struct {
	Index int
	Cause Cause
	Bar   time.Duration
}

// latencyFloor is what no endpoint is ejected for: differences within it come from scheduling.
const latencyFloor = time.Millisecond

// Judge returns the outliers among the endpoints of a Service in one interval, those that fail before those
// that are slow and the worst first.
func Judge(p Policy, samples []Sample) []Outlier {
	var failing, slow []Outlier
	timed, least := p.timed(samples), p.least()
	for i, s := range samples {
		if p.SuccessRatePercent > 0 && s.Requests >= least && (s.Requests-s.Failures)*100 < s.Requests*p.SuccessRatePercent {
			failing = append(failing, Outlier{Index: i, Cause: SuccessRate})
			continue
		}
		if p.LatencyFactor == 0 || s.Timed < least || len(timed) < 2 {
			continue
		}
		if bar := p.bar(medianWithout(timed, s.Latency)); s.Latency > bar {
			slow = append(slow, Outlier{Index: i, Cause: Latency, Bar: bar})
		}
	}
	share := func(o Outlier) float64 {
		return float64(samples[o.Index].Failures) / float64(samples[o.Index].Requests)
	}
	slices.SortStableFunc(failing, func(a, b Outlier) int { return cmp.Compare(share(b), share(a)) })
	slices.SortStableFunc(slow, func(a, b Outlier) int {
		return cmp.Compare(samples[b.Index].Latency, samples[a.Index].Latency)
	})
	return append(failing, slow...)
}

// Bar is the latency that endpoints of which there is no sample should keep to; zero if there is none to be kept to, or
// none of the samples is of enough requests.
func Bar(p Policy, samples []Sample) time.Duration {
	timed := p.timed(samples)
	if p.LatencyFactor == 0 || len(timed) == 0 {
		return 0
	}
	n := len(timed)
	return p.bar((timed[(n-1)/2] + timed[n/2]) / 2)
}

// least is of how many requests a sample must be.
func (p Policy) least() int { return max(1, p.MinRequests) }

// timed returns the latencies of the samples that are of enough requests, sorted.
func (p Policy) timed(samples []Sample) []time.Duration {
	timed := make([]time.Duration, 0, len(samples))
	for _, s := range samples {
		if s.Timed >= p.least() {
			timed = append(timed, s.Latency)
		}
	}
	slices.Sort(timed)
	return timed
}

// bar is the latency from which on an endpoint is slow beside peers with a median.
func (p Policy) bar(median time.Duration) time.Duration {
	return max(latencyFloor, time.Duration(p.LatencyFactor)*median)
}

// medianWithout is the median of the others in a sorted list of at least two.
func medianWithout(sorted []time.Duration, own time.Duration) time.Duration {
	at, _ := slices.BinarySearch(sorted, own)
	other := func(i int) time.Duration {
		if i >= at {
			i++
		}
		return sorted[i]
	}
	n := len(sorted) - 1
	return (other((n-1)/2) + other(n/2)) / 2
}
