package upstream

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft.dev/weft/proxy/wire"
)

// own tells which implementation of HTTP the tests' Sets have.
var own bool

// TestMain runs all tests once for each implementation of HTTP: no caller must see which it is.
func TestMain(m *testing.M) {
	code := 0
	for _, own = range []bool{false, true} {
		fmt.Fprintln(os.Stderr, "=== own HTTP:", own)
		code = max(code, m.Run())
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// discardLog takes what net/http says about refused handshakes.
var discardLog = log.New(io.Discard, "", 0)

const (
	webKey = "shop/web:80"
	rpcKey = "shop/rpc:80"
	tcpKey = "shop/db:80"
)

// newTestSet returns a Set of namespace shop, closed with the test.
func newTestSet(t testing.TB, options Options) *Set {
	t.Helper()
	options.Namespace = "shop"
	if options.DialTimeout == 0 {
		options.DialTimeout = 30 * time.Second // far beyond what a busy machine needs
	}
	options.OwnHTTP1, options.OwnHTTP2 = own, own
	s := NewSet(options)
	t.Cleanup(s.Close)
	return s
}

// direct are resources with the three backends of namespace shop, all with the same endpoints.
func direct(addresses ...netip.AddrPort) Resources {
	list := &wire.Endpoints{}
	for _, address := range addresses {
		list.Endpoints = append(list.Endpoints, wire.Endpoint{Address: address})
	}
	backend := func(name string, protocol wire.Protocol) *wire.Backend {
		return &wire.Backend{Namespace: "shop", Service: name, Port: 80, Protocol: protocol, Meshed: true}
	}
	return Resources{
		Backends: map[string]*wire.Backend{
			webKey: backend("web", wire.ProtocolHTTP),
			rpcKey: backend("rpc", wire.ProtocolH2C),
			tcpKey: backend("db", wire.ProtocolTCP),
		},
		Endpoints: map[string]*wire.Endpoints{webKey: list, rpcKey: list, tcpKey: list},
	}
}

func choose(t testing.TB, s *Set, key string, avoid ...netip.AddrPort) Endpoint {
	t.Helper()
	e, err := s.Choose(t.Context(), key, Wish{Avoid: avoid})
	if err != nil {
		t.Fatalf("choose %s: %v", key, err)
	}
	return e
}

// newRequest returns a request as an engine builds it.
func newRequest(method, path string, body io.Reader) *http.Request {
	req := &http.Request{
		Method: method, Host: "web.shop", URL: &url.URL{Scheme: "http", Host: "web.shop", Path: path},
		Header: http.Header{}, Body: http.NoBody,
	}
	switch b := body.(type) {
	case nil:
	case *strings.Reader:
		req.Body, req.ContentLength = io.NopCloser(b), int64(b.Len())
	case io.ReadCloser:
		req.Body, req.ContentLength = b, -1
	default:
		req.Body, req.ContentLength = io.NopCloser(b), -1
	}
	return req
}

// fetch sends a request and returns status and body.
func fetch(ctx context.Context, s *Set, to Endpoint, call Call, req *http.Request) (int, string, error) {
	resp, err := s.RoundTrip(ctx, to, call, req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// mustFetch fetches and expects 200.
func mustFetch(t *testing.T, s *Set, to Endpoint, req *http.Request) string {
	t.Helper()
	status, body, err := fetch(t.Context(), s, to, Call{}, req)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: status %d, %v", req.Method, req.URL, status, err)
	}
	return body
}

// failure sends a request that must fail.
func failure(ctx context.Context, t *testing.T, s *Set, to Endpoint, req *http.Request) *Error {
	t.Helper()
	resp, err := s.RoundTrip(ctx, to, Call{}, req)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("status %d, want a failure", resp.StatusCode)
	}
	return asError(t, err)
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	f, ok := err.(*Error) //nolint:errorlint // the contract is this very type
	if !ok {
		t.Fatalf("error %v of type %T", err, err)
	}
	return f
}

// outcome is what an engine's retry logic looks at.
type outcome struct {
	Reason              Reason
	NotSent, BodyIntact bool
}

func (e *Error) outcome() outcome { return outcome{e.Reason, e.NotSent, e.BodyIntact} }

func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func addressOf(listener net.Listener) netip.AddrPort {
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// serve runs an HTTP server that speaks HTTP/1.1 and HTTP/2 with prior knowledge.
func serve(t testing.TB, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return run(t, server, listen(t))
}

func run(t testing.TB, server *http.Server, listener net.Listener) netip.AddrPort {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with the test
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return addressOf(listener)
}

// accept serves each connection with a script.
func accept(t *testing.T, script func(n int, c net.Conn)) netip.AddrPort {
	t.Helper()
	listener := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				defer c.Close()
				script(n, c)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return addressOf(listener)
}
