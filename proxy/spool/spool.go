// Package spool keeps what is to be written somewhere until that has been done, up to a bound. Who adds to it never
// waits: what finds no room is dropped, and counted. The package knows nothing of what it keeps, and writes nothing.
package spool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Spool holds records until they are taken. It is safe for concurrent use.
type Spool struct {
	limit   int
	dropped atomic.Uint64
	// begun and half tell who waits that there is something, and that half of the room is taken.
	begun, half chan struct{}

	mu      sync.Mutex
	waiting []byte
	records int
}

// New returns a Spool of so many bytes.
func New(limit int) *Spool {
	return &Spool{limit: limit, begun: make(chan struct{}, 1), half: make(chan struct{}, 1)}
}

// Add keeps a copy of a record. It is false if there is no room, and the record is counted as dropped.
func (s *Spool) Add(record []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting)+len(record) > s.limit {
		s.dropped.Add(1)
		return false
	}
	if len(s.waiting) == 0 {
		signal(s.begun)
	}
	s.waiting = append(s.waiting, record...)
	s.records++
	if len(s.waiting) > s.limit/2 {
		signal(s.half)
	}
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped is how many records have found no room.
func (s *Spool) Dropped() uint64 { return s.dropped.Load() }

// Take returns all that waits, in the order in which it was added, and how many records that is. It belongs to the
// caller.
func (s *Spool) Take() (waiting []byte, records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, records = s.waiting, s.records
	s.waiting, s.records = nil, 0
	return waiting, records
}

// Next waits for something and then for more to come with it, no longer than linger and not if half of the room is
// taken. It returns nothing at the end of ctx, when Take has what is left.
func (s *Spool) Next(ctx context.Context, linger time.Duration) (waiting []byte, records int) {
	for {
		select {
		case <-s.begun:
		case <-ctx.Done():
			return nil, 0
		}
		timer := time.NewTimer(linger)
		select {
		case <-timer.C:
		case <-s.half:
		case <-ctx.Done():
			timer.Stop()
			return nil, 0
		}
		timer.Stop()
		// Somebody may have taken it meanwhile.
		if waiting, records = s.Take(); records > 0 {
			return waiting, records
		}
	}
}
