package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weft.dev/weft/proxy/h2"
)

// connKey is the context key under which a connection travels into an http.Transport, whose NewClientConn
// takes connections only from its dialer.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// takeConn is the dialer of our transports.
func takeConn(ctx context.Context, _, _ string) (net.Conn, error) {
	c, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return nil, errors.New("no connection was handed over")
	}
	return c, nil
}

// dialing is one attempt to connect.
type dialing struct {
	endpoint *endpoint
	address  string
	caller   context.Context // whose end is not the endpoint's fault
	limited  context.Context // ends after the time for connecting as well
}

// startDialing bounds connecting by what the Backend's policy allows; the caller must call the function
// returned.
func (e Endpoint) startDialing(ctx context.Context) (dialing, context.CancelFunc) {
	d := dialing{endpoint: e.state, address: e.dialed(), caller: ctx}
	var cancel context.CancelFunc
	if timeout := e.connectTimeout(); timeout > 0 {
		d.limited, cancel = context.WithTimeout(ctx, timeout)
	} else {
		d.limited, cancel = context.WithCancel(ctx)
	}
	return d, cancel
}

// connectTimeout is how long connecting may take, zero if as long as it likes. The policy is about pods;
// proxies of the hop are the mesh's own, and have Options.DialTimeout.
func (e Endpoint) connectTimeout() time.Duration {
	policy := e.target.backend.Policy
	if e.kind == KindHop || policy == nil || policy.Timeouts == nil || policy.Timeouts.Connect == nil {
		return e.state.set.options.DialTimeout
	}
	return time.Duration(*policy.Timeouts.Connect)
}

// tcp opens a connection and records whether the endpoint accepts.
func (d dialing) tcp() (net.Conn, error) {
	c, err := d.endpoint.set.options.DialContext(d.limited, "tcp", d.address)
	if err != nil {
		return nil, d.failed(ReasonConnect, err)
	}
	d.endpoint.accepted()
	return c, nil
}

// hopConn is a connection of the hop. It is cut some time after the root of the proxy at its other end was
// dropped.
type hopConn struct {
	*tls.Conn
	// dropped ends when the root is dropped.
	dropped context.Context
	release func()
}

// Close implements net.Conn.
func (c *hopConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// tls opens a connection for the hop, with one of its two protocols.
func (d dialing) tls(config *tls.Config, protocol string) (*hopConn, error) {
	raw, err := d.tcp()
	if err != nil {
		return nil, err
	}
	below := raw
	if protocol == ALPNHTTP2 && d.endpoint.set.options.OwnHTTP2 {
		below = h2.Hold(raw)
	}
	watch := d.endpoint.set.options.Identity.Watch()
	config = config.Clone()
	config.NextProtos = []string{protocol}
	secured := tls.Client(below, config)
	err = secured.HandshakeContext(d.limited)
	if err == nil && secured.ConnectionState().NegotiatedProtocol != protocol {
		err = fmt.Errorf("peer does not speak %s", protocol)
	}
	if err != nil {
		closeQuietly(raw)
		return nil, d.failed(handshakeReason(err), fmt.Errorf("handshake: %w", err))
	}
	dropped, drop := context.WithCancel(context.Background())
	c := &hopConn{Conn: secured, dropped: dropped}
	// The connection may be cut only once it is complete, long after this.
	c.release, err = watch(secured.ConnectionState(), drop, func() { closeQuietly(c) })
	if err != nil {
		drop()
		closeQuietly(raw)
		return nil, d.failed(ReasonIdentity, err)
	}
	return c, nil
}

// handshakeReason tells a connection that broke during or right after the TLS handshake from one that
// either side refused. With TLS 1.3 the peer judges our certificate after our side is done, so its alert
// may be the first thing read.
func handshakeReason(err error) Reason {
	if network, ok := errors.AsType[*net.OpError](err); ok && network.Op != "remote error" {
		return ReasonConnect
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ReasonConnect
	}
	return ReasonIdentity
}

// failed reports that connecting failed: because the caller's context ended, because it took too long, or
// for otherwise. Nothing of a request was sent.
func (d dialing) failed(otherwise Reason, err error) error {
	e := d.endpoint
	failure := &Error{Reason: contextReason(d.caller), Endpoint: e.address, NotSent: true, Err: err}
	if failure.Reason != 0 {
		return failure
	}
	e.refused()
	failure.Reason = otherwise
	if d.limited.Err() != nil {
		failure.Reason = ReasonConnectTimeout
		// The host is gone rather than the process; what is idle is probably dead as well and would take a
		// request before it shows.
		e.closeIdle()
	}
	return failure
}

func (e *endpoint) closeIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.pools {
		p.closeIdle()
	}
}

// closeQuietly closes a connection that is of no use any longer; there is nobody to tell of a failure.
func closeQuietly(c io.Closer) { _ = c.Close() }

// tcpCounters are what the kernel knows of a connection's two streams.
type tcpCounters struct{ acknowledged, received uint64 }

// http1Conn counts what goes over an HTTP/1.1 connection, where one request is under way at a time, so
// that a failure can be told precisely.
type http1Conn struct {
	net.Conn
	written, read atomic.Int64
	broken        atomic.Bool // a Read or Write failed
	// acknowledged tells how many bytes the peer's kernel had acknowledged when the end of its stream was
	// found to have arrived, or -1 if it was not.
	acknowledged atomic.Int64
	first        tcpCounters // before anything was sent
	counted      bool        // first is known

	// When the request under way began; written by the one who holds the connection.
	writtenBefore, readBefore int64
}

func newHTTP1Conn(c net.Conn) *http1Conn {
	counted := &http1Conn{Conn: c}
	counted.first, counted.counted = tcpCounts(c)
	counted.acknowledged.Store(-1)
	return counted
}

// begin marks the start of a request.
func (c *http1Conn) begin() {
	c.writtenBefore, c.readBefore = c.written.Load(), c.read.Load()
}

// nothingSent tells whether the kernel was given no byte of the request.
func (c *http1Conn) nothingSent() bool { return c.written.Load() == c.writtenBefore }

// nothingReceived tells whether no byte of a response has come.
func (c *http1Conn) nothingReceived() bool { return c.read.Load() == c.readBefore }

// closedBefore proves that the peer ended its stream before it had a byte of the request, the race of
// keep-alive: the end of a stream (FIN) acknowledges everything the peer has received until then, and that
// was exactly what earlier requests had sent. After its FIN a server cannot answer any more, so it does
// not process what arrives later (RFC 9112 section 9.6). A reset alone proves nothing: it acknowledges
// nothing, and may come from a process that died over the request.
func (c *http1Conn) closedBefore() bool {
	return c.writtenBefore > 0 && c.nothingReceived() && c.acknowledged.Load() == c.writtenBefore
}

// failed looks, while the connection is still open, whether the peer had ended its stream.
func (c *http1Conn) failed() {
	c.broken.Store(true)
	if !c.counted {
		return
	}
	now, ok := tcpCounts(c.Conn)
	if ok && now.received-c.first.received == uint64(c.read.Load())+1 {
		c.acknowledged.CompareAndSwap(-1, int64(now.acknowledged-c.first.acknowledged))
	}
}

// Read implements net.Conn.
func (c *http1Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	if err != nil {
		c.failed()
	}
	return n, err
}

// Write implements net.Conn.
func (c *http1Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	if err != nil {
		c.failed()
	}
	return n, err
}

// Moved implements h1.Meter.
func (c *http1Conn) Moved(read, written int, err error) {
	c.read.Add(int64(read))
	c.written.Add(int64(written))
	if err != nil {
		c.failed()
	}
}

// SyscallConn implements syscall.Conn as far as the connection is a socket.
func (c *http1Conn) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := c.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite ends the sending direction of an upgraded connection.
func (c *http1Conn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// errNotHTTP2 tells that a peer's first bytes are not those of an HTTP/2 server.
var errNotHTTP2 = errors.New("peer does not speak HTTP/2")

// greetedConn tells when net/http has processed the peer's SETTINGS, an HTTP/2 server's first frame
// (RFC 9113 section 3.4). Over TLS 1.3 it comes only after the server has verified our certificate, and it
// says how many streams there may be, so that a connection counts as made only then.
type greetedConn struct {
	net.Conn
	greeted chan struct{} // closed once the first frame was processed, or will never be
	err     error         // why it will never be; set before greeted is closed

	// Only net/http's read loop uses these.
	over     bool
	length   []byte // of the first frame's payload: its first 3 bytes
	received int
}

// frameHeader is the length of an HTTP/2 frame's header, lengthField of the payload's length in it.
const (
	frameHeader = 9
	lengthField = 3
)

func newGreetedConn(c net.Conn) *greetedConn {
	return &greetedConn{Conn: c, greeted: make(chan struct{})}
}

// Read implements net.Conn. The read loop comes for more only after it has processed every frame that it
// was given whole.
func (c *greetedConn) Read(p []byte) (int, error) {
	if c.over {
		return c.Conn.Read(p)
	}
	if len(c.length) == lengthField && c.received >= frameHeader+(int(c.length[1])<<8|int(c.length[2])) {
		c.end(nil)
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	c.length = append(c.length, p[:min(n, lengthField-len(c.length))]...)
	c.received += n
	switch {
	case len(c.length) > 0 && c.length[0] != 0:
		c.end(errNotHTTP2) // the first byte of a length, which is never so big for SETTINGS
	case err != nil:
		c.end(err)
	}
	return n, err
}

func (c *greetedConn) end(err error) {
	c.over, c.err = true, err
	close(c.greeted)
}

// securedConn is a greetedConn over TLS; net/http asks for the state.
type securedConn struct {
	*greetedConn
	secured *hopConn
}

// ConnectionState tells net/http that the connection is TLS and which protocol was negotiated.
func (c securedConn) ConnectionState() tls.ConnectionState { return c.secured.ConnectionState() }

// opaqueTCP and opaqueConn are what Dial returns: a connection that counts as in flight until it is
// closed. The first keeps the methods of *net.TCPConn, with which the kernel can splice.
type opaqueTCP struct {
	*net.TCPConn
	release func()
}

// Close implements net.Conn.
func (c *opaqueTCP) Close() error {
	c.release()
	return c.TCPConn.Close()
}

type opaqueConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *opaqueConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// CloseWrite ends the sending direction.
func (c *opaqueConn) CloseWrite() error { return closeWrite(c.Conn) }

// tracked makes a connection hold a slot until it is closed.
func tracked(c net.Conn, held slot) net.Conn {
	release := sync.OnceFunc(held.release)
	if tcp, ok := c.(*net.TCPConn); ok {
		return &opaqueTCP{TCPConn: tcp, release: release}
	}
	return &opaqueConn{Conn: c, release: release}
}
