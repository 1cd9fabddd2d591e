package engine

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/authz"
	"weft.dev/weft/proxy/h2"
	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/tcp"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// hopConn is a connection of another namespace's proxy, after its handshake.
type hopConn struct {
	*tls.Conn
	peer identity.PeerID
	// caller is the peer in metrics.
	caller *telemetry.Caller
	// untrusted tells that the root of the peer was dropped: what is under way has a grace to finish, and
	// nothing new begins.
	untrusted atomic.Bool
	// release may be called more than once.
	release func()
}

// Close implements net.Conn.
func (c *hopConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// admitHop proves who a connection of the hop comes from and passes it on. What is to be done after that, if
// anything, is returned.
func (e *Engine) admitHop(raw net.Conn) (serve func()) {
	watch := e.identity.Watch()
	below := raw
	if e.ownHop != nil {
		below = h2.Hold(raw)
	}
	secured := tls.Server(below, e.identity.ServerConfig())
	ctx, cancel := context.WithTimeout(e.base, headerTimeout)
	defer cancel()
	err := secured.HandshakeContext(ctx)
	c := &hopConn{Conn: secured}
	if err == nil {
		c.peer, err = identity.ConnectionID(secured.ConnectionState())
	}
	var unwatch func()
	if err == nil {
		unwatch, err = watch(secured.ConnectionState(), func() { c.untrusted.Store(true) }, func() { _ = c.Close() })
	}
	if err != nil {
		e.options.Log.Debug("Refused a connection of the hop", "peer", raw.RemoteAddr().String(), "error", err)
		e.metrics.ConnectionRefused(listenerHop, string(reason.UntrustedPeer))
		_ = raw.Close()
		return nil
	}
	c.caller = e.metrics.Caller(c.peer.Namespace, c.peer.ServiceAccount)
	protocol := secured.ConnectionState().NegotiatedProtocol
	opened := e.metrics.ConnectionOpened(listenerHop, protocol)
	c.release = sync.OnceFunc(func() {
		unwatch()
		opened()
	})
	if protocol == upstream.ALPNTCP {
		return func() { e.relayHop(c) }
	}
	if e.ownHop != nil {
		return func() { e.serveOwnHop(c) }
	}
	if err := e.hops.give(c); err != nil {
		_ = c.Close()
	}
	return nil
}

// serveOwnHop serves a connection of requests until it ends.
func (e *Engine) serveOwnHop(c *hopConn) {
	if err := e.ownHop.Serve(c, nil); err != nil {
		_ = c.Close()
	}
}

// relayHop serves a connection of opaque bytes: the preface names the backend, and the bytes follow once
// there is a connection to one of its pods.
func (e *Engine) relayHop(own *hopConn) {
	c := own
	stop := context.AfterFunc(e.base, func() { _ = c.Close() })
	defer stop()
	// Failing to set a deadline shows in the read that follows.
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	m, err := upstream.ReadPreface(c)
	if err != nil {
		e.options.Log.Debug("Refused a preface", "peer", c.peer.String(), "error", err)
		e.metrics.ConnectionRefused(listenerHop, string(reason.BadRequest))
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	if c.untrusted.Load() {
		e.metrics.ConnectionRefused(listenerHop, string(reason.UntrustedPeer))
		_ = upstream.WriteReject(c, string(reason.UntrustedPeer))
		_ = c.Close()
		return
	}
	c, ok := e.vouched(c, m)
	if !ok {
		e.metrics.ConnectionRefused(listenerHop, string(reason.UntrustedPeer))
		_ = upstream.WriteReject(own, string(reason.UntrustedPeer))
		_ = own.Close()
		return
	}
	cfg := e.config.Load()
	call := caller{c.peer, receivedSource(m), m.Backend, nil, time.Now(), true}
	series := cfg.strays.unanswered()
	if inbound := e.inbound(cfg, m.Backend); inbound != nil {
		series = inbound.at(0)
	}
	if e.decide(cfg, call).Verdict == authz.Denied {
		e.metrics.ConnectionRefused(listenerHop, string(reason.AuthorizationDenied))
		series.Refuse(c.caller, true, protocolTCP, string(reason.AuthorizationDenied))
		e.logFailure(reason.AuthorizationDenied, "backend", m.Backend)
		_ = upstream.WriteReject(c, string(reason.AuthorizationDenied))
		_ = c.Close()
		return
	}
	if e.tooMany(cfg, c, m.Backend) {
		e.metrics.ConnectionRefused(listenerHop, string(reason.RateLimited))
		series.Refuse(c.caller, true, protocolTCP, string(reason.RateLimited))
		// Each proxy has its own part of a limit, so that the sender may try another one.
		_ = upstream.WriteReject(c, string(reason.RateLimited))
		_ = c.Close()
		return
	}
	wish := newWish(cfg.view, m.Backend, nil, receivedSource(m))
	wish.Prefer = cfg.sessions.find(cfg.view, m.Backend, m.Session)
	as, vouchedFor := onBehalf(c.peer, receivedSource(m))
	backend, err := e.dial(chooser{engine: e, config: cfg, overHop: true}, m.Backend, *defaultPolicy.Retry.ConnectFailures, wish, upstream.Call{Source: as, Caller: vouchedFor, Avoid: m.Avoid})
	if err != nil {
		why := dialReason(err)
		e.metrics.ConnectionRefused(listenerHop, string(why))
		series.Refuse(c.caller, true, protocolTCP, string(why))
		// If it cannot be written, the other side takes the end of the connection for the same.
		_ = upstream.WriteReject(c, string(why))
		_ = c.Close()
		return
	}
	if err := upstream.WriteAccept(c); err != nil {
		_ = backend.Close()
		_ = c.Close()
		return
	}
	end := series.Relay(c.caller, true, protocolTCP)
	moved, cut := e.relay(cfg, call, protocolTCP, c, backend, tcp.Options{})
	end(moved.Sent, moved.Received, string(cut))
}

// serveHop serves requests of the proxies of other namespaces, which have matched the route already.
// While the proxy drains it does not end their connections: until they have learned that it is leaving
// they would only come back. The end of the server sends their GOAWAY.
func (e *Engine) serveHop(w http.ResponseWriter, r *http.Request) {
	m := new(memory)
	m.exchange = exchange{w: w, r: r, rc: http.NewResponseController(w), memory: m}
	e.receive(&m.exchange)
}

// receive serves a request of another proxy: x has it, and how it is answered.
func (e *Engine) receive(x *exchange) {
	r, cfg := x.r, e.config.Load()
	x.engine, x.config, x.start = e, cfg, time.Now()
	x.series, x.policy, x.overHop = cfg.strays, defaultPolicy, true
	x.read()
	x.chooser = chooser{engine: e, config: cfg, overHop: true}
	x.tried = x.memory.tried[:0]
	e.metrics.Active(listenerHop, 1)
	defer x.finish()
	c, ok := r.Context().Value(connKey{}).(*hopConn)
	if ok {
		x.caller = c.caller
	}
	if ok && c.untrusted.Load() {
		x.w.Header().Set("Connection", "close")
		x.notProcessed(reason.UntrustedPeer)
		return
	}
	var err error
	if x.received, err = upstream.ReadMetadata(x.fields); err != nil {
		e.options.Log.Debug("Refused a request of the hop", "error", err)
		x.answer(reason.BadRequest)
		return
	}
	if ok && x.received.Caller != "" {
		if c, ok = e.vouched(c, x.received); !ok {
			x.answer(reason.UntrustedPeer)
			return
		}
		x.caller, x.r = c.caller, r.WithContext(withConn(r.Context(), c))
	}
	x.destination = x.received.Backend
	x.source = receivedSource(x.received)
	x.curious = x.received.Debug
	if inbound := e.inbound(cfg, x.received.Backend); inbound != nil {
		x.series = inbound
	} else if _, err := cfg.direct.ChooseLocal(r.Context(), x.received.Backend, upstream.Wish{}); err != nil {
		x.notProcessed(reason.UnknownBackend)
		return
	}
	head, why, err := x.gate(x.memory.header)
	if why != "" {
		e.options.Log.Debug("Refused a request of the hop", "reason", string(why), "error", err)
		x.answer(why)
		return
	}
	x.head, x.memory.header = head, head.Header
	x.key = x.received.Backend
	if x.series != cfg.strays {
		x.backend = 0
	}
	if x.forbidden(x.key, &x.head) {
		return
	}
	x.forward()
}

// notProcessed answers that no application has seen the request, so that the sender may repeat it
// elsewhere, whatever its method.
func (x *exchange) notProcessed(why reason.Reason) {
	x.engine.metrics.LocalResponse(string(why))
	x.logAnswer(why, upstream.StatusNotProcessed)
	header := x.w.Header()
	for name, values := range upstream.NotProcessedHeader(string(why)) {
		header[name] = values
	}
	x.status = upstream.StatusNotProcessed
	said := reason.Of(why)
	x.code = said.GRPC().String()
	x.w.WriteHeader(x.status)
}
