// Package tcp relays opaque bytes between two connections. It must not look into the bytes, choose a
// destination or keep connections.
package tcp

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrIdle tells that a relay ended because no byte moved for Options.IdleTimeout.
var ErrIdle = errors.New("idle timeout")

// ErrShutdown tells that a relay was cut at the end of Options.Grace.
var ErrShutdown = errors.New("shut down")

// Options of a relay.
type Options struct {
	// IdleTimeout ends the relay when no byte moved in either direction for so long; zero means never.
	IdleTimeout time.Duration
	// Grace is how long the relay may go on after its context ended.
	Grace time.Duration
}

// Result says what a relay has moved.
type Result struct {
	// Sent counts bytes from client to backend, Received those from backend to client.
	Sent, Received int64
}

// Relay copies in both directions until both have ended, and closes both connections before it returns. The end of one direction is passed on
// with CloseWrite where the connection has it, and the other direction goes on. A reset on one
// connection becomes a reset on the other. Two *net.TCPConn are spliced by the kernel where it can.
//
// The error is nil if both directions ended in order; else it is the first failure, ErrIdle or
// ErrShutdown.
func Relay(ctx context.Context, client, backend io.ReadWriteCloser, options Options) (Result, error) {
	panic("not yet")
}
