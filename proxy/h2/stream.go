package h2

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// stream is one exchange. The lock of its connection guards all of it but what never changes.
type stream struct {
	link *link
	id   uint32
	// wake is told of everything that somebody could wait for.
	wake sync.Cond

	// received and sent tell that the peer's or our part is complete, gone that the connection has no such stream any
	// more. err is why it has failed.
	received, sent, gone bool
	err                  error

	// window is the peer's, open ours; taken has been taken from inbox without the peer having been told.
	window, open int64
	taken        int
	inbox        inbox
	trailer      head
	// declared is the length of the body that comes, -1 if it was not told, got what has come of it; bodiless tells
	// that there must not be one.
	declared, got int64
	bodiless      bool

	// starved tells that it waits for the connection, unwanted that the peer wants no more of the body.
	starved, unwanted bool
	deadline          *time.Timer

	// headSent tells that a server has sent the final head, answered that a client has got it.
	headSent, answered bool
	// unread tells that nobody wants the body that comes, stopped that no more of ours is sent.
	unread, stopped bool
	// kept tells that somebody may hold on to it when it is over.
	kept bool
	// heads are those that have come, and nobody has looked at.
	heads []head
	// onGone is called when a server's exchange has failed, with the lock held; it may be nil.
	onGone func()
}

// streams are those that nobody uses.
var streams = sync.Pool{New: func() any { return new(stream) }}

// open begins a stream. The lock is held.
func (l *link) open(id uint32) *stream {
	s, _ := streams.Get().(*stream)
	s.link, s.id, s.window, s.open, s.declared = l, id, l.streamWindow, int64(l.limits.StreamWindow), -1
	s.wake.L = &l.mu
	l.streams[id] = s
	l.last, l.served = id, id
	return s
}

// recycle lets others use the memory of a stream that is over, if nobody else can hold on to it. The lock is held.
func (s *stream) recycle() {
	l := s.link
	if !s.gone || s.kept || s.starved || s.deadline != nil {
		return
	}
	if l.tail == s {
		l.tail = nil
	}
	s.inbox.drop()
	s.trailer.release()
	heads := s.heads[:cap(s.heads)]
	clear(heads)
	*s = stream{heads: heads[:0]}
	streams.Put(s)
}

// end fails the stream, unless it is complete. The lock is held, and leave called in the end.
func (s *stream) end(err error) {
	if s.err == nil {
		s.err = err
	}
	if s.onGone != nil {
		s.onGone()
	}
	s.wake.Broadcast()
}

// leave takes the stream out of its connection if it is over. The lock is held.
func (s *stream) leave() {
	if s.gone || s.err == nil && (!s.received || !s.sent) {
		return
	}
	l := s.link
	s.gone = true
	if s.deadline != nil {
		s.deadline.Stop()
	}
	delete(l.streams, s.id)
	l.took(s.inbox.len())
	if len(l.streams) == 0 {
		l.idle = time.Now()
	}
	if s.err == nil {
		l.resets.give(1)
	}
}

// abandon resets the stream, unless it is complete.
func (s *stream) abandon(code http2.ErrCode, why error) {
	l := s.link
	l.mu.Lock()
	s.abandonLocked(code, why)
	l.flush()
	l.mu.Unlock()
	l.changed()
}

func (s *stream) abandonLocked(code http2.ErrCode, why error) {
	if s.gone {
		return
	}
	s.end(&Error{Code: code, Stream: true, Cause: why})
	s.link.rst(s.id, code)
	s.leave()
}

// receive takes a part of the body. length is what it counts for the window. The lock is held.
func (s *stream) receive(p []byte, length int, ends bool) *fault {
	switch {
	case s.received:
		return errClosed
	case s.link.client != nil && !s.answered:
		return errEarlyData
	}
	if s.open -= int64(length); s.open < 0 {
		return errOverrunOf
	}
	s.got += int64(len(p))
	switch {
	case s.bodiless && s.got > 0:
		return errBody
	case !s.bodiless && s.declared >= 0 && (s.got > s.declared || ends && s.got < s.declared):
		return errLengthBody
	}
	s.inbox.put(p)
	s.took(length - len(p))
	if ends {
		s.complete()
	}
	s.wake.Broadcast()
	return nil
}

// complete tells that all of the peer's part has come.
func (s *stream) complete() {
	s.received = true
	s.leave()
}

// took tells the peer that it may send more. The lock is held.
func (s *stream) took(n int) {
	l := s.link
	if s.taken += n; s.received || s.gone || s.taken < l.limits.StreamWindow/2 {
		return
	}
	s.open += int64(s.taken)
	l.frame32(http2.FrameWindowUpdate, s.id, uint32(s.taken)) //nolint:gosec // it is at most a window
	s.taken = 0
}

// read reads the body that comes. It waits at most until something has, and tells the end with the last of it if that is
// there.
func (s *stream) read(p []byte) (int, error) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	return s.readLocked(p)
}

// readLocked is read with the lock held.
func (s *stream) readLocked(p []byte) (int, error) {
	l := s.link
	for {
		if n := s.inbox.take(p); n > 0 {
			if !s.gone {
				l.took(n)
				s.took(n)
				l.flush()
			}
			if s.received && s.inbox.len() == 0 {
				return n, io.EOF
			}
			return n, nil
		}
		if s.done() || len(p) == 0 {
			return 0, s.bodyEnd()
		}
		s.wake.Wait()
	}
}

// done tells whether nothing of the body can be waited for. The lock is held.
func (s *stream) done() bool { return s.received || s.err != nil || s.unread }

// bodyEnd is how the body has ended, nil if it has not. The lock is held.
func (s *stream) bodyEnd() error {
	switch {
	case s.received:
		return io.EOF
	case s.err != nil:
		return s.err
	case s.unread:
		return errFinished
	}
	return nil
}

// takeBody returns all that has come of the body, whose memory is the caller's, and waits if there is nothing. io.EOF,
// perhaps with the last bytes, means that the body is complete. The peer is not told. The lock is held.
func (s *stream) takeBody() (inbox, error) {
	for s.inbox.memory == nil {
		if s.done() {
			return inbox{}, s.bodyEnd()
		}
		s.wake.Wait()
	}
	i := s.inbox
	s.inbox = inbox{}
	if s.received {
		return i, io.EOF
	}
	return i, nil
}

// blockedFrom tells why nothing can be sent; nil if something can. The lock is held.
func (s *stream) blockedFrom() error {
	switch {
	case s.err != nil:
		return s.err
	case s.unwanted:
		return errUnwanted
	case s.sent:
		return errFinished
	}
	return nil
}

// await waits until there is room for n bytes of the body, and returns for how many. For a head n is zero. The lock is
// held, and let go of meanwhile.
func (s *stream) await(n int) (int, error) {
	l := s.link
	for {
		if err := s.blockedFrom(); err != nil {
			return 0, err
		}
		if s.stopped && n > 0 {
			return 0, errStopped
		}
		if len(l.pending) < mostPending {
			if n == 0 {
				return 0, nil
			}
			if most := min(int64(n), s.window, l.window, int64(l.maxFrame)); most > 0 {
				return int(most), nil
			}
		}
		if len(l.pending) > 0 && !l.sending {
			l.flush()
			continue
		}
		if !s.starved {
			s.starved = true
			l.starved = append(l.starved, s)
		}
		s.wake.Wait()
	}
}

// write writes a part of the body, and with ends its end. It may be kept back until flush.
func (s *stream) write(p []byte, ends bool) error {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		n, err := s.await(len(p))
		if err != nil {
			return err
		}
		s.data(p[:n])
		p = p[n:]
		if len(l.pending) >= mostPending/2 {
			l.flush()
		}
	}
	if ends {
		if err := s.blockedFrom(); err != nil {
			return err
		}
		s.finish()
	}
	return nil
}

// data writes a part of the body for which there is room. The lock is held.
func (s *stream) data(p []byte) {
	l := s.link
	at := len(l.pending)
	l.frame(http2.FrameData, 0, s.id, len(p))
	l.pending = append(l.pending, p...)
	l.tail, l.tailAt = s, at
	s.window -= int64(len(p))
	l.window -= int64(len(p))
	l.noise.give(noiseOfSent)
}

// finish ends our part with what has been written. The lock is held.
func (s *stream) finish() {
	l := s.link
	if l.tail == s {
		l.pending[l.tailAt+4] |= byte(http2.FlagDataEndStream)
	} else {
		l.frame(http2.FrameData, http2.FlagDataEndStream, s.id, 0)
	}
	s.sent = true
	s.leave()
}

// head writes a block of fields that was encoded. The lock is held.
func (s *stream) head(ends bool) {
	l := s.link
	block := l.encoded.Bytes()
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if ends {
		flags = http2.FlagHeadersEndStream
	}
	for {
		part := block[:min(len(block), l.maxFrame)]
		if block = block[len(part):]; len(block) == 0 {
			flags |= http2.FlagHeadersEndHeaders
		}
		l.frame(kind, flags, s.id, len(part))
		l.pending = append(l.pending, part...)
		if len(block) == 0 {
			break
		}
		kind, flags = http2.FrameContinuation, 0
	}
	if ends {
		s.sent = true
		s.leave()
	}
}

// flush sends what has been written.
func (s *stream) flush() error {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	return s.err
}

// until lets writes fail from a time on, and the stream with them; the zero time takes that back.
func (s *stream) until(at time.Time) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.deadline != nil {
		s.deadline.Stop()
		s.deadline = nil
	}
	if s.gone || at.IsZero() {
		return
	}
	s.kept = true
	s.deadline = time.AfterFunc(time.Until(at), func() { s.abandon(http2.ErrCodeInternal, os.ErrDeadlineExceeded) })
}
