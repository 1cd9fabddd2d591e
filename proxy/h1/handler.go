package h1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

// HTTP returns the exchange under way as net/http's types, for handlers that need those. The request's URL and
// RemoteAddr are not set: it is for handlers that go by RequestURI and know the connection. Its context is ctx; to end it when the client has gone is for
// OnGone. What the writer has been given is complete once the handler returns and EndHTTP was called.
//
// The writer supports http.ResponseController in all it can do, and WriteFields.
func (c *Conn) HTTP(ctx context.Context) (*ResponseWriter, *http.Request) {
	a := NewAdapter(ctx)
	a.Begin(c)
	a.Request.Header = nethttp.Header(c.Request.Header)
	delete(a.Request.Header, "Transfer-Encoding")
	delete(a.Request.Header, "Trailer")
	return &a.Writer, a.Request
}

// Adapter makes net/http's types of one exchange after the other, each time in the same memory. It is for handlers of
// which nothing outlives the exchange; of others each has its own (Conn.HTTP).
type Adapter struct {
	// Request and Writer are what Conn.HTTP returns, from Begin to the end of the exchange, but that the request has no
	// Header: its fields are those of the connection, which making another form of would be dear.
	Request *http.Request
	Writer  ResponseWriter

	conn *Conn
	body requestBody
}

// NewAdapter returns an Adapter whose requests have a context.
func NewAdapter(ctx context.Context) *Adapter {
	a := &Adapter{Request: new(http.Request).WithContext(ctx), Writer: ResponseWriter{header: http.Header{}}}
	return a
}

// Begin takes over the exchange under way on a connection.
func (a *Adapter) Begin(c *Conn) {
	a.conn, a.Writer.conn = c, c
	r, req := &c.Request, a.Request
	req.Method, req.RequestURI, req.Host = r.Method, r.Target, r.Authority
	req.Proto, req.ProtoMajor, req.ProtoMinor = protocols[r.Minor], 1, int(r.Minor)
	req.ContentLength, req.Trailer = r.ContentLength, nil
	if r.ContentLength == lengthChunked && r.Header.Has("Trailer") {
		req.Trailer = nethttp.Announced(r.Header.Values("Trailer"))
	}
	req.Body = http.NoBody
	if r.ContentLength != 0 {
		a.body = requestBody{conn: a.conn, request: req, exchange: a.conn.reading.exchange}
		req.Body = &a.body
	}
	clear(a.Writer.header)
	a.Writer.wrote, a.Writer.announced = false, nil
}

// End lets go of the exchange.
func (a *Adapter) End() {
	clear(a.Writer.header)
	a.conn, a.Writer.conn, a.body, a.Request.Body = nil, nil, requestBody{}, nil
}

var protocols = [...]string{"HTTP/1.0", "HTTP/1.1"}

// requestBody is the body of a request.
type requestBody struct {
	conn     *Conn
	request  *http.Request
	exchange uint64
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, trailer, err := b.conn.reading.readTrailed(p, b.exchange)
	if errors.Is(err, io.EOF) && len(trailer) > 0 && b.request.Trailer != nil {
		// The announced names are in a map that the request's copies share.
		maps.Copy(b.request.Trailer, nethttp.Header(trailer))
	}
	return n, err
}

// Close implements io.Closer. What is left of the body is the connection's business.
func (b *requestBody) Close() error { return nil }

// ResponseWriter is an http.ResponseWriter for one exchange.
type ResponseWriter struct {
	conn   *Conn
	header http.Header
	wrote  bool
	// announced are the names of the trailer.
	announced []string
}

// WholeBody is that of the connection.
func (w *ResponseWriter) WholeBody() (body []byte, ok bool) { return w.conn.WholeBody() }

// BodyAtHand is that of the connection.
func (w *ResponseWriter) BodyAtHand(p []byte) int { return w.conn.BodyAtHand(p) }

// StopBody is that of the connection.
func (w *ResponseWriter) StopBody() { w.conn.StopBody() }

// lastWrite is how long writes may still take after Interrupt, so that a client which reads has what there is.
const lastWrite = time.Second

// Interrupt makes writes of the answer fail soon, also one that waits. Any goroutine may call it.
func (w *ResponseWriter) Interrupt() { _ = w.SetWriteDeadline(time.Now().Add(lastWrite)) }

// Fields returns the fields of the request as they were received.
func (w *ResponseWriter) Fields() phttp.Header { return w.conn.Request.Header }

// Header implements http.ResponseWriter.
func (w *ResponseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *ResponseWriter) WriteHeader(status int) {
	res := phttp.Response{Status: status, Header: nethttp.Fields(w.header)}
	if status < http.StatusOK {
		_ = w.conn.WriteInformational(&res)
		return
	}
	w.WriteFields(&res)
}

// WriteFields is WriteHeader for fields that are to stay as they are and in their order. Connection is not passed
// on; with "close" the connection ends with the answer. What it is given is the callee's.
func (w *ResponseWriter) WriteFields(res *phttp.Response) {
	if w.wrote {
		return
	}
	w.wrote = true
	length := int64(-1)
	options := false
	for i := range res.Header {
		f := &res.Header[i]
		switch {
		case equalFold(f.Name, "content-length"):
			if n, err := parseLength(f.Value); err == nil {
				length = n
			}
		case equalFold(f.Name, "connection"):
			options = true
			if listed(f.Value, "close") {
				w.conn.CloseAfter()
			}
		case equalFold(f.Name, "trailer"):
			w.announced = append(w.announced, f.Value)
		}
	}
	if options {
		res.Header.Del("Connection")
	}
	// The only failure is a second head, which wrote excludes.
	_ = w.conn.WriteHead(res, length)
}

// Write implements http.ResponseWriter.
func (w *ResponseWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.conn.Write(p)
}

// EndHTTP takes over the trailer, as net/http defines it: values of announced names, and of names with
// http.TrailerPrefix.
func (w *ResponseWriter) EndHTTP() {
	if w.conn.answer.taken {
		return
	}
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	w.conn.SetTrailer(nethttp.Trailer(w.header, w.announced))
}

// PassTrailer says what follows the body, if that is chunked, whether it was announced or not.
func (w *ResponseWriter) PassTrailer(trailer phttp.Header) {
	for i := range trailer {
		w.header.Add(http.TrailerPrefix+trailer[i].Name, trailer[i].Value)
	}
}

// FlushError implements what http.ResponseController.Flush needs.
func (w *ResponseWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.conn.Flush()
}

// EnableFullDuplex implements what http.ResponseController.EnableFullDuplex needs: it always is.
func (w *ResponseWriter) EnableFullDuplex() error { return nil }

// SetWriteDeadline implements what http.ResponseController.SetWriteDeadline needs. It holds until the answer is
// complete. Any goroutine may call it.
func (w *ResponseWriter) SetWriteDeadline(at time.Time) error {
	w.conn.limited.Store(true)
	return w.conn.conn.SetWriteDeadline(at)
}

// Hijack implements http.Hijacker.
func (w *ResponseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, err := w.conn.Take()
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}
