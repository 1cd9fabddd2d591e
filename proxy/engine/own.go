package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"weft.dev/weft/proxy/h1"
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
	if err := e.own.Serve(c); err != nil {
		c.abort()
	}
}

// servePreface passes a client that speaks HTTP/2 on to net/http's server.
func (e *Engine) servePreface(raw net.Conn, first []byte) {
	c, _ := raw.(*conn)
	c.Conn = &buffer{Conn: c.Conn, reader: io.MultiReader(bytes.NewReader(first), c.Conn)}
	e.serveStd(c)
}

// served is a connection that package h1 serves: what its requests have in common, and the memory of the one under way.
type served struct {
	engine *Engine
	conn   *h1.Conn
	// ctx is that of the connection.
	ctx context.Context

	// adapter and control are used for one request after the other, unless they are worn: something of the last one may
	// be in use still.
	adapter *h1.Adapter
	control *http.ResponseController
	worn    bool
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
		c, _ := hc.NetConn().(*conn)
		s = &served{engine: e, conn: hc, ctx: withConn(e.base, c), worn: true}
		s.gone = s.clientGone
		hc.Value = s
	}
	s.begin()
	defer s.end()
	hc.OnGone(s.gone)
	e.capture(&s.memory.exchange)
	s.adapter.Writer.EndHTTP()
}

// begin makes everything ready for the request under way.
func (s *served) begin() {
	if s.worn {
		s.worn = false
		s.adapter = h1.NewAdapter(s.ctx, s.conn)
		s.control = http.NewResponseController(&s.adapter.Writer)
	}
	m, _ := memories.Get().(*memory)
	m.served = s
	s.mu.Lock()
	s.left, s.memory = false, m
	s.mu.Unlock()
	s.memory.plain.begin(s.memory)
	s.adapter.Begin()
	w := &s.adapter.Writer
	s.memory.exchange = exchange{w: w, own: w, r: s.adapter.Request, rc: s.control, memory: s.memory}
}

// memories are those that no request uses.
var memories = sync.Pool{New: func() any { return new(memory) }}

// detach gives the request a context that ends when its client goes. From now on anybody may hold on to the exchange,
// whose memory is not used again.
func (x *exchange) detach() {
	if s := x.memory.served; s != nil && s.cancel == nil {
		ctx, cancel := context.WithCancel(s.ctx)
		x.r = x.r.WithContext(ctx)
		s.mu.Lock()
		s.cancel = cancel
		if s.left {
			cancel()
		}
		s.mu.Unlock()
	}
}

// clientGone is called when the client has ended its connection.
func (s *served) clientGone() {
	s.mu.Lock()
	s.left = true
	if s.cancel != nil {
		s.cancel()
	}
	if s.memory != nil {
		s.memory.direct.Cancel()
	}
	s.mu.Unlock()
}

// end lets go of the request.
func (s *served) end() {
	s.mu.Lock()
	m := s.memory
	s.memory = nil
	if s.worn = s.cancel != nil; s.worn {
		s.cancel()
		s.cancel = nil
	}
	s.mu.Unlock()
	if !s.worn {
		m.clear()
		memories.Put(m)
	}
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
	c.target.plain.unanswered.Request(&telemetry.Outcome{Caller: c.caller, Status: said.Status, Error: string(why)})
	res, body := localResponse(&said, false)
	if err := hc.WriteHead(&res, int64(len(body))); err == nil {
		// The client may have gone; there is nobody to tell.
		_, _ = hc.Write([]byte(body))
	}
}
