package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"

	phttp "weft.dev/weft/proxy/http"
)

// errBodyTaken is what a connection that was given up gets from a body that was taken back from it.
var errBodyTaken = errors.New("request body was taken back")

// requestBody stands between a request's body and one connection. It knows whether anything was read, so
// that an untouched body can be sent elsewhere, and whose fault a failure is.
type requestBody struct {
	source io.ReadCloser

	mu      sync.Mutex
	started bool // something was, or is being, read
	closed  bool // net/http is done with it
	settled bool // it will not be taken back
	taken   bool
	failed  error // of the source, while net/http wanted to read
}

// newRequestBody returns nil for a request without body.
func newRequestBody(req *http.Request) *requestBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	return &requestBody{source: req.Body}
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.taken {
		b.mu.Unlock()
		return 0, errBodyTaken
	}
	b.started = true
	b.mu.Unlock()
	n, err := b.source.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		if !b.closed {
			b.failed = err
		}
		b.mu.Unlock()
	}
	return n, err
}

// Close closes the source, but leaves it open if nothing was read from it and the try has not ended.
func (b *requestBody) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	due := first && !b.taken && (b.started || b.settled)
	b.mu.Unlock()
	if due {
		return b.source.Close()
	}
	return nil
}

// takeBack returns the source to its owner if nothing was read from it; the connection gets no more of it.
// A request without body is always intact.
func (b *requestBody) takeBack() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = !b.started
	return b.taken
}

// settle leaves the source to net/http for good.
func (b *requestBody) settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	due := b.closed && !b.started && !b.settled
	b.settled = true
	b.mu.Unlock()
	if due {
		closeQuietly(b.source)
	}
}

// failure returns why the source could not be read, if that is what went wrong.
func (b *requestBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// errGivenUp tells that the reader of a response wanted no more of it.
var errGivenUp = errors.New("response was given up")

// responseBody calls end once, with nil when the response was read to its end, else with why it was not.
type responseBody struct {
	io.ReadCloser
	once sync.Once
	end  func(error)
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() {
			if errors.Is(err, io.EOF) {
				b.end(nil)
			} else {
				b.end(err)
			}
		})
	}
	return n, err
}

// Close implements io.Closer.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() { b.end(errGivenUp) })
	return err
}

// Fields returns the fields of the response as they were received; nil if that is not known.
func (b *responseBody) Fields() phttp.Header { return fieldsOf(b.ReadCloser) }

// Fields returns the fields of the response as they were received; nil if that is not known.
func (b *upgradedBody) Fields() phttp.Header { return fieldsOf(b.ReadWriteCloser) }

// Fields returns the fields of a response as they were received, in their order and without those of Weft; nil if
// that is not known. They belong to the caller.
func Fields(resp *http.Response) phttp.Header {
	fields := fieldsOf(resp.Body).Clone()
	phttp.StripInternal(&fields)
	return fields
}

func fieldsOf(body io.Reader) phttp.Header {
	if own, ok := body.(interface{ Fields() phttp.Header }); ok {
		return own.Fields()
	}
	return nil
}

// upgradedBody is the connection after 101 Switching Protocols.
type upgradedBody struct {
	io.ReadWriteCloser
	once sync.Once
	end  func()
}

// Close implements io.Closer.
func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.once.Do(b.end)
	return err
}

// CloseWrite ends the sending direction.
func (b *upgradedBody) CloseWrite() error {
	if half, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Close()
}
