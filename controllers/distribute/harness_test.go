package distribute_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

const serverName = "weft-config.weft-system.svc"

// patience is how long a test waits for what must happen; it is never reached when all is well.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// server returns a TLS configuration for a name.
func (a *authority) server(t testing.TB, name string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// tokens is an Authenticator that believes tokens of the forms "proxy/namespace/pod", "sidecar/namespace/pod" and
// "node/name/pod"; a pod's name serves as its UID, and beside a pod it is that of its ServiceAccount too.
type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (distribute.Identity, error) {
	parts := strings.Split(token, "/")
	if len(parts) != 3 {
		return distribute.Identity{}, fmt.Errorf("%w: unknown token", distribute.ErrUnauthenticated)
	}
	id := distribute.Identity{Kind: distribute.ClientKind(parts[0]), Namespace: parts[1], Pod: parts[2], PodUID: parts[2]}
	if id.Kind == distribute.ClientNode {
		id.Namespace, id.Node = "weft-system", parts[1]
	}
	if id.Kind == distribute.ClientSidecar {
		id.ServiceAccount = id.Pod
	}
	return id, nil
}

// mesh is a hub that serves on loopback.
type mesh struct {
	t      testing.TB
	hub    *distribute.Hub
	ca     *authority
	caFile string
	stop   func()

	mu      sync.Mutex
	address string
}

// newMesh serves hub until the test ends.
func newMesh(t testing.TB, hub *distribute.Hub, change func(*distribute.Server)) *mesh {
	t.Helper()
	m := &mesh{t: t, hub: hub, ca: newAuthority(t)}
	m.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(m.caFile, m.ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	server := &distribute.Server{Hub: hub, Authenticator: tokens{}}
	if change != nil {
		change(server)
	}
	m.serve(server)
	return m
}

// serve starts a server, to which peers connect from now on, and remembers how to stop it.
func (m *mesh) serve(server *distribute.Server) {
	m.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	m.address = listener.Addr().String()
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	security := m.ca.server(m.t, serverName)
	go func() { done <- server.Serve(ctx, listener, security) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("Serve: %v", err)
		}
	})
	m.t.Cleanup(m.stop)
}

// failOver stops the server and lets another one take its place, with a hub that knows nothing.
func (m *mesh) failOver(hub *distribute.Hub) {
	m.t.Helper()
	m.stop()
	m.hub = hub
	m.serve(&distribute.Server{Hub: hub, Authenticator: tokens{}})
}

// tokenFile returns a file with a token.
func tokenFile(t testing.TB, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// peer is a proxy or node agent that remembers what it was sent.
type peer struct {
	t      testing.TB
	stream *source.Stream
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	state  map[wire.Ref]string
	deltas []wire.Delta
	// reject decides about a resource; nil accepts all.
	reject func(wire.Resource) string
	// hold, if set, is called before a delta is applied.
	hold    func(wire.Delta)
	changed chan struct{}
}

func (m *mesh) newPeer(token string) *peer {
	p := &peer{t: m.t, state: map[wire.Ref]string{}, changed: make(chan struct{})}
	p.stream = &source.Stream{
		Addresses: []string{"weft-config:15010"}, ServerName: serverName, CAFile: m.caFile, TokenFile: tokenFile(m.t, token),
		Build: "test", Apply: p.apply, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		OnConnection: func(bool, error) { p.notify() },
		// The address may change when a test starts another server.
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			m.mu.Lock()
			address := m.address
			m.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	return p
}

// connect starts a peer that stops with the test.
func (m *mesh) connect(token string) *peer {
	m.t.Helper()
	p := m.newPeer(token)
	p.start()
	p.await("a stream", p.stream.Connected)
	return p
}

func (p *peer) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		_ = p.stream.Run(ctx)
	}()
	p.t.Cleanup(p.stop)
}

func (p *peer) stop() {
	p.cancel()
	<-p.done
}

func (p *peer) apply(d wire.Delta) []wire.Rejection {
	if p.hold != nil {
		p.hold(d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var rejected []wire.Rejection
	for _, r := range d.Upserted {
		if p.reject != nil {
			if reason := p.reject(r); reason != "" {
				rejected = append(rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: reason})
				continue
			}
		}
		p.state[r.Ref] = r.Version
	}
	for _, ref := range d.Removed {
		delete(p.state, ref)
	}
	p.deltas = append(p.deltas, d)
	p.notifyLocked()
	return rejected
}

func (p *peer) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notifyLocked()
}

func (p *peer) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// held returns a copy of what the peer holds.
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

// await waits until a condition on the peer is true.
func (p *peer) await(what string, condition func() bool) {
	p.t.Helper()
	await(p.t, what, func() <-chan struct{} {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.changed
	}, condition)
}

// await waits until a condition on the hub is true.
func (m *mesh) await(what string, condition func() bool) {
	m.t.Helper()
	await(m.t, what, m.hub.Changed, condition)
}

func await(t testing.TB, what string, changed func() <-chan struct{}, condition func() bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		wait := changed()
		if condition() {
			return
		}
		select {
		case <-wait:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// backend returns a resource whose version depends on a number.
func backend(scope wire.Scope, name string, number uint16) wire.Resource {
	return wire.New(name, scope, wire.Origin{Kind: "Service", Name: name},
		&wire.Backend{Namespace: "b", Service: name, Port: number, Protocol: wire.ProtocolHTTP})
}

func heldOf(resources ...wire.Resource) []wire.Held {
	var held []wire.Held
	for _, r := range resources {
		held = append(held, wire.Held{Ref: r.Ref, Version: r.Version})
	}
	return held
}
