package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
)

// copyBufferSize is how much of a body is read at once.
const copyBufferSize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// deliver passes a backend's response on to the client.
func (t *tries) deliver(a *attempt) {
	res := a.response
	if res.StatusCode == http.StatusSwitchingProtocols {
		t.upgrade(a)
		return
	}
	defer func() { _ = res.Body.Close() }()
	head := responseHead(res)
	phttp.StripHopByHop(&head.Header, false)
	if t.filters != nil {
		t.filters.Response(t.backend, &head)
	}
	t.keep(a, &head)
	// An informational response may have left fields behind.
	clear(t.w.Header())
	for name := range res.Trailer {
		head.Header.Add("Trailer", name)
	}
	t.writeHead(&head)
	err := t.copyBody(res)
	switch {
	case err == nil:
		t.copyTrailer(res)
	case errors.Is(err, errClientGone):
		// There is nobody left to tell.
	case t.grpc:
		t.endGRPC(a)
	default:
		t.engine.options.Log.Debug("A response broke off", "backend", t.key, "error", err)
		// The client must not take what it has for the whole.
		panic(http.ErrAbortHandler)
	}
}

func responseHead(res *http.Response) phttp.Response {
	head := phttp.Response{Status: res.StatusCode, Header: make(phttp.Header, 0, len(res.Header)+2)}
	for name, values := range res.Header {
		for _, value := range values {
			head.Header.Add(name, value)
		}
	}
	return head
}

var errClientGone = errors.New("client has gone")

// copyBody passes the body on as it comes: what has been read is sent before more is waited for.
func (t *tries) copyBody(res *http.Response) error {
	if res.ContentLength < 0 {
		// It may be long until the first byte, and the head alone can be an answer (gRPC streams).
		if err := t.rc.Flush(); err != nil {
			return errClientGone
		}
	}
	buf, _ := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buf)
	left := res.ContentLength
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			if _, err := t.w.Write(buf[:n]); err != nil {
				return errClientGone
			}
			left -= int64(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case left != 0:
			// At the end of a body of known length, net/http flushes by itself.
			if err := t.rc.Flush(); err != nil {
				return errClientGone
			}
		}
	}
}

// copyTrailer passes the trailer on, also what was not announced.
func (t *tries) copyTrailer(res *http.Response) {
	header := t.w.Header()
	announced := header["Trailer"]
	for name, values := range res.Trailer {
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
}

// endGRPC ends a gRPC response that broke off with a status that says why, instead of resetting it.
func (t *tries) endGRPC(a *attempt) {
	why := reason.ResetAfterHeaders
	switch cause := context.Cause(a.ctx); {
	case errors.Is(cause, errDeadline):
		why = reason.DeadlineExceeded
	case errors.Is(cause, errBackendTimeout):
		why = reason.BackendTimeout
	}
	said := reason.Of(why)
	header := t.w.Header()
	for _, f := range phttp.GRPCResponse(said.GRPC(), "weft: "+said.Text).Header {
		if name := http.CanonicalHeaderKey(f.Name); name != "Content-Type" {
			header.Set(http.TrailerPrefix+name, f.Value)
		}
	}
	header.Set(http.TrailerPrefix+reason.Header, string(why))
}

// informational passes 1xx responses on to the client until the final response is there.
type informational struct {
	*exchange
	mu   sync.Mutex
	over bool
}

func (i *informational) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{Got1xxResponse: i.got}
}

// got is called by the transport, possibly in another goroutine than that of the request.
func (i *informational) got(code int, fields textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.over, code == http.StatusContinue:
		// net/http sends 100 Continue itself when the body is read, which is when the backend has asked
		// for it.
		return nil
	case !i.r.ProtoAtLeast(1, 1):
		// HTTP/1.0 does not know them (RFC 9110 section 15.2).
		return nil
	}
	head := phttp.Response{Status: code}
	for name, values := range fields {
		for _, value := range values {
			head.Header.Add(name, value)
		}
	}
	phttp.StripHopByHop(&head.Header, false)
	header := i.w.Header()
	clear(header)
	for _, f := range head.Header {
		header.Add(f.Name, f.Value)
	}
	i.w.WriteHeader(code)
	clear(header)
	return nil
}

// end makes responses that come later be ignored: the response writer belongs to deliver from now on.
func (i *informational) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}
