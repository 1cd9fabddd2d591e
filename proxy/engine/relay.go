package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/tcp"
	"weft.dev/weft/proxy/upstream"
)

// Names of relayed protocols in metrics.
const (
	protocolTCP       = "tcp"
	protocolWebSocket = "websocket"
)

// relayTCP connects a connection to an opaque port with an endpoint and relays until both have ended.
func (e *Engine) relayTCP(c *conn) {
	cfg := e.config.Load()
	choose := chooser{engine: e, config: cfg, departed: c.target.departed}
	policy := c.target.policy
	options := tcp.Options{
		IdleTimeout: time.Duration(*policy.Timeouts.Idle),
		MaxDuration: time.Duration(*policy.Timeouts.Stream),
	}
	source := c.upstreamSource(e.options.Zone)
	call := caller{c.peer(cfg), source, c.target.key, nil, time.Now(), false}
	series := c.target.plain.at(0)
	if e.decide(cfg, call).Verdict == authz.Denied {
		e.metrics.ConnectionRefused(listenerCaptured, string(reason.AuthorizationDenied))
		series.Refuse(c.caller, false, protocolTCP, string(reason.AuthorizationDenied))
		e.logFailure(reason.AuthorizationDenied, "backend", c.target.key)
		c.abort()
		return
	}
	wish := newWish(cfg.view, c.target.key, nil, source)
	backend, err := e.dial(choose, c.target.key, *policy.Retry.ConnectFailures, wish, upstream.Call{Source: source})
	if err != nil {
		why := dialReason(err)
		e.metrics.ConnectionRefused(listenerCaptured, string(why))
		series.Refuse(c.caller, false, protocolTCP, string(why))
		e.logFailure(why, "backend", c.target.key, "error", err)
		c.abort()
		return
	}
	defer func() { _ = c.Close() }()
	// The relay gets the socket itself, which the kernel can splice.
	end := series.Relay(c.caller, false, protocolTCP)
	moved, cut := e.relay(cfg, call, protocolTCP, c.Conn, backend, options)
	end(moved.Sent, moved.Received, string(cut))
}

// dial opens a connection for opaque bytes, to another endpoint if the first choices fail, as often as
// repairs says: nothing has been sent then.
func (e *Engine) dial(choose chooser, key string, repairs int, wish upstream.Wish, call upstream.Call) (net.Conn, error) {
	var failed error
	for call.Attempt = 0; call.Attempt <= repairs; call.Attempt++ {
		wish.Avoid = call.Avoid
		endpoint, set, err := choose.choose(e.base, key, wish)
		if err != nil {
			return nil, errors.Join(err, failed)
		}
		e.countFallback(endpoint, set)
		if call.Attempt == 0 {
			e.awaitCertificate(e.base, endpoint, call.Source)
		}
		backend, err := set.Dial(e.base, endpoint, call)
		if err == nil {
			return backend, nil
		}
		failed = err
		if dialReason(err) == reason.AuthorizationDenied {
			break // as every other proxy there would say
		}
		call.Avoid = append(call.Avoid, endpoint.Address())
	}
	return nil, failed
}

// dialReason names the failure of dial.
func dialReason(err error) reason.Reason {
	var failure *upstream.Error
	switch {
	case errors.As(err, &failure):
		return failureReason(failure)
	case errors.Is(err, upstream.ErrUnknownBackend):
		return reason.UnknownBackend
	case errors.Is(err, upstream.ErrNoHealthyEndpoints):
		return reason.NoHealthyEndpoints
	}
	return reason.NoEndpoints
}

// relay copies between two connections until both have ended, the engine does, the options say so or the call is not
// allowed any more, which cfg has allowed, and closes them. It returns how much was moved, and why the engine has cut
// the connections if it has.
func (e *Engine) relay(cfg *config, call caller, protocol string, client, backend io.ReadWriteCloser, options tcp.Options) (tcp.Result, reason.Reason) {
	ctx, leave := e.standBy(cfg, call)
	defer leave()
	moved, err := tcp.Relay(ctx, client, backend, options)
	var why reason.Reason
	switch {
	case errors.Is(context.Cause(ctx), errNotAllowed):
		why = reason.AuthorizationDenied
	case errors.Is(err, tcp.ErrIdle):
		why = reason.IdleTimeout
	case errors.Is(err, tcp.ErrTimeout):
		why = reason.DeadlineExceeded
	case err != nil:
		e.options.Log.Debug("A relayed connection ended", "protocol", protocol, "error", err)
	}
	if why != "" {
		e.cut(why, "protocol", protocol, "backend", call.backend)
	}
	return moved, why
}

// upgrade passes on a response that switches protocols, and then the bytes of both sides.
func (t *tries) upgrade(a *attempt) {
	res := a.response
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok || !t.webSocket || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
		_ = res.Body.Close()
		t.answer(reason.Protocol)
		return
	}
	head := responseHead(res)
	phttp.StripHopByHop(&head.Header, true)
	if t.filters != nil {
		t.filters.Response(t.backend, &head)
	}
	t.keep(a.to, &head)
	client, buffered, err := t.rc.Hijack()
	if err != nil {
		t.engine.options.Log.Error("Cannot take over a connection", "error", err)
		_ = backend.Close()
		panic(http.ErrAbortHandler)
	}
	// The connection lives on when request and try are over.
	a.limit.lift()
	t.limit.lift()
	t.idle.pause()
	t.engine.leave(&t.call)
	t.status, t.switched = res.StatusCode, time.Now()
	if err := writeSwitch(buffered.Writer, &head); err != nil {
		_ = client.Close()
		_ = backend.Close()
		return
	}
	t.engine.relays.begin()
	defer t.engine.relays.end()
	options := tcp.Options{IdleTimeout: time.Duration(*t.policy.Timeouts.Idle)}
	if !t.due.stream.IsZero() {
		options.MaxDuration = max(1, time.Until(t.due.stream))
	}
	call := caller{t.config.peer(t.r), t.source, t.key, &t.head, t.start, t.overHop}
	end := t.series.at(t.backend).Relay(t.caller, t.overHop, protocolWebSocket)
	moved, cut := t.engine.relay(t.config, call, protocolWebSocket, rest(client, buffered.Reader), backend, options)
	end(moved.Sent, moved.Received, string(cut))
	// The relay may have closed only the socket inside.
	_ = client.Close()
}

// writeSwitch writes the head of a response that switches protocols.
func writeSwitch(w *bufio.Writer, head *phttp.Response) error {
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n")
	for _, f := range head.Header {
		_, _ = w.WriteString(f.Name + ": " + f.Value + "\r\n")
	}
	_, _ = w.WriteString("\r\n")
	// Flush returns the first error of all of them.
	return w.Flush()
}

// rest returns what is left of a connection that net/http has read from: the bytes it has buffered, then
// the connection itself.
func rest(client net.Conn, buffered *bufio.Reader) io.ReadWriteCloser {
	if c, ok := client.(*conn); ok {
		client = c.Conn
	}
	if buffered.Buffered() == 0 {
		return client
	}
	return &buffer{Conn: client, reader: io.MultiReader(io.LimitReader(buffered, int64(buffered.Buffered())), client)}
}

// buffer is a connection of which some bytes have been read already.
type buffer struct {
	net.Conn
	reader io.Reader
}

// Read implements io.Reader.
func (b *buffer) Read(p []byte) (int, error) { return b.reader.Read(p) }

// CloseWrite ends the sending direction.
func (b *buffer) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
