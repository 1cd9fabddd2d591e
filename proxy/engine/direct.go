package engine

import (
	"errors"
	"io"
	"net/http"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// Most requests have no body, and nothing but their client ends them: such a request goes from package h1 to package h1
// without net/http's types, contexts and timers, and without garbage. Whatever turns out to be more than that is gone on
// with by the general way (forward), from where it has come to. Decisions are the same functions in both.

// begun is how far direct has come with a request that the general way goes on with; the zero value is nowhere.
type begun struct {
	// aim is where the try is to go, chosen but not sent to.
	aim aim
	// attempt is one that has ended.
	attempt *attempt
	// answered tells that the head of a response is there; sent is when it was asked for.
	answered bool
	sent     time.Time
}

// plain tells whether direct may try.
func (t *tries) plain() bool {
	return t.memory.served != nil && t.r.Body == http.NoBody && !t.grpc && !t.curious && !isWebSocket(t.r) &&
		t.due == deadlines{cause: t.due.cause} && *t.policy.Timeouts.Idle == 0 && *t.policy.Timeouts.BackendRequest == 0 &&
		(t.filters == nil || len(t.filters.Mirrors()) == 0) && !t.config.view.Limited(t.key) && t.traces() == nil
}

// plainCall is a direct exchange as authorizations see it.
type plainCall struct {
	memory *memory
	call   connection
	// revoked is why it is not allowed any more, passing tells that the answer has begun. The lock of the call is held
	// until it was left.
	revoked *authz.Decision
	passing bool
}

// begin makes ready for another exchange.
func (c *plainCall) begin(m *memory) { c.memory, c.revoked, c.passing = m, nil, false }

// pass tells that the answer begins.
func (c *plainCall) pass() {
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	c.passing = true
	if c.revoked != nil {
		c.interrupt()
	}
}

// interrupt ends a write that waits for a client which reads nothing, and the connection with it.
func (c *plainCall) interrupt() { _ = c.memory.served.control.SetWriteDeadline(time.Unix(1, 0)) }

// grace is that of every answer of known length.
func (c *plainCall) grace() time.Duration { return c.memory.exchange.engine.options.DenialGrace }

func (c *plainCall) revoke(why authz.Decision) {
	c.revoked = &why
	c.memory.direct.Cancel()
	if c.passing {
		c.interrupt()
	}
}

// direct has the request answered on a connection that is idle, and tells whether it has been.
func (t *tries) direct() (done bool) {
	to, failed := t.aim(t.r.Context())
	if failed != nil {
		t.begun.attempt = failed
		return false
	}
	d, plain := &t.memory.direct, &t.memory.plain
	t.stand(&plain.call, plain)
	defer t.engine.leave(&plain.call)
	sent := time.Now()
	begun, failure := d.Begin(to.set, to.endpoint, &t.head)
	if !begun {
		t.begun.aim = to
		return false
	}
	t.count(to)
	if failure != nil {
		a := &attempt{to: to.endpoint}
		t.learn(a, nil, failure, time.Since(sent))
		t.begun.attempt = a
		return false
	}
	res := &d.Client().Response
	answer := outcome{why: telemetry.RetryStatus, sent: true, answered: true, status: res.Status}
	if res.Status < http.StatusOK || res.ContentLength < 0 ||
		next(answer, t.head.Method, t.policy.Retry, t.repairs, t.retries) != stepConclude {
		t.begun.answered, t.begun.sent = true, sent
		return false
	}
	t.reached, t.upstream = true, time.Since(sent)
	t.series.at(t.backend).Try(&telemetry.Outcome{Status: res.Status, Took: t.upstream})
	t.pass(d)
	return true
}

// goOn goes on with a response whose head direct has read.
func (t *tries) goOn(b begun) *attempt {
	a := &attempt{to: t.last}
	a.ctx, a.limit = withLimit(t.ctx, time.Time{}, errBackendTimeout)
	req, hints := t.hinted(a)
	res, err := t.memory.direct.Resume(req.Context(), req) //nolint:bodyclose // deliver or discard does
	hints.end()
	t.learn(a, res, err, time.Since(b.sent))
	return a
}

// pass is deliver for a response of known length that was begun directly.
func (t *tries) pass(d *upstream.Direct) {
	t.memory.plain.pass()
	d.Accept()
	res := &d.Client().Response
	head := phttp.Response{Status: res.Status, Header: res.Header}
	head.Header.Del("Trailer")
	phttp.StripInternal(&head.Header)
	phttp.StripHopByHop(&head.Header, false)
	if t.filters != nil {
		t.filters.Response(t.backend, &head)
	}
	t.keep(t.last, &head)
	t.writeHead(&head)
	err := t.passBody(d)
	gone := errors.Is(err, errClientGone)
	if gone {
		d.Abandon()
	} else {
		gone = d.End(err)
	}
	if err == nil {
		return
	}
	plain := &t.memory.plain
	t.engine.leave(&plain.call)
	switch {
	case plain.revoked != nil:
		t.why = reason.AuthorizationDenied
	case gone:
		// There is nobody left to tell.
		panic(http.ErrAbortHandler)
	default:
		t.why = reason.ResetAfterHeaders
	}
	t.engine.cut(t.why, "backend", t.key, "error", err)
	// The client must not take what it has for the whole.
	panic(http.ErrAbortHandler)
}

// passBody passes a body on as it comes.
func (t *tries) passBody(d *upstream.Direct) error {
	// What has come with the head is sent with it.
	p, err := d.Client().Next()
	var buf *[copyBufferSize]byte
	for {
		if _, failed := t.own.Write(p); failed != nil {
			return errClientGone
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if failed := t.own.FlushError(); failed != nil {
			return errClientGone
		}
		if buf == nil {
			buf, _ = copyBuffers.Get().(*[copyBufferSize]byte)
			defer copyBuffers.Put(buf)
		}
		var n int
		n, err = d.Client().Read(buf[:])
		p = buf[:n]
	}
}
