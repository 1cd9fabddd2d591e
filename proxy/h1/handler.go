package h1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// HTTP returns the exchange under way as net/http's types, for handlers that need those. The request's URL and
// RemoteAddr are not set: it is for handlers that go by RequestURI and know the connection. Its context is ctx; to end it when the client has gone is for
// OnGone. What the writer has been given is complete once the handler returns and EndHTTP was called.
//
// The writer supports http.ResponseController in all it can do, and WriteFields.
func (c *Conn) HTTP(ctx context.Context) (*ResponseWriter, *http.Request) {
	a := NewAdapter(ctx, c)
	a.Begin()
	return &a.Writer, a.Request
}

// Adapter makes net/http's types of one exchange after the other on a connection, each time in the same memory. It is
// for handlers of which nothing outlives the exchange; of others each has its own (Conn.HTTP).
type Adapter struct {
	// Request and Writer are what Conn.HTTP returns, from Begin to the end of the exchange.
	Request *http.Request
	Writer  ResponseWriter

	conn *Conn
	// values are those of the request's header.
	values []string
}

// NewAdapter returns an Adapter whose requests have a context.
func NewAdapter(ctx context.Context, c *Conn) *Adapter {
	a := &Adapter{conn: c, Request: new(http.Request).WithContext(ctx), Writer: ResponseWriter{conn: c, header: http.Header{}}}
	a.Request.Header = http.Header{}
	return a
}

// Begin takes over the exchange under way.
func (a *Adapter) Begin() {
	r, req := &a.conn.Request, a.Request
	req.Method, req.RequestURI, req.Host = r.Method, r.Target, r.Authority
	req.Proto, req.ProtoMajor, req.ProtoMinor = protocols[r.Minor], 1, int(r.Minor)
	req.ContentLength, req.Trailer = r.ContentLength, nil
	a.fill(r.Header)
	if announced := req.Header["Trailer"]; len(announced) > 0 {
		if r.ContentLength == lengthChunked {
			req.Trailer = trailerOf(announced)
		}
		delete(req.Header, "Trailer")
	}
	req.Body = http.NoBody
	if r.ContentLength != 0 {
		req.Body = &requestBody{conn: a.conn, request: req, exchange: a.conn.reading.exchange}
	}
	clear(a.Writer.header)
	a.Writer.wrote, a.Writer.announced = false, nil
}

var protocols = [...]string{"HTTP/1.0", "HTTP/1.1"}

// fill makes the request's header of fields, each name with the part of values that is its own.
func (a *Adapter) fill(fields phttp.Header) {
	header := a.Request.Header
	clear(header)
	a.values = a.values[:0]
	for i := range fields {
		name := http.CanonicalHeaderKey(fields[i].Name)
		if name == "Transfer-Encoding" {
			continue
		}
		if before := header[name]; before != nil {
			header[name] = append(before, fields[i].Value)
			continue
		}
		a.values = append(a.values, fields[i].Value)
		n := len(a.values)
		header[name] = a.values[n-1 : n : n]
	}
}

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
		maps.Copy(b.request.Trailer, headerOf(trailer))
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

// Fields returns the fields of the request as they were received.
func (w *ResponseWriter) Fields() phttp.Header { return w.conn.Request.Header }

// Header implements http.ResponseWriter.
func (w *ResponseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *ResponseWriter) WriteHeader(status int) {
	res := phttp.Response{Status: status, Header: headerFrom(w.header)}
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
	var trailer phttp.Header
	if len(w.announced) > 0 {
		for name := range trailerOf(w.announced) {
			for _, value := range w.header[name] {
				trailer.Add(name, value)
			}
		}
	}
	for name, values := range w.header {
		if plain, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			for _, value := range values {
				trailer.Add(plain, value)
			}
		}
	}
	slices.SortStableFunc(trailer, func(a, b phttp.Field) int { return strings.Compare(a.Name, b.Name) })
	w.conn.SetTrailer(trailer)
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

// SetWriteDeadline implements what http.ResponseController.SetWriteDeadline needs. The connection ends with the
// answer then. Any goroutine may call it.
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
