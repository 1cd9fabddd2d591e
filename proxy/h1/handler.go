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
	r := &c.Request
	header := headerOf(r.Header)
	delete(header, "Transfer-Encoding")
	req := &http.Request{
		Method: r.Method, RequestURI: r.Target, Host: r.Authority, Header: header,
		Proto: "HTTP/1." + string('0'+r.Minor), ProtoMajor: 1, ProtoMinor: int(r.Minor),
		ContentLength: r.ContentLength,
	}
	if announced := header["Trailer"]; len(announced) > 0 && r.ContentLength == lengthChunked {
		req.Trailer = trailerOf(announced)
	}
	delete(header, "Trailer")
	req.Body = &requestBody{conn: c, request: req, exchange: c.reading.exchange}
	return &ResponseWriter{conn: c, header: http.Header{}}, req.WithContext(ctx)
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
// on; with "close" the connection ends with the answer.
func (w *ResponseWriter) WriteFields(res *phttp.Response) {
	if w.wrote {
		return
	}
	w.wrote = true
	length := int64(-1)
	for i := range res.Header {
		f := &res.Header[i]
		switch {
		case equalFold(f.Name, "content-length"):
			if n, err := parseLength(f.Value); err == nil {
				length = n
			}
		case equalFold(f.Name, "connection"):
			if listed(f.Value, "close") {
				w.conn.CloseAfter()
			}
		case equalFold(f.Name, "trailer"):
			w.announced = append(w.announced, f.Value)
		}
	}
	own := *res
	own.Header = slices.DeleteFunc(slices.Clone(res.Header), func(f phttp.Field) bool { return equalFold(f.Name, "connection") })
	// The only failure is a second head, which wrote excludes.
	_ = w.conn.WriteHead(&own, length)
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
