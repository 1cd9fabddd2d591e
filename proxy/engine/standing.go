package engine

import (
	"context"
	"errors"
	"sync"

	"weft.dev/weft/proxy/authz"
)

// errNotAllowed ends connections that are not allowed any more.
var errNotAllowed = errors.New("not allowed any more")

// standing are connections that were allowed and go on: opaque bytes and WebSockets. Each is decided about again when
// authorizations change.
type standing struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

type connection struct {
	caller

	end context.CancelCauseFunc
}

// stand keeps a connection that cfg has allowed until leave is called. The context ends with the engine, or when the
// call is not allowed any more.
func (e *Engine) stand(cfg *config, call caller) (ctx context.Context, leave func()) {
	ctx, end := context.WithCancelCause(e.base)
	c := &connection{call, end}
	s := &e.standing
	s.mu.Lock()
	if s.open == nil {
		s.open = map[*connection]struct{}{}
	}
	s.open[c] = struct{}{}
	s.mu.Unlock()
	// Who has looked before it was there has looked at what is in force since.
	if now := e.config.Load(); now != cfg {
		e.reconsider(now, c)
	}
	return ctx, func() {
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
		end(nil)
	}
}

// reconsiderAll decides about all connections again.
func (e *Engine) reconsiderAll(cfg *config) {
	s := &e.standing
	s.mu.Lock()
	open := make([]*connection, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		e.reconsider(cfg, c)
	}
}

// reconsider ends a connection that is not allowed any more. Only that is counted.
func (e *Engine) reconsider(cfg *config, c *connection) {
	if decision := e.judge(cfg, c.caller); decision.Verdict == authz.Denied {
		e.record(cfg, c.caller, decision)
		c.end(errNotAllowed)
	}
}
