package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

const (
	// continueTimeout is how long a request that expects 100 Continue waits for it before it sends its body all the same
	// (RFC 9110 section 10.1.1).
	continueTimeout = time.Second
	uploadSize      = 32 << 10
)

var uploads = sync.Pool{New: func() any { return new([uploadSize]byte) }}

// RoundTrip is RoundTripFields with the fields of req.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	return c.RoundTripFields(req, nethttp.Fields(req.Header))
}

// RoundTripFields sends a request for which a stream was reserved, and returns the head of the final response. fields are
// sent instead of req.Header, in their order. The body is sent by another goroutine, so that a response may come before
// its end; it is closed in any case. Informational responses go to the trace of the request's context. Errors are of
// type *Error, or the cause of the context's end.
func (c *Client) RoundTripFields(req *http.Request, fields phttp.Header) (*http.Response, error) {
	e := &outgoing{client: c, req: req, ctx: req.Context()}
	err := e.send(fields)
	if err != nil {
		closeBody(req)
		c.changed()
		return nil, err
	}
	e.stop = context.AfterFunc(e.ctx, func() { e.stream.abandon(http2.ErrCodeCancel, context.Cause(e.ctx)) })
	res, err := e.receive()
	if err != nil {
		e.stop()
		e.stream.abandon(http2.ErrCodeCancel, err)
		closeBody(req)
		return nil, e.failed(err)
	}
	return res, nil
}

// outgoing is one exchange.
type outgoing struct {
	client *Client
	stream *stream
	req    *http.Request
	ctx    context.Context
	stop   func() bool
	// asked tells that the peer wants the body. The lock of the connection guards it.
	asked bool
	// broke is why the request's body could not be read.
	broke atomic.Pointer[error]
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// failed says why there is no response, or not all of it.
func (e *outgoing) failed(err error) error {
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if broke := e.broke.Load(); broke != nil {
		return *broke
	}
	return err
}

// send writes the head of the request, and has its body sent.
func (e *outgoing) send(fields phttp.Header) error {
	c, req := e.client, e.req
	length := req.ContentLength
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		length = 0
	case length == 0:
		length = -1 // net/http: a body without a length
	}
	target := targetOf(req.URL)
	wrong := sendable(req.Method, req.Host, target, fields)
	c.mu.Lock()
	s, failed := c.start(wrong)
	if failed != nil {
		c.mu.Unlock()
		return failed
	}
	s.kept = true
	e.stream = s
	c.request(s, req.Method, schemeOf(req.URL), target, req.Host)
	c.fields(fields)
	if length > 0 && !fields.Has("Content-Length") {
		c.field("content-length", strconv.FormatInt(length, 10))
	}
	if len(req.Trailer) > 0 && !fields.Has("Trailer") {
		c.field("trailer", strings.ToLower(strings.Join(slices.Sorted(maps.Keys(req.Trailer)), ", ")))
	}
	s.head(length == 0)
	// It leaves when the response is waited for, with what there is of the body by then.
	c.mu.Unlock()
	if length == 0 {
		closeBody(req)
	} else {
		go e.upload()
	}
	return nil
}

// start opens the stream that was reserved, unless something is wrong with its request. The lock is held.
func (c *Client) start(wrong error) (*stream, *Error) {
	c.reserved--
	switch {
	case wrong != nil:
		return nil, &Error{Code: http2.ErrCodeProtocol, Stream: true, Unsent: true, Cause: wrong}
	case c.err != nil:
		return nil, &Error{Code: http2.ErrCodeNo, Unsent: true, Unprocessed: true, Cause: c.err}
	case c.away:
		return nil, &Error{Code: http2.ErrCodeNo, Unsent: true, Unprocessed: true, Cause: errGoneAway}
	}
	return c.open(c.next()), nil
}

// request begins the head of a request. The lock is held.
func (c *Client) request(s *stream, method, scheme, target, authority string) {
	s.bodiless = method == http.MethodHead
	c.encode()
	c.field(":method", method)
	if method != http.MethodConnect {
		c.field(":scheme", scheme)
		c.field(":path", target)
	}
	c.field(":authority", authority)
}

// next is the identifier of the next stream. The lock is held.
func (c *Client) next() uint32 {
	if c.last == 0 {
		return 1
	}
	return c.last + 2
}

// receive returns the final response.
func (e *outgoing) receive() (*http.Response, error) {
	for {
		h, err := e.stream.next()
		switch {
		case err != nil:
			return nil, err
		case h.status >= http.StatusOK:
			return e.response(h), nil
		}
		if h.status == http.StatusContinue {
			e.client.mu.Lock()
			e.asked = true
			e.stream.wake.Broadcast()
			e.client.mu.Unlock()
		}
		if trace := httptrace.ContextClientTrace(e.ctx); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(h.status, textproto.MIMEHeader(nethttp.Header(h.fields))); err != nil {
				return nil, err
			}
		}
	}
}

// upload sends the body.
func (e *outgoing) upload() {
	if strings.EqualFold(e.req.Header.Get("Expect"), "100-continue") {
		e.stream.awaitProceed(continueTimeout, func() bool { return e.asked })
	}
	err := e.uploadBody()
	_ = e.req.Body.Close()
	if err == nil {
		e.client.changed()
		return
	}
	if cause, ok := errors.AsType[readError](err); ok {
		e.broke.CompareAndSwap(nil, &cause.error)
		// Of a body that broke off the peer must not get the end.
		e.stream.abandon(http2.ErrCodeCancel, cause.error)
	}
}

// readError is that of a request's body.
type readError struct{ error }

func (e *outgoing) uploadBody() error {
	memory, _ := uploads.Get().(*[uploadSize]byte)
	defer uploads.Put(memory)
	left := e.req.ContentLength
	known := left > 0
	for {
		n, err := e.req.Body.Read(memory[:])
		if n > 0 {
			if left -= int64(n); known && left < 0 {
				return readError{errLengthSent}
			}
			if err := e.stream.write(memory[:n], false); err != nil {
				return err
			}
		}
		switch {
		case known && left == 0 && err == nil && len(e.req.Trailer) == 0:
			return e.end()
		case errors.Is(err, io.EOF) && known && left > 0:
			return readError{io.ErrUnexpectedEOF}
		case errors.Is(err, io.EOF):
			return e.end()
		case err != nil:
			return readError{err}
		}
		if err := e.stream.flush(); err != nil {
			return err
		}
	}
}

// end ends the body, with the trailer if there is one.
func (e *outgoing) end() error {
	trailer := nethttp.Fields(e.req.Trailer)
	l := e.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.stream.blockedFrom(); err != nil {
		return err
	}
	if len(trailer) == 0 {
		e.stream.finish()
	} else {
		l.encode()
		l.fields(trailer)
		e.stream.head(true)
	}
	l.flush()
	return nil
}

// response makes the final response of its head.
func (e *outgoing) response(h head) *http.Response {
	res := &http.Response{
		Status: http.StatusText(h.status), StatusCode: h.status, Proto: "HTTP/2.0", ProtoMajor: 2,
		ContentLength: h.length, Request: e.req, Header: nethttp.Header(h.fields),
	}
	if announced := res.Header["Trailer"]; len(announced) > 0 {
		res.Trailer = nethttp.Announced(announced)
		delete(res.Header, "Trailer")
	}
	b := &incoming{outgoing: e, res: res}
	res.Body = b
	l := e.stream.link
	l.mu.Lock()
	whole := e.stream.received && e.stream.got == 0 && len(e.stream.trailer.fields) == 0
	l.mu.Unlock()
	if whole {
		if !e.stream.bodiless {
			res.ContentLength = 0
		}
		res.Body = http.NoBody
		b.over()
	}
	return res
}

// incoming is the body of a response.
type incoming struct {
	*outgoing
	res   *http.Response
	once  sync.Once
	ended atomic.Bool
}

// Read implements io.Reader.
func (b *incoming) Read(p []byte) (int, error) {
	if b.ended.Load() {
		return 0, io.EOF
	}
	n, err := b.stream.read(p)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		err = b.failed(err)
		b.over()
		return n, err
	}
	l := b.stream.link
	l.mu.Lock()
	trailer := b.stream.trailer.fields
	l.mu.Unlock()
	if len(trailer) > 0 {
		if b.res.Trailer == nil {
			b.res.Trailer = http.Header{}
		}
		maps.Copy(b.res.Trailer, nethttp.Header(trailer))
	}
	b.over()
	return n, io.EOF
}

// Arrived tells whether Read does not have to wait.
func (b *incoming) Arrived() bool {
	l := b.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.stream.inbox.len() > 0 || b.stream.received
}

// Close implements io.Closer.
func (b *incoming) Close() error {
	b.over()
	return nil
}

// over ends the exchange. What the peer does not want or has not sent yet is not waited for.
func (b *incoming) over() {
	b.once.Do(func() {
		b.ended.Store(true)
		b.stop()
		l := b.stream.link
		l.mu.Lock()
		gone := b.stream.gone
		l.mu.Unlock()
		if gone {
			b.client.changed()
			return
		}
		b.stream.abandon(http2.ErrCodeCancel, errFinished)
		closeBody(b.req) // whoever still sends is told to stop
	})
}

// sendable refuses what HTTP/2 has no form for.
func sendable(method, authority, target string, fields phttp.Header) error {
	switch {
	case !phttp.IsToken(method):
		return fmt.Errorf("method %q is no token", method)
	case authority != "" && phttp.CheckAuthority(authority) != nil:
		return fmt.Errorf("authority %q is no host", authority)
	case target == "" || !phttp.TargetOctets.All(target):
		return fmt.Errorf("target %q is empty or has a control character", target)
	}
	for i := range fields {
		if f := &fields[i]; !phttp.IsToken(f.Name) || !phttp.ValueOctets.All(f.Value) {
			return fmt.Errorf("field %q: %q is not valid", f.Name, f.Value)
		}
	}
	return nil
}

func schemeOf(u *url.URL) string {
	if u.Scheme == "https" {
		return "https"
	}
	return "http"
}

func targetOf(u *url.URL) string {
	path := u.Opaque
	if path == "" {
		if path = u.RawPath; path == "" {
			path = u.EscapedPath()
		}
	}
	if u.RawQuery != "" || u.ForceQuery {
		path += "?" + u.RawQuery
	}
	return path
}
