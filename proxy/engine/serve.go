package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"weft.dev/weft/proxy/upstream"
)

// Limits of the HTTP servers.
const (
	// maxHeaderBytes and maxHeaderFields bound a request's header.
	maxHeaderBytes  = 64 << 10
	maxHeaderFields = 100
	// headerTimeout bounds how long a client may take to send a request's head, the handshake of TLS or
	// the preface of HTTP/2.
	headerTimeout = 10 * time.Second
	// idleTimeout ends connections without requests. It is long, because a client that sends at the very
	// moment its idle connection is closed sees a failure.
	idleTimeout = time.Hour

	// The window of a connection holds those of all its streams, so that streams whose bodies nobody
	// reads cannot stop the others.
	clientStreams      = 250
	clientStreamWindow = 256 << 10
	// clientFrame is what any server must take (RFC 9113 section 4.2). net/http would take 1 MiB at once, which
	// is more than the window of a stream, and room that it keeps with the connection.
	clientFrame = 16 << 10
)

func (e *Engine) startServers() {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	e.captured = e.newServer(http.HandlerFunc(e.serveCaptured), &protocols)
	e.captured.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          clientStreams,
		MaxReadFrameSize:              clientFrame,
		MaxReceiveBufferPerStream:     clientStreamWindow,
		MaxReceiveBufferPerConnection: clientStreams * clientStreamWindow,
		SendPingTimeout:               30 * time.Second,
	}
	var hopProtocols http.Protocols
	hopProtocols.SetHTTP2(true)
	e.hop = e.newServer(http.HandlerFunc(e.serveHop), &hopProtocols)
	e.hop.HTTP2 = upstream.HopServerHTTP2()
	if e.options.HTTP == HTTPWeft {
		e.startOwnServers()
	}
	for server, conns := range map[*http.Server]*handover{e.captured: e.requests, e.hop: e.hops} {
		go func() {
			// It returns when Shutdown or Close is called, and says nothing else of interest.
			if err := server.Serve(conns); !errors.Is(err, http.ErrServerClosed) {
				e.options.Log.Error("Server ended", "error", err)
			}
		}()
	}
}

func (e *Engine) newServer(handler http.Handler, protocols *http.Protocols) *http.Server {
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withConn,
		BaseContext:       func(net.Listener) context.Context { return e.base },
		ErrorLog:          slog.NewLogLogger(e.options.Log.Handler(), slog.LevelWarn),
		// OPTIONS * is for the application.
		DisableGeneralOptionsHandler: true,
	}
}

// ServeCaptured accepts connections of clients until Shutdown, which makes it return nil.
func (e *Engine) ServeCaptured(l Listener) error {
	return e.accept(l, func(raw net.Conn) func() { return e.admit(l, raw) })
}

// ServeHop accepts connections of the proxies of other namespaces until Shutdown, which makes it return
// nil.
func (e *Engine) ServeHop(l net.Listener) error {
	return e.accept(l, e.admitHop)
}

// accept runs admit in a goroutine per connection, then what that returns. After Shutdown it accepts nothing.
func (e *Engine) accept(l net.Listener, admit func(net.Conn) (serve func())) error {
	if !e.listeners.add(l) {
		return l.Close()
	}
	// Accepting fails for a while when the process has too many open files.
	const maxPause = time.Second
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			e.admissions.begin()
			go e.handle(raw, admit)
		case e.listeners.closed():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default:
			e.options.Log.Error("Cannot accept a connection", "error", err)
			select {
			case <-time.After(pause):
			case <-e.base.Done():
				return nil
			}
			pause = min(2*pause, maxPause)
		}
	}
}

// handle serves one connection. Shutdown counts it as an admission until it is known what it is for.
func (e *Engine) handle(raw net.Conn, admit func(net.Conn) (serve func())) {
	serve := admit(raw)
	if serve == nil {
		e.admissions.end()
		return
	}
	e.relays.begin()
	defer e.relays.end()
	e.admissions.end()
	serve()
}

// listeners are those that are being accepted from.
type listeners struct {
	mu    sync.Mutex
	open  []net.Listener
	ended bool
}

func (s *listeners) add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.open = append(s.open, l)
	return true
}

func (s *listeners) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// close ends accepting for good.
func (s *listeners) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	var errs []error
	for _, l := range s.open {
		errs = append(errs, l.Close())
	}
	s.open = nil
	return errors.Join(errs...)
}
