package distribute_test

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/controllers/distribute"
)

// stalling is a connection that at some moment brings and takes nothing more, not even its end, like
// one to a machine that lost its power.
type stalling struct {
	net.Conn
	stalled <-chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

func (s *stalling) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.deadline = t
	s.mu.Unlock()
	return s.Conn.SetReadDeadline(t)
}

// Read withholds what arrives after the stall until the deadline.
func (s *stalling) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	select {
	case <-s.stalled:
		s.mu.Lock()
		left := time.Until(s.deadline)
		s.mu.Unlock()
		<-time.After(left)
		return 0, os.ErrDeadlineExceeded
	default:
		return n, err
	}
}

// Write loses what is written after the stall.
func (s *stalling) Write(b []byte) (int, error) {
	select {
	case <-s.stalled:
		return len(b), nil
	default:
		return s.Conn.Write(b)
	}
}

func TestDeadPeerIsNoticedByBothSides(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	hub.Replace(distribute.LayerCompiled, nil)
	m := newMesh(t, hub, nil)
	p := m.newPeer("proxy/a/p1")
	dial := p.stream.Dial
	stall := make(chan struct{})
	stalledOnce := false
	p.stream.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if stalledOnce {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		stalledOnce = true
		conn, err := dial(ctx, network, address)
		return &stalling{Conn: conn, stalled: stall}, err
	}
	p.start()
	p.await("the stream", p.stream.Connected)
	m.awaitHeld("a")

	start := time.Now()
	close(stall)
	m.await("the client to be given up", func() bool { return len(hub.Clients()) == 0 })
	noticed := time.Since(start)
	p.await("the loss of the stream", func() bool { return !p.stream.Connected() })
	t.Logf("the server noticed after %v, the client after %v", noticed, time.Since(start))
}
