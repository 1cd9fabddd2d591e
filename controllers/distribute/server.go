package distribute

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"weft.dev/weft/proxy/wire"
)

const (
	// maxDelta and maxReceived bound a message down and up, in bytes. Hello is the largest message up: it
	// has about 100 bytes for each resource that a client holds.
	maxDelta    = 64 << 20
	maxReceived = 16 << 20
	// A peer that answers neither traffic nor pings is given up after pingAfter + pingTimeout. Clients
	// rely on the pings: silence for longer than that tells them that the operator is gone.
	pingAfter   = 4 * time.Second
	pingTimeout = 5 * time.Second
	// helloTimeout bounds authentication and the wait for Hello, each.
	helloTimeout = 10 * time.Second
)

// Server serves configuration streams from a hub. Hub and Authenticator must be set; the others may be
// left zero.
type Server struct {
	Hub           *Hub
	Authenticator Authenticator
	Metrics       *Metrics
	Log           logr.Logger
	// AckTimeout ends the stream of a client that does not acknowledge a delta, so that it neither
	// counts as a connected one nor holds back what waits for it. Zero means 30 seconds.
	AckTimeout time.Duration
}

// Serve accepts streams until ctx ends, which also ends all of them: a leader that has lost its lease
// must not go on answering. It takes ownership of the listener and returns when every stream has
// ended. The error is nil if ctx was the reason. tlsConfig must name the server's certificate; there is
// no plain-text mode.
func (s *Server) Serve(ctx context.Context, listener net.Listener, tlsConfig *tls.Config) error {
	if tlsConfig == nil {
		return errors.Join(errors.New("configuration is served over TLS only"), listener.Close())
	}
	session := &session{
		Server: *s, ctx: ctx, metrics: s.Metrics, ackTimeout: s.AckTimeout,
	}
	if session.metrics == nil {
		session.metrics = NewMetrics(nil)
	}
	if session.ackTimeout == 0 {
		session.ackTimeout = 30 * time.Second
	}
	secured := tlsConfig.Clone()
	secured.MinVersion = tls.VersionTLS13
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(secured)),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxReceived),
		grpc.MaxSendMsgSize(maxDelta),
		grpc.MaxConcurrentStreams(4),
		grpc.MaxHeaderListSize(32<<10),
		grpc.ConnectionTimeout(helloTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// A connection without a stream has no business here.
			MaxConnectionIdle: 2 * helloTimeout,
			Time:              pingAfter,
			Timeout:           pingTimeout,
		}),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    wire.StreamName,
			Handler:       func(_ any, stream grpc.ServerStream) error { return session.handle(stream) },
			ServerStreams: true,
			ClientStreams: true,
		}},
	}, nil)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(listener)
	server.Stop()
	session.streams.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("configuration server: %w", err)
}
