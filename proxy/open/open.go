// Package open keeps the connections of a server that are open, until the server ends. It knows nothing of what is spoken
// on them, and closes none.
package open

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Set are the open connections of a server. The zero value is empty and takes some.
type Set[C comparable] struct {
	ended atomic.Bool

	mu    sync.Mutex
	conns map[C]struct{}
	// empty is closed when the last connection has been removed, while Drain waits.
	empty chan struct{}
}

// Add takes a connection, unless the set has ended.
func (s *Set[C]) Add(c C) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Load() {
		return false
	}
	if s.conns == nil {
		s.conns = map[C]struct{}{}
	}
	s.conns[c] = struct{}{}
	return true
}

// Remove takes a connection out.
func (s *Set[C]) Remove(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// Ended tells whether the set takes no more.
func (s *Set[C]) Ended() bool { return s.ended.Load() }

// End lets the set take no more, and returns what is in it.
func (s *Set[C]) End() []C {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended.Store(true)
	return slices.Collect(maps.Keys(s.conns))
}

// Drain is End, has leave called for each connection, and waits until all have been removed. The error is that of ctx if it
// ends before.
func (s *Set[C]) Drain(ctx context.Context, leave func(C)) error {
	for _, c := range s.End() {
		leave(c)
	}
	s.mu.Lock()
	if len(s.conns) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
