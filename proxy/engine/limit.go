package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
)

// The causes with which the context of a request or a try ends.
var (
	errDeadline = errors.New("deadline exceeded")
	// errRequestTimeout is the deadline that our own policy has set, which counts against an endpoint; one
	// that a client has set, itself or through its proxy, does not.
	errRequestTimeout = fmt.Errorf("%w: %w", errDeadline, upstream.ErrTooSlow)
	errBackendTimeout = fmt.Errorf("backend request timeout: %w", upstream.ErrTooSlow)
	errIdle           = errors.New("idle timeout")
	errAnswered       = errors.New("answered")
)

// endReason names what ended a context, or nothing if its client has gone or it has not ended.
func endReason(ctx context.Context) reason.Reason { return causeReason(context.Cause(ctx)) }

// causeReason names a cause of the end of a request or a try, as endReason does.
func causeReason(cause error) reason.Reason {
	switch {
	case errors.Is(cause, errDeadline):
		return reason.DeadlineExceeded
	case errors.Is(cause, errBackendTimeout):
		return reason.BackendTimeout
	case errors.Is(cause, errIdle):
		return reason.IdleTimeout
	case errors.Is(cause, errNotAllowed):
		return reason.AuthorizationDenied
	}
	return ""
}

// deadlines are when a whole request must be over, all its tries included; zero means never.
type deadlines struct {
	whole time.Time
	// stream takes the place of whole once a response of unknown length has begun. Zero means that whole
	// stays.
	stream time.Time
	// cause is errDeadline, or for whole errRequestTimeout.
	cause error
}

// latest is the time after which the request is over in any case, zero if there is none.
func (d deadlines) latest() time.Time {
	if d.stream.After(d.whole) && !d.whole.IsZero() {
		return d.stream
	}
	return d.whole
}

// deadlines returns the earliest of what policy says, what the hop's other end allows, and a gRPC client's
// own deadline, which holds for streams too.
func (x *exchange) deadlines() deadlines {
	whole := least(time.Duration(*x.policy.Timeouts.Request), x.received.TimeLeft)
	stream := least(time.Duration(*x.policy.Timeouts.Stream), x.received.StreamTimeLeft)
	if timeout := x.head.Header.Get("Grpc-Timeout"); x.grpc && timeout != "" {
		// A value that is not valid is the application's to complain about.
		if d, err := parseGRPCTimeout(timeout); err == nil {
			d = max(d, 1)
			whole = least(whole, d)
			if stream > 0 {
				stream = least(stream, d)
			}
		}
	}
	d := deadlines{cause: errDeadline}
	if whole == time.Duration(*x.policy.Timeouts.Request) {
		d.cause = errRequestTimeout
	}
	if whole > 0 {
		d.whole = x.start.Add(whole)
	}
	if stream > 0 {
		d.stream = x.start.Add(stream)
	}
	return d
}

// least returns the shortest of durations of which zero means endless.
func least(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// dueSoon is how long before its deadline a call counts as over.
const dueSoon = 5 * time.Millisecond

// overdue tells whether a gRPC call that has broken off was to end at this time: the backend was told so, too,
// and may have ended it a moment before this proxy would.
func (x *exchange) overdue(at time.Time) bool {
	return x.grpc && !at.IsZero() && time.Until(at) < dueSoon
}

// limit ends a context. Its zero value does nothing.
type limit struct {
	end   context.CancelCauseFunc
	cause error
	timer *time.Timer
}

// withLimit returns a context that ends at deadline because of cause; zero means never. Unlike with a
// context's own deadline, the limit can be moved and lifted again.
func withLimit(ctx context.Context, deadline time.Time, cause error) (context.Context, limit) {
	ctx, end := context.WithCancelCause(ctx)
	l := limit{end: end, cause: cause}
	l.move(deadline)
	return ctx, l
}

// move makes the context end at another time, unless it has ended already.
func (l *limit) move(deadline time.Time) {
	l.lift()
	if !deadline.IsZero() {
		cause := l.cause
		l.timer = time.AfterFunc(time.Until(deadline), func() { l.end(cause) })
	}
}

// lift makes the context go on beyond its deadline.
func (l *limit) lift() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *limit) cancel() {
	l.lift()
	if l.end != nil {
		l.end(errAnswered)
	}
}

// idleLimit ends a context when nothing has moved for a while. A nil one never does.
type idleLimit struct {
	after time.Duration
	end   context.CancelCauseFunc

	mu     sync.Mutex
	last   time.Time
	timer  *time.Timer
	paused bool
}

// newIdleLimit returns a limit that is paused; zero means that there is none.
func newIdleLimit(after time.Duration, end context.CancelCauseFunc) *idleLimit {
	if after == 0 {
		return nil
	}
	return &idleLimit{after: after, end: end, paused: true}
}

// moved tells that bytes have moved in either direction.
func (l *idleLimit) moved() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.last = time.Now()
	l.mu.Unlock()
}

// resume begins a span of time in which something has to move.
func (l *idleLimit) resume() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.paused = time.Now(), false
	if l.timer == nil {
		l.timer = time.AfterFunc(l.after, l.check)
	} else {
		l.timer.Reset(l.after)
	}
}

// pause ends it.
func (l *idleLimit) pause() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// check ends the context if it is time, and comes back later if it is not: bytes that move do not touch the
// timer.
func (l *idleLimit) check() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused {
		return
	}
	left := l.after - time.Since(l.last)
	if left <= 0 {
		l.end(errIdle)
		return
	}
	l.timer.Reset(left)
}

// interrupter lets a write to a client that reads nothing end with a context.
type interrupter struct {
	rc *http.ResponseController

	mu      sync.Mutex
	writing bool
	ended   bool
}

// lastWrite is how long a write may still take when its context has ended, so that a client which reads is told why.
const lastWrite = time.Second

// watch interrupts writes at the end of ctx, until stop is called.
func (i *interrupter) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, i.interrupt)
}

// interrupt ends the write that is going on, unless it soon ends by itself, and lets no other begin.
func (i *interrupter) interrupt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.writing && !i.ended {
		// A writer that cannot do it has no connection that could block.
		_ = i.rc.SetWriteDeadline(time.Now().Add(lastWrite))
	}
	i.ended = true
}

// begin announces a write. It is false if there must not be another.
func (i *interrupter) begin() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.writing = !i.ended
	return i.writing
}

// done tells that the write has returned.
func (i *interrupter) done() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.writing = false
}
