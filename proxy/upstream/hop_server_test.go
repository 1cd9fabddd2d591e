package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/nethttp"
	"weft.dev/weft/proxy/wire"
)

const ledgerKey = "bank/ledger:80"

// hop is a proxy of namespace bank, and a Set of namespace shop that knows it.
type hop struct {
	ca             *identitytest.CA
	caller, callee *identity.Store
	set            *Set
	to             Endpoint
}

var cartCall = Call{Source: Source{ServiceAccount: "cart", Address: netip.MustParseAddrPort("10.0.0.7:4567"), Zone: "b"}}

// certificates of one namespace by key.
func certificates(list ...*wire.Certificate) map[string]*wire.Certificate {
	m := map[string]*wire.Certificate{}
	for _, c := range list {
		m[c.Namespace+"/"+c.ServiceAccount] = c
	}
	return m
}

// newHop starts the proxy. opaque serves connections of protocol weft-tcp/1.
func newHop(t testing.TB, handler http.HandlerFunc, opaque func(c *tls.Conn), options ...func(*Options)) *hop {
	t.Helper()
	h := &hop{
		ca:     identitytest.NewCA(t, "cluster.local"),
		caller: identity.NewStore(identity.Options{Namespace: "shop"}),
		callee: identity.NewStore(identity.Options{Namespace: "bank"}),
	}
	h.rotate(t, h.ca.Mesh(), h.ca)

	listener := listen(t)
	server := &http.Server{
		Handler: handler, TLSConfig: h.callee.ServerConfig(), HTTP2: HopServerHTTP2(),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			ALPNTCP: func(_ *http.Server, c *tls.Conn, _ http.Handler) {
				defer c.Close()
				if opaque != nil {
					opaque(c)
				}
			},
		},
		Protocols: new(http.Protocols),
		ErrorLog:  discardLog,
	}
	server.Protocols.SetHTTP2(true)
	address := runTLS(t, server, listener)

	o := Options{Identity: h.caller, Zone: "a", DialContext: redirect(address)}
	for _, change := range options {
		change(&o)
	}
	h.set = newTestSet(t, o)
	h.set.Update(Resources{
		Backends: map[string]*wire.Backend{
			ledgerKey: {Namespace: "bank", Service: "ledger", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true},
		},
		Proxies: map[string]*wire.Proxies{"bank": {Proxies: []wire.Proxy{proxy(1, "a")}}},
	})
	h.to = choose(t, h.set, ledgerKey)
	return h
}

// rotate gives both sides new certificates of an authority.
func (h *hop) rotate(t testing.TB, mesh *wire.Mesh, issuer *identitytest.CA) {
	t.Helper()
	rejected := h.caller.Update(mesh, certificates(issuer.Issue(t, "shop", "cart"), issuer.Issue(t, "shop", "till")))
	for ref, err := range h.callee.Update(mesh, certificates(issuer.IssueProxy(t, "bank"))) {
		rejected[ref] = err
	}
	if len(rejected) > 0 {
		t.Fatalf("rejected %v", rejected)
	}
}

// redirect dials one address whatever it is asked for.
func redirect(address netip.AddrPort) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address.String())
	}
}

func runTLS(t testing.TB, server *http.Server, listener net.Listener) netip.AddrPort {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(listener, "", "") // ends with the test
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return addressOf(listener)
}

func TestHopCarriesIdentityAndMetadata(t *testing.T) {
	type seen struct {
		Peer     identity.PeerID
		Metadata Metadata
		Host     string
		Header   http.Header
	}
	arrived := make(chan seen, 1)
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		peer, err := identity.ConnectionID(*r.TLS)
		if err != nil {
			t.Error(err)
		}
		m, err := ReadMetadata(nethttp.Fields(r.Header))
		if err != nil {
			t.Error(err)
		}
		m.TimeLeft = m.TimeLeft.Round(time.Hour)
		StripMetadata(r.Header)
		arrived <- seen{peer, m, r.Host, r.Header}
		w.WriteHeader(http.StatusMisdirectedRequest) // of the application: not the hop's answer
	}, nil)
	if h.to.Kind() != KindHop || h.to.Address().Port() != wire.PortHop {
		t.Errorf("endpoint %s %s", h.to.Kind(), h.to.Address())
	}
	call := cartCall
	call.Attempt, call.Avoid, call.Deadline = 1, []netip.AddrPort{at(9)}, time.Now().Add(3*time.Hour)
	req := newRequest("GET", "/", nil)
	req.Header = http.Header{"Accept": {"x"}, FieldBackend: {"forged"}, FieldNotProcessed: {"forged"}}
	status, _, err := fetch(t.Context(), h.set, h.to, call, req)
	if err != nil || status != http.StatusMisdirectedRequest {
		t.Errorf("status %d, %v", status, err)
	}
	want := seen{
		identity.PeerID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"},
		Metadata{Backend: ledgerKey, TimeLeft: 3 * time.Hour, Attempt: 1, Zone: "b", Client: call.Source.Address, Avoid: call.Avoid},
		"web.shop", http.Header{"Accept": {"x"}},
	}
	if diff := cmp.Diff(want, <-arrived, compareAddresses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// The zone of a source that has none is the proxy's.
	call = Call{Source: Source{ServiceAccount: "till"}}
	if _, _, err := fetch(t.Context(), h.set, h.to, call, newRequest("GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	got := <-arrived
	if got.Peer.ServiceAccount != "till" || got.Metadata.Zone != "a" || got.Metadata.TimeLeft != 0 {
		t.Errorf("second identity: %+v", got)
	}
}

func TestEachSourceIdentityHasConnectionsOfItsOwn(t *testing.T) {
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		peer, err := identity.ConnectionID(*r.TLS)
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, peer.ServiceAccount+" "+r.RemoteAddr)
	}, nil)
	answers := map[string]bool{}
	for range 10 {
		for _, account := range []string{"cart", "till"} {
			_, body, err := fetch(t.Context(), h.set, h.to, Call{Source: Source{ServiceAccount: account}}, newRequest("GET", "/", nil))
			if err != nil || !strings.HasPrefix(body, account+" ") {
				t.Fatalf("%s: %q, %v", account, body, err)
			}
			answers[body] = true
		}
	}
	if len(answers) != 2 {
		t.Errorf("connections %v", answers)
	}
}

func TestNotProcessedAnswerMayBeTriedElsewhere(t *testing.T) {
	h := newHop(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range NotProcessedHeader("unknown backend") {
			w.Header()[name] = values
		}
		w.WriteHeader(StatusNotProcessed)
	}, nil)
	for name, body := range map[string]*chunks{"no body": nil, "body": newChunks()} {
		t.Run(name, func(t *testing.T) {
			req := newRequest("POST", "/", nil)
			if body != nil {
				req = newRequest("POST", "/", body)
			}
			_, _, err := fetch(t.Context(), h.set, h.to, cartCall, req)
			got := asError(t, err)
			if got.Reason != ReasonRefused || !got.NotSent || !strings.Contains(err.Error(), "unknown backend") {
				t.Errorf("outcome %+v: %v", got.outcome(), err)
			}
			// Whether the body is being read when the answer comes is a matter of chance; what is said
			// about it must be true.
			if body == nil && !got.BodyIntact {
				t.Error("a request without body is not intact")
			}
			if body != nil && !got.BodyIntact {
				<-body.closed
			}
			if n := h.to.state.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight", n)
			}
		})
	}
}

// In both directions and for both protocols of the hop, a peer of the wrong identity is refused before
// anything of a request was sent.
func TestHopRefusesWrongIdentities(t *testing.T) {
	expired := func(leaf *x509.Certificate) { leaf.NotAfter = time.Now().Add(-time.Minute) }
	spiffe := func(path string) *url.URL { return &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: path} }
	for name, tc := range map[string]struct {
		client, server func(ca, other *identitytest.CA) *wire.Certificate
	}{
		"server of another namespace": {server: func(ca, _ *identitytest.CA) *wire.Certificate { return ca.IssueProxy(t, "mint") }},
		"server of another domain":    {server: func(_, other *identitytest.CA) *wire.Certificate { return other.IssueProxy(t, "bank") }},
		"expired server":              {server: func(ca, _ *identitytest.CA) *wire.Certificate { return ca.IssueProxy(t, "bank", expired) }},
		"self-signed server": {server: func(*identitytest.CA, *identitytest.CA) *wire.Certificate {
			return identitytest.SelfSigned(t, spiffe("/ns/bank/sa/weft-proxy"))
		}},
		"workload as server":       {server: func(ca, _ *identitytest.CA) *wire.Certificate { return ca.Issue(t, "bank", "teller") }},
		"client of another domain": {client: func(_, other *identitytest.CA) *wire.Certificate { return other.Issue(t, "shop", "cart") }},
		"expired client":           {client: func(ca, _ *identitytest.CA) *wire.Certificate { return ca.Issue(t, "shop", "cart", expired) }},
		"self-signed client": {client: func(*identitytest.CA, *identitytest.CA) *wire.Certificate {
			return identitytest.SelfSigned(t, spiffe("/ns/shop/sa/cart"))
		}},
		"client without an identity": {client: func(ca, _ *identitytest.CA) *wire.Certificate {
			return ca.Issue(t, "shop", "cart", func(leaf *x509.Certificate) { leaf.URIs = nil })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var served atomic.Bool
			h := newHop(t, func(http.ResponseWriter, *http.Request) { served.Store(true) },
				func(c *tls.Conn) { served.Store(true); _ = WriteAccept(c) })
			other := identitytest.NewCA(t, "other.example")
			mesh := h.ca.Mesh(other) // trusted root, wrong domain
			h.rotate(t, mesh, h.ca)
			if tc.client != nil {
				h.set.options.Identity = newForgedIdentity(t, h.caller, tc.client(h.ca, other))
			}
			if tc.server != nil {
				config := h.callee.ServerConfig()
				pair := keyPair(t, tc.server(h.ca, other))
				config.GetConfigForClient = nil
				config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
				config.ClientAuth = tls.RequestClientCert
				server := &http.Server{TLSConfig: config, ErrorLog: discardLog, Protocols: new(http.Protocols)}
				server.Protocols.SetHTTP2(true)
				h.set.options.DialContext = redirect(runTLS(t, server, listen(t)))
			}
			_, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("POST", "/", strings.NewReader("x")))
			if diff := cmp.Diff(outcome{ReasonIdentity, true, true}, asError(t, err).outcome()); diff != "" {
				t.Errorf("HTTP (-want +got):\n%s\n%v", diff, err)
			}
			c, err := h.set.Dial(t.Context(), h.to, cartCall)
			if err == nil {
				c.Close()
			}
			if diff := cmp.Diff(outcome{Reason: ReasonIdentity, NotSent: true}, asError(t, err).outcome()); diff != "" {
				t.Errorf("opaque (-want +got):\n%s\n%v", diff, err)
			}
			if served.Load() {
				t.Error("the peer was served")
			}
		})
	}
}

// forgedIdentity presents another certificate than the Store would.
type forgedIdentity struct {
	*identity.Store
	config *tls.Config
}

func newForgedIdentity(t *testing.T, store *identity.Store, c *wire.Certificate) forgedIdentity {
	t.Helper()
	config, err := store.ClientConfig("cart", "bank", wire.ProxyAccount)
	if err != nil {
		t.Fatal(err)
	}
	pair := keyPair(t, c)
	config = config.Clone()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return forgedIdentity{store, config}
}

func (f forgedIdentity) ClientConfig(string, string, string) (*tls.Config, error) {
	return f.config, nil
}

func keyPair(t *testing.T, c *wire.Certificate) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestHopWithoutACertificate(t *testing.T) {
	h := newHop(t, func(http.ResponseWriter, *http.Request) {}, nil)
	for name, source := range map[string]Identity{"unknown account": h.caller, "no identities": nil} {
		h.set.options.Identity = source
		call := Call{Source: Source{ServiceAccount: "nobody"}}
		_, _, err := fetch(t.Context(), h.set, h.to, call, newRequest("GET", "/", nil))
		if diff := cmp.Diff(outcome{ReasonIdentity, true, true}, asError(t, err).outcome()); diff != "" {
			t.Errorf("%s: HTTP (-want +got):\n%s\n%v", name, diff, err)
		}
		_, err = h.set.Dial(t.Context(), h.to, call)
		if diff := cmp.Diff(outcome{Reason: ReasonIdentity, NotSent: true}, asError(t, err).outcome()); diff != "" {
			t.Errorf("%s: opaque (-want +got):\n%s\n%v", name, diff, err)
		}
		if h.to.state.refusing(h.set.elapsed()) {
			t.Errorf("%s: the proxy is blamed", name)
		}
	}
}

// As many streams as a connection takes are stalled, each with a full window, in one direction; the last
// one still moves much more than a window.
func TestStalledStreamsDoNotStopOthers(t *testing.T) {
	const stalled = hopStreams - 1
	for name, path := range map[string]string{"requests": "/unread", "responses": "/endless"} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				switch r.URL.Path {
				case "/unread":
					<-r.Context().Done()
				case "/endless":
					for {
						if _, err := w.Write(make([]byte, 64<<10)); err != nil {
							return
						}
					}
				default:
					_, _ = io.Copy(w, r.Body)
				}
			}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			var full sync.WaitGroup
			var responses []io.Closer
			defer func() {
				cancel()
				for _, body := range responses {
					body.Close()
				}
			}()
			for range stalled {
				var body io.Reader
				if path == "/unread" {
					full.Add(1)
					body = &overfull{full: full.Done, canceled: ctx.Done()}
				}
				resp, err := h.set.RoundTrip(ctx, h.to, cartCall, newRequest("POST", path, body)) //nolint:bodyclose // closed above
				if err != nil {
					t.Fatal(err)
				}
				responses = append(responses, resp.Body)
			}
			full.Wait()
			payload := strings.Repeat("x", 8*streamWindow)
			_, got, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("POST", "/", strings.NewReader(payload)))
			if err != nil || got != payload {
				t.Errorf("%d of %d bytes, %v", len(got), len(payload), err)
			}
			if n := len(h.set.endpoints[h.to.Address()].pools[poolKey{poolHop, "cart", "bank", wire.ProxyAccount}].(*http2Pool).conns); n != 1 {
				t.Errorf("%d connections: the streams did not share one", n)
			}
		})
	}
}

// overfull is a request body of more than a stream's window: when all of the window was taken, nobody is
// going to read the rest.
type overfull struct {
	read     int
	full     func()
	canceled <-chan struct{}
}

func (o *overfull) Read(p []byte) (int, error) {
	if o.read == streamWindow {
		o.full()
		<-o.canceled
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), streamWindow-o.read)
	o.read += n
	return n, nil
}

func TestSilentProxyIsNoticed(t *testing.T) {
	var raw atomic.Pointer[silencedConn]
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			raw.Load().silence()
		}
	}, nil, func(o *Options) {
		dial := o.DialContext
		o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			silenced := &silencedConn{Conn: c, silenced: make(chan struct{}), closed: make(chan struct{})}
			raw.Store(silenced)
			return silenced, nil
		}
	})
	h.set.hop.HTTP2.SendPingTimeout, h.set.hop.HTTP2.PingTimeout = 20*time.Millisecond, 20*time.Millisecond
	if _, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	_, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/hang", nil))
	if diff := cmp.Diff(outcome{ReasonReset, false, true}, asError(t, err).outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, err)
	}
	if _, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil)); err != nil {
		t.Errorf("on a new connection: %v", err)
	}
}

// silencedConn stops delivering what the peer sends, as if its host were gone.
type silencedConn struct {
	net.Conn
	once, closing    sync.Once
	silenced, closed chan struct{}
}

func (c *silencedConn) silence() { c.once.Do(func() { close(c.silenced) }) }

func (c *silencedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.silenced:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *silencedConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestDrainingProxyIsLeft(t *testing.T) {
	conns := map[string]bool{}
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // a GOAWAY
		_, _ = fmt.Fprint(w, r.RemoteAddr)
	}, nil)
	for range 5 {
		_, body, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		conns[body] = true
	}
	if len(conns) != 5 {
		t.Errorf("%d connections for 5 requests", len(conns))
	}
}
