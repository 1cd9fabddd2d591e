package h1

import (
	"errors"
	"net"

	phttp "weft.dev/weft/proxy/http"
)

// Client is a connection to a backend, on which one exchange is under way at a time. It has no goroutine of its
// own: what a backend sends unasked shows when the connection is to be used again, or with the next response.
//
// The order of calls is Write, WriteBody as often as there is something, Head until the response is final, and
// Next or Read to the end of the body. Writing the body may be left to another goroutine.
type Client struct {
	conn   net.Conn
	source source
	body   body
	peek   peeker
	ask    asker
	// Response is what Head has read last.
	Response Response
	// informational counts the responses to the request under way before the final one.
	informational int
	// exchanged tells that a final head has been read, answered that its response is complete.
	exchanged, answered bool
	failed              error
}

// maxInformational bounds the 1xx responses to one request.
const maxInformational = 64

var (
	errInformational = malformed("there are too many informational responses")
	errLeftOver      = errors.New("the backend sent bytes that belong to no response")
)

// NewClient returns a Client for a connection that has not been used.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, source: source{conn: conn}}
}

// Clean tells whether the connection is open and the backend has sent nothing that nobody asked for, which the
// next request must not be answered with.
func (c *Client) Clean() bool {
	if c.failed != nil || len(c.source.buffered()) > 0 {
		return false
	}
	return !c.peek.init(c.conn) || c.peek.quiet()
}

// Write sends the head of a request, and with it first, the beginning of its body. length is that of the body, -1 if it
// is not known; zero means that there is none. last tells that first is all of the body.
func (c *Client) Write(r *phttp.Request, length int64, upgrade bool, first []byte, last bool) error {
	memory := getBuffer(roomForHead + len(first))
	defer putBuffer(memory)
	_, err := c.conn.Write(c.appendRequest((*memory)[:0], r, length, upgrade, first, last))
	return c.fail(err)
}

// appendRequest appends what Write sends, and begins the exchange.
func (c *Client) appendRequest(b []byte, r *phttp.Request, length int64, upgrade bool, first []byte, last bool) []byte {
	c.exchanged, c.answered, c.informational = false, false, 0
	if length == 0 && !bodyExpected(r.Method) {
		length = lengthNone
	}
	b = appendRequest(b, r, length, upgrade)
	if length == lengthChunked {
		return appendChunks(b, first, last)
	}
	return append(b, first...)
}

// roomForHead is how much memory is taken for a head besides a body. A longer head takes more.
const roomForHead = 4 << 10

// bodyExpected tells whether a request without a body has to say so (RFC 9110 section 8.6).
func bodyExpected(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// WriteBody sends bytes of the body as they are.
func (c *Client) WriteBody(p []byte) error {
	_, err := c.conn.Write(p)
	return err
}

// WriteChunks sends a part of the body of a request whose length is not known. last tells that it is the last; it may
// have no bytes then.
func (c *Client) WriteChunks(p []byte, last bool) error {
	memory := getBuffer(roomForChunks + min(len(p), flushSize))
	defer putBuffer(memory)
	for {
		n := min(len(p), flushSize)
		if err := c.WriteBody(appendChunks((*memory)[:0], p[:n], last && n == len(p))); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// roomForChunks is more than what chunks have besides their data.
const roomForChunks = 64

// Head reads the head of the next response into Response: an informational one, or the final one.
func (c *Client) Head(method string, upgrade bool) error {
	head, err := c.source.head(MaxResponseHead, "HTTP/1.", nil)
	if err != nil {
		return c.fail(err)
	}
	if failed := c.Response.parse(head, method, upgrade); failed != nil {
		return c.fail(failed)
	}
	if c.Response.Status >= 200 || c.Response.upgraded {
		c.exchanged = true
		c.body.begin(&c.source, c.Response.length)
		c.ended()
	} else if c.informational++; c.informational > maxInformational {
		return c.fail(errInformational)
	}
	return nil
}

// Next returns bytes of the response's body that have come, waiting once if there are none. They are valid until
// the next call. io.EOF, perhaps with the last bytes, means that the body is complete.
func (c *Client) Next() ([]byte, error) {
	p, err := c.body.next()
	return p, c.read(err)
}

// Read reads the response's body.
func (c *Client) Read(p []byte) (int, error) {
	n, err := c.body.read(p)
	return n, c.read(err)
}

// AtHand tells whether Next has bytes to return without waiting.
func (c *Client) AtHand() bool { return c.body.atHand() }

// Trailer returns what followed the body.
func (c *Client) Trailer() phttp.Header { return c.body.trailer }

// read notes how a read of the body has ended.
func (c *Client) read(err error) error {
	if err == nil {
		return nil
	}
	if c.body.complete() {
		c.ended()
		return err
	}
	return c.fail(err)
}

// ended notes that the response is complete, if it is.
func (c *Client) ended() {
	if !c.body.complete() || c.Response.upgraded {
		return
	}
	c.answered = true
	if len(c.source.buffered()) > 0 {
		c.failed = errLeftOver
	}
}

// Park gives memory back while the connection waits for another request.
func (c *Client) Park() { c.source.release() }

func (c *Client) fail(err error) error {
	if err != nil && c.failed == nil {
		c.failed = err
	}
	return err
}

// Reusable tells whether another request may follow: the response is complete and nothing more came with it, and
// the backend has not said that it ends the connection. Whether the request has been sent to its end is for the
// caller to know.
func (c *Client) Reusable() bool {
	return c.failed == nil && c.answered && !c.Response.closing
}

// Err returns why the connection cannot be used any more, nil if it can.
func (c *Client) Err() error { return c.failed }

// Close closes the connection. Any goroutine may call it; calls that wait on the connection fail.
func (c *Client) Close() error { return c.conn.Close() }

// rest returns the connection after a switch of protocols.
func (c *Client) rest() net.Conn { return c.source.rest() }
