package h2

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	phttp "weft.dev/weft/proxy/http"
)

// Stream is a request of a client and its answer. Its methods are for the goroutine of Server.Handle, except where it is
// said otherwise.
type Stream struct {
	stream *stream
	conn   *serverConn
	head   head
	// refused is the rule that the request breaks, nil if it is to be handled.
	refused *fault

	// body is what WholeBody has returned.
	body inbox
	// res is the head of the answer once it was begun, written tells that it was sent, finished that all of it was; left is
	// how many bytes of the body are missing, -1 if its length was not told.
	res      phttp.Response
	begun    bool
	written  bool
	finished bool
	bodiless bool
	left     int64
	trailer  phttp.Header
	// proceeded tells that the client was told to send the body, or need not be.
	proceeded atomic.Bool
}

// NetConn returns the connection as Serve was given it.
func (s *Stream) NetConn() net.Conn { return s.conn.conn }

// ReadBody reads the request's body; io.EOF means that it is complete. Any goroutine may call it, until the exchange is
// over, which lets it fail.
func (s *Stream) ReadBody(p []byte) (int, error) {
	if s.head.expects && !s.proceeded.Swap(true) {
		s.proceed()
	}
	return s.stream.read(p)
}

// proceed tells the client to send the body, if it has not begun to, and no answer either.
func (s *Stream) proceed() {
	l := s.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.stream.received || s.stream.got > 0 || s.stream.headSent || s.stream.blockedFrom() != nil {
		return
	}
	l.encode()
	l.field(":status", "100")
	s.stream.head(false)
	l.flush()
}

// Trailer returns what followed the request's body, once that is complete.
func (s *Stream) Trailer() phttp.Header {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.stream.trailer.fields
}

// Keep lets others hold on to the exchange when Server.Handle has returned: its memory is not used again.
func (s *Stream) Keep() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.stream.kept = true
}

// OnGone has f called when the client has reset the stream or is gone, at once if it is already. It must not wait, nor
// call s. A later call takes its place; nil is nothing.
func (s *Stream) OnGone(f func()) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.stream.onGone = f
	if s.stream.err != nil && f != nil {
		f()
	}
}

// WholeBody returns the request's body if all of it has come, and uses it: ReadBody has nothing more then. The bytes are
// valid until the exchange ends.
func (s *Stream) WholeBody() (body []byte, ok bool) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if !s.stream.received || s.body.memory != nil {
		return nil, false
	}
	s.body, s.stream.inbox = s.stream.inbox, inbox{}
	if !s.stream.gone {
		s.conn.took(s.body.len())
	}
	return s.body.bytes(), true
}

// BodyAtHand reads as much of the body as has come already.
func (s *Stream) BodyAtHand(p []byte) int {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.stream.inbox.len() == 0 {
		return 0
	}
	n, _ := s.stream.readLocked(p)
	return n
}

// StopBody makes reads of the body fail from now on, also one that waits.
func (s *Stream) StopBody() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.stream.unread = true
	s.stream.wake.Broadcast()
}

// Interrupt makes writes of the answer's body fail from now on, also one that waits; the trailer can still be sent. Any
// goroutine may call it.
func (s *Stream) Interrupt() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.stream.stopped = true
	s.stream.wake.Broadcast()
}

// WriteInformational sends a 1xx response at once; after the final head there are none.
func (s *Stream) WriteInformational(res *phttp.Response) error {
	if s.begun {
		return nil
	}
	l := s.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := s.stream.await(0); err != nil {
		return err
	}
	l.encode()
	l.field(":status", statusText(res.Status))
	l.fields(res.Header)
	s.stream.head(false)
	l.flush()
	return s.stream.err
}

// WriteHead begins the final answer. length is that of its body, -1 if it is not known. Nothing need be sent before
// Flush. What it is given is the callee's.
func (s *Stream) WriteHead(res *phttp.Response, length int64) error {
	if s.begun {
		return errHeadTwice
	}
	s.begun, s.left = true, length
	switch {
	case res.Status == http.StatusNoContent:
		// It must not tell a length (RFC 9110 section 8.6).
		res.Header.Del("Content-Length")
		s.bodiless = true
	case res.Status == http.StatusNotModified, s.head.method == http.MethodHead:
		s.bodiless = true
	}
	s.res = *res
	return nil
}

// begin writes the head of the answer, if that has not happened.
func (s *Stream) begin(ends bool) error {
	if s.written {
		return nil
	}
	if !s.begun {
		_ = s.WriteHead(&phttp.Response{Status: http.StatusOK}, -1)
	}
	s.written = true
	l := s.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := s.stream.await(0); err != nil {
		return err
	}
	s.stream.headSent = true
	l.encode()
	l.field(":status", statusText(s.res.Status))
	l.fields(s.res.Header)
	if !s.res.Header.Has("Date") {
		// Whoever forwards a response without one adds it (RFC 9110 section 6.6.1).
		l.field("date", date(time.Now()))
	}
	s.stream.head(ends)
	return nil
}

// SetTrailer says what follows the body.
func (s *Stream) SetTrailer(trailer phttp.Header) { s.trailer = trailer }

// Write writes a part of the body. It may be kept back until Flush.
func (s *Stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.begin(false); err != nil {
		return 0, err
	}
	if s.bodiless {
		return len(p), nil
	}
	if s.left >= 0 {
		if int64(len(p)) > s.left {
			return 0, errLengthSent
		}
		s.left -= int64(len(p))
	}
	if err := s.stream.write(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush sends what has been written.
func (s *Stream) Flush() error {
	if err := s.begin(false); err != nil {
		return err
	}
	return s.stream.flush()
}

// Depart ends the client's connection once what has begun on it is over.
func (s *Stream) Depart() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.depart()
}

// finish completes the answer.
func (s *Stream) finish() {
	if s.finished {
		return
	}
	s.finished = true
	if s.begun && s.left > 0 && !s.bodiless {
		s.stream.abandon(http2.ErrCodeInternal, errLengthSent)
		return
	}
	ends := len(s.trailer) == 0
	err := s.begin(ends && !s.written)
	l := s.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil, s.stream.sent || s.stream.err != nil:
	case ends:
		s.stream.finish()
	default:
		l.encode()
		l.fields(s.trailer)
		s.stream.head(true)
	}
	if !s.stream.gone && s.stream.sent {
		// Nobody reads the rest of the request (RFC 9113 section 8.1).
		s.stream.abandonLocked(http2.ErrCodeNo, errFinished)
	}
	l.flush()
}

// recycle lets others use the memory of an exchange that is over, if nobody else can hold on to it. The lock is held.
func (s *Stream) recycle() {
	if s.stream.kept {
		return
	}
	s.body.drop()
	s.head.release()
	s.stream.recycle()
	*s = Stream{}
	exchanges.Put(s)
}

// exchanges are those that nobody uses.
var exchanges = sync.Pool{New: func() any { return new(Stream) }}

// statusText is a status as it is sent.
func statusText(status int) string {
	if status < 100 || status >= 100+len(statuses) {
		return strconv.Itoa(status)
	}
	return statuses[status-100]
}

var statuses = func() (texts [500]string) {
	for i := range texts {
		texts[i] = strconv.Itoa(100 + i)
	}
	return texts
}()

// stamp is the value of Date fields in one second.
type stamp struct {
	second int64
	text   string
}

var now atomic.Pointer[stamp]

// date returns the value of a Date field, which it makes once a second.
func date(at time.Time) string {
	second := at.Unix()
	if known := now.Load(); known != nil && known.second == second {
		return known.text
	}
	made := &stamp{second, at.UTC().Format(http.TimeFormat)}
	now.Store(made)
	return made.text
}
