package h2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

// HTTP returns the exchange as net/http's types, for handlers that need those. The request's URL and RemoteAddr are not
// set: it is for handlers that go by RequestURI and know the connection. Its context is below parent, and ends when the
// client is gone. What the writer has been given is complete once EndHTTP was called.
//
// The writer supports http.ResponseController as far as Flush and SetWriteDeadline go, and WriteFields.
func (s *Stream) HTTP(parent context.Context) (*ResponseWriter, *http.Request) {
	ctx, cancel := context.WithCancel(parent)
	a := NewAdapter(ctx)
	a.Begin(s)
	a.Request.Header = nethttp.Header(s.head.fields)
	delete(a.Request.Header, "Trailer")
	s.Keep()
	s.OnGone(cancel)
	return &a.Writer, a.Request
}

// Adapter makes net/http's types of one exchange after the other, each time in the same memory. It is for handlers of
// which nothing outlives the exchange; of others each has its own (Stream.HTTP).
type Adapter struct {
	// Request and Writer are what Stream.HTTP returns, from Begin to the end of the exchange, but that the request's Header
	// has Host alone: its fields are those of the stream, which making another form of would be dear.
	Request *http.Request
	Writer  ResponseWriter

	body requestBody
}

// NewAdapter returns an Adapter whose requests have a context.
func NewAdapter(ctx context.Context) *Adapter {
	a := &Adapter{Request: new(http.Request).WithContext(ctx), Writer: ResponseWriter{header: http.Header{}}}
	a.Request.Header = http.Header{}
	a.Request.Proto, a.Request.ProtoMajor = "HTTP/2.0", 2
	return a
}

// Begin takes over an exchange.
func (a *Adapter) Begin(s *Stream) {
	h, req := &s.head, a.Request
	req.Method, req.RequestURI, req.Host, req.ContentLength = h.method, h.path, h.authority, h.length
	if h.method == http.MethodConnect {
		req.RequestURI = h.authority
	}
	if h.fields.Has("host") {
		req.Header["Host"] = h.fields.Values("host")
	}
	req.Trailer, req.Body = nil, http.NoBody
	if h.fields.Has("trailer") {
		req.Trailer = nethttp.Announced(h.fields.Values("trailer"))
	}
	s.conn.mu.Lock()
	whole := s.stream.received && s.stream.got == 0
	s.conn.mu.Unlock()
	if whole {
		req.ContentLength = 0
	} else {
		a.body = requestBody{stream: s, trailer: req.Trailer}
		req.Body = &a.body
	}
	a.Writer.stream = s
}

// End lets go of the exchange.
func (a *Adapter) End() {
	clear(a.Request.Header)
	a.body, a.Request.Body, a.Request.Trailer = requestBody{}, nil, nil
	clear(a.Writer.header)
	a.Writer.stream, a.Writer.wrote, a.Writer.announced, a.Writer.trailer = nil, false, nil, nil
}

// requestBody is the body of a request.
type requestBody struct {
	stream  *Stream
	trailer http.Header
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.stream.ReadBody(p)
	if errors.Is(err, io.EOF) && b.trailer != nil {
		// The announced names are in a map that the request's copies share.
		for name, values := range nethttp.Header(b.stream.Trailer()) {
			if _, announced := b.trailer[name]; announced {
				b.trailer[name] = values
			}
		}
	}
	return n, err
}

// Close implements io.Closer. What is left of the body is the stream's business.
func (b *requestBody) Close() error { return nil }

// ResponseWriter is an http.ResponseWriter for one exchange.
type ResponseWriter struct {
	stream *Stream
	header http.Header
	wrote  bool
	// announced are the names of the trailer, which is what PassTrailer was given if that is not nil.
	announced []string
	trailer   phttp.Header
}

// WholeBody is that of the stream.
func (w *ResponseWriter) WholeBody() (body []byte, ok bool) { return w.stream.WholeBody() }

// BodyAtHand is that of the stream.
func (w *ResponseWriter) BodyAtHand(p []byte) int { return w.stream.BodyAtHand(p) }

// StopBody is that of the stream.
func (w *ResponseWriter) StopBody() { w.stream.StopBody() }

// Interrupt is that of the stream.
func (w *ResponseWriter) Interrupt() { w.stream.Interrupt() }

// Fields returns the fields of the request as they were received, but for Host, which is the authority.
func (w *ResponseWriter) Fields() phttp.Header {
	fields := w.stream.head.fields
	if fields.Has("Host") {
		fields = fields.Clone()
		fields.Del("Host")
	}
	return fields
}

// Header implements http.ResponseWriter.
func (w *ResponseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *ResponseWriter) WriteHeader(status int) {
	res := &phttp.Response{Status: status, Header: nethttp.Fields(w.header)}
	if status < http.StatusOK {
		_ = w.stream.WriteInformational(res)
		return
	}
	w.WriteFields(res)
}

// WriteFields is WriteHeader for fields that are to stay in their order. Connection is not passed on; with "close" the
// client's connection ends when all that has begun on it is over. What it is given is the callee's.
func (w *ResponseWriter) WriteFields(res *phttp.Response) {
	if w.wrote {
		return
	}
	w.wrote = true
	length := int64(-1)
	for i := range res.Header {
		switch f := &res.Header[i]; lower(f.Name) {
		case "content-length":
			if n, ok := lengthOf(f.Value); ok {
				length = n
			}
		case "connection":
			if strings.EqualFold(f.Value, "close") {
				w.stream.Depart()
			}
		case "trailer":
			w.announced = append(w.announced, f.Value)
		}
	}
	// The only failure is a second head, which wrote excludes.
	_ = w.stream.WriteHead(res, length)
}

// Write implements http.ResponseWriter.
func (w *ResponseWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.stream.Write(p)
}

// FlushError implements what http.ResponseController.Flush needs.
func (w *ResponseWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.stream.Flush()
}

// SetWriteDeadline implements what http.ResponseController.SetWriteDeadline needs. The stream is reset if it comes. Any
// goroutine may call it.
func (w *ResponseWriter) SetWriteDeadline(at time.Time) error {
	w.stream.stream.until(at)
	return nil
}

// PassTrailer says what follows the body, whether it was announced or not. It is sent by EndHTTP.
func (w *ResponseWriter) PassTrailer(trailer phttp.Header) { w.trailer = trailer }

// EndHTTP completes the answer, with the trailer of PassTrailer or as net/http defines it: values of announced names, and
// of names with http.TrailerPrefix.
func (w *ResponseWriter) EndHTTP() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	trailer := w.trailer
	if trailer == nil && len(w.header) > 0 {
		trailer = nethttp.Trailer(w.header, w.announced)
	}
	w.stream.SetTrailer(trailer)
	w.stream.finish()
}
