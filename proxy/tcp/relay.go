// Package tcp relays opaque bytes between two connections. It must not look into the bytes, choose a
// destination or keep connections.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// ErrIdle tells that a relay ended because no byte moved for Options.IdleTimeout.
var ErrIdle = errors.New("idle timeout")

// ErrTimeout tells that a relay ended at the end of Options.MaxDuration.
var ErrTimeout = errors.New("relay took too long")

// ErrShutdown tells that a relay was cut at the end of Options.Grace.
var ErrShutdown = errors.New("shut down")

// Options of a relay.
type Options struct {
	// IdleTimeout ends the relay when no byte arrived from either side for so long; zero means never.
	IdleTimeout time.Duration
	// MaxDuration ends the relay however much it moves; zero means never.
	MaxDuration time.Duration
	// Grace is how long the relay may go on after its context ended.
	Grace time.Duration
}

// Result says what a relay has moved.
type Result struct {
	// Sent counts bytes from client to backend, Received those from backend to client.
	Sent, Received int64
}

// Relay copies in both directions until both have ended, and closes both connections before it returns.
// The end of one direction is passed on with CloseWrite where the connection has it, and the other
// direction goes on. A failure resets both, so that nobody takes a broken stream for a complete one. TCP
// connections (*net.TCPConn, or a struct that embeds one) are spliced by the kernel where it can.
//
// The error is nil if both directions ended in order; else it is the first failure, ErrIdle,
// ErrTimeout or ErrShutdown.
func Relay(ctx context.Context, client, backend io.ReadWriteCloser, options Options) (Result, error) {
	r := &relay{client: client, backend: backend, done: make(chan struct{})}
	var from, to io.Reader = client, backend
	var lastByte func() time.Time
	if options.IdleTimeout > 0 {
		from, to, lastByte = watch(client, backend)
	}

	var result Result
	var directions, watchers sync.WaitGroup
	directions.Go(func() { result.Sent = r.copy(backend, from) })
	directions.Go(func() { result.Received = r.copy(client, to) })
	watchers.Go(func() { r.enforceGrace(ctx, options.Grace) })
	if lastByte != nil {
		watchers.Go(func() { r.enforceIdle(lastByte, options.IdleTimeout) })
	}
	if options.MaxDuration > 0 {
		watchers.Go(func() { r.enforceDuration(options.MaxDuration) })
	}
	directions.Wait()
	close(r.done)
	r.fail(nil)
	watchers.Wait()
	return result, r.err
}

type relay struct {
	client, backend io.ReadWriteCloser
	done            chan struct{} // closed when both directions ended

	once sync.Once
	err  error
}

// copy moves one direction and passes on how it ended.
func (r *relay) copy(to io.ReadWriteCloser, from io.Reader) int64 {
	n, err := io.Copy(to, from)
	if err != nil {
		r.fail(fmt.Errorf("relay: %w", err))
		return n
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok {
		r.fail(nil) // the end cannot be passed on without closing both directions
		return n
	}
	// A receiver that is gone already is no failure of this direction; its own reports it.
	if err := half.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ENOTCONN) {
		r.fail(fmt.Errorf("relay: %w", err))
	}
	return n
}

// fail ends the relay; the first call's reason counts, nil is the orderly end.
func (r *relay) fail(err error) {
	r.once.Do(func() {
		r.err = err
		for _, c := range []io.ReadWriteCloser{r.client, r.backend} {
			// With no linger, closing sends a reset.
			if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok && err != nil {
				_ = tcp.SetLinger(0) // fails only if closed already
			}
			_ = c.Close() // both directions have ended: nothing is left to lose
		}
	})
}

func (r *relay) enforceGrace(ctx context.Context, grace time.Duration) {
	select {
	case <-r.done:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		r.fail(ErrShutdown)
	}
}

func (r *relay) enforceDuration(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		r.fail(ErrTimeout)
	}
}

func (r *relay) enforceIdle(lastByte func() time.Time, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-timer.C:
		}
		remaining := timeout - time.Since(lastByte())
		if remaining <= 0 {
			r.fail(ErrIdle)
			return
		}
		timer.Reset(remaining)
	}
}
