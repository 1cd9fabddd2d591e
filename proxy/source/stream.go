package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"weft.dev/weft/proxy/held"
	"weft.dev/weft/proxy/wire"
)

// ApplyFunc puts a delta in force, whole, and returns what it cannot use: for those resources the
// previous version must stay in force. It is called by one goroutine, and the delta is in force when it
// returns. It must not change the resources.
//
// A delta of Seq 0 comes from the cache; every delta of the stream has a greater one. The first delta
// of each stream arrives even if it is empty: from then on the configuration is complete.
type ApplyFunc func(wire.Delta) []wire.Rejection

// Stream receives configuration from the operator. Set the fields, then call Run once; the methods may
// be called at any time. It must not be copied.
type Stream struct {
	// Addresses are "host:port" and tried in turn; a name is resolved for each attempt.
	Addresses []string
	// ServerName is the name that the operator's certificate must have; empty means the host of the
	// address.
	ServerName string
	// CAFile holds the PEM roots that the operator's certificate must lead to. The roots of the Mesh in
	// force are trusted as well: a mounted file follows an exchange of the root late, and whoever has
	// acknowledged the next root must get back in under it at once.
	// TokenFile holds the bearer token. Both are read for each attempt, so they may be rotated.
	CAFile, TokenFile string
	// Build is the client's version.
	Build string
	// Apply puts deltas in force.
	Apply ApplyFunc
	// Held is what is in force. The Stream alone changes it.
	Held held.Set
	// Cache, if set, is loaded before the first attempt and kept up to date.
	Cache *Cache
	// Tidy gives what it took to receive and to apply a large delta, or to connect with much that is in force, back to
	// the system at once: it is several times what is kept. It is for a process that has one Stream. A heap that hardly grows would otherwise not be looked
	// at for minutes, and keep its pages for longer.
	Tidy bool
	// OnConnection, if set, is told when the stream is complete, with nil, and when it is lost, with
	// the reason. It is called by Run's goroutine.
	OnConnection func(connected bool, err error)
	// MinBackoff and MaxBackoff bound the wait between two attempts, which doubles and is jittered.
	// Zero means 50 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
	// Dial replaces the dialer in tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log may be nil.
	Log *slog.Logger

	mu        sync.Mutex
	connected bool
	reports   reports

	// roots is the trust bundle in force, problem why the last attempt ended; Run's goroutine owns them.
	roots   string
	problem string
}

// Connected tells that a stream is open and its first delta is in force.
func (s *Stream) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

// Report sends a node agent's report on this stream and every later one. Reports are merged, not
// queued: a report that is not Full adds to the previous ones, and after a reconnect the operator gets
// everything known at once. It never blocks on the network.
func (s *Stream) Report(report wire.NodeReport) { s.reports.add(report) }

// Run loads the cache, then connects and stays connected until ctx ends; the error is ctx's. Whatever
// fails, the last good configuration stays in force. Only without any address it returns at once.
func (s *Stream) Run(ctx context.Context) error {
	if len(s.Addresses) == 0 {
		return errors.New("configuration stream: no address")
	}
	s.loadCache()
	least, most := s.MinBackoff, s.MaxBackoff
	if least == 0 {
		least = 50 * time.Millisecond
	}
	if most == 0 {
		most = 5 * time.Second
	}
	wait := least
	for attempt := 0; ctx.Err() == nil; attempt++ {
		start := time.Now()
		s.lost(s.connect(ctx, s.Addresses[attempt%len(s.Addresses)]))
		if time.Since(start) > most {
			wait = least
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		case <-ctx.Done():
		}
		wait = min(2*wait, most)
	}
	return fmt.Errorf("configuration stream: %w", context.Cause(ctx))
}

// loadCache puts the saved configuration in force.
func (s *Stream) loadCache() {
	if s.Cache == nil {
		return
	}
	s.Cache.state, s.Cache.shared = &s.Held, true
	resources, err := s.Cache.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log().Warn("saved configuration is not used", "error", err)
	}
	if len(resources) == 0 {
		return
	}
	rejected, _ := s.apply(wire.Delta{Upserted: resources})
	var useless wire.Delta
	for _, r := range rejected {
		useless.Removed = append(useless.Removed, r.Ref)
	}
	s.save(useless)
	s.tidy(len(resources), false)
}

// large is how many resources leave behind so much garbage that it is worth the work to give it back at once.
const large = 1000

// tidy is called when nothing but what is in force is left of so many resources. To start and to connect leaves behind
// more than a small configuration takes, whose heap would not be looked at for minutes.
func (s *Stream) tidy(resources int, connecting bool) {
	if s.Tidy && (resources >= large || connecting) {
		debug.FreeOSMemory()
	}
}

func (s *Stream) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// hello lists what is in force.
func (s *Stream) hello() *wire.Hello {
	return &wire.Hello{Build: s.Build, Revision: wire.Revision, Held: s.Held.Versions()}
}

// apply puts a delta in force, except for what is rejected, and remembers what is held.
func (s *Stream) apply(d wire.Delta) (rejected []wire.Rejection, accepted wire.Delta) {
	rejected = applyValid(s.Apply, d)
	accepted = accept(d, rejected)
	s.Held.Apply(accepted, nil)
	for i := range accepted.Upserted {
		if mesh := accepted.Upserted[i].Mesh; mesh != nil {
			s.roots = mesh.TrustBundle
		}
	}
	return rejected, accepted
}

// save brings the cache up to date. That it cannot be written harms nobody now.
func (s *Stream) save(accepted wire.Delta) {
	if s.Cache == nil {
		return
	}
	if err := s.Cache.record(accepted); err != nil {
		s.log().Warn("configuration is not saved", "error", err)
	}
}

// applyValid rejects malformed resources and hands the rest to apply.
func applyValid(apply ApplyFunc, d wire.Delta) []wire.Rejection {
	var rejected []wire.Rejection
	for i := range d.Upserted {
		r := &d.Upserted[i]
		if err := r.Valid(); err != nil {
			rejected = append(rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: err.Error()})
		}
	}
	return append(rejected, apply(accept(d, rejected))...)
}

// accept returns d without the rejected resources.
func accept(d wire.Delta, rejected []wire.Rejection) wire.Delta {
	if len(rejected) == 0 {
		return d
	}
	refused := make(map[wire.Ref]bool, len(rejected))
	for _, r := range rejected {
		refused[r.Ref] = true
	}
	accepted := wire.Delta{Seq: d.Seq, Removed: d.Removed}
	for _, r := range d.Upserted {
		if !refused[r.Ref] {
			accepted.Upserted = append(accepted.Upserted, r)
		}
	}
	return accepted
}

// complete notes that the first delta of a stream is in force and acknowledged.
func (s *Stream) complete() {
	s.mu.Lock()
	s.connected = true
	s.mu.Unlock()
	s.log().Info("configuration stream is up")
	if s.OnConnection != nil {
		s.OnConnection(true, nil)
	}
}

// lost notes the end of an attempt. The end of a complete stream is news, and so is a reason that was
// not there before; the same failure again and again is not.
func (s *Stream) lost(err error) {
	s.mu.Lock()
	was := s.connected
	s.connected = false
	s.mu.Unlock()
	reason := err.Error()
	switch {
	case was:
		s.log().Warn("configuration stream is lost; the last configuration stays in force", "error", err)
	case reason != s.problem:
		s.log().Warn("no configuration stream", "error", err)
	default:
		s.log().Debug("no configuration stream", "error", err)
	}
	s.problem = reason
	if was && s.OnConnection != nil {
		s.OnConnection(false, err)
	}
}
