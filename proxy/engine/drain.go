package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// firstRequestWait is how long connections that were accepted last may take to send their first request.
const firstRequestWait = time.Second

// Shutdown ends the engine without failing a request. From now on Accepting is false and every answer to
// a client ends its connection, but connections are still accepted for Options.LeaveGrace, because node agents and
// other proxies need a moment to leave. Then it waits until all connections have ended. At the end of ctx
// those that are left are cut: TCP and WebSocket connections, and requests that take too long. The error
// says so.
//
// Idle connections are not closed before the grace is over. A client may send on them at that very
// moment and could not tell whether its request was seen.
func (e *Engine) Shutdown(ctx context.Context) error {
	if e.draining.Swap(true) {
		return errShutdown
	}
	e.metrics.Draining()
	grace := time.NewTimer(e.options.LeaveGrace)
	defer grace.Stop()
	select {
	case <-grace.C:
	case <-ctx.Done():
	}
	err := e.listeners.close()
	// net/http drops the request of a connection that sends its first one during its own shutdown, so
	// those that were accepted last get a moment to send it.
	last, cancel := context.WithTimeout(ctx, firstRequestWait)
	defer cancel()
	_ = e.admissions.wait(last)
	_ = e.fresh.wait(last)
	err = errors.Join(err, e.shutdownServers(ctx))
	if waited := e.relays.wait(ctx); waited != nil {
		err = errors.Join(err, fmt.Errorf("ended connections that were still open: %w", waited))
	}
	e.cancel(errShutdown)
	// Relays and mirrors end with the context.
	_ = e.relays.wait(context.Background())
	e.upstream.Close()
	e.direct.Close()
	e.spans.Close(ctx)
	return err
}

// shutdownServers ends the HTTP servers: gracefully until ctx ends, then at once.
func (e *Engine) shutdownServers(ctx context.Context) error {
	var errs []error
	servers := []interface{ Shutdown(context.Context) error }{e.captured, e.hop}
	if e.own != nil {
		servers = append(servers, e.own, e.ownHTTP2, e.ownHop)
		defer func() {
			e.own.Close()
			e.ownHTTP2.Close()
			e.ownHop.Close()
		}()
	}
	done := make(chan error, len(servers))
	for _, server := range servers {
		go func() { done <- server.Shutdown(ctx) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			errs = append(errs, fmt.Errorf("ended requests that were still running: %w", err))
		}
	}
	return errors.Join(append(errs, e.captured.Close(), e.hop.Close())...)
}
