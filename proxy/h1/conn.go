package h1

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// States of a connection.
const (
	stateIdle int32 = iota
	stateActive
	stateEnded
)

// Conn is a connection of a client, and the exchange under way on it. Its methods are for the goroutine of
// Server.Handle, except those of ReadBody and of what is said to be otherwise.
type Conn struct {
	server *Server
	conn   net.Conn
	source source
	state  atomic.Int32
	// idleUntil is when the present read deadline is, zero if another one has been set.
	idleUntil time.Time
	client    watcher
	// started is headStarted, made once.
	started func()
	// ended is called when the connection has; it may be nil.
	ended func()
	// parked tells that the connection has been left to its present goroutine because it waits.
	parked bool
	// limited tells that writes have a deadline, which holds until the answer is complete.
	limited atomic.Bool

	// Request is the request under way.
	Request Request
	// Value is the handler's own; it stays from one request to the next.
	Value any

	reading bodyReader
	answer  answer
}

func newConn(s *Server, conn net.Conn, ended func()) *Conn {
	c := &Conn{server: s, conn: conn, source: source{conn: conn}, ended: ended}
	c.client.conn, c.started = conn, c.headStarted
	c.reading.conn = c
	return c
}

// NetConn returns the connection as Serve was given it.
func (c *Conn) NetConn() net.Conn { return c.conn }

// begin answers the requests of a new connection.
func (c *Conn) begin() {
	if c.server.Preface != nil {
		if done := c.first(); done {
			c.finish()
			return
		}
	}
	c.serve(true)
}

// serve answers one request after the other, until the connection ends or has waited for one for a while: then a
// goroutine whose stack has never been large waits on, and answers the next one.
func (c *Conn) serve(first bool) {
	if parked := c.answerAll(first); parked {
		c.Request, c.parked = Request{}, true
		go c.serve(false)
		return
	}
	c.finish()
}

// finish lets go of the connection, which has ended or is somebody else's.
func (c *Conn) finish() {
	c.client.stop()
	c.source.drop()
	c.server.conns.Remove(c)
	if c.ended != nil {
		c.ended()
	}
}

// answerAll answers one request after the other. It is parked if the connection only waits.
func (c *Conn) answerAll(first bool) (parked bool) {
	for ; ; first = false {
		come, parked := c.await(first)
		switch {
		case parked:
			return true
		case !come:
			_ = c.conn.Close()
			return false
		}
		if failed, ok := c.readHead(); !ok {
			if failed == nil {
				_ = c.conn.Close() // it has gone, or taken too long
				return false
			}
			c.refuse(failed)
			return false
		}
		if !c.exchange(c.server.Handle) {
			return false
		}
	}
}

// first waits for the first bytes and tells whether there is nothing more to do.
func (c *Conn) first() (done bool) {
	err := c.conn.SetReadDeadline(time.Now().Add(c.server.HeadTimeout))
	if err == nil {
		err = c.source.fillIdle()
	}
	var other bool
	if err == nil {
		other, err = c.sniff()
	}
	if err == nil && other {
		err = c.conn.SetReadDeadline(time.Time{})
	}
	switch {
	case err != nil:
		_ = c.conn.Close()
		return true
	case other:
		c.server.Preface(c.conn, c.source.takeBuffered())
		return true
	}
	return false
}

// await waits for the first byte of a request. If none has come the connection is to be closed, or parked.
func (c *Conn) await(first bool) (come, parked bool) {
	if len(c.source.buffered()) == 0 {
		if c.setIdleDeadline(first) != nil {
			return false, false
		}
		if !first && !c.parked {
			c.client.rest()
		}
		err := c.source.fillIdle()
		if c.client.wake() {
			c.idleUntil = time.Time{}
			parked = errors.Is(err, os.ErrDeadlineExceeded)
		}
		if err != nil {
			return false, parked
		}
		c.parked = false
	}
	// From here on Shutdown waits for the answer.
	return c.state.CompareAndSwap(stateIdle, stateActive), false
}

// setIdleDeadline bounds the wait for a request. Setting a deadline is dear, so one that is nearly right stays.
func (c *Conn) setIdleDeadline(first bool) error {
	timeout := c.server.IdleTimeout
	if first {
		timeout = c.server.HeadTimeout
	}
	until := time.Now().Add(timeout)
	if !c.idleUntil.IsZero() && !first && until.Sub(c.idleUntil) < timeout/64 {
		return nil
	}
	c.idleUntil = until
	if first {
		c.idleUntil = time.Time{}
	}
	return c.conn.SetReadDeadline(until)
}

// readHead reads the head of the next request. It is not ok if there is none; failed says why if the client is
// to be told.
func (c *Conn) readHead() (failed *Error, ok bool) {
	head, err := c.source.head(MaxRequestHead, "", c.started)
	if err != nil {
		failed, _ = errors.AsType[*Error](err)
		return failed, false
	}
	if failed = c.Request.parse(head); failed != nil {
		return failed, false
	}
	return nil, true
}

// headStarted bounds the time for a head of which only a part has come.
func (c *Conn) headStarted() {
	c.idleUntil = time.Time{}
	// Failing to set it shows in the read that follows.
	_ = c.conn.SetReadDeadline(time.Now().Add(c.server.HeadTimeout))
}

// endIdle ends the connection if no request is under way. Any goroutine may call it.
func (c *Conn) endIdle() {
	if c.state.CompareAndSwap(stateIdle, stateEnded) {
		_ = c.conn.Close()
	}
}

// exchange has one request answered and tells whether another one may follow.
func (c *Conn) exchange(handle func(*Conn)) bool {
	if c.idleUntil.IsZero() || !c.bodyAtHand() {
		// That of the head is over; a body has all the time that policy gives it.
		c.idleUntil = time.Time{}
		if c.conn.SetReadDeadline(time.Time{}) != nil {
			_ = c.conn.Close()
			return false
		}
	}
	c.reading.begin(c.Request.ContentLength, c.Request.Continue)
	c.answer.begin(&c.Request)
	if !c.run(handle) {
		return false
	}
	switch c.end() {
	case endReuse:
		return c.state.CompareAndSwap(stateActive, stateIdle)
	case endLinger:
		linger(c.conn)
	case endClose:
		_ = c.conn.Close()
	}
	return false
}

// bodyAtHand tells whether nothing more need be read from the connection for the request's body.
func (c *Conn) bodyAtHand() bool {
	n := c.Request.ContentLength
	return n == 0 || n > 0 && n <= int64(len(c.source.buffered()))
}

// run calls the handler. It is false if the connection is gone with it, or is somebody else's.
func (c *Conn) run(handle func(*Conn)) (answered bool) {
	defer func() {
		panicked := recover()
		if c.answer.taken {
			return
		}
		c.quiet()
		if panicked == nil {
			answered = true
			return
		}
		if panicked != http.ErrAbortHandler && c.server.Failed != nil { //nolint:errorlint // it is the value itself
			c.server.Failed(panicked)
		}
		c.abort()
	}()
	handle(c)
	return
}

// quiet ends everything that other goroutines do with the connection for the exchange.
func (c *Conn) quiet() {
	if moved := c.client.disarm(); moved {
		c.idleUntil = time.Time{}
	}
	c.reading.end()
}

// refuse answers a request that is not valid and ends the connection.
func (c *Conn) refuse(failed *Error) {
	c.Request = Request{Header: c.Request.Header[:0], Minor: 1, Close: true}
	c.exchange(func(c *Conn) { c.server.Refuse(c, failed) })
}

// ending is what becomes of a connection after an answer.
type ending uint8

const (
	endReuse ending = iota
	endClose
	// endLinger: the client may still be sending.
	endLinger
)

// end completes the answer and says what becomes of the connection.
func (c *Conn) end() ending {
	if !c.answer.finish(c.conn) {
		c.abort()
		return endClose
	}
	switch {
	case c.refused(), !c.reading.rest():
		return endLinger
	case (c.answer.closing || c.server.conns.Ended()) && len(c.source.buffered()) > 0:
		return endLinger
	case c.answer.closing, c.server.conns.Ended():
		return endClose
	case c.limited.CompareAndSwap(true, false) && c.conn.SetWriteDeadline(time.Time{}) != nil:
		return endClose
	}
	return endReuse
}

// refused tells that the request was not valid: what follows it is not known.
func (c *Conn) refused() bool { return c.Request.Method == "" }

// abort ends the connection so that the client does not take what it has for a whole answer.
func (c *Conn) abort() {
	c.answer.drop()
	if tcp, ok := c.conn.(interface{ SetLinger(sec int) error }); ok && c.answer.mode == modeToEnd {
		// The end of such an answer is the end of the connection; only a reset is no end.
		_ = tcp.SetLinger(0)
	}
	_ = c.conn.Close()
}

// Trailer returns what followed the request's body, once that is complete. It is for the handler's goroutine.
func (c *Conn) Trailer() phttp.Header { return c.reading.trailer }

// ReadBody reads the request's body; io.EOF means that it is complete. Any goroutine may call it until the
// exchange ends, which lets it fail.
func (c *Conn) ReadBody(p []byte) (int, error) {
	n, _, err := c.reading.readTrailed(p, c.reading.exchange)
	return n, err
}

// WholeBody returns the request's body if all of it has come with the head, and uses it: ReadBody has nothing more then.
// The bytes are valid until the exchange ends. It is for the handler's goroutine.
func (c *Conn) WholeBody() (body []byte, ok bool) {
	r := &c.reading
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waits {
		return nil, false
	}
	if body, ok = r.whole(); ok && !r.done {
		r.done = true
		c.client.resume()
	}
	return body, ok
}

// BodyAtHand reads as much of the body as has come already. It is for the handler's goroutine, before anybody reads.
func (c *Conn) BodyAtHand(p []byte) int {
	r := &c.reading
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waits || r.part != partRest || !r.atHand() {
		return 0
	}
	n, _ := r.read(p) // how the body ends is noted
	if r.complete() {
		r.done = true
		c.client.resume()
	}
	return n
}

// StopBody makes reads of the body fail from now on, and waits for one that is under way.
func (c *Conn) StopBody() { c.reading.end() }

// bodyReader reads the body of the request under way, perhaps in another goroutine than that of the handler.
type bodyReader struct {
	conn *Conn

	mu sync.Mutex
	// exchange counts them.
	exchange uint64
	body
	// waits tells that the client waits for 100 Continue.
	waits bool
	// blocked tells that a read of the connection is under way, and body is its; ended tells that none may begin
	// any more, and done that the body is complete.
	blocked, ended, done bool
	returned             sync.Cond
}

var errBodyEnded = errors.New("the exchange is over")

func (r *bodyReader) begin(length int64, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchange++
	r.body.begin(&r.conn.source, length)
	r.waits, r.ended, r.done = waits, false, r.complete()
	r.returned.L = &r.mu
}

// readTrailed reads the body of an exchange, and returns with its end what followed it. A goroutine that is still
// about to read when its exchange is over, and the next has perhaps begun, gets nothing of that one's.
func (r *bodyReader) readTrailed(p []byte, exchange uint64) (n int, trailer phttp.Header, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.blocked {
		r.returned.Wait()
	}
	if r.ended || r.exchange != exchange {
		return 0, nil, errBodyEnded
	}
	if r.err != nil {
		return 0, r.trailer, r.err
	}
	if r.waits {
		r.waits = false
		if err := r.conn.answer.proceed(r.conn.conn); err != nil {
			return 0, nil, err
		}
	}
	r.blocked = true
	r.mu.Unlock()
	n, err = r.read(p)
	r.mu.Lock()
	r.blocked = false
	r.returned.Broadcast()
	if r.complete() {
		r.done = true
		r.conn.client.resume()
	}
	return n, r.trailer, err
}

// awaited tells whether the client waits to be asked for the body.
func (r *bodyReader) awaited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits
}

// finished tells whether the body is complete.
func (r *bodyReader) finished() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

// end makes reads fail from now on, and waits for one that is under way.
func (r *bodyReader) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if !r.blocked {
		return
	}
	_ = r.conn.conn.SetReadDeadline(time.Unix(1, 0))
	r.conn.idleUntil = time.Time{}
	for r.blocked {
		r.returned.Wait()
	}
}

// Bounds of what is read of a body that nobody wants, so that the connection can be used again. More would
// let a client hold it with that.
const (
	maxRest      = 64 << 10
	restPatience = 50 * time.Millisecond
)

// rest reads what is left of the body and tells whether that was all of it.
func (r *bodyReader) rest() bool {
	if r.err != nil || r.waits {
		return r.complete()
	}
	if left, known := r.known(); known && left > maxRest || r.conn.conn.SetReadDeadline(time.Now().Add(restPatience)) != nil {
		return false
	}
	r.conn.idleUntil = time.Time{}
	for n := 0; r.err == nil && n < maxRest; {
		bytes, err := r.next()
		if err != nil && !r.complete() {
			return false
		}
		n += len(bytes)
	}
	return r.complete()
}
