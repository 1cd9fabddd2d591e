package engine

import (
	"runtime"
	"sync"
	"time"
	"weak"
)

// alarm ends direct exchanges when their time is over, one after the other. Setting and stopping a timer for each would be
// dear, so the timer stays as it is while it goes off early enough, and looks then what there is to be done. It does not
// keep the memory of which the alarm is a part, and ends with that. The zero value but for expire is ready.
type alarm struct {
	// expire is called at most once in an exchange, with what has ended it. It must not call the alarm.
	expire func(cause error)

	mu    sync.Mutex
	timer *time.Timer
	// at is when the timer goes off, zero if it does not.
	at time.Time
	// whole and try are when the request and the try must be over, zero for never; cause is that of whole.
	whole, try time.Time
	cause      error
	// idle is how long nothing may move, zero for ever, and last when something has.
	idle time.Duration
	last time.Time
	// watched tells that there is such a bound.
	watched bool
}

// begin bounds an exchange that begins now.
func (a *alarm) begin(now time.Time, due deadlines, try, idle time.Duration) {
	a.watched = idle > 0
	if due.whole.IsZero() && due.stream.IsZero() && try == 0 && idle == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.whole, a.cause, a.idle, a.last = due.whole, due.cause, idle, now
	if try > 0 {
		a.try = now.Add(try)
	}
	a.set(now)
}

// stream bounds the exchange by another time from now on, since its answer may be meant to be long.
func (a *alarm) stream(until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.whole, a.cause = until, errDeadline // that a stream is long is no fault of its endpoint
	a.set(time.Now())
}

// moved tells that bytes have moved in either direction. It is for exchanges that are under way.
func (a *alarm) moved() {
	if !a.watched {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
}

// end ends the exchange. Afterwards expire is not called for it.
func (a *alarm) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clear()
}

func (a *alarm) clear() {
	a.whole, a.try, a.last, a.cause, a.idle = time.Time{}, time.Time{}, time.Time{}, nil, 0
}

// due is what ends the exchange next, and when; zero if nothing does.
func (a *alarm) due() (at time.Time, cause error) {
	at, cause = a.whole, a.cause
	if !a.try.IsZero() && (at.IsZero() || a.try.Before(at)) {
		at, cause = a.try, errBackendTimeout
	}
	if a.idle > 0 {
		if idle := a.last.Add(a.idle); at.IsZero() || idle.Before(at) {
			at, cause = idle, errIdle
		}
	}
	return at, cause
}

// set makes the timer go off in time.
func (a *alarm) set(now time.Time) {
	at, _ := a.due()
	if at.IsZero() || !a.at.IsZero() && !a.at.After(at) {
		return
	}
	a.at = at
	if a.timer == nil {
		// Whoever has an exchange under way keeps its alarm.
		kept := weak.Make(a)
		a.timer = time.AfterFunc(at.Sub(now), func() {
			if a := kept.Value(); a != nil {
				a.ring()
			}
		})
		runtime.AddCleanup(a, func(t *time.Timer) { t.Stop() }, a.timer)
	} else {
		a.timer.Reset(at.Sub(now))
	}
}

// ring is what the timer calls.
func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = time.Time{}
	at, cause := a.due()
	if at.IsZero() {
		return
	}
	if now := time.Now(); now.Before(at) {
		a.set(now)
		return
	}
	a.clear()
	a.expire(cause)
}
