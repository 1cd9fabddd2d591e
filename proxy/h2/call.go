package h2

import (
	"errors"
	"strconv"

	"golang.org/x/net/http2"

	phttp "weft.dev/weft/proxy/http"
)

// Response is the head of a response, and what it says about its body.
type Response struct {
	phttp.Response
	// ContentLength is the length of the body, -1 if it is not known.
	ContentLength int64
}

// Call is one exchange on a Client without net/http's types. The zero value is ready, and again after Reset.
//
// The order of calls is Begin, WriteBody as often as there is something, Head until the response is final, and Next
// to the end of its body. Writing the body may be left to another goroutine, and any goroutine may call Interrupt
// between Begin and End.
type Call struct {
	client *Client
	stream *stream
	// Response is what Head has read last. Its fields lie in memory that is given back by Reset.
	Response Response
	head     head
	// informational counts the responses before the final one.
	informational int
	// whole tells that Begin has sent everything, so that nobody else writes.
	whole bool
	// body is what Next has returned; owed is how much of it the peer has not been told to have been passed on, and end how
	// the response's body has ended after that.
	body inbox
	owed int
	end  error
}

// Begin sends the head of a request for which a stream was reserved, and begins its body: first is all of that if last is
// set. What has no room is left to WriteBody, which then is called with what Begin has not sent. length is that of the
// body, -1 if it is not known, zero if there is none. Nothing need leave before Head. Errors are of type *Error.
func (c *Call) Begin(client *Client, scheme string, r *phttp.Request, length int64, first []byte, last bool) (sent int, err error) {
	target := r.Target()
	wrong := sendable(r.Method, r.Authority, target, r.Header)
	client.mu.Lock()
	defer client.mu.Unlock()
	s, failed := client.start(wrong)
	if failed != nil {
		return 0, failed
	}
	c.client, c.stream = client, s
	client.request(s, r.Method, scheme, target, r.Authority)
	client.fields(r.Header)
	if length > 0 && !r.Header.Has("Content-Length") {
		client.field("content-length", strconv.FormatInt(length, 10))
	}
	empty := length == 0 || last && len(first) == 0
	s.head(empty)
	most := min(int64(len(first)), s.window, client.window, int64(client.maxFrame))
	if empty || most < int64(len(first)) || len(client.pending) >= mostPending {
		c.whole = empty
		return 0, nil
	}
	if len(first) > 0 {
		s.data(first)
	}
	if last {
		s.finish()
		c.whole = true
	}
	return len(first), nil
}

// WriteBody sends a part of the body, of which last tells that it is the last; it may have no bytes then.
func (c *Call) WriteBody(p []byte, last bool) error {
	if err := c.stream.write(p, last); err != nil {
		return err
	}
	return c.stream.flush()
}

var errInformational = errors.New("there are too many informational responses")

// Head waits for the next head of the response.
func (c *Call) Head() error {
	h, err := c.stream.next()
	if err != nil {
		return err
	}
	c.head.release()
	c.head = h
	c.Response = Response{phttp.Response{Status: h.status, Header: h.fields}, h.length}
	if h.status < 200 {
		if c.informational++; c.informational > mostInformational {
			c.stream.abandon(http2.ErrCodeCancel, errInformational)
			return &Error{Code: http2.ErrCodeProtocol, Stream: true, Cause: errInformational}
		}
		return nil
	}
	l := c.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := c.stream; s.received && s.got == 0 && !s.bodiless && len(s.trailer.fields) == 0 {
		c.Response.ContentLength = 0
	}
	return nil
}

// AtHand tells whether Next has bytes or the end of the body to return without waiting.
func (c *Call) AtHand() bool {
	if c.end != nil {
		return true
	}
	l := c.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.stream.inbox.len() > 0 || c.stream.done()
}

// Next returns bytes of the response's body that have come, waiting if there are none. They are valid until the next
// call. io.EOF, perhaps with the last bytes, means that the body is complete.
func (c *Call) Next() ([]byte, error) {
	c.body.drop() // it has been passed on by now
	if c.end != nil {
		return nil, c.end
	}
	l := c.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.settle(); c.stream.inbox.memory == nil {
		l.flush()
	}
	c.body, c.end = c.stream.takeBody()
	c.owed = c.body.len()
	return c.body.bytes(), c.end
}

// settle tells the peer what has been passed on. The lock is held.
func (c *Call) settle() {
	l := c.stream.link
	l.took(c.owed)
	c.stream.took(c.owed)
	c.owed = 0
}

// Trailer returns what followed the body, once that is complete. It lies in memory that is given back by Reset.
func (c *Call) Trailer() phttp.Header {
	l := c.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.stream.trailer.fields
}

// Interrupt makes everything that waits for the peer fail, and ends the exchange.
func (c *Call) Interrupt(cause error) { c.stream.abandon(http2.ErrCodeCancel, cause) }

// End ends the exchange, if there is one. What the peer does not want or has not sent yet is not waited for.
func (c *Call) End() {
	if c.stream == nil {
		return
	}
	l := c.stream.link
	l.mu.Lock()
	c.settle()
	if !c.stream.gone {
		c.stream.abandonLocked(http2.ErrCodeCancel, errFinished)
		l.flush()
	}
	l.mu.Unlock()
	c.client.changed()
}

// Reset lets go of everything after End.
func (c *Call) Reset() {
	if c.stream == nil {
		return
	}
	c.body.drop()
	if c.whole {
		l := c.stream.link
		l.mu.Lock()
		c.stream.recycle()
		l.mu.Unlock()
	}
	c.head.release()
	*c = Call{}
}
