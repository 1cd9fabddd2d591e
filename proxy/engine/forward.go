package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// maxRepairs is how often a request is sent again without being asked to, because a try provably did
// not reach an application.
const maxRepairs = 3

// The causes with which the context of a request or a try ends.
var (
	errRequestTimeout = errors.New("request timeout")
	errBackendTimeout = errors.New("backend request timeout")
	errAnswered       = errors.New("answered")
)

// forward sends the request to its backend, if need be several times, and passes the answer on.
func (x *exchange) forward() {
	if x.key == "" {
		x.answer(reason.InvalidBackend)
		return
	}
	t := &tries{
		exchange: x, deadline: x.deadline(), avoid: x.received.Avoid,
		retries: *x.policy.Retry.Attempts, repairs: *x.policy.Retry.ConnectFailures,
	}
	t.ctx, t.limit = withLimit(x.r.Context(), t.deadline, errRequestTimeout)
	defer t.limit.cancel()
	copies := x.newMirrors()
	defer copies.end()
	t.body = newReplay(x.r, copies.send)
	defer t.body.close()
	if t.body.empty() {
		copies.send(nil)
	} else if x.r.ProtoMajor == 1 {
		// Without it net/http reads the rest of the body before it writes an answer. Every writer of
		// HTTP/1 supports it.
		_ = x.rc.EnableFullDuplex()
	}
	for {
		a := t.try()
		why, wait, again := t.again(a)
		if !again {
			t.conclude(a)
			return
		}
		a.discard()
		t.series.at(t.backend).Retry(why)
		if !t.pause(wait) {
			t.conclude(&attempt{ctx: t.ctx})
			return
		}
	}
}

// tries are the attempts to have one request answered.
type tries struct {
	*exchange
	ctx      context.Context
	limit    limit
	deadline time.Time
	body     *replay
	made     int
	// retries and repairs are how many of either kind are left.
	retries, repairs int
	avoid            []netip.AddrPort
}

// attempt is the outcome of one try: a response, a failure, or the reason that there was no try. If all
// are absent its context has ended.
type attempt struct {
	response *http.Response
	failure  *upstream.Error
	why      reason.Reason

	ctx   context.Context
	limit limit
}

// discard lets go of an attempt whose outcome is not passed on.
func (a *attempt) discard() {
	if a.response != nil {
		// Nothing is lost: the body is not wanted.
		_ = a.response.Body.Close()
	}
	a.limit.cancel()
}

// try sends the request once.
func (t *tries) try() *attempt {
	endpoint, set, err := t.choose(t.key, upstream.Wish{Avoid: t.avoid})
	switch {
	case errors.Is(err, upstream.ErrUnknownBackend):
		return &attempt{why: reason.UnknownBackend}
	case err != nil:
		return &attempt{why: reason.NoEndpoints}
	}
	t.engine.countFallback(endpoint, set)
	if t.made == 0 {
		t.engine.awaitCertificate(t.ctx, endpoint, t.source)
	}
	a := &attempt{}
	var deadline time.Time
	if d := time.Duration(*t.policy.Timeouts.BackendRequest); d > 0 {
		deadline = time.Now().Add(d)
	}
	a.ctx, a.limit = withLimit(t.ctx, deadline, errBackendTimeout)
	hints := &informational{exchange: t.exchange}
	req := t.request(httptrace.WithClientTrace(a.ctx, hints.trace()))
	call := upstream.Call{
		Source: t.source, Deadline: t.deadline, Attempt: t.received.Attempt + t.made, Avoid: t.avoid,
	}
	t.made++
	t.series.at(t.backend).Try()
	a.response, err = set.RoundTrip(req.Context(), endpoint, call, req) //nolint:bodyclose // deliver or discard does
	hints.end()
	if err != nil {
		if !errors.As(err, &a.failure) {
			a.failure = &upstream.Error{Reason: upstream.ReasonProtocol, Err: err}
		}
		t.engine.options.Log.Debug("A try failed", "backend", t.key, "endpoint", endpoint.Address().String(), "error", err)
		t.avoid = append(slices.Clip(t.avoid), endpoint.Address())
	}
	return a
}

// awaitCertificate waits until the client can be proven to the other side of the hop, as long as for its
// workload to become known. Without a certificate the try fails and says so.
func (e *Engine) awaitCertificate(ctx context.Context, to upstream.Endpoint, source upstream.Source) {
	if to.Kind() != upstream.KindHop {
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
	if t.grpc && header.Get("Grpc-Timeout") != "" && !t.deadline.IsZero() {
		left := time.Until(t.deadline)
		header.Set("Grpc-Timeout", formatGRPCTimeout(left))
	}
	if isWebSocket(t.r) {
		header.Set("Connection", "Upgrade")
	}
	req := &http.Request{
		Method: t.head.Method, URL: targetURL(&t.head), Host: t.head.Authority,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: t.r.ContentLength,
	}
	if !t.body.empty() {
		if len(t.r.Trailer) > 0 {
			req.Trailer = make(http.Header, len(t.r.Trailer))
			for name := range t.r.Trailer {
				req.Trailer[name] = nil
			}
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

// again decides whether the request is sent once more, for what reason, and how long after.
//
// A request that provably did not reach an application may be repeated whatever its method, and the
// proxy does so unasked. A request that may have reached one is repeated only if its method is
// idempotent (RFC 9110 section 9.2.2) or the user listed the status that the failure amounts to.
func (t *tries) again(a *attempt) (why string, wait time.Duration, again bool) {
	if a.why != "" || t.ctx.Err() != nil || !t.body.possible() {
		return "", 0, false
	}
	if a.failure == nil {
		if t.retries > 0 && t.listed(a.response.StatusCode) {
			return telemetry.RetryStatus, t.backoff(), true
		}
		return "", 0, false
	}
	why, transient := retryReason(a)
	harmless := a.failure.NotSent || idempotent(t.head.Method)
	// An idle connection may be closed by its other end just as it is used again.
	unasked := a.failure.NotSent || harmless && a.failure.Reason == upstream.ReasonStale
	switch {
	case !transient:
		return "", 0, false
	case unasked && t.repairs > 0:
		return why, t.repair(), true
	case t.retries > 0 && (harmless || t.listed(reason.Of(failureReason(a.failure)).Status)):
		return why, t.backoff(), true
	}
	return "", 0, false
}

// repair uses up one of the proxy's own repetitions. The first goes to another endpoint at once.
func (t *tries) repair() time.Duration {
	t.repairs--
	if done := *t.policy.Retry.ConnectFailures - t.repairs; done > 1 {
		return jitter(5 * time.Millisecond << done)
	}
	return 0
}

// backoff uses up one of the rule's repetitions. The wait doubles each time.
func (t *tries) backoff() time.Duration {
	least, most := time.Duration(*t.policy.Retry.Backoff), time.Duration(*t.policy.Retry.MaxBackoff)
	done := *t.policy.Retry.Attempts - t.retries
	t.retries--
	return jitter(max(least, min(least<<min(done, 16), most)))
}

// jitter makes a wait up to half as long again, so that clients which failed together do not come back
// together. It never shortens: a rule's backoff is the least time between two tries.
func jitter(wait time.Duration) time.Duration { return wait + rand.N(wait/2+1) }

// listed tells whether the user wants tries with this status to be repeated, for a request of this method.
func (t *tries) listed(status int) bool {
	retry := t.policy.Retry
	return slices.Contains(retry.Codes, status) && (*retry.Methods == wire.RetryAll || idempotent(t.head.Method))
}

// retryReason names a failure that another try may not meet.
func retryReason(a *attempt) (string, bool) {
	switch a.failure.Reason {
	case upstream.ReasonConnect, upstream.ReasonConnectTimeout, upstream.ReasonIdentity:
		return telemetry.RetryConnect, true
	case upstream.ReasonRefused:
		return telemetry.RetryUnprocessed, true
	case upstream.ReasonStale, upstream.ReasonReset, upstream.ReasonProtocol:
		return telemetry.RetryReset, true
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		return telemetry.RetryTimeout, errors.Is(context.Cause(a.ctx), errBackendTimeout)
	case upstream.ReasonRequestBody, upstream.ReasonRequest:
	}
	return "", false
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// pause waits before the next try. It is false if the request ended meanwhile.
func (t *tries) pause(wait time.Duration) bool {
	if wait == 0 {
		return t.ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// conclude passes on the outcome of the last attempt.
func (t *tries) conclude(a *attempt) {
	defer a.limit.cancel()
	if a.response != nil {
		t.deliver(a)
		return
	}
	if a.why != "" {
		t.answer(a.why)
		return
	}
	cause := context.Cause(a.ctx)
	switch {
	case errors.Is(cause, errRequestTimeout):
		t.answer(reason.RequestTimeout)
	case errors.Is(cause, errBackendTimeout):
		t.answer(reason.BackendTimeout)
	case cause != nil:
		// The client has gone. net/http would answer 200 otherwise.
		panic(http.ErrAbortHandler)
	case a.failure.Reason == upstream.ReasonRequestBody:
		t.closing = true
		t.answer(reason.BadRequest)
	default:
		t.answer(failureReason(a.failure))
	}
}

// limit ends a context. Its zero value does nothing.
type limit struct {
	end   context.CancelCauseFunc
	timer *time.Timer
}

// withLimit returns a context that ends at deadline because of cause; zero means never. Unlike with a
// context's own deadline, the limit can be lifted again.
func withLimit(ctx context.Context, deadline time.Time, cause error) (context.Context, limit) {
	ctx, end := context.WithCancelCause(ctx)
	l := limit{end: end}
	if !deadline.IsZero() {
		l.timer = time.AfterFunc(time.Until(deadline), func() { end(cause) })
	}
	return ctx, l
}

// lift makes the context go on beyond its deadline.
func (l limit) lift() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l limit) cancel() {
	l.lift()
	if l.end != nil {
		l.end(errAnswered)
	}
}
