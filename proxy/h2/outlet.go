package h2

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// outlet is where the bytes of a connection go. It is for one goroutine at a time.
type outlet struct {
	conn   net.Conn
	socket *socket
	// held is what is below a connection of TLS, nil in plain text.
	held *Held
	// rest is what try has left.
	rest []byte
}

func newOutlet(conn net.Conn) outlet {
	o := outlet{conn: conn}
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if o.held, _ = secured.NetConn().(*Held); o.held != nil {
			o.socket = newSocket(o.held.Conn)
			o.held.hold()
		}
		return o
	}
	o.socket = newSocket(conn)
	return o
}

// try writes as much of p as is possible without waiting. If that is not all, finish writes the rest, and p must stay
// as it is until then.
func (o *outlet) try(p []byte) (all bool, err error) {
	if o.held != nil {
		if _, err := o.conn.Write(p); err != nil {
			return false, err
		}
		p = o.held.take()
	}
	if o.socket == nil {
		o.rest = p
		return false, nil
	}
	n, err := o.socket.write(p)
	if n == len(p) && err == nil {
		o.release(p)
		return true, nil
	}
	o.rest = p[n:]
	return false, err
}

// finish writes what try has left. It waits as long as it takes.
func (o *outlet) finish() error {
	conn := o.conn
	if o.held != nil {
		conn = o.held.Conn
	}
	_, err := conn.Write(o.rest)
	o.release(o.rest)
	o.rest = nil
	return err
}

// last sends what TLS has to say when its sending direction ends, if that is possible at once.
func (o *outlet) last() {
	if o.held == nil || o.socket == nil {
		return
	}
	_, _ = newSocket(o.held.Conn).write(o.held.take())
}

func (o *outlet) release(p []byte) {
	if o.held != nil {
		o.held.give(p)
	}
}

// Held is a connection below one of TLS. Once HTTP/2 is spoken on that, what TLS writes is collected here, so that many
// records leave with one call, and so that no writer waits.
type Held struct {
	net.Conn

	mu      sync.Mutex
	holding bool
	out     []byte
	spare   []byte
}

// Hold returns a connection on which TLS is to be spoken. Until NewClient or Server.Serve gets it, it is as conn.
func Hold(conn net.Conn) *Held { return &Held{Conn: conn} }

// Write implements net.Conn.
func (h *Held) Write(p []byte) (int, error) {
	h.mu.Lock()
	if !h.holding {
		h.mu.Unlock()
		return h.Conn.Write(p)
	}
	defer h.mu.Unlock()
	h.out = append(h.out, p...)
	return len(p), nil
}

// Close implements net.Conn. What TLS has to say last is sent if that is possible at once.
func (h *Held) Close() error {
	if last := h.take(); len(last) > 0 {
		if s := newSocket(h.Conn); s != nil {
			_, _ = s.write(last)
		}
	}
	return h.Conn.Close()
}

// CloseWrite ends the sending direction.
func (h *Held) CloseWrite() error { return closeWrite(h.Conn) }

// SetLinger says what becomes of unsent data when the connection is closed, as for *net.TCPConn.
func (h *Held) SetLinger(seconds int) error {
	if tcp, ok := h.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

func (h *Held) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = true
}

// take returns what was collected.
func (h *Held) take() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.out
	h.out, h.spare = h.spare[:0], nil
	return p
}

// give gives the memory of what take has returned back.
func (h *Held) give(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cap(p) <= keptMemory {
		h.spare = p[:0]
	}
}

// socket writes to a socket without waiting.
type socket struct {
	raw syscall.RawConn
	p   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// newSocket returns nil if there is no socket that can be written to in this way.
func newSocket(c net.Conn) *socket {
	if _, secured := c.(*tls.Conn); secured || !writesAtOnce {
		return nil
	}
	conn, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.try = func(fd uintptr) bool {
		for s.n < len(s.p) {
			var n int
			if n, s.err = writeSocket(fd, s.p[s.n:]); s.err != nil {
				break
			}
			s.n += n
		}
		return true
	}
	return s
}

// write writes as much as is possible at once.
func (s *socket) write(p []byte) (int, error) {
	s.p, s.n, s.err = p, 0, nil
	err := s.raw.Write(s.try)
	s.p = nil
	switch {
	case err != nil:
		return s.n, err
	case errors.Is(s.err, syscall.EAGAIN), errors.Is(s.err, syscall.EINTR), s.err == nil:
		return s.n, nil
	}
	return s.n, os.NewSyscallError("write", s.err)
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
