package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
)

// conn is a connection of a client of this namespace. The HTTP server owns it once it has been handed over.
type conn struct {
	net.Conn
	// target is the destination as it was when the connection came.
	target *destination
	source *wire.Workload
	// caller is the source in metrics.
	caller *telemetry.Caller
	// refused says why no request of this connection is served; empty if they are.
	refused reason.Reason
	client  netip.AddrPort
	// sender is who has sent the last request.
	sender atomic.Pointer[sender]

	lengths lengthLines
	// drainBy is until when the rest of a body that nobody wants may come, in nanoseconds of the clock, or zero.
	// spoiled tells that it has not, so that what comes is no request.
	drainBy atomic.Int64
	spoiled atomic.Bool
	// preface is what has been read of a client that speaks HTTP/2, of HTTPWeft alone.
	preface []byte
	// last tells that no request after the present one can be served.
	last atomic.Bool

	accepted time.Time
	// lifetime spreads the maximum connection age, as a factor around 1, so that connections which
	// came together do not all end together.
	lifetime float64

	// begun is called when the first request is there or will not come.
	begun func()
	// release is called once, at the end.
	release func()
	closed  sync.Once
}

func newConn(raw net.Conn, now time.Time) *conn {
	nothing := func() {}
	c := &conn{
		Conn: raw, accepted: now, lifetime: 0.9 + 0.2*rand.Float64(), begun: nothing, release: nothing,
	}
	if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		address := tcp.AddrPort()
		c.client = netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
	}
	return c
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if c.spoiled.Load() {
		return 0, errSpoiled
	}
	n, err := c.Conn.Read(p)
	c.lengths.read(p[:n])
	if by := c.drainBy.Load(); by != 0 && errors.Is(err, os.ErrDeadlineExceeded) && time.Now().UnixNano() >= by {
		c.spoiled.Store(true)
	}
	return n, err
}

// drainTimeout bounds how long a client may take to send the rest of a body after the request was answered.
const drainTimeout = 5 * time.Second

var errSpoiled = errors.New("the rest of a body has not come")

// drain bounds the wait of net/http for the rest of a request's body, which it has no limit for.
func (c *conn) drain(r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	by := time.Now().Add(drainTimeout)
	c.drainBy.Store(by.UnixNano())
	// If it cannot be set the connection has ended.
	_ = c.Conn.SetReadDeadline(by)
}

// leave ends the reading of a request's body, which net/http must not find under way when its handler has returned:
// if that read meets the end of the body just then, net/http begins to look for the end of the connection, and takes
// the next request for a second read at the same time. A client that has not sent all of the body by now is
// answered, but net/http takes an interrupted read for the end of the connection, and would serve later requests as
// those of a client that has gone.
func (c *conn) leave(body *replay, rc *http.ResponseController) {
	// Deadlines fail to be set only if the connection has ended.
	if body.join(func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) }) {
		c.last.Store(true)
		_ = rc.SetReadDeadline(time.Time{})
	}
}

// SetReadDeadline implements net.Conn. net/http takes deadlines away before it waits for the rest of a body, and
// sets one of its own when it waits for the next request.
func (c *conn) SetReadDeadline(t time.Time) error {
	switch by := c.drainBy.Load(); {
	case by == 0:
	case t.IsZero():
		t = time.Unix(0, by)
	case t.After(time.Now()):
		c.drainBy.Store(0)
		c.spoiled.Store(c.spoiled.Load() || c.last.Load())
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(func() {
		c.begun()
		c.release()
	})
	return err
}

// SyscallConn implements syscall.Conn as far as the connection is a socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := c.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite ends the sending direction.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger says what becomes of unsent data when the connection is closed, as for *net.TCPConn.
func (c *conn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

// abort closes the connection with a reset, so that the client does not take its end for an answer.
func (c *conn) abort() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		// Failing to set it leaves an ordinary close, which is all that can be done.
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// old tells whether the connection has reached the mesh's maximum age; zero means that there is none.
func (c *conn) old(now time.Time, maxAge wire.Duration) bool {
	return maxAge > 0 && float64(now.Sub(c.accepted)) > float64(maxAge)*c.lifetime
}

// connKey finds the conn in the context of a request.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// tracker counts work that Shutdown waits for and that net/http does not know of.
type tracker struct {
	mu     sync.Mutex
	active int
	// idle is closed when active falls to zero while somebody waits.
	idle chan struct{}
}

func (t *tracker) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active++
}

func (t *tracker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active--
	if t.active == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// wait returns when no work is left, or at the end of ctx with its error.
func (t *tracker) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.active == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
