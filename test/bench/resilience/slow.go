package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/figures"
)

// slowSubject are ten instances, of which the first becomes slower by slowdown for a while. The load keeps
// the others busy nearly half of the time, and would take the slow one eight times as long as there is.
var slowSubject = subject{
	instances:  10,
	capability: capability{mean: 4 * time.Millisecond, spread: 1, queue: unboundedQueue},
	timeout:    2 * time.Second,
}

const (
	slowdown = 20
	slowLoad = 1000
	// slowReaction is how long after the change shares and latencies are judged.
	slowReaction = time.Second
	// An instance is in use again when it has the share back, in percent, over backWindow: half of its
	// fair one.
	back       = 5
	backWindow = 500 * time.Millisecond
	// recoveryLimit is how long that may take.
	recoveryLimit = 30 * time.Second
)

// slowPlan is how long the load lasts before the instance becomes slow, how long it stays so, and how long
// its recovery is watched at most.
type slowPlan struct{ warmUp, slow, recovery time.Duration }

// slowResult is what was seen with one algorithm.
type slowResult struct {
	// before and after are the shares of the instance, in percent, before it becomes slow and from
	// slowReaction after that.
	before, after float64
	// p50 and p99 are of all requests from slowReaction on, first is p99 before that; a request that was
	// given up counts with the time it took. failed of them were not answered 200.
	p50, p99, first time.Duration
	failed          int
	// recovery is how long after its end the instance was in use again, if recovered.
	recovery  time.Duration
	recovered bool
	quality
}

// slowAlgorithms are compared; the first is the one that must win.
var slowAlgorithms = []wire.Algorithm{wire.PeakEWMA, wire.LeastRequest, wire.RoundRobin}

func slowPolicy(algorithm wire.Algorithm) string {
	return fmt.Sprintf(`
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  loadBalancing: {algorithm: %s}
`, algorithm)
}

// slow is the scenario of an instance that becomes slow.
func slow(ctx context.Context, random *rand.Rand, p plan) ([]figures.Figure, error) {
	results := make([]slowResult, len(slowAlgorithms))
	for i, algorithm := range slowAlgorithms {
		var err error
		if results[i], err = slowSubject.with(slowPolicy(algorithm)).becomeSlow(ctx, random, p.slow); err != nil {
			return nil, fmt.Errorf("%s: %w", algorithm, err)
		}
	}
	return slowFigures(results, p.slow.recovery), nil
}

// becomeSlow is one run.
func (s *subject) becomeSlow(ctx context.Context, random *rand.Rand, plan slowPlan) (r slowResult, err error) {
	st, err := newStage(ctx, s.instances, s.capability, random, s.objects)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	begin := st.elapsed()
	change := begin + plan.warmUp
	recovery := change + plan.slow
	end := recovery + plan.recovery
	l := &openLoop{client: st.client(), url: serviceURL, timeout: s.timeout}
	loading, enough := context.WithCancel(ctx)
	defer enough()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(loading, st.start, poisson(child(random), slowLoad, begin, end))
	}()
	one := st.instances[0]
	pace(loading, st.start, []time.Duration{change}, func(time.Duration) { one.slowdown.Store(slowdown) })
	pace(loading, st.start, []time.Duration{recovery}, func(time.Duration) { one.slowdown.Store(1) })
	pace(loading, st.start, ticks(recovery+backWindow, end, backWindow), func(at time.Duration) {
		if _, ok := regained(st.seen(), 0, back, recovery, at, backWindow); ok {
			enough()
		}
	})
	<-done
	arrivals := st.seen()
	r.before, _ = share(arrivals, 0, begin+plan.warmUp/2, change)
	r.after, _ = share(arrivals, 0, change+slowReaction, recovery)
	judged := dueBetween(l.outcomes, change+slowReaction, recovery)
	r.p50, r.p99 = quantile(times(judged), 0.5), quantile(times(judged), 0.99)
	r.first = quantile(times(dueBetween(l.outcomes, change, change+slowReaction)), 0.99)
	r.failed = len(judged) - len(withStatus(judged, http.StatusOK))
	r.recovery, r.recovered = regained(arrivals, 0, back, recovery, end, backWindow)
	r.quality = qualityOf(l.outcomes, l.late)
	return r, ctx.Err()
}

// slowFigures are those of all algorithms, with the goals of the first. What was not watched for long enough
// to miss the goal of recovery has none.
func slowFigures(results []slowResult, watched time.Duration) []figures.Figure {
	var out []figures.Figure
	qualities := make([]quality, len(results))
	shares, latencies := make([]float64, len(results)), make([]float64, len(results))
	for i, r := range results {
		shares[i], latencies[i], qualities[i] = r.after, milliseconds(r.p99), r.quality
	}
	for i, r := range results {
		name := string(slowAlgorithms[i])
		after, recovery := figures.New(name+": share of the slow one", r.after, "%"), figures.Figure{Name: name + ": in use again after", Unit: "s"}
		if r.recovered {
			recovery = figures.New(recovery.Name, r.recovery.Seconds(), recovery.Unit)
		}
		sharePlace, latencyPlace := figures.New(name+": place by share", float64(place(shares, i)), ""), figures.New(name+": place by p99", float64(place(latencies, i)), "")
		if i == 0 {
			after = after.AtMost(2)
			if r.recovered || watched >= recoveryLimit {
				recovery = recovery.AtMost(recoveryLimit.Seconds())
			}
			sharePlace, latencyPlace = sharePlace.AtMost(1), latencyPlace.AtMost(1)
		}
		out = append(out,
			after, sharePlace,
			took(name+": p99", r.p99), latencyPlace,
			took(name+": p50", r.p50),
			took(name+": p99 in the first second", r.first),
			figures.New(name+": not answered 200", float64(r.failed), "requests"),
			figures.New(name+": share before", r.before, "%"),
			recovery,
		)
	}
	return append(out, worst(qualities...)...)
}
