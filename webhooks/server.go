package webhooks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

// Server serves a Handler over TLS. Every replica of the operator does, whoever leads.
type Server struct {
	// Listen is the address to listen on, host:port.
	Listen  string
	Handler *Handler
	// Await returns when whatever questions are judged by has been read for the first time.
	Await func(context.Context) error
	// Injector answers at InjectPath.
	Injector *Handler
	// GetCertificate returns the serving certificate that is valid now.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	serving atomic.Bool
}

// NeedLeaderElection is false: the Service leads to every replica.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends, then finishes what is under way.
func (s *Server) Start(ctx context.Context) error {
	// A replica that does not lead has read nothing so far. This waits for its cache, so that no question
	// has to.
	if err := s.Await(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("webhook: %w", err)
	}
	// Where ctx has ended meanwhile, serving ends as soon as it has begun.
	listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("listen for admission reviews: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(Path, s.Handler)
	mux.Handle(InjectPath, s.Injector)
	server := &http.Server{
		Handler:           mux,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: s.GetCertificate},
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      maxTimeout,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logr.ToSlogHandler(s.Handler.Log), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 4 * concurrent},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		s.serving.Store(false)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			s.Handler.Log.Info("admission reviews were cut off", "reason", err.Error())
		}
	}()
	s.serving.Store(true)
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admission reviews: %w", err)
	}
	<-ended
	return nil
}

// Ready is a healthz.Checker: before the server listens the Service must not lead here.
func (s *Server) Ready(*http.Request) error {
	if !s.serving.Load() {
		return errors.New("the webhook does not serve yet")
	}
	return nil
}
