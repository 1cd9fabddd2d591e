package h1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

// continueTimeout is how long a request that expects 100 Continue waits for it before it sends its body all the
// same (RFC 9110 section 10.1.1).
const continueTimeout = time.Second

// Transport is a connection to a backend with the methods of net/http's ClientConn, for requests that are not
// forwarded head by head.
type Transport struct {
	client *Client
	conn   net.Conn
	// broken tells that the connection must not be used again, whatever the client thinks.
	broken atomic.Bool
	// used tells that there has been a request.
	used bool
}

// NewTransport returns a Transport for a connection that has not been used.
func NewTransport(conn net.Conn) *Transport {
	return &Transport{client: NewClient(conn), conn: conn}
}

// Client returns the connection itself, for whoever has reserved it.
func (t *Transport) Client() *Client { return t.client }

// Reserve tells whether a request may be sent; the connection is for one at a time.
func (t *Transport) Reserve() error {
	if t.used && (t.broken.Load() || !t.client.Clean()) {
		t.broken.Store(true)
		return ErrNotClean
	}
	t.used = true
	return nil
}

// Available is how many requests may follow, once the response has been read to its end: one or none. While
// the connection waits for one it holds no memory.
func (t *Transport) Available() int {
	if t.broken.Load() || !t.client.Reusable() {
		return 0
	}
	t.client.Park()
	return 1
}

// Err returns why the connection cannot take another request; nil if it can, or has not been used.
func (t *Transport) Err() error {
	if t.broken.Load() {
		return net.ErrClosed
	}
	return t.client.Err()
}

// Close closes the connection.
func (t *Transport) Close() error {
	t.broken.Store(true)
	return t.client.Close()
}

// RoundTrip is RoundTripFields with the fields of req.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.RoundTripFields(req, nethttp.Fields(req.Header))
}

// RoundTripFields sends a request and returns the head of the final response. fields are sent instead of
// req.Header, as they are and in their order. The body is sent by another goroutine, so that a response may come before its
// end. Informational responses go to the trace of the request's context.
func (t *Transport) RoundTripFields(req *http.Request, fields phttp.Header) (*http.Response, error) {
	head, upgrade := requestHead(req, fields)
	if err := sendable(&head); err != nil {
		closeBody(req)
		return nil, err
	}
	e := &outgoing{Transport: t, req: req, upgrade: upgrade, ctx: req.Context()}
	e.stop = context.AfterFunc(e.ctx, t.Interrupt)
	res, err := e.send(&head)
	return res, e.failed(err)
}

// failed ends an exchange that has no response, and says why.
func (e *outgoing) failed(err error) error {
	if err == nil {
		return nil
	}
	e.broken.Store(true)
	e.stop()
	closeBody(e.req)
	if ended := context.Cause(e.ctx); ended != nil {
		err = ended
	}
	return err
}

// Send sends the head of a request that asks for no other protocol, and with it the beginning of its body, as
// Client.Write does. The rest of the body is for Client to write, and responses to read.
func (t *Transport) Send(head *phttp.Request, length int64, first []byte, last bool) error {
	if err := sendable(head); err != nil {
		return err
	}
	return t.client.Write(head, length, false, first, last)
}

// Ask is Reserve, and Send with the whole body, and waits for the first bytes of the answer. ErrNotClean means that the
// connection cannot be used; nothing was sent then.
func (t *Transport) Ask(head *phttp.Request, length int64, body []byte) error {
	if err := sendable(head); err != nil {
		return err
	}
	if t.broken.Load() {
		return ErrNotClean
	}
	return t.client.Ask(head, length, body)
}

// Interrupt makes everything that waits on the connection fail, and ends it.
func (t *Transport) Interrupt() {
	t.broken.Store(true)
	_ = t.conn.SetDeadline(time.Unix(1, 0)) // fails only if it is closed already
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// outgoing is one exchange.
type outgoing struct {
	*Transport
	req *http.Request
	ctx context.Context
	// upgrade tells that the request asks for another protocol.
	upgrade bool
	stop    func() bool
	// sent is closed when nothing more of the body will be sent; whole tells that all of it was, last that
	// all of it was given to the connection, which may still be busy with it.
	sent        chan struct{}
	whole, last atomic.Bool
	// proceed is closed when the backend has asked for the body.
	proceed chan struct{}
	asked   sync.Once
}

func (e *outgoing) send(head *phttp.Request) (*http.Response, error) {
	length := e.req.ContentLength
	if e.req.Body == nil || e.req.Body == http.NoBody {
		length = 0
	} else if length == 0 {
		length = lengthChunked // net/http: a body without a length
	}
	if err := e.client.Write(head, length, e.upgrade, nil, false); err != nil {
		return nil, err
	}
	if length == 0 {
		e.whole.Store(true)
		closeBody(e.req)
	} else {
		e.sent, e.proceed = make(chan struct{}), make(chan struct{})
		go e.upload(length)
	}
	if err := e.client.Head(e.req.Method, e.upgrade); err != nil {
		return nil, err
	}
	return e.receive()
}

// receive returns the final response, from the one whose head was read last.
func (e *outgoing) receive() (*http.Response, error) {
	for {
		r := &e.client.Response
		if r.Status >= 200 || r.upgraded {
			return e.response(), nil
		}
		if r.Status == http.StatusContinue && e.proceed != nil {
			e.asked.Do(func() { close(e.proceed) })
		}
		if trace := httptrace.ContextClientTrace(e.ctx); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(r.Status, textproto.MIMEHeader(nethttp.Header(r.Header))); err != nil {
				return nil, err
			}
		}
		if err := e.client.Head(e.req.Method, e.upgrade); err != nil {
			return nil, err
		}
	}
}

// upload sends the body.
func (e *outgoing) upload(length int64) {
	defer close(e.sent)
	if strings.EqualFold(e.req.Header.Get("Expect"), "100-continue") {
		timer := time.NewTimer(continueTimeout)
		defer timer.Stop()
		select {
		case <-e.proceed:
		case <-timer.C:
		}
	}
	err := e.uploadBody(length)
	_ = e.req.Body.Close()
	if err != nil {
		// Of a body that broke off the backend must not get the end. If it was the connection that failed, a
		// response may still be there to be read.
		e.broken.Store(true)
		if !errors.Is(err, errWrite) {
			e.Interrupt()
		}
		return
	}
	e.whole.Store(true)
}

var errWrite = errors.New("write request body")

func (e *outgoing) uploadBody(left int64) error {
	memory, framed := getBuffer(bufferSizes[2]), getBuffer(bufferSizes[2])
	defer putBuffer(memory)
	defer putBuffer(framed)
	chunked := left == lengthChunked
	for chunked || left > 0 {
		if chunked {
			left = 1 << 62 // there is no end to it but its own
		}
		n, err := e.req.Body.Read((*memory)[:flushSize])
		if n > 0 {
			p := (*memory)[:n]
			switch {
			case chunked:
				p = appendChunk((*framed)[:0], p)
			case int64(n) > left:
				return errBodyLength
			}
			if left -= int64(n); left == 0 {
				e.last.Store(true)
			}
			if writeErr := e.client.WriteBody(p); writeErr != nil {
				return errors.Join(errWrite, writeErr)
			}
		}
		switch {
		case errors.Is(err, io.EOF) && chunked:
			e.last.Store(true)
			if writeErr := e.client.WriteBody(appendLastChunk((*framed)[:0], nethttp.Fields(e.req.Trailer))); writeErr != nil {
				return errors.Join(errWrite, writeErr)
			}
			return nil
		case errors.Is(err, io.EOF) && left > 0:
			return io.ErrUnexpectedEOF
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
	}
	return nil
}

// sentWhole tells whether the backend has been sent the whole request. It waits if the last of it is just being
// sent: a response to the whole can be there before that has returned.
func (e *outgoing) sentWhole() bool {
	if e.last.Load() {
		timer := time.NewTimer(restPatience)
		defer timer.Stop()
		select {
		case <-e.sent:
		case <-timer.C:
		}
	}
	return e.whole.Load()
}

// response makes the final response of what the client has read.
func (e *outgoing) response() *http.Response {
	r := &e.client.Response
	fields := r.Header.Clone()
	if fields == nil {
		fields = phttp.Header{}
	}
	res := &http.Response{
		Status: http.StatusText(r.Status), StatusCode: r.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: int(r.Minor),
		ContentLength: r.ContentLength, Request: e.req,
	}
	if announced := fields.Values("Trailer"); len(announced) > 0 && r.length == lengthChunked {
		res.Trailer = nethttp.Announced(announced)
	}
	fields.Del("Trailer")
	fields.Del("Transfer-Encoding")
	res.Header = nethttp.Header(fields)
	if r.upgraded {
		e.stop()
		res.Body = &switched{Conn: e.client.rest(), fields: fields}
		return res
	}
	b := &incoming{outgoing: e, res: res, fields: fields}
	res.Body = b
	if e.client.body.complete() {
		b.over(nil)
	}
	return res
}

// incoming is the body of a response.
type incoming struct {
	*outgoing
	res    *http.Response
	fields phttp.Header
	once   sync.Once
	// ended tells that the connection is nobody's or another exchange's.
	ended atomic.Bool
}

// Fields returns the fields of the response as they were received.
func (b *incoming) Fields() phttp.Header { return b.fields }

// Read implements io.Reader.
func (b *incoming) Read(p []byte) (int, error) {
	if b.ended.Load() {
		return 0, io.EOF
	}
	n, err := b.client.Read(p)
	switch {
	case err == nil:
		return n, nil
	case !b.client.answered:
		b.over(err)
		if ended := context.Cause(b.ctx); ended != nil {
			err = ended
		}
		return n, err
	}
	if trailer := b.client.Trailer(); len(trailer) > 0 {
		b.res.Trailer = mergeTrailer(b.res.Trailer, trailer)
	}
	b.over(nil)
	return n, io.EOF
}

// Close implements io.Closer.
func (b *incoming) Close() error {
	b.over(errBodyEnded)
	return nil
}

// over ends the exchange. Without an error the connection may be used again, if the request has been sent to its
// end as well.
func (b *incoming) over(err error) {
	b.once.Do(func() {
		b.ended.Store(true)
		if stopped := b.stop(); stopped && err == nil && b.sentWhole() {
			return
		}
		// Whoever still sends is told to stop.
		_ = b.Transport.Close()
		closeBody(b.req)
	})
}

// switched is the connection after 101 Switching Protocols.
type switched struct {
	net.Conn
	fields phttp.Header
}

// Fields returns the fields of the response as they were received.
func (s *switched) Fields() phttp.Header { return s.fields }

// CloseWrite ends the sending direction.
func (s *switched) CloseWrite() error { return closeWrite(s.Conn) }

// sendable refuses what cannot be written as a head. Whatever has been parsed can.
func sendable(r *phttp.Request) error {
	switch {
	case !phttp.IsToken(r.Method):
		return fmt.Errorf("method %q is no token", r.Method)
	case r.Authority != "" && phttp.CheckAuthority(r.Authority) != nil:
		return fmt.Errorf("authority %q is no host", r.Authority)
	case !phttp.TargetOctets.All(r.Path) || !phttp.TargetOctets.All(r.RawQuery):
		return fmt.Errorf("target %q has a control character", r.Target())
	}
	for i := range r.Header {
		if f := &r.Header[i]; !phttp.IsToken(f.Name) || !phttp.ValueOctets.All(f.Value) {
			return fmt.Errorf("field %q: %q is not valid", f.Name, f.Value)
		}
	}
	return nil
}

// requestHead returns the head that is sent for a request of net/http.
func requestHead(req *http.Request, fields phttp.Header) (head phttp.Request, upgrade bool) {
	head = phttp.Request{Method: req.Method, Authority: req.Host, Path: targetPath(req.URL), Header: fields}
	if req.URL.RawQuery != "" || req.URL.ForceQuery {
		head.HasQuery, head.RawQuery = true, req.URL.RawQuery
	}
	for i := range fields {
		upgrade = upgrade || equalFold(fields[i].Name, "upgrade")
	}
	if fields.Has("Connection") {
		head.Header = fields.Clone()
		head.Header.Del("Connection")
	}
	return head, upgrade
}

func targetPath(u *url.URL) string {
	if u.Opaque != "" {
		return u.Opaque
	}
	if u.RawPath != "" {
		return u.RawPath // as the engine has normalised it
	}
	return u.EscapedPath()
}

func mergeTrailer(h http.Header, fields phttp.Header) http.Header {
	if h == nil {
		h = http.Header{}
	}
	maps.Copy(h, nethttp.Header(fields))
	return h
}
