package upstream

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"weft.dev/weft/proxy/h1"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// Direct is a try without net/http: a request that has no body, on an HTTP/1.1 connection to a pod that is idle. It
// means exactly what Set.RoundTrip does and makes no garbage. The zero value is ready, and again after Reset.
//
// Begin is followed by End once the response has been read from Client, or by Resume if somebody wants it as
// net/http's, or by nothing if there is none.
type Direct struct {
	try
	lease     *http1Lease
	transport *h1.Transport

	// mu guards running and canceled: Cancel is called by another goroutine.
	mu                sync.Mutex
	running, canceled bool
}

// endedContext is one that has ended.
var endedContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// plain tells whether a request can be sent in this way: nothing in it asks for more than a plain exchange.
func plain(head *phttp.Request) bool {
	h := head.Header
	if slices.ContainsFunc(h, func(f phttp.Field) bool { return phttp.Internal(f.Name) }) {
		return false
	}
	return !h.Has("Upgrade") && !h.Has("Connection") && !h.Has("Expect") && !isGRPC(h.Get("Content-Type"))
}

// Begin sends the request and waits for the head of a response, which Client then has: the final one, or an
// informational one, with which only Resume can go on. It is not begun if that was not possible: then nothing has
// happened, and RoundTrip is to be called.
func (d *Direct) Begin(s *Set, to Endpoint, head *phttp.Request) (begun bool, failure *Error) {
	if !s.options.OwnHTTP1 || to.kind != KindPod || to.target.backend.Protocol != wire.ProtocolHTTP || !plain(head) {
		return false, nil
	}
	p, _ := to.state.pool(poolKey{protocol: poolHTTP1}).(*http1Pool)
	l := p.reuse()
	if l == nil {
		return false, nil
	}
	transport, ok := l.client.(*h1.Transport)
	if !ok {
		l.release()
		return false, nil
	}
	e := to.state
	started := s.elapsed()
	d.try = try{set: s, to: to, started: started, slot: to.claim(true)}
	d.lease, d.transport = l, transport
	e.asked(started)
	d.mu.Lock()
	if d.running = true; d.canceled {
		transport.Interrupt()
	}
	d.mu.Unlock()
	err := transport.Send(head)
	if err == nil {
		err = d.Client().Head(head.Method, false)
	}
	if err == nil {
		d.took = d.elapsed()
		return true, nil
	}
	ctx := d.stop()
	failure = d.classify(ctx, l, nil, err)
	again := failure.NotSent && !l.alive() && ctx.Err() == nil
	l.discard()
	d.slot.release()
	if again || failure.Reason == ReasonRequest {
		// It is RoundTrip that sends it on another connection, or says what is wrong with it.
		e.ended(false)
		return false, nil
	}
	failure.BodyIntact = true
	d.failedToAnswer(ctx, failure)
	return true, failure
}

// Reset lets go of everything and makes ready for another try, that nobody has canceled.
func (d *Direct) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running, d.canceled = false, false
	d.try, d.lease, d.transport = try{}, nil, nil
}

// stop ends Cancel's reach and returns a context that has ended if it was called.
func (d *Direct) stop() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
	if d.canceled {
		return endedContext
	}
	return context.Background()
}

// Cancel makes what waits for the backend fail, until Reset. Any goroutine may call it, at any time.
func (d *Direct) Cancel() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canceled = true
	if d.running {
		d.transport.Interrupt()
	}
}

// Client is the connection, between a Begin that has begun and the end.
func (d *Direct) Client() *h1.Client { return d.transport.Client() }

// Accept takes the response whose head Begin has returned, which is the final one, as the answer.
func (d *Direct) Accept() {
	d.to.state.answered(d.took, d.started+d.took)
	d.judgeHead(d.Client().Response.Status, nil)
}

// End ends the exchange after Accept. err is nil if the response has been read to its end. It tells whether Cancel
// was called.
func (d *Direct) End(err error) (canceled bool) {
	ctx := d.stop()
	d.judgeEnd(ctx, nil, err)
	if err == nil && ctx.Err() == nil {
		d.lease.release()
	} else {
		d.lease.discard()
	}
	d.slot.release()
	return ctx.Err() != nil
}

// Abandon ends the exchange after Accept because nobody wants the rest of the response.
func (d *Direct) Abandon() { d.End(errGivenUp) }

// Resume hands the exchange on in the form in which RoundTrip returns it. req is the request as it would be given to
// that.
func (d *Direct) Resume(ctx context.Context, req *http.Request) (*http.Response, error) {
	if d.stop().Err() != nil {
		d.transport.Interrupt()
	}
	// What is under way may outlive d.
	t, l := new(try), d.lease
	*t = d.try
	resp, err := d.transport.Resume(t.outgoing(ctx, req, nil))
	var failure *Error
	if err != nil {
		failure = t.classify(ctx, l, nil, err)
		l.discard()
	} else if err := t.received(ctx, resp, l); err != nil {
		failure = t.failed(err, nil)
	}
	if failure != nil {
		failure.BodyIntact = true
		t.slot.release()
		t.failedToAnswer(ctx, failure)
		return nil, failure
	}
	t.to.state.answered(t.took, t.started+t.took)
	return resp, nil
}
