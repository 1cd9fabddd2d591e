package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

const serverName = "weft-config.weft-system.svc"

// patience is how long a test waits for what must happen; it is never reached when all is well.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// operator is a server that a test plays by hand.
type operator struct {
	t       testing.TB
	address string
	streams chan *operatorStream
}

// operatorStream is one stream that a client has opened.
type operatorStream struct {
	grpc.ServerStream
	t     testing.TB
	token string
	ended chan error
}

// operatorCodec is the server's side of the codec.
type operatorCodec struct{ codec }

func (operatorCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return json.Unmarshal(data.Materialize(), v)
}

// newOperator serves on loopback until the test ends.
func newOperator(t testing.TB, ca *identitytest.CA, name string) *operator {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOperator(t, ca, name, listener)
}

// serveOperator is newOperator for any listener.
func serveOperator(t testing.TB, ca *identitytest.CA, name string, listener net.Listener) *operator {
	t.Helper()
	issued := ca.Issue(t, "weft-system", "weft-operator", func(leaf *x509.Certificate) {
		leaf.DNSNames, leaf.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	certificate, err := tls.X509KeyPair([]byte(issued.Chain), []byte(issued.Key))
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{t: t, address: listener.Addr().String(), streams: make(chan *operatorStream)}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})),
		grpc.ForceServerCodecV2(operatorCodec{}), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(maxSent),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: silence / 3, Timeout: patience}),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: wire.StreamName, Handler: o.handle, ServerStreams: true, ClientStreams: true}},
	}, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return o
}

func (o *operator) handle(_ any, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	s := &operatorStream{ServerStream: stream, t: o.t, ended: make(chan error, 1)}
	if values := md.Get("authorization"); len(values) == 1 {
		s.token = values[0]
	}
	select {
	case o.streams <- s:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	select {
	case err := <-s.ended:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// accept returns the next stream.
func (o *operator) accept() *operatorStream {
	o.t.Helper()
	select {
	case s := <-o.streams:
		return s
	case <-time.After(patience):
		o.t.Fatal("no stream came")
		return nil
	}
}

// next returns what the client says next.
func (s *operatorStream) next() *wire.ClientMessage {
	s.t.Helper()
	var message wire.ClientMessage
	if err := s.RecvMsg(&message); err != nil {
		s.t.Fatalf("receiving from the client: %v", err)
	}
	return &message
}

// hello returns the versions that the client says it holds.
func (s *operatorStream) hello() map[wire.Ref]string {
	s.t.Helper()
	message := s.next()
	if message.Hello == nil {
		s.t.Fatalf("received %+v, want a Hello", message)
	}
	held := map[wire.Ref]string{}
	for _, h := range message.Hello.Held {
		held[h.Ref] = h.Version
	}
	return held
}

// send sends a delta and returns the acknowledgement.
func (s *operatorStream) send(d wire.Delta) *wire.Ack {
	s.t.Helper()
	if err := s.SendMsg(&wire.ServerMessage{Delta: &d}); err != nil {
		s.t.Fatal(err)
	}
	message := s.next()
	if message.Ack == nil || message.Ack.Seq != d.Seq {
		s.t.Fatalf("received %+v, want the acknowledgement of %d", message, d.Seq)
	}
	return message.Ack
}

// end ends the stream.
func (s *operatorStream) end(err error) { s.ended <- err }

// peer is a client under test and what it applied.
type peer struct {
	*Stream
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	state  map[wire.Ref]string
	deltas []wire.Delta
	// unusable are versions to reject, with the reason.
	unusable    map[string]string
	connections chan bool
}

// newPeer returns a client of the operator that has not started.
func newPeer(t testing.TB, o *operator, ca *identitytest.CA) *peer {
	t.Helper()
	dir := t.TempDir()
	p := &peer{t: t, state: map[wire.Ref]string{}, unusable: map[string]string{}, connections: make(chan bool, 100)}
	p.Stream = &Stream{
		Addresses: []string{o.address}, ServerName: serverName,
		CAFile: filepath.Join(dir, "ca.pem"), TokenFile: filepath.Join(dir, "token"),
		Build: "test", Apply: p.apply, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		OnConnection: func(connected bool, _ error) { p.connections <- connected },
		Log:          slog.New(slog.DiscardHandler),
	}
	p.trust(ca)
	p.useToken("token-1")
	return p
}

// start runs the client until the test ends or stop is called.
func (p *peer) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		_ = p.Run(ctx)
	}()
	p.t.Cleanup(p.stop)
}

func (p *peer) stop() {
	p.cancel()
	<-p.done
}

func (p *peer) trust(ca *identitytest.CA) {
	p.t.Helper()
	if err := os.WriteFile(p.CAFile, []byte(ca.Mesh().TrustBundle), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) useToken(token string) {
	p.t.Helper()
	if err := os.WriteFile(p.TokenFile, []byte(token+"\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) apply(d wire.Delta) []wire.Rejection {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deltas = append(p.deltas, d)
	var rejected []wire.Rejection
	for _, r := range d.Upserted {
		if reason := p.unusable[r.Version]; reason != "" {
			rejected = append(rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: reason})
			continue
		}
		p.state[r.Ref] = r.Version
	}
	for _, ref := range d.Removed {
		delete(p.state, ref)
	}
	return rejected
}

func (p *peer) held() map[wire.Ref]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.state)
}

// received returns the deltas so far.
func (p *peer) received() []wire.Delta {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]wire.Delta(nil), p.deltas...)
}

// nextConnection returns the next change of the connection.
func (p *peer) nextConnection() bool {
	p.t.Helper()
	select {
	case connected := <-p.connections:
		return connected
	case <-time.After(patience):
		p.t.Fatal("the connection did not change")
		return false
	}
}

func backend(name string, port uint16) wire.Resource {
	return wire.New(name, wire.ScopeMesh, wire.Origin{Kind: "Service", Name: name}, &wire.Backend{Service: name, Port: port})
}

func certificate(name, key string) wire.Resource {
	return wire.New(name, wire.ScopeNamespace("a"), wire.Origin{}, &wire.Certificate{Namespace: "a", ServiceAccount: name, Key: key})
}

func versions(resources ...wire.Resource) map[wire.Ref]string {
	out := map[wire.Ref]string{}
	for _, r := range resources {
		out[r.Ref] = r.Version
	}
	return out
}
