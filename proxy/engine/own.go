package engine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	"weft.dev/weft/proxy/h1"
	"weft.dev/weft/proxy/h2"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
)

// newOwnServer returns the server of HTTPWeft. The exchanges are those of net/http's server: package h1 speaks the
// protocol, and everything else is decided in one place.
func (e *Engine) newOwnServer() *h1.Server {
	return &h1.Server{
		Handle:      e.serveOwn,
		Refuse:      e.refuseOwn,
		Preface:     e.servePreface,
		HeadTimeout: headerTimeout,
		IdleTimeout: idleTimeout,
		Failed: func(panicked any) {
			e.options.Log.Error("Panic while serving a request", "panic", fmt.Sprint(panicked))
		},
	}
}

// serveOwnConn serves a client's connection until it ends.
func (e *Engine) serveOwnConn(c *conn) {
	c.lengths.off = true // package h1 refuses what they are counted for
	e.relays.begin()
	err := e.own.Serve(c, e.relays.end)
	if err != nil {
		e.relays.end()
	}
	if err == nil && c.preface != nil {
		err = e.ownHTTP2.Serve(c, c.preface)
	}
	if err != nil {
		c.abort()
	}
}

// servePreface notes that a client speaks HTTP/2, and what has been read from it.
func (e *Engine) servePreface(raw net.Conn, first []byte) {
	c, _ := raw.(*conn)
	c.preface = first
}

// ownWriter is how an exchange of our own servers is answered, and its request's body read: *h1.ResponseWriter or
// *h2.ResponseWriter, which say more.
type ownWriter interface {
	http.ResponseWriter
	// Fields are those of the request as they were received.
	Fields() phttp.Header
	WriteFields(res *phttp.Response)
	FlushError() error
	PassTrailer(trailer phttp.Header)
	// Interrupt ends writes of the answer, StopBody reads of the body.
	Interrupt()
	StopBody()
	WholeBody() (body []byte, ok bool)
	BodyAtHand(p []byte) int
}

// served is a connection of package h1 or a stream of package h2: what its requests have in common, and the memory of the
// one under way.
type served struct {
	engine *Engine
	// conn or stream is what is served.
	conn   *h1.Conn
	stream *h2.Stream
	client net.Conn
	// gone is clientGone, made once.
	gone func()

	// mu guards left, whether the client has gone; cancel, which ends the request's context if it has its own; and memory,
	// which is the request's. An idle connection has none.
	mu     sync.Mutex
	left   bool
	cancel context.CancelFunc
	memory *memory
}

// serveOwn serves one request of a client.
func (e *Engine) serveOwn(hc *h1.Conn) {
	s, _ := hc.Value.(*served)
	if s == nil {
		s = &served{engine: e, conn: hc, client: hc.NetConn()}
		s.gone = s.clientGone
		hc.Value = s
	}
	m, _ := memories.Get().(*memory)
	m.adapter.Begin(hc)
	w := &m.adapter.Writer
	s.begin(m, w, m.adapter.Request)
	defer s.end()
	hc.OnGone(s.gone)
	e.capture(&m.exchange)
	w.EndHTTP()
}

// serveStream serves one request of a client or of another proxy that speaks HTTP/2.
func (e *Engine) serveStream(hs *h2.Stream, serve func(*exchange)) {
	m, _ := streamMemories.Get().(*memory)
	m.streamAdapter.Begin(hs)
	w := &m.streamAdapter.Writer
	s := &m.streamServed
	s.engine, s.stream, s.client = e, hs, hs.NetConn()
	s.begin(m, w, m.streamAdapter.Request)
	defer s.end()
	hs.OnGone(s.gone)
	serve(&m.exchange)
	w.EndHTTP()
}

// begin makes everything ready for a request.
func (s *served) begin(m *memory, w ownWriter, r *http.Request) {
	m.served = s
	m.ctx.Context, m.ctx.conn = s.engine.base, s.client //nolint:fatcontext // it is not put into another
	s.mu.Lock()
	s.left, s.memory = false, m
	s.mu.Unlock()
	m.plain.begin(m)
	m.exchange.w, m.exchange.own, m.exchange.r, m.exchange.rc, m.exchange.memory = w, w, r, m.control, m
}

// requestContext is the context of a request: the engine's, and the connection of its client.
type requestContext struct {
	context.Context
	conn net.Conn
}

// Value implements context.Context.
func (c *requestContext) Value(key any) any {
	if key == (connKey{}) {
		return c.conn
	}
	return c.Context.Value(key)
}

// memories and streamMemories are those that no request uses, over HTTP/1.1 and over HTTP/2.
var (
	memories = sync.Pool{New: func() any {
		m := new(memory)
		m.adapter = h1.NewAdapter(&m.ctx)
		m.control = http.NewResponseController(&m.adapter.Writer)
		m.alarm.expire = m.plain.expire
		return m
	}}
	streamMemories = sync.Pool{New: func() any {
		m := new(memory)
		m.streamAdapter = h2.NewAdapter(&m.ctx)
		m.control = http.NewResponseController(&m.streamAdapter.Writer)
		m.alarm.expire = m.plain.expire
		m.streamServed.gone = m.streamServed.clientGone
		return m
	}}
)

// detach gives the request a context that ends when its client goes. From now on anybody may hold on to the exchange,
// whose memory is not used again.
func (x *exchange) detach() {
	s := x.memory.served
	if s == nil || s.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(x.r.Context())
	x.r = x.r.WithContext(ctx)
	if s.stream != nil {
		s.stream.Keep()
	}
	s.mu.Lock()
	s.cancel = cancel
	if s.left {
		cancel()
	}
	s.mu.Unlock()
}

// clientGone is called when the client has ended its connection or stream.
func (s *served) clientGone() {
	s.mu.Lock()
	s.left = true
	if s.cancel != nil {
		s.cancel()
	}
	if s.memory != nil {
		s.memory.direct.Cancel(context.Canceled)
	}
	s.mu.Unlock()
}

// end lets go of the request.
func (s *served) end() {
	if s.stream != nil {
		s.stream.OnGone(nil) // its memory is somebody else's from now on
	}
	s.mu.Lock()
	m := s.memory
	s.memory = nil
	cancel := s.cancel
	s.cancel = nil
	s.mu.Unlock()
	if cancel != nil {
		cancel()
		return
	}
	m.clear()
	if s.stream == nil {
		memories.Put(m)
		return
	}
	s.stream, s.client = nil, nil
	streamMemories.Put(m)
}

// refusals are what clients are told about requests that are not valid.
var refusals = map[h1.Fault]reason.Reason{
	h1.Malformed:          reason.BadRequest,
	h1.TooLarge:           reason.HeaderTooLarge,
	h1.VersionUnsupported: reason.VersionUnsupported,
	h1.ExpectationFailed:  reason.ExpectationFailed,
	h1.CodingUnsupported:  reason.CodingUnsupported,
}

// refuseOwn answers a request that is not valid.
func (e *Engine) refuseOwn(hc *h1.Conn, failed *h1.Error) {
	c, _ := hc.NetConn().(*conn)
	c.begun()
	e.options.Log.Debug("Refused a request", "client", c.client.String(), "error", failed)
	why := refusals[failed.Fault]
	said := reason.Of(why)
	e.metrics.LocalResponse(string(why))
	e.logFailure(why, "destination", c.target.key, "status", said.Status)
	c.target.plain.unanswered().Request(&telemetry.Outcome{Caller: c.caller, Status: said.Status, Error: string(why)})
	res, body := localResponse(&said, false)
	if err := hc.WriteHead(&res, int64(len(body))); err == nil {
		// The client may have gone; there is nobody to tell.
		_, _ = hc.Write([]byte(body))
	}
}
