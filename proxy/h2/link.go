package h2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of a connection.
const (
	// frameSize is what everybody takes (RFC 9113 section 4.2), mostFrame the largest frame that is sent.
	frameSize = 16 << 10
	mostFrame = 64 << 10
	// defaultWindow is that of streams and connections at the beginning, mostWindow the largest.
	defaultWindow = 1<<16 - 1
	mostWindow    = 1<<31 - 1
	// mostPending is how much waits to be sent before who writes has to wait; unread is how much more the answers to
	// frames may be that a peer sends without reading.
	mostPending = 64 << 10
	unread      = 64 << 10
	// keptMemory is how much memory for output a connection keeps.
	keptMemory = 64 << 10
	readBuffer = 8 << 10
	frameHead  = 9
)

// Limits bound what the peer of a connection may do. All are set.
type Limits struct {
	// StreamWindow and ConnWindow bound what is kept of bodies that nobody takes, MaxFrame one frame.
	StreamWindow, ConnWindow, MaxFrame int
	// MaxHead bounds a head, as RFC 9113 section 6.5.2 counts it.
	MaxHead int
	// Resets is how many streams may end by a reset before they were answered, at once and in each second; streams
	// that end well count against them.
	Resets, ResetsPerSecond float64
	// PingAfter is how long a peer may be silent before it is asked for a sign of life, PingTimeout how long that may
	// take.
	PingAfter, PingTimeout time.Duration
	// IdleTimeout ends connections without streams, HeadTimeout those that take too long for a head or the preface.
	IdleTimeout, HeadTimeout time.Duration
}

// Frames that carry nothing: how many are taken at once and in each second beyond those that useful ones account for.
const (
	noiseAtOnce    = 10_000
	noisePerSecond = 2_000
	noiseOfSent    = 4
	noiseOfTaken   = 2
)

// link is what both ends of a connection have in common.
type link struct {
	conn   net.Conn
	limits Limits
	// server and client tell which end this is: one of them is nil.
	server *serverConn
	client *Client
	// ended is closed when the connection is, and nobody reads or writes any more.
	ended chan struct{}

	// These are for the goroutine that reads.
	in      intake
	decoder *decoder
	block   block
	// settled tells that the peer's SETTINGS have come.
	settled bool

	// heard is when something was read last, in nanoseconds of the clock; blockSince when a head, or the
	// SETTINGS of a client, began that have not ended, zero without.
	heard, blockSince atomic.Int64

	mu      sync.Mutex
	err     *Error
	streams map[uint32]*stream
	// last is the highest stream that has begun, served the highest that an exchange was begun for.
	last, served uint32
	// forgotten are streams that were reset here while the peer may still send.
	forgotten map[uint32]struct{}

	out              outlet
	pending, spare   []byte
	sending, blocked bool
	// calm is told when nobody is sending, or the socket is full.
	calm sync.Cond
	// tail is the stream whose DATA is the last frame pending, tailAt where that begins.
	tail   *stream
	tailAt int
	// starved wait for room or the window of the connection.
	starved []*stream
	encoder *hpack.Encoder
	encoded bytes.Buffer
	// names are some in lower case, by those that were sent.
	names map[string]string

	// window, streamWindow and maxFrame are the peer's; taken and given what it has sent and may not be told to have
	// been taken yet.
	window, streamWindow int64
	maxFrame             int
	received             int64
	taken                int

	noise, resets budget
	// pinged is when a sign of life was asked for, zero if it has come; idle since when there is no stream.
	pinged, idle time.Time
	watch        *time.Timer
	// goodbye is how far the end of the connection has come; see depart.
	goodbye goodbye
}

// block is a head that is being read.
type block struct {
	stream uint32
	// open tells that there is more to come of it.
	open   bool
	ends   bool
	size   int
	frames int
	fault  *fault
}

func newLink(conn net.Conn, limits Limits) *link {
	l := &link{
		conn: conn, limits: limits, ended: make(chan struct{}), out: newOutlet(conn),
		decoder: newDecoder(limits.MaxHead), streams: map[uint32]*stream{},
		window: defaultWindow, streamWindow: defaultWindow, maxFrame: frameSize, received: int64(limits.ConnWindow),
		noise: newBudget(noiseAtOnce, noisePerSecond), resets: newBudget(limits.Resets, limits.ResetsPerSecond),
		idle: time.Now(),
	}
	l.calm.L = &l.mu
	l.encoder = hpack.NewEncoder(&l.encoded)
	l.heard.Store(time.Now().UnixNano())
	return l
}

// more reads what comes next, and notes when it has.
func (l *link) more() error {
	n, err := l.conn.Read(l.in.room())
	l.in.end += n
	l.heard.Store(time.Now().UnixNano())
	if n > 0 {
		return nil
	}
	return err
}

// settle writes the SETTINGS of this end, and opens the window of the connection.
func (l *link) settle(settings ...http2.Setting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frame(http2.FrameSettings, 0, 0, 6*len(settings))
	for _, s := range settings {
		l.pending = binary.BigEndian.AppendUint16(l.pending, uint16(s.ID))
		l.pending = binary.BigEndian.AppendUint32(l.pending, s.Val)
	}
	l.frame32(http2.FrameWindowUpdate, 0, uint32(l.limits.ConnWindow-defaultWindow)) //nolint:gosec // a window is positive
	l.flush()
}

// frame begins a frame; its payload is appended to pending. The lock is held.
func (l *link) frame(kind http2.FrameType, flags http2.Flags, stream uint32, length int) {
	l.tail = nil
	l.pending = append(l.pending, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	l.pending = binary.BigEndian.AppendUint32(l.pending, stream)
}

// frame32 writes a frame whose payload is a number.
func (l *link) frame32(kind http2.FrameType, stream, value uint32) {
	l.frame(kind, 0, stream, 4)
	l.pending = binary.BigEndian.AppendUint32(l.pending, value)
}

// answer checks that a peer which makes us write does not read nothing. The lock is held.
func (l *link) answer() *fault {
	if l.blocked && len(l.pending) > mostPending+unread {
		return errUnread
	}
	return nil
}

// flush sends what is pending, or leaves that to who is sending. The lock is held, and let go of meanwhile.
func (l *link) flush() {
	if l.sending || len(l.pending) == 0 {
		return
	}
	l.sending = true
	l.mu.Unlock()
	// Who is about to write as well comes first: its frames leave with these.
	runtime.Gosched()
	l.mu.Lock()
	l.send()
}

// send sends what is pending without waiting; the rest is sent by a goroutine of its own. The lock is held.
func (l *link) send() {
	for len(l.pending) > 0 {
		p := l.pending
		l.pending, l.spare, l.tail = l.spare[:0], nil, nil
		l.mu.Unlock()
		all, err := l.out.try(p)
		l.mu.Lock()
		if err != nil {
			l.fail(broken(err), false)
			break
		}
		if !all {
			l.blocked = true
			l.calm.Broadcast()
			go l.finish(p)
			return
		}
		l.sent(p)
	}
	l.quiet()
}

// quiet tells that nobody is sending.
func (l *link) quiet() {
	l.sending = false
	l.calm.Broadcast()
}

// sent takes the memory of p back and wakes who waits for room.
func (l *link) sent(p []byte) {
	if cap(p) <= keptMemory {
		l.spare = p[:0]
	}
	l.feed()
}

// finish waits until p has left, and sends what has become pending meanwhile.
func (l *link) finish(p []byte) {
	err := l.out.finish()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocked = false
	if err != nil {
		l.fail(broken(err), false)
		l.quiet()
		return
	}
	l.sent(p)
	l.send()
}

// feed wakes the streams that wait for room or for the window of the connection.
func (l *link) feed() {
	for i, s := range l.starved {
		s.starved = false
		s.wake.Broadcast()
		l.starved[i] = nil
	}
	l.starved = l.starved[:0]
}

// fail ends the connection for a reason, of which the peer is told if tell is set. All its streams fail. The lock is
// held. Whoever reads closes it.
func (l *link) fail(err *Error, tell bool) {
	if l.err != nil {
		return
	}
	l.err = err
	if tell {
		l.goAway(l.served, err)
	}
	for _, s := range l.streams {
		s.end(err)
		s.leave()
	}
	l.feed()
	if l.watch != nil {
		l.watch.Stop()
	}
	if tell {
		l.flush()
	}
	// It fails only if the connection is closed already.
	_ = l.conn.SetReadDeadline(time.Unix(1, 0))
}

// goAway writes a GOAWAY.
func (l *link) goAway(last uint32, err *Error) {
	var text string
	code := http2.ErrCodeNo
	if err != nil {
		code = err.Code
		if err.Cause != nil {
			text = err.Cause.Error()
		}
	}
	if l.client != nil {
		last = 0
	}
	l.frame(http2.FrameGoAway, 0, 0, 8+len(text))
	l.pending = binary.BigEndian.AppendUint32(l.pending, last)
	l.pending = binary.BigEndian.AppendUint32(l.pending, uint32(code))
	l.pending = append(l.pending, text...)
}

// close ends the connection at once.
func (l *link) close(err *Error) {
	l.mu.Lock()
	l.fail(err, false)
	l.mu.Unlock()
	_ = l.conn.Close()
}

// serve reads until the connection ends, and closes it.
func (l *link) serve() {
	defer close(l.ended)
	f := l.read()
	l.mu.Lock()
	if f != nil {
		l.fail(f.err(), true)
	}
	// The peer is to see why, even if it is still sending.
	linger := !l.err.Remote
	l.mu.Unlock()
	if linger {
		l.linger()
	}
	_ = l.conn.Close()
	l.decoder = nil
}

// Bounds of what is read of a connection that was ended, so that the peer sees the last that was sent: closing at once
// would make the kernel answer what still comes with a reset.
const (
	lingerPatience = time.Second
	lingerBytes    = 256 << 10
)

func (l *link) linger() {
	end := time.Now().Add(lingerPatience)
	if l.conn.SetReadDeadline(end) != nil || l.conn.SetWriteDeadline(end) != nil {
		return
	}
	l.mu.Lock()
	for l.sending {
		l.calm.Wait()
	}
	l.mu.Unlock()
	if closeWrite(l.conn) == nil {
		l.out.last()
		// It ends with the peer's end, or the deadline.
		_, _ = io.CopyN(io.Discard, l.conn, lingerBytes)
	}
}

// read acts on one frame after the other. A fault is the end of the connection; without one it has ended by itself.
func (l *link) read() *fault {
	if l.server != nil {
		defer l.server.start()
	}
	for {
		f, ok, wrong := l.in.next(l.limits.MaxFrame)
		switch {
		case wrong == nil && ok:
			wrong = l.act(&f)
		case wrong == nil:
			if l.server != nil {
				l.server.start()
			}
			l.mu.Lock()
			l.flush()
			l.mu.Unlock()
			if err := l.more(); err != nil {
				if err == io.EOF { //nolint:errorlint // of a connection it is the value itself
					err = io.ErrUnexpectedEOF // it is not the end of a body
				}
				l.mu.Lock()
				l.fail(&Error{Code: http2.ErrCodeInternal, Remote: true, Cause: err}, false)
				l.mu.Unlock()
				return nil
			}
		}
		if wrong != nil && wrong.stream {
			wrong = l.refuse(f.stream, wrong)
		}
		if wrong != nil {
			return wrong
		}
	}
}
