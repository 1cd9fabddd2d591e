package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyed returns certificates as the configuration holds them.
func keyed(certificates ...*wire.Certificate) map[string]*wire.Certificate {
	m := map[string]*wire.Certificate{}
	for _, c := range certificates {
		m[c.Namespace+"/"+c.ServiceAccount] = c
	}
	return m
}

// newStore returns a Store that accepted everything it was given.
func newStore(t *testing.T, namespace string, mesh *wire.Mesh, certificates ...*wire.Certificate) *identity.Store {
	t.Helper()
	store := identity.NewStore(identity.Options{Namespace: namespace})
	if rejected := store.Update(mesh, keyed(certificates...)); len(rejected) > 0 {
		t.Fatalf("rejected %v", rejected)
	}
	return store
}

// handshake connects both configurations over loopback and returns what each side got. With TLS 1.3 the
// client's handshake ends before the server has judged its certificate, so a byte goes back and forth.
func handshake(t *testing.T, client, server *tls.Config) (seen tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer conn.Close()
		secured := tls.Server(conn, server)
		if serverErr = secured.HandshakeContext(t.Context()); serverErr != nil {
			return
		}
		seen = secured.ConnectionState()
		_, serverErr = secured.Write([]byte("x"))
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	config := client.Clone()
	if config.NextProtos == nil {
		config.NextProtos = []string{"h2"}
	}
	secured := tls.Client(conn, config)
	clientErr = secured.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = secured.Read(make([]byte, 1))
	}
	conn.Close()
	<-done
	return seen, clientErr, serverErr
}

func clientConfig(t *testing.T, store *identity.Store, serviceAccount, namespace string) *tls.Config {
	t.Helper()
	config, err := store.ClientConfig(serviceAccount, namespace, wire.ProxyAccount)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestHandshakeProvesBothIdentities(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	caller := newStore(t, "shop", ca.Mesh(), ca.Issue(t, "shop", "cart"))
	callee := newStore(t, "bank", ca.Mesh(), ca.IssueProxy(t, "bank"))

	seen, clientErr, serverErr := handshake(t, clientConfig(t, caller, "cart", "bank"), callee.ServerConfig())
	if clientErr != nil || serverErr != nil {
		t.Fatalf("client %v, server %v", clientErr, serverErr)
	}
	peer, err := identity.ConnectionID(seen)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(identity.PeerID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}, peer); diff != "" {
		t.Errorf("server saw (-want +got):\n%s", diff)
	}
	if seen.Version != tls.VersionTLS13 || seen.CurveID != tls.X25519MLKEM768 || seen.NegotiatedProtocol != "h2" {
		t.Errorf("version %x, key exchange %v, protocol %q", seen.Version, seen.CurveID, seen.NegotiatedProtocol)
	}
}

func TestConnectionIDNeedsACertificate(t *testing.T) {
	if _, err := identity.ConnectionID(tls.ConnectionState{HandshakeComplete: true}); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("error %v", err)
	}
}

func TestServerRefusesEverybodyBeforeItHasACertificate(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	store := identity.NewStore(identity.Options{Namespace: "bank"})
	server := store.ServerConfig()
	client := rawConfig(t, ca.Issue(t, "shop", "cart"))
	if _, _, err := handshake(t, client, server); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("error %v", err)
	}
	if store.Ready() {
		t.Error("ready without a certificate")
	}
	store.Update(ca.Mesh(), keyed(ca.IssueProxy(t, "bank")))
	if _, _, err := handshake(t, client, server); err != nil {
		t.Errorf("error %v after the certificate has come", err)
	}
	if !store.Ready() {
		t.Error("not ready with a certificate")
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	callee := newStore(t, "bank", ca.Mesh(), ca.IssueProxy(t, "bank"))
	client := rawConfig(t, ca.Issue(t, "shop", "cart"))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		seen, clientErr, serverErr := handshake(t, client, callee.ServerConfig())
		if clientErr != nil || serverErr != nil || seen.DidResume {
			t.Fatalf("client %v, server %v, resumed %v", clientErr, serverErr, seen.DidResume)
		}
	}
}

func TestClientConfigKeepsItsPointerUntilSomethingChanges(t *testing.T) {
	ca, second := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	cart, till := ca.Issue(t, "shop", "cart"), ca.Issue(t, "shop", "till")
	store := newStore(t, "shop", ca.Mesh(), cart, till)
	first := clientConfig(t, store, "cart", "bank")
	if clientConfig(t, store, "cart", "mint") == first {
		t.Error("two namespaces share a configuration")
	}

	same := *cart
	store.Update(ca.Mesh(), keyed(&same, ca.Issue(t, "shop", "till")))
	if clientConfig(t, store, "cart", "bank") != first {
		t.Error("the change of another certificate gave a new configuration")
	}
	store.Update(nil, keyed(ca.Issue(t, "shop", "cart")))
	renewed := clientConfig(t, store, "cart", "bank")
	if renewed == first {
		t.Error("a new certificate kept the old configuration")
	}
	store.Update(ca.Mesh(second), keyed(cart))
	if clientConfig(t, store, "cart", "bank") == renewed {
		t.Error("a new trust bundle kept the old configuration")
	}
	if _, err := store.ClientConfig("till", "bank", wire.ProxyAccount); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("error %v for a removed certificate", err)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t, "cluster.local")
		store := identity.NewStore(identity.Options{Namespace: "shop"})
		await := func(serviceAccount string) <-chan error {
			done := make(chan error, 1)
			go func() { done <- store.Await(t.Context(), serviceAccount, time.Minute) }()
			synctest.Wait()
			return done
		}
		cart, till := await("cart"), await("till")
		store.Update(ca.Mesh(), keyed(ca.IssueProxy(t, "shop")))
		synctest.Wait()
		if len(cart) > 0 {
			t.Error("it did not wait for the certificate")
		}
		store.Update(nil, keyed(ca.Issue(t, "shop", "cart")))
		if err := <-cart; err != nil {
			t.Error(err)
		}
		if err := <-await("cart"); err != nil {
			t.Errorf("with a certificate: %v", err)
		}
		begin := time.Now()
		if err := <-till; !errors.Is(err, identity.ErrNoCertificate) || time.Since(begin) != time.Minute {
			t.Errorf("error %v after %s, want that there is none after a minute", err, time.Since(begin))
		}
	})
}

func TestExpiryWhileInForce(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	now := time.Now()
	store := identity.NewStore(identity.Options{Namespace: "shop", Now: func() time.Time { return now }})
	certificates := keyed(ca.IssueProxy(t, "shop"))
	if rejected := store.Update(ca.Mesh(), certificates); len(rejected) > 0 {
		t.Fatalf("rejected %v", rejected)
	}
	clientConfig(t, store, "weft-proxy", "bank")
	now = now.Add(2 * time.Hour)
	if _, err := store.ClientConfig("weft-proxy", "bank", wire.ProxyAccount); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("error %v", err)
	}
	if store.Ready() {
		t.Error("ready with an expired certificate")
	}
	if rejected := store.Update(ca.Mesh(), certificates); len(rejected) != 1 {
		t.Errorf("rejected %v, want the expired certificate", rejected)
	}
}

func TestUpdateRejects(t *testing.T) {
	ca, stranger := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	other := identitytest.NewCA(t, "other.example")
	change := func(f func(*wire.Certificate)) *wire.Certificate {
		c := ca.Issue(t, "shop", "cart")
		f(c)
		return c
	}
	mesh := wire.Ref{Kind: wire.KindMesh, Key: "mesh"}
	cart := wire.Ref{Kind: wire.KindCertificate, Key: "shop/cart"}
	for name, tc := range map[string]struct {
		mesh *wire.Mesh
		cart *wire.Certificate
		want []wire.Ref
	}{
		"nothing wrong":   {ca.Mesh(), ca.Issue(t, "shop", "cart"), nil},
		"no mesh":         {nil, ca.Issue(t, "shop", "cart"), []wire.Ref{cart}},
		"no bundle":       {&wire.Mesh{TrustDomain: "cluster.local"}, nil, []wire.Ref{mesh}},
		"broken bundle":   {&wire.Mesh{TrustDomain: "cluster.local", TrustBundle: "x"}, nil, []wire.Ref{mesh}},
		"key in bundle":   {&wire.Mesh{TrustDomain: "cluster.local", TrustBundle: ca.Issue(t, "a", "b").Key}, nil, []wire.Ref{mesh}},
		"no trust domain": {&wire.Mesh{TrustBundle: ca.Mesh().TrustBundle}, nil, []wire.Ref{mesh}},
		"other's key": {ca.Mesh(), change(func(c *wire.Certificate) {
			c.Key = ca.Issue(t, "shop", "cart").Key
		}), []wire.Ref{cart}},
		"no chain":        {ca.Mesh(), change(func(c *wire.Certificate) { c.Chain = "" }), []wire.Ref{cart}},
		"broken key":      {ca.Mesh(), change(func(c *wire.Certificate) { c.Key = "x" }), []wire.Ref{cart}},
		"invalid ID":      {ca.Mesh(), change(func(c *wire.Certificate) { c.SPIFFEID = "spiffe://*" }), []wire.Ref{cart}},
		"claims another":  {ca.Mesh(), change(func(c *wire.Certificate) { c.SPIFFEID = "spiffe://cluster.local/ns/shop/sa/till" }), []wire.Ref{cart}},
		"is for another":  {ca.Mesh(), change(func(c *wire.Certificate) { c.Chain, c.Key = reissue(ca.Issue(t, "shop", "till")) }), []wire.Ref{cart}},
		"other namespace": {ca.Mesh(), change(func(c *wire.Certificate) { c.Namespace = "bank" }), []wire.Ref{cart}},
		"other domain":    {ca.Mesh(other), other.Issue(t, "shop", "cart"), []wire.Ref{cart}},
		"unknown root":    {ca.Mesh(), stranger.Issue(t, "shop", "cart"), []wire.Ref{cart}},
		"expired": {ca.Mesh(), ca.Issue(t, "shop", "cart", func(leaf *x509.Certificate) {
			leaf.NotAfter = time.Now().Add(-time.Second)
		}), []wire.Ref{cart}},
		"not yet valid": {ca.Mesh(), ca.Issue(t, "shop", "cart", func(leaf *x509.Certificate) {
			leaf.NotBefore = time.Now().Add(time.Minute)
		}), []wire.Ref{cart}},
	} {
		t.Run(name, func(t *testing.T) {
			store := identity.NewStore(identity.Options{Namespace: "shop"})
			certificates := map[string]*wire.Certificate{}
			if tc.cart != nil {
				certificates["shop/cart"] = tc.cart
			}
			rejected := store.Update(tc.mesh, certificates)
			if diff := cmp.Diff(tc.want, slices.Collect(maps.Keys(rejected))); diff != "" {
				t.Errorf("rejected (-want +got):\n%s\n%v", diff, rejected)
			}
			if _, err := store.ClientConfig("cart", "bank", wire.ProxyAccount); (err == nil) != (tc.want == nil) {
				t.Errorf("configuration: %v", err)
			}
		})
	}
}

func TestRejectedResourcesKeepTheirPreviousContent(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	store := newStore(t, "shop", ca.Mesh(), ca.Issue(t, "shop", "cart"), ca.IssueProxy(t, "shop"))
	first := clientConfig(t, store, "cart", "bank")

	broken := ca.Issue(t, "shop", "cart")
	broken.Key = "x"
	brokenProxy := ca.IssueProxy(t, "shop")
	brokenProxy.Chain = "x"
	rejected := store.Update(&wire.Mesh{TrustDomain: "cluster.local"}, keyed(broken, brokenProxy))
	if len(rejected) != 3 {
		t.Errorf("rejected %v", rejected)
	}
	if clientConfig(t, store, "cart", "bank") != first {
		t.Error("the configuration changed")
	}
	if !store.Ready() {
		t.Error("not ready any longer")
	}

	// Under a bundle that no longer trusts it, the previous content is of no use.
	after := identitytest.NewCA(t, "cluster.local")
	store.Update(after.Mesh(), keyed(broken, brokenProxy))
	if _, err := store.ClientConfig("cart", "bank", wire.ProxyAccount); !errors.Is(err, identity.ErrNoCertificate) || store.Ready() {
		t.Errorf("error %v, ready %v", err, store.Ready())
	}
	// Under one that trusts it as well, it is.
	store.Update(ca.Mesh(), keyed(ca.Issue(t, "shop", "cart")))
	store.Update(ca.Mesh(after), keyed(broken))
	clientConfig(t, store, "cart", "bank")
}

func TestSecondProxyCertificateIsRejected(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	second := ca.Issue(t, "shop", "zz", func(leaf *x509.Certificate) {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	})
	second.Proxy = true
	store := identity.NewStore(identity.Options{Namespace: "shop"})
	rejected := store.Update(ca.Mesh(), keyed(ca.IssueProxy(t, "shop"), second))
	if _, ok := rejected[wire.Ref{Kind: wire.KindCertificate, Key: "shop/zz"}]; !ok || len(rejected) != 1 {
		t.Errorf("rejected %v", rejected)
	}
}

func reissue(c *wire.Certificate) (chain, key string) { return c.Chain, c.Key }

// rawConfig presents a certificate as either side, whatever it is worth.
func rawConfig(t *testing.T, c *wire.Certificate) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		ClientAuth:           tls.RequireAnyClientCert,
		InsecureSkipVerify:   true,
		NextProtos:           []string{"h2"},
	}
}
