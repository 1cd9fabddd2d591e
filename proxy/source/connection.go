package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"weft.dev/weft/proxy/wire"
)

const (
	// maxReceived and maxSent bound a message, in bytes: a delta, and a Hello.
	maxReceived = 64 << 20
	maxSent     = 16 << 20
	// connectTimeout bounds connecting, with the TLS handshake.
	connectTimeout = 5 * time.Second
	// silence is how long a connection may bring nothing. The operator pings idle connections every few
	// seconds, so a longer silence means that it, or the way to it, is gone. gRPC's own client pings
	// come every 10 seconds at most, which is too slow for a fail-over.
	silence = 10 * time.Second
)

// connect runs one stream to its end, which is always an error.
func (s *Stream) connect(ctx context.Context, address string) (err error) {
	security, err := s.transportSecurity(address)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(s.TokenFile)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(security)),
		grpc.WithContextDialer(s.dial),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	)
	if err != nil {
		return fmt.Errorf("connection to %s: %w", address, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx,
		&grpc.StreamDesc{StreamName: wire.StreamName, ServerStreams: true, ClientStreams: true}, wire.StreamMethod,
		grpc.ForceCodecV2(codec{}),
		grpc.MaxCallRecvMsgSize(maxReceived),
		grpc.MaxCallSendMsgSize(maxSent),
		grpc.PerRPCCredentials(bearer(strings.TrimSpace(string(token)))),
	)
	if err != nil {
		return fmt.Errorf("stream to %s: %w", address, err)
	}
	up := &upstream{stream: stream}
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer cancel()
	if err := up.sendOrReason(&wire.ClientMessage{Hello: s.hello()}); err != nil {
		return fmt.Errorf("stream to %s: %w", address, err)
	}
	reporting.Go(func() { s.sendReports(ctx, up) })
	return fmt.Errorf("stream to %s: %w", address, s.receive(up))
}

// receive applies and acknowledges deltas, one at a time.
func (s *Stream) receive(up *upstream) error {
	for first := true; ; first = false {
		var message wire.ServerMessage
		if err := up.stream.RecvMsg(&message); err != nil {
			return err
		}
		if message.Delta == nil {
			return errors.New("a message without a delta")
		}
		size := len(message.Delta.Upserted)
		if first {
			size += s.Held.Len() // all versions were listed for the operator
		}
		rejected, accepted := s.apply(*message.Delta)
		err := up.sendOrReason(&wire.ClientMessage{Ack: &wire.Ack{Seq: message.Delta.Seq, Rejected: rejected}})
		s.save(accepted)
		message = wire.ServerMessage{}
		s.tidy(size, first)
		if err != nil {
			return err
		}
		if first {
			s.complete()
		}
	}
}

// upstream is the sending half of a stream, shared by acknowledgements and reports.
type upstream struct {
	mu     sync.Mutex
	stream grpc.ClientStream
}

func (u *upstream) send(message *wire.ClientMessage) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stream.SendMsg(message)
}

// sendOrReason is send for the goroutine that receives: when the stream has ended, the reason is there
// to be received.
func (u *upstream) sendOrReason(message *wire.ClientMessage) error {
	err := u.send(message)
	for errors.Is(err, io.EOF) {
		if received := u.stream.RecvMsg(new(wire.ServerMessage)); received != nil {
			return received
		}
	}
	return err
}

// transportSecurity trusts the roots of the CA file, those of the Mesh in force, and the operator's name.
func (s *Stream) transportSecurity(address string) (*tls.Config, error) {
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("roots: %s holds no certificate", s.CAFile)
	}
	roots.AppendCertsFromPEM([]byte(s.roots))
	name := s.ServerName
	if name == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		name = host
	}
	return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13}, nil
}

// dial connects to one of the addresses that the name has now.
func (s *Stream) dial(ctx context.Context, address string) (net.Conn, error) {
	dial := s.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: conn}, nil
}

// watchedConn fails when it has brought nothing for the time of silence.
type watchedConn struct{ net.Conn }

func (c *watchedConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// bearer sends a token with the stream; gRPC refuses to send it without transport security.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }

// codec carries ClientMessages up and ServerMessages down as JSON.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return wire.Codec }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*wire.ServerMessage)
	if !ok {
		return fmt.Errorf("message: %T is not received", v)
	}
	r := data.Reader()
	defer func() { _ = r.Close() }() // it never fails
	if err := readMessage(r, message); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	return nil
}
