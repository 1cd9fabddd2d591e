package engine

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxReplay bounds how much of a request's body is kept, so that it can be sent again and that the
	// client is not asked for more than the backend takes.
	maxReplay = 64 << 10
	// minRead is the least room with which more is read.
	minRead = 4 << 10
)

// replay hands the body of one request to one try after the other. The beginning is kept until the body
// outgrows maxReplay; a longer body can be sent only once.
//
// A goroutine reads ahead, because a transport that gives a try up closes the body and waits for its
// reads to return, while a read of the request itself cannot be interrupted. It begins with the first
// read of a try, so that nothing is asked of a client that expects 100 Continue before a backend wants
// it, and it ends with the body or with the request.
type replay struct {
	mu      sync.Mutex
	changed sync.Cond
	replayed
	// run is readAhead, made once.
	run func()
}

// replayed is what is known of one body.
type replayed struct {
	r *http.Request
	// whole is called once with the body, if that has ended before the request and did not exceed maxReplay. It may be
	// nil.
	whole func(body []byte)
	// idle is told when bytes move.
	idle *idleLimit

	// buf is what was read from offset base on. Only the reading goroutine changes it.
	buf  []byte
	base int
	// err is how the body ended.
	err error
	// begun tells that the reading goroutine has been started, reading that it has not ended.
	begun, reading bool
	closed         bool
	current        *replayBody
	outlet         outlet
}

func newReplay(r *http.Request, whole func(body []byte)) *replay {
	b := new(replay)
	b.begin(r)
	b.whole = whole
	return b
}

// begin makes ready for the body of a request.
func (b *replay) begin(r *http.Request) {
	if b.run == nil {
		b.run, b.changed.L = b.readAhead, &b.mu
	}
	b.replayed = replayed{r: r}
}

// observe says who is told of the body.
func (b *replay) observe(idle *idleLimit, whole func(body []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle, b.whole = idle, whole
}

// empty tells whether there is no body.
func (b *replay) empty() bool {
	return b.r.ContentLength == 0 || b.r.Body == nil || b.r.Body == http.NoBody
}

// possible tells whether another try can have the body from its beginning.
func (b *replay) possible() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.base == 0
}

// rewind ends the body of the present try, if another try can still have it from its beginning.
func (b *replay) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.base > 0 {
		return false
	}
	b.current, b.outlet.direct = nil, nil
	b.changed.Broadcast()
	return true
}

// ended tells whether the whole body has arrived.
func (b *replay) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.empty() || errors.Is(b.err, io.EOF)
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

// giveUp ends the body of the present try.
func (b *replay) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	b.changed.Broadcast()
}

// close ends the body for all tries. A read of the request that is under way goes on.
func (b *replay) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.current = true, nil
	b.changed.Broadcast()
}

// joinPatience is how long a read of the request may take to end by itself once the exchange is over.
const joinPatience = 50 * time.Millisecond

// join waits until nobody reads the request any more, after close. A read that waits for the client for longer than
// joinPatience is made to fail with interrupt; interrupted tells whether it was.
func (b *replay) join(interrupt func()) (interrupted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.reading {
		return false
	}
	done := make(chan struct{})
	timer := time.AfterFunc(joinPatience, func() {
		defer close(done)
		interrupt()
	})
	for b.reading {
		b.changed.Wait()
	}
	if timer.Stop() {
		return false
	}
	<-done
	return true
}

// readAhead reads the request's body until it or the request ends.
func (b *replay) readAhead() {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		b.reading = false
		b.changed.Broadcast()
	}()
	for {
		b.pour()
		if !b.makeRoom() {
			return
		}
		room := b.buf[len(b.buf):cap(b.buf)]
		b.mu.Unlock()
		n, err := b.r.Body.Read(room)
		b.mu.Lock()
		b.buf = b.buf[:len(b.buf)+n]
		if n > 0 {
			b.idle.moved()
		}
		if err != nil {
			b.err = err
			if errors.Is(err, io.EOF) && b.base == 0 && !b.closed && b.whole != nil {
				b.whole(b.buf)
			}
		}
		b.changed.Broadcast()
	}
}

// makeRoom waits until there is room to read into. It is false if there is nothing more to read. A full
// buffer gives up what the present try has had; from then on no other try is possible.
func (b *replay) makeRoom() bool {
	for b.err == nil && !b.closed {
		if maxReplay-len(b.buf) >= minRead {
			if cap(b.buf)-len(b.buf) < minRead {
				b.buf = slices.Grow(b.buf, max(minRead, len(b.buf)))
				b.buf = b.buf[:len(b.buf):min(cap(b.buf), maxReplay)]
			}
			return true
		}
		if had := b.had(); had > b.base {
			kept := copy(b.buf, b.buf[had-b.base:])
			b.buf, b.base = b.buf[:kept], had
			continue
		}
		b.changed.Wait()
	}
	return false
}

// had is how much of the body the present try has had.
func (b *replay) had() int {
	switch {
	case b.current != nil:
		return b.current.read
	case b.outlet.direct != nil:
		return b.outlet.sent
	}
	return b.base
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
		case t.read < b.base+len(b.buf):
			n := copy(p, b.buf[t.read-b.base:])
			t.read += n
			b.idle.moved()
			b.changed.Broadcast()
			if t.read == b.base+len(b.buf) && errors.Is(b.err, io.EOF) {
				return n, t.end() // so that it is sent with the last of the body
			}
			return n, nil
		case b.err != nil:
			return 0, t.end()
		case !b.begun:
			b.begun, b.reading = true, true
			go b.run()
		}
		b.changed.Wait()
	}
}

// end returns how the body has ended, and fills in the trailer. The lock is held.
func (t *replayBody) end() error {
	for name := range t.trailer {
		t.trailer[name] = t.replay.r.Trailer[name]
	}
	return t.replay.err
}

// Close implements io.Closer. The request's own body belongs to net/http's server.
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
