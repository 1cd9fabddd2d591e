package engine

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// forward sends the request to its backend, if need be several times, and passes the answer on.
func (x *exchange) forward() {
	if x.key == "" {
		x.answer(reason.InvalidBackend)
		return
	}
	if x.limitedByService() {
		return
	}
	x.resume()
	retry := x.policy.Retry
	t := &x.memory.tries
	*t = tries{
		exchange: x, due: x.deadlines(), avoid: x.received.Avoid,
		retries: *retry.Attempts, repairs: *retry.ConnectFailures, budget: x.engine.budgetOf(x.config, x.key),
	}
	if t.retries > 0 {
		t.budget.request(x.start, retry.Budget)
	} else {
		t.budget.request(x.start, nil)
	}
	if t.plain() && t.direct() {
		return
	}
	x.detach()
	t.ctx, t.limit = withLimit(x.r.Context(), t.due.whole, t.due.cause)
	defer t.limit.cancel()
	t.idle = newIdleLimit(time.Duration(*x.policy.Timeouts.Idle), t.limit.end)
	defer t.idle.pause()
	copies := x.newMirrors()
	defer copies.end()
	if t.body == nil {
		t.body = newReplay(x.r, nil)
	}
	t.body.observe(t.idle, copies.send)
	defer t.endBody()
	t.client.rc = x.rc
	t.stand(&t.call, t)
	defer x.engine.leave(&t.call)
	if why := x.memory.plain.ended(); why != nil && !errors.Is(why, errBackendTimeout) {
		t.limit.end(why)
	}
	if t.body.empty() {
		copies.send(nil)
	} else if x.r.ProtoMajor == 1 {
		// Without it net/http reads the rest of the body before it writes an answer. Every writer of
		// HTTP/1 supports it.
		_ = x.rc.EnableFullDuplex()
	}
	if b := t.begun; b.again && !t.pause(b.wait) {
		t.conclude(&attempt{ctx: t.ctx})
		return
	}
	for {
		t.idle.resume()
		a := t.next()
		t.idle.moved()
		wait, again := t.again(a)
		if !again {
			t.conclude(a)
			return
		}
		t.endTry(a)
		a.discard()
		t.idle.pause()
		if !t.pause(wait) {
			t.conclude(&attempt{ctx: t.ctx})
			return
		}
	}
}

// endBody lets go of the request's body.
func (t *tries) endBody() {
	t.body.close()
	if c, ok := t.r.Context().Value(connKey{}).(*conn); ok && t.own == nil && t.r.ProtoMajor == 1 {
		c.leave(t.body, t.rc)
	}
}

// tries are the attempts to have one request answered.
type tries struct {
	*exchange
	ctx   context.Context
	due   deadlines
	limit limit
	idle  *idleLimit
	body  *replay
	made  int
	// retries and repairs are how many of either kind are left.
	retries, repairs int
	budget           *budget
	// retried is why the last try is made again, for its span.
	retried string
	// avoid are the endpoints that tries ended at, far those at the other end of the hop.
	avoid, far []netip.AddrPort
	// begun is what direct has left to be gone on with.
	begun begun

	// call is what is decided about again when authorizations change, streaming that an answer of unknown length has
	// begun; client can be kept from being written to.
	call      connection
	streaming atomic.Bool
	client    interrupter
}

// attempt is the outcome of one try: a response, a failure, or the reason that there was no try. If all
// are absent its context has ended.
type attempt struct {
	response *http.Response
	failure  *upstream.Error
	why      reason.Reason
	// to is where the request was sent, the zero Endpoint if nowhere.
	to upstream.Endpoint

	// told is what the proxy there says about the response, and far why it has made it itself. Only over the
	// hop is there one.
	told upstream.Outcome
	far  reason.Reason
	// code is the status of a gRPC response, as far as it is known before any of it is passed on.
	code phttp.GRPCCode

	ctx   context.Context
	limit limit
	// release lets go of the request's body; it may be nil.
	release func() bool
	// trace is nil if the request is not traced.
	trace *tryTrace
}

// end ends what is left of an attempt.
func (a *attempt) end() {
	if a.release != nil {
		a.release()
	}
	a.limit.cancel()
}

// discard lets go of an attempt whose outcome is not passed on.
func (a *attempt) discard() {
	if a.response != nil {
		// Nothing is lost: the body is not wanted.
		_ = a.response.Body.Close()
	}
	a.end()
}

// aim is where a try goes: an endpoint, and the set that reaches it.
type aim struct {
	endpoint upstream.Endpoint
	set      *upstream.Set
}

// aim chooses where the next try goes, or says why there is none.
func (t *tries) aim(ctx context.Context) (aim, *attempt) {
	if !t.timeFor(0) {
		return aim{}, &attempt{why: reason.DeadlineExceeded}
	}
	endpoint, set, err := t.chooser.choose(ctx, t.key, t.wish())
	if err != nil {
		return aim{}, t.aimless(ctx, err)
	}
	t.engine.countFallback(endpoint, set)
	return aim{endpoint, set}, nil
}

// aimless says why no endpoint could be chosen.
func (t *tries) aimless(ctx context.Context, err error) *attempt {
	if failure, ok := errors.AsType[*upstream.Error](err); ok {
		return &attempt{failure: failure, ctx: ctx}
	}
	switch {
	case errors.Is(err, upstream.ErrUnknownBackend):
		return &attempt{why: reason.UnknownBackend}
	case errors.Is(err, upstream.ErrNoHealthyEndpoints):
		return &attempt{why: reason.NoHealthyEndpoints}
	}
	return &attempt{why: reason.NoEndpoints}
}

// next makes the next try, or goes on with what direct has begun.
func (t *tries) next() *attempt {
	b := t.begun
	t.begun = begun{}
	switch {
	case b.attempt != nil:
		if b.attempt.ctx == nil {
			b.attempt.ctx = t.ctx
		}
		return b.attempt
	case b.aim.set != nil:
		return t.try(b.aim)
	}
	to, failed := t.aim(t.ctx)
	if failed != nil {
		return failed
	}
	return t.try(to)
}

// try sends the request once.
func (t *tries) try(to aim) *attempt {
	if t.made == 0 {
		source, _ := t.presented(to.endpoint)
		t.engine.awaitCertificate(t.ctx, to.endpoint, source)
	}
	a := &attempt{to: to.endpoint}
	if t.hopped() {
		t.tried = append(t.tried, to.endpoint.Address())
	}
	var deadline time.Time
	if d := time.Duration(*t.policy.Timeouts.BackendRequest); d > 0 {
		deadline = time.Now().Add(d)
	}
	a.ctx, a.limit = withLimit(t.ctx, deadline, errBackendTimeout)
	t.beginTry(a)
	req, hints := t.hinted(a)
	if req.Body != nil && t.bounded() {
		// Once HTTP/2 has the head of a response, net/http looks at the context again only when a read of
		// the request's body returns.
		a.release = context.AfterFunc(a.ctx, func() { _ = req.Body.Close() })
	}
	call := t.outgoing(to.endpoint)
	t.count(to)
	sent := time.Now()
	res, err := to.set.RoundTrip(req.Context(), to.endpoint, call, req) //nolint:bodyclose // deliver or discard does
	hints.end()
	t.learn(a, res, err, time.Since(sent))
	return a
}

// outgoing is what the next try needs beyond the request itself.
func (t *tries) outgoing(to upstream.Endpoint) upstream.Call {
	call := upstream.Call{
		Source: t.source, Deadline: t.due.whole, StreamDeadline: t.due.stream,
		Attempt: t.received.Attempt + t.made, Avoid: t.far,
		Session: t.sessionCall(), Debug: t.curious, Fields: t.head.Header,
	}
	call.Source, call.Caller = t.presented(to)
	return call
}

// presented is who the request is sent as, and whom that vouches for if it is not its client.
func (t *tries) presented(to upstream.Endpoint) (as upstream.Source, caller string) {
	if t.overHop && to.Hop() {
		return onBehalf(t.config.peer(t.r), t.source)
	}
	return t.source, ""
}

// hinted returns the request of an attempt, of which informational responses are passed on.
func (t *tries) hinted(a *attempt) (*http.Request, *informational) {
	hints := &informational{exchange: t.exchange, idle: t.idle}
	return t.request(httptrace.WithClientTrace(a.ctx, hints.trace())), hints
}

// count counts a try that is being made.
func (t *tries) count(to aim) {
	t.made++
	t.sent, t.last = t.made, to.endpoint
}

// learn takes in what a try has come to: a response or an error.
func (t *tries) learn(a *attempt, res *http.Response, err error, took time.Duration) {
	if err != nil {
		if !errors.As(err, &a.failure) {
			a.failure = &upstream.Error{Reason: upstream.ReasonProtocol, Err: err}
		}
		t.measureTry(a, took)
		t.reached = t.reached || !a.failure.NotSent
		t.engine.options.Log.Debug("A try failed", "backend", t.key, "endpoint", a.to.Address().String(), "error", err)
		return
	}
	a.response = res
	t.reached = true
	if a.to.Hop() {
		a.told = upstream.TakeOutcome(a.response.Header)
		a.far = reason.Named(a.response.Header.Get(reason.Header))
	}
	t.measureTry(a, took)
	if t.grpc {
		t.learnStatus(a)
	}
}

// measureTry counts a try that was sent in metrics.
func (t *tries) measureTry(a *attempt, took time.Duration) {
	t.upstream = took
	a.answeredTry()
	o := telemetry.Outcome{Secure: a.to.Hop(), GRPC: t.grpc, Error: string(a.far), Took: took}
	if a.failure != nil {
		o.Error = a.failure.Reason.String()
	} else {
		o.Status = a.response.StatusCode
	}
	t.series.at(t.backend).Try(&o)
}

// awaitCertificate waits until the client can be proven to the other side of the hop, as long as for its
// workload to become known. Without a certificate the try fails and says so.
func (e *Engine) awaitCertificate(ctx context.Context, to upstream.Endpoint, source upstream.Source) {
	if !to.Hop() {
		return
	}
	if err := e.identity.Await(ctx, source.ServiceAccount, e.options.SourceWait); err != nil {
		e.options.Log.Debug("A client cannot be proven", "error", err)
	}
}

// countFallback measures tries that go to a cluster IP.
func (e *Engine) countFallback(endpoint upstream.Endpoint, set *upstream.Set) {
	switch {
	case endpoint.Kind() == upstream.KindFallback:
		e.metrics.Fallback(telemetry.FallbackDisconnected)
	case set == e.direct:
		e.metrics.Fallback(telemetry.FallbackDeparted)
	}
}

// request returns what is sent in one try. Nothing in it is shared with another try, whose transport may
// not have let go of it yet.
func (t *tries) request(ctx context.Context) *http.Request {
	header := make(http.Header, len(t.head.Header)+1)
	for _, f := range t.head.Header {
		header.Add(f.Name, f.Value)
	}
	if deadline := t.due.latest(); t.grpc && header.Get("Grpc-Timeout") != "" && !deadline.IsZero() {
		left := time.Until(deadline)
		header.Set("Grpc-Timeout", formatGRPCTimeout(left))
	}
	if t.webSocket {
		header.Set("Connection", "Upgrade")
	}
	req := &http.Request{
		Method: t.head.Method, URL: targetURL(&t.head), Host: t.head.Authority,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: t.r.ContentLength,
	}
	if !t.body.empty() {
		for name := range t.r.Trailer {
			if !phttp.MayTrail(name) || phttp.Internal(name) {
				continue
			}
			if req.Trailer == nil {
				req.Trailer = make(http.Header, len(t.r.Trailer))
			}
			req.Trailer[name] = nil
		}
		req.Body = t.body.open(req.Trailer)
	}
	return req.WithContext(ctx)
}

// targetURL returns a URL that is written as exactly the head's path and query.
func targetURL(head *phttp.Request) *url.URL {
	u := &url.URL{
		Scheme: "http", Host: head.Authority,
		RawQuery: head.RawQuery, ForceQuery: head.HasQuery && head.RawQuery == "",
	}
	if head.Path == "*" {
		u.Opaque = "*"
		return u
	}
	path, err := url.PathUnescape(head.Path)
	if err != nil {
		// A normalised path has no broken escapes.
		path = head.Path
	}
	u.Path, u.RawPath = path, head.Path
	return u
}

// conclude passes on the outcome of the last attempt.
func (t *tries) conclude(a *attempt) {
	defer a.end()
	defer t.endTry(a)
	if a.response != nil && endReason(a.ctx) == "" {
		t.deliver(a)
		return
	}
	if a.response != nil {
		_ = a.response.Body.Close() // it has come too late, and the client has seen nothing of it
	}
	if a.why != "" {
		t.answer(a.why)
		return
	}
	// A try that has used up the time of the whole request has done more than take too long itself.
	why := cmp.Or(endReason(t.ctx), endReason(a.ctx))
	// What is left of the body is not awaited.
	t.closing = t.closing || !t.body.ended()
	switch {
	case why != "":
		if denied, ok := errors.AsType[notAllowedError](context.Cause(a.ctx)); ok {
			t.explain(denied.Decision)
		}
		t.answer(why)
	case a.ctx.Err() != nil:
		// The client has gone. net/http would answer 200 otherwise.
		panic(http.ErrAbortHandler)
	case a.failure.Reason == upstream.ReasonRequestBody:
		t.closing = true
		t.answer(reason.BadRequest)
	case t.overdue(t.due.whole):
		t.answer(reason.DeadlineExceeded)
	default:
		t.answer(failureReason(a.failure))
	}
}
