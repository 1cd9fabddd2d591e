package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// subject is a Service: its instances, how long its clients wait for an answer, and the objects that say how
// it is treated.
type subject struct {
	instances int
	capability
	timeout time.Duration
	objects string
}

// offerPlan is how long a load is offered before it is judged, and how long after.
type offerPlan struct{ warmUp, judged time.Duration }

// nominal is how many requests a second the instances could do if there always were one waiting.
func (s *subject) nominal() float64 { return float64(s.instances) / s.mean.Seconds() }

// with returns the subject treated as other objects say.
func (s subject) with(objects string) *subject {
	s.objects = objects
	return &s
}

// offered is what came of a steady load, in requests a second where nothing else is said.
type offered struct {
	// load is what was sent, goodput the answers of 200, refused those of 503, gaveUp the requests that had
	// no answer in time, tries what reached instances.
	load, goodput, refused, gaveUp, tries float64
	// p50 and p99 are of the requests that were answered 200.
	p50, p99 time.Duration
	quality
}

// offer sends a load to a fresh mesh. However it ends, the next one starts anew.
func (s *subject) offer(ctx context.Context, random *rand.Rand, perSecond float64, plan offerPlan) (o offered, err error) {
	st, err := newStage(ctx, s.instances, s.capability, random, s.objects)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	begin := st.elapsed()
	from := begin + plan.warmUp
	to := from + plan.judged
	l := &openLoop{client: st.client(), url: serviceURL, timeout: s.timeout}
	l.run(ctx, st.start, poisson(child(random), perSecond, begin, to))
	return judge(l.outcomes, l.late, st.seen(), from, to), ctx.Err()
}

// judge sums up what happened from one time up to another. What counts as goodput is what was answered then:
// counted by when requests were due, those that still wait in a queue at the end would make a capacity that
// cannot last.
func judge(outcomes []outcome, late []time.Duration, arrivals []arrival, from, to time.Duration) offered {
	over := to - from
	due := dueBetween(outcomes, from, to)
	good := withStatus(due, http.StatusOK)
	_, tries := share(arrivals, 0, from, to)
	return offered{
		load:    rate(len(due), over),
		goodput: rate(len(withStatus(endedBetween(outcomes, from, to), http.StatusOK)), over),
		refused: rate(len(withStatus(due, http.StatusServiceUnavailable)), over),
		gaveUp:  rate(len(withStatus(due, gaveUp)), over),
		tries:   rate(tries, over),
		p50:     quantile(times(good), 0.5), p99: quantile(times(good), 0.99),
		quality: qualityOf(outcomes, late),
	}
}

// sweep are the loads among which the capacity is sought, as shares of the nominal one.
var sweep = []float64{1, 1.1, 1.25}

// capacity is the highest goodput of a sweep. It is measured and not taken for nominal, so that what the
// machine makes slow, or the mesh, counts on both sides of a comparison.
func (s *subject) capacity(ctx context.Context, random *rand.Rand, plan offerPlan) (best offered, err error) {
	for _, share := range sweep {
		o, err := s.offer(ctx, random, share*s.nominal(), plan)
		if err != nil {
			return best, err
		}
		if o.goodput > best.goodput {
			best = o
		}
	}
	return best, nil
}

// quality tells whether a load was sent as it was to be.
type quality struct {
	// broke counts requests that were cut off without an answer; late is the p99 of how long after they
	// were due requests were sent.
	broke int
	late  time.Duration
}

func qualityOf(outcomes []outcome, late []time.Duration) quality {
	return quality{broke: len(withStatus(outcomes, broke)), late: quantile(late, 0.99)}
}

// lateFigure is the figure of how late requests were sent. It says something about the machine, so it has no
// goal; beyond lateLimit times mean little.
const (
	lateFigure = "requests sent late p99"
	lateLimit  = 20 * time.Millisecond
)

// worst are the figures of the worst of several loads.
func worst(all ...quality) []figures.Figure {
	var w quality
	for _, q := range all {
		w.broke += q.broke
		w.late = max(w.late, q.late)
	}
	return []figures.Figure{
		figures.New("requests cut off", float64(w.broke), "requests").AtMost(0),
		figures.New(lateFigure, milliseconds(w.late), "ms"),
	}
}

// took is the figure of a quantile; 0 means that nothing was measured.
func took(name string, d time.Duration) figures.Figure {
	if d == 0 {
		return figures.Figure{Name: name, Unit: "ms"}
	}
	return figures.New(name, milliseconds(d), "ms")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
