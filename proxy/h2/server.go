package h2

import (
	"context"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"

	"weft.dev/weft/proxy/open"
)

// Server serves connections of clients. All fields are set before the first connection.
type Server struct {
	// Handle answers one request. It returns once it has, or panics with http.ErrAbortHandler if the client must see
	// that there is no whole answer. It runs in a goroutine of its own.
	Handle func(*Stream)
	// Refuse is told of a request that is not valid. If the stream is not nil it answers that with a status: the head
	// was too large. Other streams are reset.
	Refuse func(conn net.Conn, s *Stream, err *Error)
	// Streams is how many streams a client may have at once.
	Streams int
	Limits  Limits
	// Failed is told of a panic of Handle that is not http.ErrAbortHandler. It may be nil.
	Failed func(panicked any)

	crew  crew
	conns open.Set[*serverConn]
}

// serverConn is a connection of a client.
type serverConn struct {
	*link
	of *Server
	// running is how many exchanges have not returned. The lock of the connection guards it.
	running int
	// ready are exchanges that have come and were not begun. They are for the goroutine that reads.
	ready []*Stream
}

// Serve serves a connection until it ends, and closes it. first has been read from it already. The error means that it
// still belongs to the caller.
func (s *Server) Serve(conn net.Conn, first []byte) error {
	c := &serverConn{link: newLink(conn, s.Limits), of: s}
	c.server = c
	if !s.conns.Add(c) {
		return ErrShutdown
	}
	s.crew.expect(1)
	defer func() {
		s.crew.expect(-1)
		s.conns.Remove(c)
	}()
	if c.preface(first) {
		c.blockSince.Store(time.Now().UnixNano()) // until its SETTINGS are there
		c.begin()
		c.serve()
	} else {
		_ = conn.Close()
		c.close(&Error{Code: http2.ErrCodeProtocol, Cause: ErrNotHTTP2})
	}
	c.wait()
	return nil
}

// Shutdown takes no more connections, tells clients to begin nothing new on those there are, and waits until they have
// ended. The error is that of ctx if it ends before; Close ends what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	return s.conns.Drain(ctx, func(c *serverConn) { go c.leave() }) // it may have to wait for who is sending
}

// Close ends all connections at once.
func (s *Server) Close() {
	for _, c := range s.conns.End() {
		c.close(broken(ErrShutdown))
	}
}

func (c *serverConn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.depart()
}

// preface reads what a client of HTTP/2 sends first, and answers with our settings.
func (c *serverConn) preface(first []byte) bool {
	if c.conn.SetReadDeadline(time.Now().Add(c.limits.HeadTimeout)) != nil {
		return false
	}
	c.in.add(first)
	c.settle(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.of.Streams)},       //nolint:gosec // it is small
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.limits.StreamWindow)}, //nolint:gosec // it is at most 2^31-1
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(c.limits.MaxFrame)},          //nolint:gosec // it is at most 2^24-1
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.limits.MaxHead)},      //nolint:gosec // it is small
	)
	const sent = http2.ClientPreface
	for {
		got := c.in.memory[c.in.start:c.in.end]
		n := min(len(got), len(sent))
		if string(got[:n]) != sent[:n] {
			return false
		}
		if n == len(sent) {
			c.in.start += n
			break
		}
		if c.more() != nil {
			return false
		}
	}
	return c.conn.SetReadDeadline(time.Time{}) == nil
}

// wait returns when no exchange is under way.
func (c *serverConn) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.running > 0 {
		c.calm.Wait()
	}
}

// endIfDone ends the connection if nothing new is served and nothing is under way. The lock is held.
func (c *serverConn) endIfDone() {
	if c.goodbye == departed && len(c.streams) == 0 && c.running == 0 {
		c.fail(&Error{Code: http2.ErrCodeNo}, false)
	}
}

// head acts on a head that a client has sent.
func (c *serverConn) head(id uint32, h head, ends bool, wrong *fault) *fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		return c.trailer(s, h, ends, wrong)
	}
	if c.begun(id) {
		if ends {
			delete(c.forgotten, id)
		}
		return nil // what follows a reset
	}
	if c.goodbye == departed {
		// The client has been told that it is not served.
		c.last = id
		if !ends {
			c.forget(id)
		}
		return nil
	}
	if wrong != nil && wrong != errTooLarge {
		c.last = id
		go c.of.Refuse(c.conn, nil, wrong.err())
		return wrong
	}
	if len(c.streams) >= c.of.Streams || c.running >= c.of.Streams {
		c.last = id
		return errRefused
	}
	s := c.open(id)
	s.declared = h.length
	if ends {
		if h.length > 0 {
			return errLengthBody
		}
		s.complete()
	}
	exchange, _ := exchanges.Get().(*Stream)
	exchange.stream, exchange.conn, exchange.head = s, c, h
	c.running++
	if wrong == errTooLarge {
		exchange.head = head{length: -1}
		exchange.refused = wrong
	}
	c.ready = append(c.ready, exchange)
	return nil
}

// start begins the exchanges that have come. Before, what else has come with their heads was read.
func (c *serverConn) start() {
	for i, s := range c.ready {
		c.ready[i] = nil
		c.of.crew.give(s)
	}
	c.ready = c.ready[:0]
}

// trailer takes the fields after a body. The lock is held.
func (c *serverConn) trailer(s *stream, h head, ends bool, wrong *fault) *fault {
	switch {
	case wrong != nil:
		return wrong
	case !ends:
		return errTrailerOpen
	case s.declared >= 0 && s.got != s.declared:
		return errLengthBody
	}
	s.trailer = h
	s.complete()
	s.wake.Broadcast()
	return nil
}

// run has one request answered.
func (s *Stream) run() {
	c := s.conn
	defer func() {
		if panicked := recover(); panicked == nil {
			s.finish()
		} else {
			if panicked != http.ErrAbortHandler && c.of.Failed != nil { //nolint:errorlint // it is the value itself
				c.of.Failed(panicked)
			}
			s.stream.abandon(http2.ErrCodeInternal, errFinished)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if gone := s.stream.onGone; gone != nil {
			s.stream.onGone = nil
			gone()
		}
		s.recycle()
		c.running--
		if len(c.streams) == 0 {
			c.idle = time.Now()
		}
		c.endIfDone()
		c.calm.Broadcast()
	}()
	if s.refused != nil {
		c.of.Refuse(c.conn, s, s.refused.err())
		return
	}
	c.of.Handle(s)
}
