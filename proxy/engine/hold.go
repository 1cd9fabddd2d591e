package engine

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// maxHold is how long the head of a gRPC response is held back to see whether a message follows it or a
// status that is to be retried. What a server sends without a message comes together with its head.
const maxHold = 100 * time.Millisecond

// learnStatus finds out with which gRPC status a response has ended, if it has ended without a message. A
// response that has one is passed on as it comes: its status is known too late.
func (t *tries) learnStatus(a *attempt) {
	res := a.response
	if code, ok := grpcStatus(res.Header); ok {
		a.code = code
		return
	}
	if res.StatusCode != http.StatusOK {
		a.code = phttp.GRPCCodeOf(res.StatusCode)
		return
	}
	// A client that has more to send may wait for the head first.
	if t.retries == 0 || len(t.policy.Retry.GRPCCodes) == 0 || !t.body.ended() {
		return
	}
	held := hold(res.Body)
	res.Body = held
	if held.await(maxHold) {
		a.code, _ = grpcStatus(res.Trailer)
	}
}

// grpcStatus reads the status of a header or trailer.
func grpcStatus(fields http.Header) (phttp.GRPCCode, bool) {
	values := fields["Grpc-Status"]
	if len(values) == 0 {
		return 0, false
	}
	return parseStatus(values[0]), true
}

// statusOf is grpcStatus for fields as they came.
func statusOf(fields phttp.Header) (phttp.GRPCCode, bool) {
	for i := range fields {
		if strings.EqualFold(fields[i].Name, "Grpc-Status") {
			return parseStatus(fields[i].Value), true
		}
	}
	return 0, false
}

// parseStatus reads a status. What is no number is UNKNOWN.
func parseStatus(value string) phttp.GRPCCode {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return phttp.GRPCUnknown
	}
	return phttp.GRPCCode(n)
}

// headStatus is the status of a gRPC response as far as its head tells: ok is false if it is still to come.
func headStatus(head *phttp.Response) (code phttp.GRPCCode, ok bool) {
	if code, ok = statusOf(head.Header); !ok && head.Status != http.StatusOK {
		return phttp.GRPCCodeOf(head.Status), true
	}
	return code, ok
}

// rpcStatus names the status of a gRPC response that has been read to its end.
func rpcStatus(res *http.Response) string {
	code, ok := grpcStatus(res.Header)
	if !ok {
		code, ok = grpcStatus(res.Trailer)
	}
	if !ok && res.StatusCode != http.StatusOK {
		code, ok = phttp.GRPCCodeOf(res.StatusCode), true
	}
	return namedStatus(code, ok)
}

// namedStatus names a status, which may be missing. What is none of gRPC's is "_OTHER", so that applications do not make
// names up.
func namedStatus(code phttp.GRPCCode, ok bool) string {
	switch {
	case !ok:
		code = phttp.GRPCUnknown
	case code > phttp.GRPCUnauthenticated:
		return "_OTHER"
	}
	return code.String()
}

// heldBody is a body whose first read is under way before anybody asks for it.
type heldBody struct {
	io.ReadCloser
	reading chan struct{}
	// first and err are what that read has had, once reading is closed.
	first []byte
	err   error
}

// hold begins to read a body. Closing it ends the read.
func hold(body io.ReadCloser) *heldBody {
	b := &heldBody{ReadCloser: body, reading: make(chan struct{})}
	go func() {
		defer close(b.reading)
		buf := make([]byte, 512)
		var n int
		n, b.err = body.Read(buf)
		b.first = buf[:n]
	}()
	return b
}

// Fields returns the fields of the response as upstream.Fields wants them.
func (b *heldBody) Fields() phttp.Header {
	if own, ok := b.ReadCloser.(interface{ Fields() phttp.Header }); ok {
		return own.Fields()
	}
	return nil
}

// await tells whether the body ends within a time, and without a byte.
func (b *heldBody) await(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-b.reading:
		return len(b.first) == 0 && b.err == io.EOF //nolint:errorlint // bodies end with EOF itself
	case <-timer.C:
		return false
	}
}

// Read implements io.Reader.
func (b *heldBody) Read(p []byte) (int, error) {
	<-b.reading
	switch {
	case len(b.first) > 0:
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	case b.err != nil:
		return 0, b.err
	}
	return b.ReadCloser.Read(p)
}
