package h1

import (
	"errors"
	"net"
	"sync"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// answerMode is how the end of an answer is told.
type answerMode uint8

const (
	// modeNone: there is no body, whatever is written.
	modeNone answerMode = iota
	modeLength
	modeChunked
	// modeToEnd: by the end of the connection, for HTTP/1.0.
	modeToEnd
)

// answer is the response to the request under way.
type answer struct {
	// mu guards begun and what is written before the final head: 100 Continue comes from whoever reads the
	// request's body.
	mu      sync.Mutex
	begun   bool
	request *Request

	mode answerMode
	// left is how many bytes modeLength still needs.
	left    int64
	trailer phttp.Header
	// closing tells that the connection ends with this answer.
	closing bool
	// taken tells that the connection is somebody else's.
	taken bool
	// broken is why nothing can be written any more.
	broken error

	// out is what has been written and not sent, memory what it began in.
	out    []byte
	memory *[]byte
}

// flushSize is how much is kept back at most.
const flushSize = 32 << 10

var (
	errHeadTwice  = errors.New("the head of the answer has been written")
	errBodyLength = errors.New("the answer is longer than its Content-Length")
)

func (a *answer) begin(r *Request) {
	a.request, a.begun, a.mode, a.left, a.trailer = r, false, modeNone, 0, nil
	a.closing, a.taken, a.broken = r.Close, false, nil
}

// CloseAfter ends the connection with this answer. It is called before WriteHead.
func (c *Conn) CloseAfter() { c.answer.closing = true }

// WriteInformational sends a 1xx response at once. HTTP/1.0 does not know them (RFC 9110 section 15.2), and
// after the final head there are none.
func (c *Conn) WriteInformational(r *phttp.Response) error {
	a := &c.answer
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun || a.request.Minor == 0 {
		return nil
	}
	a.out = appendResponse(a.start(), r, lengthToEnd, false)
	return a.flush(c.conn)
}

// proceed tells the client to send the body.
func (a *answer) proceed(w net.Conn) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		return nil
	}
	_, err := w.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	return err
}

// WriteHead begins the final answer. length is that of its body, -1 if it is not known. Nothing need be sent
// before Flush.
func (c *Conn) WriteHead(r *phttp.Response, length int64) error {
	// What the client does with a body that it was not asked for is not known, so nothing can follow.
	unasked := c.Request.Continue && c.reading.awaited()
	a := &c.answer
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		return errHeadTwice
	}
	a.begun = true
	a.closing = a.closing || unasked || c.server.conns.Ended()
	framing := length
	switch {
	case r.Status == 204:
		// It must not tell a length (RFC 9110 section 8.6).
		a.mode, framing = modeNone, lengthToEnd
	case r.Status == 304, a.request.Method == "HEAD":
		a.mode, framing = modeNone, lengthOther
	case length >= 0:
		a.mode, a.left = modeLength, length
	case a.request.Minor > 0:
		a.mode, framing = modeChunked, lengthChunked
	default:
		a.mode, framing = modeToEnd, lengthToEnd
		a.closing = true
	}
	a.out = appendResponse(a.start(), r, framing, a.closing)
	return nil
}

// SetTrailer says what follows the body, if that is chunked.
func (c *Conn) SetTrailer(trailer phttp.Header) { c.answer.trailer = trailer }

// Write writes a part of the body. It may be kept back until Flush.
func (c *Conn) Write(p []byte) (int, error) {
	a := &c.answer
	n := len(p)
	switch {
	case a.broken != nil:
		return 0, a.broken
	case n == 0 || a.mode == modeNone:
		return n, nil
	case a.mode == modeChunked:
		a.room(n + 32)
		a.out = appendChunk(a.start(), p)
		return n, a.flushFull(c.conn)
	case a.mode == modeLength && int64(n) > a.left:
		a.broken = errBodyLength
		return 0, a.broken
	case a.mode == modeLength:
		a.left -= int64(n)
	}
	if len(a.out)+n > flushSize {
		if err := a.flush(c.conn); err != nil {
			return 0, err
		}
		_, a.broken = c.conn.Write(p)
		return n, a.broken
	}
	a.room(n)
	a.out = append(a.start(), p...)
	return n, nil
}

// Flush sends what has been written.
func (c *Conn) Flush() error { return c.answer.flush(c.conn) }

// start returns out, in memory.
func (a *answer) start() []byte {
	if a.memory == nil {
		a.memory = getBuffer(1)
		a.out = (*a.memory)[:0]
	}
	return a.out
}

// room makes out large enough for n more bytes, if buffers are.
func (a *answer) room(n int) {
	out := a.start()
	if need := len(out) + n; need > cap(out) && need <= bufferSizes[2] {
		bigger := getBuffer(need)
		a.out = (*bigger)[:copy(*bigger, out)]
		putBuffer(a.memory)
		a.memory = bigger
	}
}

func (a *answer) flushFull(w net.Conn) error {
	if len(a.out) < flushSize {
		return nil
	}
	return a.flush(w)
}

func (a *answer) flush(w net.Conn) error {
	if a.broken == nil && len(a.out) > 0 {
		_, a.broken = w.Write(a.out)
		a.out = (*a.memory)[:0]
	}
	return a.broken
}

// finish completes the answer and tells whether the client has it whole.
func (a *answer) finish(w net.Conn) bool {
	if !a.begun || a.left > 0 {
		return false
	}
	if a.mode == modeChunked {
		a.out = appendLastChunk(a.start(), a.trailer)
	}
	err := a.flush(w)
	a.drop()
	return err == nil
}

// drop gives the memory back.
func (a *answer) drop() {
	if a.memory != nil {
		putBuffer(a.memory)
		a.memory, a.out = nil, nil
	}
}

// Take gives the connection to the handler, with what has been read from it and not used. Nothing else of c may
// be used any more, and Shutdown does not wait for it.
func (c *Conn) Take() (net.Conn, error) {
	if err := c.Flush(); err != nil {
		return nil, err
	}
	c.quiet()
	c.answer.drop()
	c.answer.taken = true
	c.server.conns.Remove(c)
	return c.source.rest(), c.conn.SetReadDeadline(time.Time{})
}
