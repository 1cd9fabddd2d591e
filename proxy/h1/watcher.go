package h1

import (
	"net"
	"sync"
	"time"
)

// watchAfter is how long an exchange takes before anybody looks whether its client is still there. Most are
// over by then, and cost nothing.
const watchAfter = 25 * time.Millisecond

// watcher finds out that a client has ended its connection while it waits for an answer. It takes no bytes
// from it. What the client has sent ahead hides the end.
type watcher struct {
	conn net.Conn
	peek peeker

	mu    sync.Mutex
	timer *time.Timer
	// gone is what is called; nil while nobody wants to know.
	gone func()
	// paused tells that somebody else is reading.
	paused bool
	// running is closed when a wait that is under way has returned; nil if there is none.
	running chan struct{}
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
	if !paused {
		w.start()
	}
}

// resume tells that nobody else is reading any more.
func (w *watcher) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone != nil && w.paused {
		w.paused = false
		w.start()
	}
}

func (w *watcher) start() {
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.run)
	} else {
		w.timer.Reset(watchAfter)
	}
}

// run waits for the end of the connection.
func (w *watcher) run() {
	w.mu.Lock()
	if w.gone == nil || w.paused || w.running != nil || !w.peek.init(w.conn) {
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
	if w.timer != nil {
		w.timer.Stop()
	}
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
