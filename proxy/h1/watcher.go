package h1

import (
	"net"
	"sync"
	"time"
)

const (
	// tick is how often a connection is looked at while requests come. What begins and ends between two ticks costs
	// nothing.
	tick = 25 * time.Millisecond
	// parkAfter is after how many ticks without a request a connection is left to another goroutine.
	parkAfter = 4
)

// watcher finds out that a client has ended its connection while it waits for an answer, and that a connection waits
// for a request for long. It takes no bytes from it. What the client has sent ahead hides the end.
type watcher struct {
	conn net.Conn
	peek peeker

	mu sync.Mutex
	// timer goes off at the next tick, if ticking.
	timer   *time.Timer
	ticking bool
	// turn counts what has changed; seen is what it was at the last tick, for that many ticks.
	turn, seen uint64
	ticks      int
	// gone is what is called; nil while nobody wants to know.
	gone func()
	// paused tells that somebody else is reading.
	paused bool
	// running is closed when a wait that is under way has returned; nil if there is none.
	running chan struct{}
	// resting tells that the connection waits for a request, and parking that its goroutine has been told to leave.
	resting, parking bool
}

// OnGone calls gone, in another goroutine, if the client ends its connection before the exchange is over. It
// begins when the request's body has been read.
func (c *Conn) OnGone(gone func()) {
	c.client.arm(gone, !c.reading.finished())
}

func (w *watcher) arm(gone func(), paused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone, w.paused = gone, paused
	w.changed()
}

// resume tells that nobody else is reading any more.
func (w *watcher) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone != nil && w.paused {
		w.paused = false
		w.changed()
	}
}

// changed begins to count anew. The lock is held.
func (w *watcher) changed() {
	w.turn++
	if w.ticking {
		return
	}
	w.ticking = true
	if w.timer == nil {
		w.timer = time.AfterFunc(tick, w.look)
	} else {
		w.timer.Reset(tick)
	}
}

// look is called at each tick.
func (w *watcher) look() {
	w.mu.Lock()
	w.ticks++
	if w.turn != w.seen {
		w.seen, w.ticks = w.turn, 0
	}
	switch {
	case w.gone != nil && !w.paused && w.ticks > 0:
		w.ticking = false
		w.watch()
		return
	case w.resting && w.ticks >= parkAfter:
		w.ticking, w.parking = false, true
		_ = w.conn.SetReadDeadline(time.Unix(1, 0)) // fails only if the connection has ended
	case w.gone == nil && !w.resting && w.ticks >= parkAfter:
		w.ticking = false // it has ended, or is somebody else's
	default:
		w.timer.Reset(tick)
	}
	w.mu.Unlock()
}

// watch waits for the end of the connection. It is called with the lock, and gives it back.
func (w *watcher) watch() {
	if w.running != nil || !w.peek.init(w.conn) {
		w.mu.Unlock()
		return
	}
	gone, running := w.gone, make(chan struct{})
	w.running = running
	_ = w.conn.SetReadDeadline(time.Time{})
	w.mu.Unlock()
	if w.peek.ended() {
		gone()
	}
	close(running)
}

// disarm ends watching. Afterwards gone is not called any more. moved tells that the connection's read deadline
// is another one.
func (w *watcher) disarm() (moved bool) {
	w.mu.Lock()
	running := w.running
	w.gone, w.running = nil, nil
	w.mu.Unlock()
	if running == nil {
		return false
	}
	_ = w.conn.SetReadDeadline(time.Unix(1, 0))
	<-running
	return true
}

// rest tells that the connection waits for a request.
func (w *watcher) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting = true
	w.changed()
}

// wake tells that the wait is over. parked tells that the goroutine is to leave, if nothing has come; the read deadline is
// over then.
func (w *watcher) wake() (parked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parked = w.parking
	w.resting, w.parking = false, false
	return parked
}

// stop ends looking for good.
func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
