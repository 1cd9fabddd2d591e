package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/proxy/authz"
)

// errNotAllowed ends what is not allowed any more.
var errNotAllowed = errors.New("not allowed any more")

// notAllowedError is errNotAllowed, and what has decided so.
type notAllowedError struct{ authz.Decision }

func (notAllowedError) Error() string        { return errNotAllowed.Error() }
func (notAllowedError) Is(target error) bool { return target == errNotAllowed }

// standing are calls that were allowed and go on: opaque bytes, WebSockets and requests. Each is decided about again
// when authorizations change. They are spread by chance, so that requests seldom wait for each other.
type standing [16]struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

// connection is a call that goes on.
type connection struct {
	caller
	revocable

	place uint32

	mu sync.Mutex
	// left tells that it is over, denied that it is not allowed any more; late ends it when its grace is over.
	left, denied bool
	late         *time.Timer
}

// revocable is what can be ended.
type revocable interface {
	// grace is how long it may go on when it is not allowed any more.
	grace() time.Duration
	// revoke ends it. It must not block, and may be called more than once.
	revoke(why authz.Decision)
}

// stand keeps a call that cfg has allowed until leave. c may have been another one that was left.
func (e *Engine) stand(cfg *config, c *connection, call caller, end revocable) {
	c.mu.Lock()
	c.caller, c.revocable, c.left, c.denied = call, end, false, false
	c.mu.Unlock()
	c.place = rand.Uint32N(uint32(len(e.standing)))
	s := &e.standing[c.place]
	s.mu.Lock()
	if s.open == nil {
		s.open = map[*connection]struct{}{}
	}
	s.open[c] = struct{}{}
	s.mu.Unlock()
	// Who has looked before it was there has looked at what is in force since.
	if e.config.Load() != cfg {
		e.reconsider(c)
	}
}

// leave ends what stand has begun, if anything.
func (e *Engine) leave(c *connection) {
	if c.revocable == nil {
		return
	}
	s := &e.standing[c.place]
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	c.pardon()
}

// reconsiderAll decides about all calls again.
func (e *Engine) reconsiderAll() {
	for i := range e.standing {
		s := &e.standing[i]
		s.mu.Lock()
		open := make([]*connection, 0, len(s.open))
		for c := range s.open {
			open = append(open, c)
		}
		s.mu.Unlock()
		for _, c := range open {
			e.reconsider(c)
		}
	}
}

// reconsider decides about a call by what is in force now, and ends it if it is not allowed any more. Only that is
// counted.
func (e *Engine) reconsider(c *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return
	}
	cfg := e.config.Load()
	decision := e.judge(cfg, c.caller)
	if decision.Verdict != authz.Denied {
		c.pardon()
		return
	}
	if !c.denied {
		c.denied = true
		e.record(cfg, c.caller, decision)
	}
	grace := c.grace()
	switch {
	case grace == 0:
		c.revoke(decision)
	case c.late == nil:
		c.late = time.AfterFunc(grace, func() { c.expire(decision) })
	}
}

// expire ends a call whose grace is over.
func (c *connection) expire(why authz.Decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.denied && !c.left {
		c.revoke(why)
	}
}

// pardon lets a call go on. Its lock is held.
func (c *connection) pardon() {
	c.denied = false
	if c.late != nil {
		c.late.Stop()
		c.late = nil
	}
}

// relayed are bytes that are relayed in both directions.
type relayed struct{ end context.CancelCauseFunc }

func (relayed) grace() time.Duration        { return 0 }
func (r relayed) revoke(why authz.Decision) { r.end(notAllowedError{why}) }

// standBy returns a context for bytes that are relayed, which cfg has allowed. It ends with the engine, and when they
// are not allowed any more. leave is to be called when they are over.
func (e *Engine) standBy(cfg *config, call caller) (ctx context.Context, leave func()) {
	ctx, end := context.WithCancelCause(e.base)
	c := &connection{}
	e.stand(cfg, c, call, relayed{end})
	return ctx, func() {
		e.leave(c)
		end(nil)
	}
}

// stand keeps the request, which has been allowed, until its call is left; end ends it. Those to other namespaces are
// decided about there.
func (t *tries) stand(c *connection, end revocable) {
	namespace := t.engine.options.Namespace
	if len(t.key) > len(namespace) && t.key[len(namespace)] == '/' && strings.HasPrefix(t.key, namespace) {
		t.engine.stand(t.config, c, caller{t.config.peer(t.r), t.source, t.key, &t.head, t.start, t.overHop}, end)
	}
}

// grace is none for an answer of unknown length that has begun, since it may never end. Everything else gets time to
// end by itself: what an application has done is not to be reported as denied.
func (t *tries) grace() time.Duration {
	if t.streaming.Load() {
		return 0
	}
	return t.engine.options.DenialGrace
}

func (t *tries) revoke(why authz.Decision) {
	t.limit.end(notAllowedError{why})
	// Neither a transport that has the head of a response nor a write to the client looks at the context.
	t.body.giveUp()
	t.client.interrupt()
}
