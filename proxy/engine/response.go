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
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
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
	t.keep(a.to, &head)
	// An informational response may have left fields behind.
	clear(t.w.Header())
	for name := range res.Trailer {
		if phttp.MayTrail(name) {
			head.Header.Add("Trailer", name)
		}
	}
	due := t.due.whole
	t.streaming.Store(res.ContentLength < 0)
	if res.ContentLength < 0 && !t.due.stream.IsZero() {
		due = t.due.stream
		t.limit.cause = errDeadline // a stream that is long is no fault of its endpoint
		t.limit.move(due)
	}
	t.writeHead(&head)
	err := t.copyBody(a)
	if err == nil {
		t.copyTrailer(res)
		if t.grpc {
			t.code = rpcStatus(res)
		}
		return
	}
	gone := errors.Is(err, errClientGone)
	why := endReason(a.ctx)
	switch {
	case why == "" && (gone || t.r.Context().Err() != nil):
		// There is nobody left to tell.
		panic(http.ErrAbortHandler)
	case why == "" && t.overdue(due):
		why = reason.DeadlineExceeded
	case why == "":
		why = reason.ResetAfterHeaders
	}
	t.why = why
	if !gone {
		// The client sees as much as there is, if it reads.
		_ = t.rc.SetWriteDeadline(time.Now().Add(lastWrite))
		_ = t.rc.Flush()
	}
	t.cut(err)
}

// cut ends an answer that has broken off, for the reason that the exchange has: that of a gRPC call with a status, unless
// it is in the middle of a message.
func (t *tries) cut(err error) {
	t.engine.cut(t.why, "backend", t.key, "error", err)
	if t.grpc {
		said := reason.Of(t.why)
		t.code = said.GRPC().String()
	}
	if !t.grpc || t.messages.within() || errors.Is(err, errClientGone) {
		// The client must not take what it has for the whole.
		panic(http.ErrAbortHandler)
	}
	t.endGRPC()
}

func responseHead(res *http.Response) phttp.Response {
	if fields := upstream.Fields(res); fields != nil {
		return phttp.Response{Status: res.StatusCode, Header: fields}
	}
	head := phttp.Response{Status: res.StatusCode, Header: make(phttp.Header, 0, len(res.Header)+2)}
	for name, values := range res.Header {
		for _, value := range values {
			head.Header.Add(name, value)
		}
	}
	return head
}

var errClientGone = errors.New("client has gone")

// copyBody passes the body on as it comes: what has been read is sent before more is waited for. When the
// attempt ends, a client that reads nothing does not keep it.
func (t *tries) copyBody(a *attempt) error {
	res := a.response
	client := &t.client
	if t.bounded() {
		defer client.watch(a.ctx)()
	}
	if res.ContentLength < 0 && !upstream.Arrived(res) {
		// It may be long until the first byte, and the head alone can be an answer (gRPC streams).
		if err := t.send(client, nil, true); err != nil {
			return err
		}
	}
	buf, _ := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buf)
	left := res.ContentLength
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			t.idle.moved()
			left -= int64(n)
			// At the end of a body of known length, net/http flushes by itself.
			if err := t.send(client, buf[:n], err == nil && left != 0); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if !client.begin() {
				return context.Canceled
			}
			client.done()
			return nil
		case err != nil:
			return err
		}
	}
}

// bounded tells whether anything but its client and authorizations can end the exchange.
func (t *tries) bounded() bool {
	return !t.due.whole.IsZero() || !t.due.stream.IsZero() || t.idle != nil || *t.policy.Timeouts.BackendRequest > 0
}

// send passes bytes on to the client, and if flush is set at once.
func (t *tries) send(client *interrupter, p []byte, flush bool) error {
	if !client.begin() {
		return context.Canceled
	}
	defer client.done()
	if len(p) > 0 {
		if _, err := t.w.Write(p); err != nil {
			return errClientGone
		}
		if t.grpc {
			t.messages.passed(p)
		}
	}
	if flush {
		if err := t.rc.Flush(); err != nil {
			return errClientGone
		}
	}
	t.idle.moved()
	return nil
}

// copyTrailer passes the trailer on, also what was not announced.
func (t *tries) copyTrailer(res *http.Response) {
	header := t.w.Header()
	announced := header["Trailer"]
	for name, values := range res.Trailer {
		if !phttp.MayTrail(name) {
			continue
		}
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
}

// endGRPC ends a gRPC response that broke off with a status that says why, instead of resetting it.
func (t *tries) endGRPC() {
	said := reason.Of(t.why)
	header := t.w.Header()
	for _, f := range phttp.GRPCResponse(said.GRPC(), "weft: "+said.Text).Header {
		if name := http.CanonicalHeaderKey(f.Name); name != "Content-Type" {
			header.Set(http.TrailerPrefix+name, f.Value)
		}
	}
	header.Set(http.TrailerPrefix+reason.Header, string(t.why))
}

// informational passes 1xx responses on to the client until the final response is there.
type informational struct {
	*exchange
	idle *idleLimit
	mu   sync.Mutex
	over bool
	got  int
}

// maxInformational bounds the 1xx responses before a final one. net/http has no limit.
const maxInformational = 100

var errInformational = errors.New("too many informational responses")

func (i *informational) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{Got1xxResponse: i.receive}
}

// receive is called by the transport, possibly in another goroutine than that of the request.
func (i *informational) receive(code int, fields textproto.MIMEHeader) error {
	i.idle.moved()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.got++; i.got > maxInformational {
		return errInformational
	}
	if i.over {
		return nil
	}
	head := phttp.Response{Status: code}
	for name, values := range fields {
		for _, value := range values {
			head.Header.Add(name, value)
		}
	}
	i.inform(&head)
	return nil
}

// inform passes an informational response on.
func (x *exchange) inform(head *phttp.Response) {
	switch {
	case head.Status == http.StatusContinue:
		// The server sends 100 Continue itself when the body is read, which is when the backend has asked for it.
		return
	case !x.r.ProtoAtLeast(1, 1):
		// HTTP/1.0 does not know them (RFC 9110 section 15.2).
		return
	}
	phttp.StripHopByHop(&head.Header, false)
	phttp.StripInternal(&head.Header)
	header := x.w.Header()
	clear(header)
	for _, f := range head.Header {
		header.Add(f.Name, f.Value)
	}
	x.w.WriteHeader(head.Status)
	clear(header)
}

// end makes responses that come later be ignored: the response writer belongs to deliver from now on.
func (i *informational) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}
