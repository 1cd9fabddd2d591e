package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// Most requests find a connection to their pod, or to the proxy of their pod, and are answered at the first try: such a
// request goes from package h1 or h2 to package h1 or h2 without net/http's types, contexts and timers, and without garbage. Whatever turns out to be more than
// that is gone on with by the general way (forward), from where it has come to. Decisions are the same functions in both.

// begun is how far direct has come with a request that the general way goes on with; the zero value is nowhere.
type begun struct {
	// aim is where the try is to go, chosen but not sent to.
	aim aim
	// attempt is one that has ended.
	attempt *attempt
	// again tells that there was an answer after which the request is to be sent again, after wait.
	again bool
	wait  time.Duration
}

// plain tells whether direct may try.
func (t *tries) plain() bool {
	return t.memory.served != nil && !t.curious && !t.webSocket &&
		(!t.grpc || t.r.ProtoMajor == 2 && !t.looksForStatus()) &&
		t.r.Trailer == nil && !t.fields.Has("Expect") &&
		(t.filters == nil || len(t.filters.Mirrors()) == 0) && !t.config.view.Limited(t.key)
}

// plainCall is a direct exchange as authorizations and its alarm see it.
type plainCall struct {
	memory *memory
	call   connection
	// cause is what has ended it, passing tells that the answer has begun, and streaming that it has no known length. The
	// lock of the call is held until it was left.
	cause              error
	passing, streaming bool
}

// begin makes ready for another exchange.
func (c *plainCall) begin(m *memory) {
	c.memory, c.cause, c.passing, c.streaming = m, nil, false, false
}

// pass tells that the answer begins, unless something has ended the exchange, which it returns.
func (c *plainCall) pass(streaming bool) error {
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	c.passing, c.streaming = c.cause == nil, streaming
	return c.cause
}

// interrupt ends a write that waits for a client which reads nothing.
func (c *plainCall) interrupt() { c.memory.exchange.own.Interrupt() }

// grace is that of every answer.
func (c *plainCall) grace() time.Duration {
	if c.streaming {
		return 0
	}
	return c.memory.exchange.engine.options.DenialGrace
}

func (c *plainCall) revoke(why authz.Decision) { c.end(notAllowedError{why}) }

// expire ends the exchange because its time is over.
func (c *plainCall) expire(cause error) {
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	c.end(cause)
}

// end ends the exchange. Its lock is held.
func (c *plainCall) end(cause error) {
	if c.cause == nil {
		c.cause = cause
	}
	c.memory.direct.Cancel(cause)
	if c.passing {
		c.interrupt()
	}
}

// ended returns what has ended the exchange, nil if nothing has.
func (c *plainCall) ended() error {
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	return c.cause
}

// direct has the request answered on a connection that is idle, and tells whether it has been.
func (t *tries) direct() (done bool) {
	m := t.memory
	t.ctx, t.body = t.r.Context(), &m.body
	t.body.begin(t.r)
	to, failed := t.aim(t.ctx)
	if failed != nil {
		t.begun.attempt = failed
		return false
	}
	t.stand(&m.plain.call, &m.plain)
	defer t.engine.leave(&m.plain.call)
	sent := time.Now()
	limits := t.policy.Timeouts
	m.alarm.begin(sent, t.due, time.Duration(*limits.BackendRequest), time.Duration(*limits.Idle))
	defer m.alarm.end()
	first, last := t.body.atHand(t.own)
	a := t.tracedTry(to)
	t.tellGRPCTimeout()
	begun, failure := m.direct.Begin(to.set, to.endpoint, t.outgoing(to.endpoint), &t.head, t.r.ContentLength, first, last)
	if !begun {
		t.begun.aim = to
		return false
	}
	if t.hopped() {
		t.tried = append(t.tried, to.endpoint.Address())
	}
	t.count(to)
	if failure == nil && !last {
		t.body.give(&m.direct, &m.alarm, len(first))
	}
	if failure == nil {
		failure = t.awaitHead()
	}
	took := time.Since(sent)
	if failure != nil {
		t.broken(to, a, failure, took)
		return false
	}
	m.direct.Accept()
	res, _ := m.direct.Response()
	hop := to.endpoint.Hop()
	answer := outcome{why: telemetry.RetryStatus, sent: true, answered: true, status: res.Status}
	if t.grpc {
		answer.code, _ = headStatus(&res)
	}
	if next(answer, t.head.Method, t.policy.Retry, t.repairs, t.retries) != stepConclude || hop && res.Header.Has(reason.Header) {
		if a == nil {
			a = &attempt{to: to.endpoint}
		}
		if t.learn(a, t.answered(), nil, took); !t.keepsAnswer(a) { //nolint:bodyclose // discard does, or the body is passed on
			return false
		}
	} else {
		t.reached, t.upstream = true, took
		if a != nil {
			a.trace.status = res.Status
		}
		t.series.at(t.backend).Try(&telemetry.Outcome{Secure: hop, GRPC: t.grpc, Status: res.Status, Took: took})
	}
	if a != nil {
		defer t.endTry(a)
	}
	if !t.body.empty() {
		defer t.body.finish(t.own)
	}
	m.answer = res
	t.pass(&m.answer)
	return true
}

// looksForStatus tells whether a gRPC response is looked at as far as its trailer, because its status may be tried again.
func (t *tries) looksForStatus() bool { return t.retries > 0 && len(t.policy.Retry.GRPCCodes) > 0 }

// tracedTry begins a try that is traced; nil if it is not.
func (t *tries) tracedTry(to aim) *attempt {
	if t.traces() == nil {
		return nil
	}
	a := &attempt{to: to.endpoint}
	t.beginTry(a)
	return a
}

// awaitHead reads heads of responses until the final one is there, and passes the others on.
func (t *tries) awaitHead() *upstream.Error {
	d := &t.memory.direct
	for {
		if failure := d.Head(); failure != nil {
			return failure
		}
		t.memory.alarm.moved()
		res, _ := d.Response()
		if res.Status >= http.StatusOK {
			return nil
		}
		informational := res
		t.inform(&informational)
	}
}

// broken leaves a try without an answer to the general way.
func (t *tries) broken(to aim, a *attempt, failure *upstream.Error, took time.Duration) {
	d := &t.memory.direct
	t.body.takeBack()
	if t.body.possible() && d.Undo(failure) {
		t.begun.aim = to
		t.made--
		t.tried = t.tried[:max(0, len(t.tried)-1)]
		return
	}
	d.Fail(failure)
	if a == nil {
		a = &attempt{to: to.endpoint}
	}
	if cause := d.Canceled(); cause != nil {
		ctx, end := context.WithCancelCause(t.ctx)
		end(cause)
		a.ctx = ctx
	}
	t.learn(a, nil, failure, took)
	t.begun.attempt = a
}

// answered returns the answer that direct has, as far as it decides about another try.
func (t *tries) answered() *http.Response {
	d := &t.memory.direct
	answer, _ := d.Response()
	res := &http.Response{StatusCode: answer.Status, Header: make(http.Header, len(answer.Header)), Body: unwanted{d}}
	for _, f := range answer.Header {
		res.Header.Add(f.Name, f.Value)
	}
	return res
}

// unwanted is the body of an answer that is not passed on.
type unwanted struct{ direct *upstream.Direct }

// Read implements io.Reader.
func (unwanted) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements io.Closer.
func (u unwanted) Close() error {
	u.direct.Abandon()
	return nil
}

// keepsAnswer decides whether an answer whose status may be tried again is passed on. If it is not, the general way knows
// what to do.
func (t *tries) keepsAnswer(a *attempt) bool {
	wait, again := t.again(a)
	switch {
	case again:
		t.endTry(a)
		a.discard()
		t.begun.again, t.begun.wait = true, wait
	case a.response == nil:
		t.begun.attempt = a
	default:
		return true
	}
	t.body.takeBack()
	return false
}

// pass is deliver for a response that was begun directly.
func (t *tries) pass(head *phttp.Response) {
	d, plain, alarm := &t.memory.direct, &t.memory.plain, &t.memory.alarm
	_, length := d.Response()
	streaming := length < 0
	if why := causeReason(plain.pass(streaming)); why != "" {
		// It has come too late, and the client has seen nothing of it.
		d.Abandon()
		t.engine.leave(&plain.call)
		alarm.end()
		t.closing = t.closing || !t.body.ended()
		t.answer(why)
		return
	}
	if streaming && !t.due.stream.IsZero() {
		alarm.stream(t.due.stream)
	}
	code, told := headStatus(head)
	var announced []string
	if head.Header.Has("Trailer") {
		if streaming {
			announced = head.Header.Values("Trailer")
		}
		head.Header.Del("Trailer")
	}
	foreign := !t.last.Hop()
	if foreign {
		phttp.StripInternal(&head.Header)
	} else {
		upstream.StripOutcome(&head.Header)
	}
	phttp.StripHopByHop(&head.Header, false)
	if t.filters != nil {
		t.filters.Response(t.backend, head)
	}
	t.keep(t.last, head)
	for _, list := range announced {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.Trim(name, " \t"); phttp.MayTrail(name) {
				head.Header.Add("Trailer", name)
			}
		}
	}
	t.writeHead(head)
	err := t.passBody(streaming)
	if err == nil {
		trailer := t.passTrailer(foreign)
		if !told {
			code, told = statusOf(trailer)
		}
		if t.grpc {
			t.code = namedStatus(code, told)
		}
		d.End(nil, t.body.atOnce() || t.body.poured())
		return
	}
	gone := errors.Is(err, errClientGone)
	if gone {
		d.Abandon()
	} else {
		d.End(err, false)
	}
	t.engine.leave(&plain.call)
	alarm.end()
	due := t.due.whole
	if streaming && !t.due.stream.IsZero() {
		due = t.due.stream
	}
	t.why = causeReason(plain.ended())
	switch {
	case t.why != "":
	case gone || d.Canceled() != nil || d.Broken() != nil:
		// There is nobody left to tell.
		panic(http.ErrAbortHandler)
	case t.overdue(due):
		t.why = reason.DeadlineExceeded
	default:
		t.why = reason.ResetAfterHeaders
	}
	t.cut(err)
}

// passTrailer passes on what has followed the body, and returns it. Of what an application says nothing is taken for a
// proxy's word.
func (t *tries) passTrailer(foreign bool) phttp.Header {
	trailer := t.memory.direct.Body().Trailer()
	if len(trailer) > 0 {
		trailer = slices.DeleteFunc(trailer, func(f phttp.Field) bool {
			return !phttp.MayTrail(f.Name) || foreign && phttp.Internal(f.Name)
		})
		t.own.PassTrailer(trailer)
	}
	return trailer
}

// tellGRPCTimeout tells the backend of a gRPC call how much time there is left.
func (t *tries) tellGRPCTimeout() {
	if deadline := t.due.latest(); t.grpc && !deadline.IsZero() && t.head.Header.Get("Grpc-Timeout") != "" {
		t.head.Header.Set("Grpc-Timeout", formatGRPCTimeout(time.Until(deadline)))
	}
}

// passBody passes a body on as it comes: what has been read is sent before more is waited for.
func (t *tries) passBody(streaming bool) error {
	from, alarm := t.memory.direct.Body(), &t.memory.alarm
	if streaming && !from.AtHand() {
		// It may be long until the first byte, and the head alone can be an answer.
		if t.own.FlushError() != nil {
			return errClientGone
		}
	}
	reader, _ := from.(io.Reader)
	var buf *[copyBufferSize]byte
	defer func() {
		if buf != nil {
			copyBuffers.Put(buf)
		}
	}()
	// What has come with the head is sent with it.
	p, err := from.Next()
	for {
		alarm.moved()
		if _, failed := t.own.Write(p); failed != nil {
			return errClientGone
		}
		if t.grpc {
			t.messages.passed(p)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			_ = t.own.FlushError() // the client sees as much as there is
			return err
		case from.AtHand():
			p, err = from.Next()
			continue
		}
		if failed := t.own.FlushError(); failed != nil {
			return errClientGone
		}
		alarm.moved()
		if reader == nil {
			p, err = from.Next()
			continue
		}
		if buf == nil {
			buf, _ = copyBuffers.Get().(*[copyBufferSize]byte)
		}
		var n int
		n, err = reader.Read(buf[:])
		p = buf[:n]
	}
}
