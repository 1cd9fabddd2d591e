package h2

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"
)

// act acts on a frame. A fault of the stream is answered with its reset, another with the end of the connection.
func (l *link) act(f *frame) *fault {
	if !l.settled && (f.kind != http2.FrameSettings || f.has(http2.FlagSettingsAck)) {
		return errSettings
	}
	if (f.kind == http2.FrameContinuation) != l.block.open || l.block.open && f.stream != l.block.stream {
		return errFrameOrder
	}
	switch f.kind {
	case http2.FrameData:
		return l.data(f)
	case http2.FrameHeaders:
		return l.headers(f)
	case http2.FrameContinuation:
		return l.continuation(f)
	case http2.FrameWindowUpdate:
		return l.windowUpdate(f)
	case http2.FrameRSTStream:
		return l.reset(f)
	case http2.FrameSettings:
		return l.settings(f)
	case http2.FramePing:
		return l.ping(f)
	case http2.FrameGoAway:
		return l.farewell(f)
	case http2.FramePriority:
		if f.number(0)&^(1<<31) == f.stream {
			return errSelf
		}
	case http2.FramePushPromise:
		return errPush
	}
	return l.waste()
}

// waste accounts for a frame that carries nothing.
func (l *link) waste() *fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wasteLocked()
}

func (l *link) wasteLocked() *fault {
	if !l.noise.take(1) {
		return errNoise
	}
	return nil
}

// begun tells whether a stream has begun, be it over or not.
func (l *link) begun(id uint32) bool { return id <= l.last && id%2 == 1 }

// data takes a part of a body.
func (l *link) data(f *frame) *fault {
	p, _, wrong := f.unpad()
	if wrong != nil {
		return wrong
	}
	length, ends := len(f.payload), f.has(http2.FlagDataEndStream)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun(f.stream) {
		return errIdle
	}
	if l.received -= int64(length); l.received < 0 {
		return errOverrun
	}
	if len(p) == 0 && !ends {
		if wrong := l.wasteLocked(); wrong != nil {
			return wrong
		}
	} else {
		l.noise.give(noiseOfTaken)
	}
	s := l.streams[f.stream]
	if s == nil {
		l.took(length)
		if _, reset := l.forgotten[f.stream]; reset {
			if ends {
				delete(l.forgotten, f.stream)
			}
			return nil
		}
		return errClosed
	}
	// Nobody takes the padding.
	l.took(length - len(p))
	if wrong = s.receive(p, length, ends); wrong != nil {
		l.took(len(p))
	}
	return wrong
}

// took opens the window of the connection again. The lock is held.
func (l *link) took(n int) {
	if l.taken += n; l.taken >= l.limits.ConnWindow/4 {
		l.received += int64(l.taken)
		l.frame32(http2.FrameWindowUpdate, 0, uint32(l.taken)) //nolint:gosec // it is at most a window
		l.taken = 0
	}
}

// headers begins a head.
func (l *link) headers(f *frame) *fault {
	p, dependency, wrong := f.unpad()
	if wrong != nil {
		return wrong
	}
	l.block = block{stream: f.stream, ends: f.has(http2.FlagHeadersEndStream)}
	section, wrong := l.sectionOf(f.stream)
	if wrong != nil && !wrong.stream {
		return wrong
	}
	if wrong == nil && dependency == f.stream {
		wrong = errSelf
	}
	l.block.fault = wrong
	l.decoder.begin(section)
	return l.fragment(p, f.has(http2.FlagHeadersEndHeaders))
}

func (l *link) continuation(f *frame) *fault {
	if l.block.frames++; l.block.frames > maxBlockFrames {
		return errBlockSize
	}
	return l.fragment(f.payload, f.has(http2.FlagContinuationEndHeaders))
}

// fragment decodes a part of a head, and acts on it if it is the last.
func (l *link) fragment(p []byte, last bool) *fault {
	b := &l.block
	if b.size += len(p); b.size > maxBlock {
		return errBlockSize
	}
	if wrong := l.decoder.write(p); wrong != nil {
		return wrong
	}
	if b.open = !last; b.open {
		if b.frames == 0 {
			l.blockSince.Store(time.Now().UnixNano())
		}
		return nil
	}
	l.blockSince.Store(0)
	h, connection, wrong := l.decoder.finish()
	if connection != nil {
		return connection
	}
	if b.fault != nil {
		wrong = b.fault
	}
	if l.server != nil {
		return l.server.head(b.stream, h, b.ends, wrong)
	}
	return l.client.head(b.stream, h, b.ends, wrong)
}

// sectionOf says what a head of a stream is.
func (l *link) sectionOf(id uint32) (section, *fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noise.give(noiseOfTaken)
	s := l.streams[id]
	switch {
	case s != nil && l.server != nil, s != nil && s.answered:
		if s.received {
			return trailers, errClosed
		}
		return trailers, nil
	case s != nil:
		return responseHead, nil
	case l.begun(id):
		if _, reset := l.forgotten[id]; reset {
			return trailers, nil
		}
		return trailers, errGone
	case l.server != nil && id%2 == 1:
		return requestHead, nil
	}
	return 0, errStreamID
}

// windowUpdate opens a window of the peer.
func (l *link) windowUpdate(f *frame) *fault {
	increment := int64(f.number(0) &^ (1 << 31))
	l.mu.Lock()
	defer l.mu.Unlock()
	if wrong := l.wasteLocked(); wrong != nil {
		return wrong
	}
	if f.stream == 0 {
		if increment == 0 {
			return errIncrement
		}
		if l.window += increment; l.window > mostWindow {
			return errWindow
		}
		l.feed()
		return nil
	}
	s := l.streams[f.stream]
	switch {
	case !l.begun(f.stream):
		return errIdle
	case increment == 0:
		return errIncrementOf
	case s != nil:
		if s.window += increment; s.window > mostWindow {
			return errWindowOf
		}
		s.wake.Broadcast()
	}
	return nil
}

// reset ends a stream because the peer says so.
func (l *link) reset(f *frame) *fault {
	code := http2.ErrCode(f.number(0))
	l.mu.Lock()
	if !l.begun(f.stream) {
		l.mu.Unlock()
		return errIdle
	}
	delete(l.forgotten, f.stream)
	s := l.streams[f.stream]
	if s == nil {
		defer l.mu.Unlock()
		return l.wasteLocked()
	}
	var wrong *fault
	if l.server != nil && !s.headSent && !l.resets.take(1) {
		wrong = errResets
	}
	if code == http2.ErrCodeNo && s.received {
		// The answer is whole; what is left of the request is not wanted (RFC 9113 section 8.1).
		s.unwanted = true
		s.sent = true
		s.wake.Broadcast()
		s.leave()
	} else {
		s.end(&Error{Code: code, Stream: true, Remote: true, Unprocessed: code == http2.ErrCodeRefusedStream})
		s.leave()
	}
	l.mu.Unlock()
	l.changed()
	return wrong
}

// refuse resets a stream that breaks a rule. A peer that makes us do so too often loses its connection.
func (l *link) refuse(id uint32, wrong *fault) *fault {
	l.mu.Lock()
	s := l.streams[id]
	if s != nil {
		s.end(wrong.err())
	}
	l.rst(id, wrong.code)
	if s != nil {
		s.leave()
	}
	var end *fault
	if l.server != nil && !l.resets.take(1) {
		end = errResets
	}
	if end == nil {
		end = l.answer()
	}
	l.mu.Unlock()
	if s != nil {
		l.changed()
	}
	return end
}

// rst writes a RST_STREAM. The lock is held.
func (l *link) rst(id uint32, code http2.ErrCode) {
	s := l.streams[id]
	if s == nil || !s.received {
		l.forget(id)
	}
	l.frame32(http2.FrameRSTStream, id, uint32(code))
}

// mostForgotten is how many streams are remembered of which frames may still come.
const mostForgotten = 1000

func (l *link) forget(id uint32) {
	if l.forgotten == nil || len(l.forgotten) >= mostForgotten {
		l.forgotten = map[uint32]struct{}{}
	}
	l.forgotten[id] = struct{}{}
}

// settings takes the peer's settings in.
func (l *link) settings(f *frame) *fault {
	if f.has(http2.FlagSettingsAck) {
		return l.waste()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if wrong := l.wasteLocked(); wrong != nil {
		return wrong
	}
	for p := f.payload; len(p) > 0; p = p[6:] {
		s := http2.Setting{ID: http2.SettingID(binary.BigEndian.Uint16(p)), Val: binary.BigEndian.Uint32(p[2:])}
		if wrong := l.setting(s); wrong != nil {
			return wrong
		}
	}
	l.frame(http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	if !l.settled {
		l.settled = true
		l.blockSince.Store(0)
		if l.client != nil {
			l.client.ready()
		}
	}
	l.feed()
	return l.answer()
}

func (l *link) setting(s http2.Setting) *fault {
	if s.Valid() != nil {
		if s.ID == http2.SettingInitialWindowSize {
			return errWindow
		}
		return errTable
	}
	switch s.ID {
	case http2.SettingHeaderTableSize:
		l.encoder.SetMaxDynamicTableSizeLimit(min(s.Val, tableSize))
		l.encoder.SetMaxDynamicTableSize(min(s.Val, tableSize))
	case http2.SettingInitialWindowSize:
		more := int64(s.Val) - l.streamWindow
		l.streamWindow = int64(s.Val)
		for _, stream := range l.streams {
			if stream.window += more; stream.window > mostWindow {
				return errWindow
			}
			stream.wake.Broadcast()
		}
	case http2.SettingMaxFrameSize:
		l.maxFrame = int(min(s.Val, mostFrame))
	case http2.SettingMaxConcurrentStreams:
		if l.client != nil {
			l.client.most = int(min(s.Val, mostWindow))
		}
	}
	return nil
}

// ping answers a peer that wants a sign of life, or takes one.
func (l *link) ping(f *frame) *fault {
	data := [8]byte(f.payload)
	l.mu.Lock()
	if f.has(http2.FlagPingAck) {
		defer l.mu.Unlock()
		if data == pingData && !l.pinged.IsZero() {
			l.pinged = time.Time{}
			return nil
		}
		if data == goodbyeData && l.goodbye == announced {
			l.departLocked()
			return nil
		}
		return l.wasteLocked()
	}
	defer l.mu.Unlock()
	if wrong := l.wasteLocked(); wrong != nil {
		return wrong
	}
	l.frame(http2.FramePing, http2.FlagPingAck, 0, len(data))
	l.pending = append(l.pending, data[:]...)
	return l.answer()
}

// farewell takes a GOAWAY.
func (l *link) farewell(f *frame) *fault {
	if l.client != nil {
		l.client.farewell(f.number(0)&^(1<<31), http2.ErrCode(f.number(4)))
	}
	return l.waste()
}

// changed tells the owner of a client's connection that there are other streams than before. The lock is not held.
func (l *link) changed() {
	if l.client == nil {
		return
	}
	if f := l.client.onChange.Load(); f != nil {
		(*f)()
	}
}
