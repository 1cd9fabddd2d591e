package engine

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// maxReplay bounds how much of a request's body is kept so that it can be sent again.
const maxReplay = 64 << 10

// replay hands the body of one request to one try after the other. It keeps what was read up to
// maxReplay; a longer body can be sent only once.
//
// A try that was given up may still be reading, because a transport lets go of a body in its own time.
// What it reads then belongs to the try after it.
type replay struct {
	r *http.Request
	// whole is called once with the body, if that has ended and did not exceed maxReplay.
	whole func(body []byte)

	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	// lost tells that the body is longer than what is kept.
	lost bool
	// reading tells that a try is reading from the request right now.
	reading bool
	// err is how the body ended.
	err     error
	current *replayBody
}

func newReplay(r *http.Request, whole func(body []byte)) *replay {
	b := &replay{r: r, whole: whole}
	b.changed.L = &b.mu
	return b
}

// empty tells whether there is no body.
func (b *replay) empty() bool {
	return b.r.ContentLength == 0 || b.r.Body == nil || b.r.Body == http.NoBody
}

// possible tells whether another try can have the body from its beginning.
func (b *replay) possible() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost
}

// open returns the body for one try and ends that of the try before. trailer receives the values of
// its keys when the body has ended; it may be nil.
func (b *replay) open(trailer http.Header) io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &replayBody{replay: b, trailer: trailer}
	b.changed.Broadcast()
	return b.current
}

// close ends the body for all tries.
func (b *replay) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	b.changed.Broadcast()
}

// replayBody is the body as one try sees it.
type replayBody struct {
	replay  *replay
	trailer http.Header
	// read is how much of the body this try has had.
	read int
}

var errGivenUp = errors.New("the try was given up")

// Read implements io.Reader.
func (t *replayBody) Read(p []byte) (int, error) {
	b := t.replay
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.current != t:
			return 0, errGivenUp
		case !b.lost && t.read < len(b.buf):
			n := copy(p, b.buf[t.read:])
			t.read += n
			return n, nil
		case b.err != nil:
			t.takeTrailer()
			return 0, b.err
		case b.reading:
			b.changed.Wait()
		default:
			return t.readOn(p)
		}
	}
}

// readOn reads from the request itself. The caller holds the lock, which is given up meanwhile.
func (t *replayBody) readOn(p []byte) (int, error) {
	b := t.replay
	b.reading = true
	b.mu.Unlock()
	n, err := b.r.Body.Read(p)
	b.mu.Lock()
	b.reading = false
	b.changed.Broadcast()

	switch {
	case b.lost:
		// There will be no other try.
	case b.current != t, len(b.buf)+n <= maxReplay:
		// If the try was given up while it read, the bytes are for its successor.
		b.buf = append(b.buf, p[:n]...)
	default:
		b.lost, b.buf = true, nil
	}
	t.read += n
	if err != nil {
		b.err = err
		if errors.Is(err, io.EOF) && !b.lost {
			b.whole(b.buf)
		}
	}
	if b.current != t {
		return 0, errGivenUp
	}
	if err != nil {
		t.takeTrailer()
	}
	return n, err
}

// takeTrailer passes the trailer on, which the request has once its body has ended.
func (t *replayBody) takeTrailer() {
	for name := range t.trailer {
		t.trailer[name] = t.replay.r.Trailer[name]
	}
}

// Close implements io.Closer. The body itself belongs to net/http's server.
func (t *replayBody) Close() error {
	b := t.replay
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == t {
		b.current = nil
		b.changed.Broadcast()
	}
	return nil
}
