package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/output"
)

// tested is the implementation of HTTP/1.1 that the proxies of the tests have.
var tested HTTPEngine

// TestMain runs all tests once for each implementation of HTTP/1.1: a client must not see which it is.
func TestMain(m *testing.M) {
	code := 0
	for _, tested = range []HTTPEngine{HTTPStd, HTTPWeft} {
		fmt.Fprintln(os.Stderr, "=== HTTP engine", tested)
		code = max(code, m.Run())
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what must happen. It is only used up by a failure.
const patience = time.Minute

const namespace = "shop"

// proxy is an engine of namespace shop whose destinations have real ports.
type proxy struct {
	t      *testing.T
	engine *Engine
	seq    uint64
}

// newProxy returns an engine without configuration. It is shut down at the end of the test, after all
// clients of the test.
func newProxy(t *testing.T, edit ...func(*Options)) *proxy {
	t.Helper()
	options := Options{
		Namespace:  namespace,
		Source:     &wire.Workload{Namespace: namespace, ServiceAccount: "client"},
		LeaveGrace: time.Millisecond,
		HTTP:       tested,
		Log:        slog.New(slog.NewTextHandler(output.Of(t), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range edit {
		f(&options)
	}
	p := &proxy{t: t, engine: New(options)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// What a test leaves open is cut, and a test of Shutdown has been here before.
		_ = p.engine.Shutdown(ctx)
	})
	return p
}

// apply upserts resources, none of which may be rejected.
func (p *proxy) apply(resources ...wire.Resource) {
	p.t.Helper()
	if rejected := p.delta(wire.Delta{Upserted: resources}); len(rejected) > 0 {
		p.t.Fatalf("rejected: %v", rejected)
	}
}

func (p *proxy) delta(delta wire.Delta) []wire.Rejection {
	p.seq++
	delta.Seq = p.seq
	return p.engine.Apply(delta)
}

// listen gives a destination a port and returns its address.
func (p *proxy) listen(key string) string {
	p.t.Helper()
	l := listenLoopback(p.t)
	p.serve(func() error { return p.engine.ServeCaptured(Direct(l, key)) })
	return l.Addr().String()
}

// serve runs one of the engine's accept loops until the end of the test.
func (p *proxy) serve(accept func() error) {
	done := make(chan error, 1)
	go func() { done <- accept() }()
	p.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.engine.Shutdown(ctx)
		if err := <-done; err != nil {
			p.t.Errorf("accepting ended with %v", err)
		}
	})
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

// accepting serves each connection to the address that it returns, until the test ends, and closes it then.
func accepting(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l := listenLoopback(t)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// key returns the key of port 80 of a Service in namespace shop.
func key(service string) string { return wire.ServicePortKey(namespace, service, 80) }

func resource(key string, content any) wire.Resource {
	return wire.New(key, wire.ScopeNamespace(namespace), wire.Origin{}, content)
}

// service returns destination, backend and endpoints of port 80 of a Service.
func service(name string, protocol wire.Protocol, addresses ...string) []wire.Resource {
	return append(backend(name, protocol, addresses...), resource(key(name), &wire.Destination{
		Namespace: namespace, Service: name, Port: 80, Protocol: protocol,
	}))
}

// backend returns backend and endpoints of port 80 of a Service.
func backend(name string, protocol wire.Protocol, addresses ...string) []wire.Resource {
	endpoints := &wire.Endpoints{}
	for _, address := range addresses {
		endpoints.Endpoints = append(endpoints.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(address)})
	}
	return []wire.Resource{
		resource(key(name), &wire.Backend{Namespace: namespace, Service: name, Port: 80, Protocol: protocol, Meshed: true}),
		resource(key(name), endpoints),
	}
}

// route returns rule 0 of an HTTPRoute attached to a Service, matching everything unless edit says so.
func route(name, destination string, edit func(*wire.Route)) wire.Resource {
	r := &wire.Route{
		Kind: wire.RouteHTTP, Namespace: namespace, Name: name, Destinations: []string{key(destination)},
		Matches: []wire.Match{{}},
	}
	edit(r)
	return resource(r.Key(), r)
}

// to returns backends of equal weight.
func to(services ...string) []wire.WeightedBackend {
	var backends []wire.WeightedBackend
	for _, s := range services {
		backends = append(backends, wire.WeightedBackend{Backend: key(s), Weight: 1})
	}
	return backends
}

// server starts an HTTP backend that speaks HTTP/1.1 and HTTP/2 in plain text, and returns its address.
func server(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.DisableGeneralOptionsHandler = true
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// named starts a backend that answers with its name.
func named(t *testing.T, name string) string {
	return server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

// client returns a client without proxies, redirects or decompression. Its connections end with the test.
func client(t *testing.T, protocols ...func(*http.Protocols)) *http.Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols), ExpectContinueTimeout: patience}
	for _, f := range protocols {
		f(transport.Protocols)
	}
	if len(protocols) == 0 {
		transport.Protocols.SetHTTP1(true)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func h2c(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

// answer is what a test looks at.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// do sends a request and reads the whole answer.
func do(t *testing.T, c *http.Client, req *http.Request) answer {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: read answer: %v", req.Method, req.URL, err)
	}
	return answer{status: res.StatusCode, header: res.Header, body: string(body), trailer: res.Trailer}
}

// request makes a request to a proxy's listener.
func request(t *testing.T, method, address, target string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+target, body)
	if err != nil {
		t.Fatalf("request: %v", err)
	}
	return req
}

func get(t *testing.T, address, target string) answer {
	t.Helper()
	return do(t, client(t), request(t, http.MethodGet, address, target, nil))
}

// raw opens a connection to a listener and sends text as it is.
func raw(t *testing.T, address, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	return c, bufio.NewReader(c)
}

// try opens a connection, sends text and reads one byte. Refused connections are reset, which the client
// may see in any of these.
func try(t *testing.T, address, text string) error {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// until waits for what must become true.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); !condition(); <-ticker.C {
		if time.Now().After(end) {
			t.Fatal("it did not become true")
		}
	}
}

// lines joins the lines of a raw request.
func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

// reason returns why the proxy made an answer itself, or "".
func (a answer) reason() string { return a.header.Get(reason.Header) }

func (a answer) String() string { return fmt.Sprintf("%d %s %q", a.status, a.reason(), a.body) }

// timeouts returns a policy with the timeouts of a request and of one try; zero sets none.
func timeouts(request, try time.Duration) *wire.Policy {
	p := &wire.Policy{Timeouts: &wire.Timeouts{}}
	if request != 0 {
		p.Timeouts.Request = new(wire.Duration(request))
	}
	if try != 0 {
		p.Timeouts.BackendRequest = new(wire.Duration(try))
	}
	return p
}

// retries returns a policy that repeats requests of any method on these statuses.
func retries(attempts int, backoff time.Duration, codes ...int) *wire.Policy {
	return &wire.Policy{Retry: &wire.Retry{
		Attempts: &attempts, Codes: codes, Methods: new(wire.RetryAll), Backoff: new(wire.Duration(backoff)),
		Budget: &wire.RetryBudget{Percent: new(100)},
	}}
}
