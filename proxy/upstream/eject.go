package upstream

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/upstream/outlier"
)

// health is what tells whether an endpoint is used. It belongs to the endpoint: all routes and Backends
// share it, and it outlives their changes.
type health struct {
	// out tells that the endpoint is ejected or fails its health check, failing that it has failed since
	// its last success, so that the next one matters.
	out, failing atomic.Bool
	// owner is the service whose policy counts, nil if none judges the endpoint.
	owner atomic.Pointer[service]
	// sharers are the services that the endpoint is a member of, by key, nil if owner is the only one.
	sharers atomic.Pointer[[]*service]
	// What the endpoint did in the interval under way, if its policy looks at intervals.
	requests, failures, timed atomic.Uint32
	latencies                 atomic.Int64 // the sum, in nanoseconds
	// recent is what the endpoint did lately, since it is in use.
	recent tally

	// These are guarded by Set.health.
	state     *outlier.State // never changed, and shared by all endpoints that nothing has happened to
	began     uint64         // what the tally of the owner was when the failures in a row began
	unhealthy bool
}

// steady is the state of an endpoint that nothing has happened to.
var steady outlier.State

// setState keeps a state and what of it is read without lock.
func (e *endpoint) setState(state outlier.State) {
	e.state = &steady
	if state != steady {
		e.state = &state
	}
	e.failing.Store(state.Failures > 0)
	e.out.Store(state.Ejected || e.unhealthy)
}

// tally counts verdicts in the upper half of a word, and the failures among them in the lower.
type tally struct{ atomic.Uint64 }

// recentRequests is how many requests of an endpoint count as recent at most.
const recentRequests = 128

// add counts a verdict. Of a tally that forgets, both numbers are halved when they are many.
func (t *tally) add(v outlier.Verdict, forgets bool) {
	one := uint64(1) << 32
	if v == outlier.Failure {
		one++
	}
	if old := t.Load(); forgets && old>>32 >= recentRequests {
		t.CompareAndSwap(old, old>>33<<32|old&math.MaxUint32>>1)
	}
	t.Add(one)
}

func sampleOf(tally uint64) outlier.Sample {
	return outlier.Sample{Requests: int(tally >> 32), Failures: int(tally & math.MaxUint32)}
}

// apart tells whether as many failures in a row as an endpoint has set it apart from the other members.
func (svc *service) apart(e *endpoint, failures int) bool {
	var recently outlier.Sample
	for _, peer := range svc.members {
		if peer != e && !peer.out.Load() {
			of := sampleOf(peer.recent.Load())
			recently.Requests += of.Requests
			recently.Failures += of.Failures
		}
	}
	own := uint64(failures-1) * (1<<32 + 1) // without the first, with which the run began
	since := sampleOf(svc.all.Load() - e.began - own)
	if since.Failures > since.Requests {
		since = outlier.Sample{} // the run began with another owner
	}
	return failures >= svc.policy.Load().Apart(recently, since)
}

// judged takes in the verdict on a request that was sent to an endpoint. took is how long the response's
// head took, zero if there was none; probe tells that the request was let through to an ejected endpoint.
func (s *Set) judged(e *endpoint, v outlier.Verdict, took time.Duration, probe bool) {
	owner := e.owner.Load()
	if owner == nil || v == outlier.Neutral && !probe {
		return
	}
	policy := owner.policy.Load()
	if policy.ByInterval() && !probe {
		s.count(e, v, took)
		if now := s.elapsed(); int64(now) >= owner.judge.Load() {
			s.judgeInterval(owner, now)
		}
	}
	if v == outlier.Success && !probe {
		e.recent.add(v, true)
		owner.all.add(v, false)
	}
	if v == outlier.Success && !probe && !e.failing.Load() {
		return
	}
	s.health.Lock()
	defer s.health.Unlock()
	now := s.elapsed()
	if probe && e.state.Ejected {
		s.move(e, e.state.Conclude(*policy, v, now, took), outlier.Probe)
		return
	}
	if v == outlier.Failure && !e.state.Ejected {
		// Not before: a run of failures must begin and go on in one order with what is counted.
		e.recent.add(v, true)
		owner.all.add(v, false)
	}
	state, tooMany := e.state.Record(*policy, v)
	if state.Failures == 1 {
		e.began = owner.all.Load()
	}
	if tooMany && owner.apart(e, state.Failures) && s.room(e) {
		s.move(e, state.Eject(*policy, now, 0), outlier.ConsecutiveFailures)
		return
	}
	e.setState(state)
}

// answered notes that the response to a probe has begun well.
func (s *Set) answered(e *endpoint, took time.Duration) {
	s.health.Lock()
	defer s.health.Unlock()
	s.move(e, e.state.Answered(s.elapsed(), took), outlier.Probe)
}

// count adds a request to what the endpoint did in the interval. Concurrent ones may fall on either side of
// its end.
func (s *Set) count(e *endpoint, v outlier.Verdict, took time.Duration) {
	e.requests.Add(1)
	if v == outlier.Failure {
		e.failures.Add(1)
		return
	}
	e.timed.Add(1)
	e.latencies.Add(int64(took))
}

// outlasted counts the time of a request that was given up as a latency, if it is more than the mean of the
// interval: the true one is not less.
func (e *endpoint) outlasted(took time.Duration) {
	owner := e.owner.Load()
	if owner == nil || !owner.policy.Load().ByInterval() {
		return
	}
	if n := e.timed.Load(); n == 0 || int64(took) > e.latencies.Load()/int64(n) {
		e.timed.Add(1)
		e.latencies.Add(int64(took))
	}
}

// judgeInterval ejects the outliers of the interval that has ended. It is called with the first answer after
// the end, so that a Service without requests costs nothing.
func (s *Set) judgeInterval(svc *service, now time.Duration) {
	s.health.Lock()
	defer s.health.Unlock()
	if int64(now) < svc.judge.Load() {
		return // another answer was first
	}
	policy := svc.policy.Load()
	svc.judge.Store(int64(now + policy.Interval))
	var judged, out []*endpoint
	var samples []outlier.Sample
	for _, e := range svc.members {
		if e.owner.Load() != svc {
			continue
		}
		sample := e.endInterval()
		if e.state.Ejected {
			out = append(out, e)
		} else {
			judged, samples = append(judged, e), append(samples, sample)
		}
	}
	bar := outlier.Bar(*policy, samples)
	for _, e := range out {
		e.setState(e.state.Against(bar))
	}
	for _, o := range outlier.Judge(*policy, samples) {
		if e := judged[o.Index]; s.room(e) {
			s.move(e, e.state.Eject(*policy, now, o.Bar), o.Cause)
		}
	}
}

// endInterval returns what the endpoint did in the interval and begins the next.
func (e *endpoint) endInterval() outlier.Sample {
	sample := outlier.Sample{
		Requests: int(e.requests.Swap(0)), Failures: int(e.failures.Swap(0)), Timed: int(e.timed.Swap(0)),
	}
	if sum := e.latencies.Swap(0); sample.Timed > 0 {
		sample.Latency = time.Duration(sum / int64(sample.Timed))
	}
	return sample
}

// room tells whether one more endpoint may be ejected. The share is that of the owner's policy, but no
// service that shares the endpoint loses its last one by another's.
func (s *Set) room(e *endpoint) bool {
	for i, svc := range e.services() {
		percent := 100
		if i == 0 {
			percent = svc.policy.Load().MaxEjectedPercent
		}
		if svc.ejected() >= outlier.Allowed(len(svc.members), percent) {
			return false
		}
	}
	return true
}

func (svc *service) ejected() int {
	n := 0
	for _, e := range svc.members {
		if e.state.Ejected {
			n++
		}
	}
	return n
}

// lift ends ejections, those that are over first, until as few are left as a service that has changed
// allows.
func (s *Set) lift(svc *service) {
	for {
		n := svc.ejected()
		allowed := outlier.Allowed(len(svc.members), 100)
		var first *endpoint
		for _, e := range svc.members {
			if e.owner.Load() == svc {
				allowed = outlier.Allowed(len(svc.members), svc.policy.Load().MaxEjectedPercent)
			}
			if e.state.Ejected && (first == nil || e.state.Until() < first.state.Until()) {
				first = e
			}
		}
		if n <= allowed {
			return
		}
		s.move(first, first.state.Return(s.elapsed()), "")
	}
}

// move brings an endpoint into another state and lets everybody see it. cause says why, if the endpoint is
// ejected anew.
func (s *Set) move(e *endpoint, to outlier.State, cause outlier.Cause) {
	from := *e.state
	e.setState(to)
	owner := e.owner.Load()
	switch {
	case to.Ejected && (!from.Ejected || to.Until() != from.Until()):
		s.options.Measures.Ejected(owner.key, string(cause))
	case from.Ejected && !to.Ejected:
		e.recent.Store(0)
		e.restart(s.elapsed())
	}
	s.publish(e.services()...)
}

// publish works out what follows for services from the state of their members.
func (s *Set) publish(services ...*service) {
	for _, svc := range services {
		usable, ejected, unhealthy := 0, 0, 0
		due := time.Duration(math.MaxInt64)
		for _, e := range svc.members {
			switch {
			case e.unhealthy:
				unhealthy++
			case e.state.Ejected:
				ejected++
				due = min(due, e.state.Next())
			default:
				usable++
			}
		}
		svc.due.Store(int64(due))
		svc.panicking.Store(outlier.Panic(usable, len(svc.members), svc.policy.Load().PanicPercent))
		s.options.Measures.Endpoints(svc.key, usable, ejected, unhealthy)
	}
}

// probe returns a member to which the next request is to be sent as a probe, nil if there is none: always
// when nothing is due yet.
func (s *Set) probe(svc *service, wish *Wish) *endpoint {
	now := s.elapsed()
	if int64(now) < svc.due.Load() {
		return nil
	}
	s.health.Lock()
	defer s.health.Unlock()
	for _, e := range slices.Clone(svc.members) {
		switch {
		case e.unhealthy, wish.limits != nil && wish.limits.full(e, wish.exclusive) != "":
		case e.state.Streaming(now):
			s.move(e, e.state.Conclude(*e.owner.Load().policy.Load(), outlier.Success, now, 0), outlier.Probe)
		case e.state.Due(now) && !slices.Contains(wish.Avoid, e.address) && (!wish.Prefer.IsValid() || wish.Prefer == e.address):
			s.move(e, e.state.Probed(now), outlier.Probe)
			return e
		}
	}
	return nil
}

// penaltyOut ranks endpoints that are ejected or fail their health check behind all others.
const penaltyOut = 1 << 10

// against is what the state of an endpoint counts against it, added to its rank.
func (w *Wish) against(e *endpoint) int {
	penalty := 0
	if e.out.Load() && w.service != nil && !w.service.panicking.Load() {
		penalty = penaltyOut
	}
	if w.limits != nil && w.limits.full(e, w.exclusive) != "" {
		penalty += penaltyFull
	}
	return penalty
}

// choose returns the member of a service that a request is to be sent to, nil if there is none, whether it is
// a probe, and whether all refuse connections. The error is ErrNoHealthyEndpoints.
func (s *Set) choose(svc *service, g *group, wish Wish) (chosen *endpoint, probe, refusing bool, err error) {
	if svc == nil {
		return nil, false, false, nil
	}
	if chosen = s.probe(svc, &wish); chosen != nil {
		return chosen, true, false, nil
	}
	wish.service = svc
	chosen, refusing = s.pick(g, wish)
	if chosen != nil && wish.against(chosen)&penaltyOut > 0 {
		return nil, false, refusing, ErrNoHealthyEndpoints
	}
	return chosen, false, refusing, nil
}
