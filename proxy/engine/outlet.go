package engine

import (
	"errors"
	"io"
	"sync"
	"time"

	"weft.dev/weft/proxy/upstream"
)

// maxFirst is how much of a body is sent with the head of its request, at most: so much the socket of a connection that
// was idle takes without anybody reading at its other end.
const maxFirst = 16 << 10

// bodyBuffers hold bodies that are longer than what comes with their heads.
var bodyBuffers = sync.Pool{New: func() any { return new([maxReplay]byte) }}

// outlet is the connection of a direct exchange, which is given a body as it comes.
type outlet struct {
	// direct is nil if there is no outlet, or not any more.
	direct *upstream.Direct
	alarm  *alarm
	// given tells that there was one.
	given bool
	// sent is how much of the body it has been given.
	sent int
	// writing tells that a write is under way, complete that all was written, stuck that no more can be.
	writing, complete, stuck bool
	// memory is what the body is kept in.
	memory *[maxReplay]byte
}

// atHand takes what has come of the request's body with its head. It returns what is to be sent with the head, and
// whether that is all.
func (b *replay) atHand(from ownWriter) (first []byte, last bool) {
	if b.empty() {
		return nil, true
	}
	if whole, ok := from.WholeBody(); ok {
		// It lies in the memory of the connection, until the exchange ends.
		b.buf, b.err = whole[:len(whole):len(whole)], io.EOF
	} else {
		if b.r.ProtoMajor == 2 {
			b.buf = make([]byte, minRead) // it may be a stream that is open for long, and has little
		} else {
			b.outlet.memory, _ = bodyBuffers.Get().(*[maxReplay]byte)
			b.buf = b.outlet.memory[:]
		}
		b.buf = b.buf[:from.BodyAtHand(b.buf)]
	}
	first = b.buf[:min(len(b.buf), maxFirst)]
	return first, b.err != nil && len(first) == len(b.buf)
}

// give lets another goroutine send the rest of the body on a connection, which has been sent so much of it.
func (b *replay) give(d *upstream.Direct, a *alarm, sent int) {
	b.mu.Lock()
	b.outlet.direct, b.outlet.alarm, b.outlet.given, b.outlet.sent = d, a, true, sent
	b.begun, b.reading = true, true
	b.mu.Unlock()
	go b.run()
}

// pour gives the outlet what it has not had. It is for the reading goroutine, which holds the lock.
func (b *replay) pour() {
	o := &b.outlet
	last := errors.Is(b.err, io.EOF)
	switch {
	case o.direct == nil || o.stuck:
		return
	case b.err != nil && !last:
		o.stuck = true
		o.direct.Break(b.err)
		return
	}
	p := b.buf[o.sent-b.base:]
	if len(p) == 0 && !last {
		return
	}
	direct := o.direct
	o.writing = true
	b.mu.Unlock()
	err := direct.Write(p, last)
	b.mu.Lock()
	o.writing = false
	b.changed.Broadcast()
	if err != nil {
		o.stuck = true // a response may still be there to be read
		return
	}
	o.sent += len(p)
	o.complete = last
	o.alarm.moved()
}

// atOnce tells whether all of the body was sent with the head of its request.
func (b *replay) atOnce() bool { return !b.outlet.given }

// poured tells whether the outlet has been given the whole body. A response can be there before the last write has
// returned.
func (b *replay) poured() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := &b.outlet
	if o.writing && errors.Is(b.err, io.EOF) {
		late := false
		timer := time.AfterFunc(joinPatience, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			late = true
			b.changed.Broadcast()
		})
		for o.writing && !late {
			b.changed.Wait()
		}
		timer.Stop()
	}
	return o.complete
}

// takeBack ends the outlet, whose connection has been closed.
func (b *replay) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outlet.direct = nil
	for b.outlet.writing {
		b.changed.Wait()
	}
	b.changed.Broadcast()
}

// finish ends the body when nobody wants any more of it, and nobody uses b afterwards.
func (b *replay) finish(from ownWriter) {
	b.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading {
		b.mu.Unlock()
		from.StopBody()
		b.mu.Lock()
	}
	for b.reading {
		b.changed.Wait()
	}
	if b.outlet.memory != nil {
		bodyBuffers.Put(b.outlet.memory)
	}
	b.replayed = replayed{}
}
