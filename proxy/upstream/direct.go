package upstream

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"weft.dev/weft/proxy/h1"
	"weft.dev/weft/proxy/h2"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// Direct is a try without net/http's types, on an HTTP/1.1 or HTTP/2 connection to a pod or over the hop. It means exactly
// what Set.RoundTrip does, and makes no garbage if there is a connection. The zero value is ready, and again after Reset.
//
// Begin is followed by Head until that has read the final response, then by Accept, and by End once the response has been
// read from Body; after a failure by Undo or Fail. Only Cancel and Break are for other goroutines, and Write.
type Direct struct {
	try
	// lease is *http1Lease or, of HTTP/2, shared.
	lease     lease
	transport *h1.Transport
	shared    http2Lease
	stream    h2.Call
	method    string
	chunked   bool
	// fields are the memory of those that a request over the hop has.
	fields phttp.Header

	// mu guards running, dialing, which ends that, the cause of Cancel, and broken, that of Break.
	mu            sync.Mutex
	running       bool
	dialing       context.CancelCauseFunc
	cause, broken error
}

// Body is the body of the response to a direct try. Over HTTP/1.1 it is an io.Reader as well, which reads more at once.
type Body interface {
	// Next returns bytes that have come, waiting once if there are none. They are valid until the next call. io.EOF,
	// perhaps with the last bytes, means that the body is complete.
	Next() ([]byte, error)
	// AtHand tells whether Next has something to return without waiting.
	AtHand() bool
	// Trailer returns what followed the body.
	Trailer() phttp.Header
}

// plain tells whether a request can be sent in this way: nothing in it asks for more than a plain exchange.
func plain(head *phttp.Request) bool {
	h := head.Header
	if slices.ContainsFunc(h, func(f phttp.Field) bool { return phttp.Internal(f.Name) }) {
		return false
	}
	return !h.Has("Upgrade") && !h.Has("Connection") && !h.Has("Expect")
}

// Begin sends the head of the request and first, the beginning of its body, of which last tells that it is all. length is
// that of the body, -1 if it is not known. It is not begun if that is not possible: then nothing has happened, and
// RoundTrip is to be called with the same call. A failure is for Undo or Fail.
func (d *Direct) Begin(s *Set, to Endpoint, call Call, head *phttp.Request, length int64, first []byte, last bool) (begun bool, failure *Error) {
	if !plain(head) {
		return false, nil
	}
	protocol, grpc := to.target.backend.Protocol, isGRPC(head.Header.Get("Content-Type"))
	switch {
	case protocol == wire.ProtocolTCP:
		return false, nil
	case to.Hop():
		return d.beginShared(s, to, to.hopKey(call), call, grpc, head, length, first, last)
	case to.kind != KindPod:
		return false, nil
	case protocol == wire.ProtocolH2C, grpc:
		return d.beginShared(s, to, poolKey{protocol: poolH2C}, call, grpc, head, length, first, last)
	}
	return d.beginExclusive(s, to, head, length, first, last)
}

// beginShared is Begin over HTTP/2, if there is a connection with a stream left.
func (d *Direct) beginShared(
	s *Set, to Endpoint, key poolKey, call Call, grpc bool, head *phttp.Request, length int64, first []byte, last bool,
) (begun bool, failure *Error) {
	if !s.options.OwnHTTP2 {
		return false, nil
	}
	p, _ := to.state.pool(key).(*http2Pool)
	conn := p.take()
	if conn == nil {
		return false, nil
	}
	client, _ := conn.client.(*h2.Client) // what OwnHTTP2 makes
	started := s.elapsed()
	d.try = try{set: s, to: to, call: call, grpc: grpc, started: started, slot: to.claim(exclusive(to.target.backend.Protocol, grpc, false))}
	to.state.asked(started)
	d.shared.conn, d.shared.again, d.lease = conn, conn.used.Swap(true), &d.shared
	scheme := "http"
	if key.protocol == poolHop {
		scheme = "https"
		over := *head
		d.fields = appendMetadata(append(d.fields[:0], head.Header...), s.metadata(to, call))
		over.Header = d.fields
		head = &over
	}
	sent, err := d.stream.Begin(client, scheme, head, length, first, last)
	if err != nil {
		return true, d.failure(err)
	}
	d.mu.Lock()
	if d.running = true; d.cause != nil {
		d.interrupt()
	}
	d.mu.Unlock()
	if len(first) > sent {
		// A failure shows when the response is waited for, which may have come all the same.
		_ = d.stream.WriteBody(first[sent:], last)
	}
	return true, nil
}

// beginExclusive is Begin over HTTP/1.1.
func (d *Direct) beginExclusive(s *Set, to Endpoint, head *phttp.Request, length int64, first []byte, last bool) (begun bool, failure *Error) {
	if !s.options.OwnHTTP1 {
		return false, nil
	}
	started := s.elapsed()
	d.try, d.method, d.chunked = try{set: s, to: to, started: started, slot: to.claim(true)}, head.Method, length < 0
	to.state.asked(started)
	p, _ := to.state.pool(poolKey{protocol: poolHTTP1}).(*http1Pool)
	for last {
		l := p.pop()
		if l == nil {
			break
		}
		l.conn.begin()
		d.use(l)
		err := d.transport.Ask(head, length, first)
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, h1.ErrNotClean):
			return true, d.failure(err)
		}
		l.discard() // the peer has closed it meanwhile
	}
	l := p.reuse()
	if l == nil {
		if l, failure = d.dial(p); failure != nil {
			d.slot.release()
			return true, failure
		}
	}
	d.use(l)
	if err := d.transport.Send(head, length, first, last); err != nil {
		return true, d.failure(err)
	}
	return true, nil
}

// use takes a connection for the request.
func (d *Direct) use(l *http1Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lease = l
	d.transport, _ = l.client.(*h1.Transport) // what OwnHTTP1 makes
	if d.running = true; d.cause != nil {
		d.interrupt()
	}
}

// dial makes a connection.
func (d *Direct) dial(p *http1Pool) (*http1Lease, *Error) {
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)
	d.mu.Lock()
	d.dialing = end
	if d.cause != nil {
		end(d.cause)
	}
	d.mu.Unlock()
	made, err := p.acquire(ctx, d.to, true)
	d.mu.Lock()
	d.dialing = nil
	d.mu.Unlock()
	if err != nil {
		return nil, d.failed(err, nil)
	}
	l, _ := made.(*http1Lease) // what http1Pool returns
	return l, nil
}

// Write sends more of the request's body; last tells that it is the last of it, and may have no bytes.
func (d *Direct) Write(p []byte, last bool) error {
	switch {
	case d.transport == nil:
		return d.stream.WriteBody(p, last)
	case d.chunked:
		return d.transport.Client().WriteChunks(p, last)
	case len(p) > 0:
		return d.transport.Client().WriteBody(p)
	}
	return nil
}

// Head waits for the head of the next response, which Response then returns: an informational one, or the final one. A
// failure is for Undo or Fail.
func (d *Direct) Head() *Error {
	var err error
	if d.transport == nil {
		err = d.stream.Head()
	} else {
		err = d.transport.Client().Head(d.method, false)
	}
	if err != nil {
		return d.failure(err)
	}
	d.took = d.elapsed()
	if res, _ := d.Response(); d.to.Hop() && res.Status == StatusNotProcessed && res.Header.Has(FieldNotProcessed) {
		d.stop()
		d.stream.End()
		d.lease.release()
		d.slot.release()
		return &Error{
			Reason: ReasonRefused, Endpoint: d.to.state.address, NotSent: true,
			Err: rejection{res.Header.Get(FieldNotProcessed)},
		}
	}
	return nil
}

// Response is the response whose head was read last, and the length of its body, -1 if that is not known. It lies in memory
// that is given back by Reset. Of what a proxy at the other end of the hop says it has FieldNotProcessed and FieldEndpoint.
func (d *Direct) Response() (res phttp.Response, length int64) {
	if d.transport == nil {
		return d.stream.Response.Response, d.stream.Response.ContentLength
	}
	r := &d.transport.Client().Response
	return phttp.Response{Status: r.Status, Header: r.Header}, r.ContentLength
}

// Body is that of the final response.
func (d *Direct) Body() Body {
	if d.transport == nil {
		return &d.stream
	}
	return d.transport.Client()
}

// failure ends the use of the connection, and says what an error of it means.
func (d *Direct) failure(err error) *Error {
	ctx, broken := d.stop()
	failure := d.classify(ctx, d.lease, broken, err)
	failure.unsent = failure.Reason == ReasonRequest ||
		failure.NotSent && d.lease.reused() && !d.lease.alive() && ctx.Err() == nil
	d.give(false)
	return failure
}

// give ends the exchange, and gives the connection back or up.
func (d *Direct) give(clean bool) {
	d.stream.End()
	if clean {
		d.lease.release()
	} else {
		d.lease.discard()
	}
	d.slot.release()
}

// Undo tells whether a failure is none because RoundTrip is to send the request on another connection, or to say what is
// wrong with it: as if it had not been begun.
func (d *Direct) Undo(failure *Error) bool {
	if failure.unsent {
		d.to.state.ended(false)
	}
	return failure.unsent
}

// Fail tells the endpoint of a failure that Undo does not undo.
func (d *Direct) Fail(failure *Error) {
	ctx, _ := d.stop()
	d.failedToAnswer(ctx, failure)
}

// Reset lets go of everything and makes ready for another try, that nobody has canceled.
func (d *Direct) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running, d.cause, d.broken = false, nil, nil
	d.stream.Reset()
	clear(d.fields)
	d.try, d.lease, d.transport, d.shared.conn, d.fields = try{}, nil, nil, nil, d.fields[:0]
}

// stop ends the reach of Cancel and Break. The context has ended with the cause of the first, if it was called; the body
// has that of the second.
func (d *Direct) stop() (context.Context, *requestBody) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
	var body *requestBody
	if d.broken != nil {
		body = &requestBody{failed: d.broken}
	}
	if d.cause == nil {
		return context.Background(), body
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(d.cause)
	return ctx, body
}

// Cancel makes what waits for the backend fail because of a cause, until Reset. The first cause counts. Any goroutine may
// call it, at any time.
func (d *Direct) Cancel(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause == nil {
		d.cause = cause
	}
	if d.dialing != nil {
		d.dialing(cause)
	}
	d.interrupt()
}

// Break is Cancel because the client does not send the rest of the body, which is not the endpoint's fault.
func (d *Direct) Break(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = cause
	d.interrupt()
}

func (d *Direct) interrupt() {
	switch {
	case !d.running:
	case d.transport == nil:
		d.stream.Interrupt(cmp.Or(d.cause, d.broken))
	default:
		d.transport.Interrupt()
	}
}

// Canceled returns the cause of Cancel, nil if it was not called.
func (d *Direct) Canceled() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cause
}

// Broken returns the cause of Break, nil if it was not called.
func (d *Direct) Broken() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

// Accept takes the response whose head was read last, which is the final one, as the answer.
func (d *Direct) Accept() {
	d.to.state.answered(d.took, d.started+d.took)
	res, _ := d.Response()
	d.judgeHead(res.Status, d.rpc(res.Header))
}

// rpc is the status of a gRPC call in fields.
func (d *Direct) rpc(fields phttp.Header) string {
	if !d.grpc {
		return ""
	}
	return fields.Get(fieldGRPCStatus)
}

// End ends the exchange after Accept. err is nil if the response has been read to its end. Only if all of the request was
// sent as well is the connection used again.
func (d *Direct) End(err error, sent bool) {
	ctx, broken := d.stop()
	if broken != nil && err != nil {
		err = errGivenUp // nobody is to blame
	}
	rpc := ""
	if err == nil {
		rpc = d.rpc(d.Body().Trailer())
	}
	d.judgeEnd(ctx, rpc, err)
	d.give(err == nil && sent && ctx.Err() == nil && broken == nil)
}

// Abandon ends the exchange after Accept because nobody wants the rest of the response.
func (d *Direct) Abandon() { d.End(errGivenUp, false) }
