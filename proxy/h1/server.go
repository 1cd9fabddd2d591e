package h1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"weft.dev/weft/proxy/open"
)

// Server serves connections of clients. All fields are set before the first connection.
type Server struct {
	// Handle answers one request. It returns once it has, or panics with http.ErrAbortHandler if the client
	// must see that there is no whole answer.
	Handle func(*Conn)
	// Refuse answers a request that is not valid; the connection ends with it.
	Refuse func(*Conn, *Error)
	// Preface takes a connection that begins like one of HTTP/2 (RFC 9113 section 3.4); first are the bytes that
	// have been read from it. Without Preface such a connection has a malformed request.
	Preface func(conn net.Conn, first []byte)
	// HeadTimeout bounds the time for the head of a request, from its first byte or, for the first one, from
	// the start of the connection; IdleTimeout that between requests.
	HeadTimeout, IdleTimeout time.Duration
	// Failed is told of a panic of Handle that is not http.ErrAbortHandler. It may be nil.
	Failed func(panicked any)

	conns open.Set[*Conn]
}

// ErrShutdown is what Serve returns for a connection that it has not taken because the server is ending.
var ErrShutdown = errors.New("server is shutting down")

// Serve serves a connection until it ends, and closes it. It returns earlier if the connection has to wait for a request:
// then another goroutine serves it. ended, which may be nil, is called when it has ended. The error means that it still
// belongs to the caller.
func (s *Server) Serve(conn net.Conn, ended func()) error {
	c := newConn(s, conn, ended)
	if !s.conns.Add(c) {
		return ErrShutdown
	}
	c.begin()
	return nil
}

// Shutdown takes no more connections, closes those that are idle, and waits until the others have answered
// their requests. The error is that of ctx if it ends before; Close ends what is left.
func (s *Server) Shutdown(ctx context.Context) error { return s.conns.Drain(ctx, (*Conn).endIdle) }

// Close ends all connections at once.
func (s *Server) Close() {
	for _, c := range s.conns.End() {
		_ = c.conn.Close()
	}
}

// preface is what a client of HTTP/2 sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// sniff tells whether the client speaks HTTP/2. It waits for no more than it takes to tell.
func (c *Conn) sniff() (bool, error) {
	for {
		b := c.source.buffered()
		if n := min(len(b), len(preface)); string(b[:n]) != preface[:n] {
			return false, nil
		}
		if len(b) >= len(preface) {
			return true, nil
		}
		if err := c.source.fill(len(preface)); err != nil {
			return false, err
		}
	}
}

// prefaced is a connection whose first bytes have been read already.
type prefaced struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (p *prefaced) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite ends the sending direction.
func (p *prefaced) CloseWrite() error { return closeWrite(p.Conn) }

// rest returns the connection with what has been read from it and not used.
func (s *source) rest() net.Conn {
	if first := s.takeBuffered(); len(first) > 0 {
		return &prefaced{Conn: s.conn, first: first}
	}
	return s.conn
}

// takeBuffered returns what has been read and not used, which is the caller's.
func (s *source) takeBuffered() []byte {
	first := bytes.Clone(s.buffered())
	s.drop()
	return first
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// linger closes a connection on which the client may still be sending. Closing at once would make the kernel
// answer that with a reset, which can overtake the response (RFC 9112 section 9.6).
func linger(c net.Conn) {
	const patience, most = time.Second, 256 << 10
	if closeWrite(c) == nil && c.SetReadDeadline(time.Now().Add(patience)) == nil {
		b := getBuffer(bufferSizes[1])
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, most)}, *b)
		putBuffer(b)
	}
	_ = c.Close()
}
