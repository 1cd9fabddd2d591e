package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/wire"
)

// lineWriter gathers the lines of an access log.
type lineWriter struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.Write(p)
}

// lines returns what was written as soon as there are so many lines, each as an object and as text.
func (w *lineWriter) lines(t *testing.T, n int) (objects []map[string]any, text []string) {
	t.Helper()
	until(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return bytes.Count(w.got.Bytes(), []byte{'\n'}) >= n
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	text = strings.Split(strings.TrimSuffix(w.got.String(), "\n"), "\n")
	for _, line := range text {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		objects = append(objects, object)
	}
	return objects, text
}

// logging gives a proxy an access log, which ends with the test.
func logging(t *testing.T, w io.Writer) func(*Options) {
	log := accesslog.New(w)
	t.Cleanup(func() { log.Close(context.Background()) })
	return func(o *Options) { o.AccessLog = log }
}

// accessLog is a policy with these rules.
func accessLog(rules ...wire.AccessLogRule) *wire.Policy {
	return &wire.Policy{Telemetry: &wire.Telemetry{AccessLog: &wire.AccessLog{Rules: rules}}}
}

// The line of a request has the names of GEP-5253, and no secret.
func TestTheLineOfARequest(t *testing.T) {
	w := &lineWriter{}
	p := newProxy(t, logging(t, w))
	address := named(t, "web")
	p.apply(service("web", wire.ProtocolHTTP, address)...)
	p.apply(route("r", "web", func(r *wire.Route) {
		r.Backends, r.RuleName, r.Policy = to("web"), "main", accessLog(wire.AccessLogRule{})
	}))
	at := p.listen(key("web"))
	req := request(t, http.MethodGet, at, "/a%0ab?token=secret1&flag", nil)
	for name, value := range map[string]string{
		"Authorization": "Bearer secret2", "Cookie": "session=secret3", "X-Api-Key": "secret4", "Proxy-Authorization": "secret5",
		"User-Agent": "agent\u0085", "X-Request-Id": "r1",
	} {
		req.Header.Set(name, value)
	}
	if got := do(t, client(t), req); got.status != http.StatusOK {
		t.Fatalf("answer = %s", got)
	}
	objects, text := w.lines(t, 1)
	if strings.Contains(text[0], "secret") {
		t.Errorf("a secret was written: %s", text[0])
	}
	if !strings.Contains(text[0], `agent\u0085`) {
		t.Errorf("a control character was not escaped: %s", text[0])
	}
	host, _, _ := strings.Cut(at, ":")
	for name, want := range map[string]any{
		"http.request.method": "GET", "url.scheme": "http", "url.path": "/a%0ab", "url.query": "token=REDACTED&REDACTED",
		"http.response.status_code": 200.0, "server.address": host, "network.protocol.name": "http", "network.protocol.version": "1.1",
		"network.transport": "tcp", "network.peer.address": "127.0.0.1", "client.address": "127.0.0.1",
		"weft.listener": "captured", "weft.tls": "none", "weft.destination.namespace": "shop", "weft.destination.service": "web", "weft.destination.port": 80.0,
		"weft.route.kind": "HTTPRoute", "weft.route.namespace": "shop", "weft.route.name": "r", "weft.rule": "main", "weft.backend": key("web"),
		"weft.endpoint": address, "weft.tries": 1.0, "weft.request_id": "r1",
	} {
		if got := objects[0][name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, objects[0]["time"].(string)); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time is %v", objects[0]["time"])
	}
	if took, ok := objects[0]["duration_ms"].(float64); !ok || took <= 0 {
		t.Errorf("duration is %v", objects[0]["duration_ms"])
	}
	if took, ok := objects[0]["upstream_ms"].(float64); !ok || took <= 0 {
		t.Errorf("upstream's duration is %v", objects[0]["upstream_ms"])
	}
}

// The first rule that is for a request decides.
func TestWhatIsWritten(t *testing.T) {
	none := &wire.Fraction{Denominator: 1}
	tests := map[string]struct {
		rules []wire.AccessLogRule
		// want are the paths of requests that lines are written about.
		want string
	}{
		"no rules":             {nil, ""},
		"all":                  {[]wire.AccessLogRule{{}}, "/200 /404 /503 /none"},
		"none of all":          {[]wire.AccessLogRule{{SamplingRate: none}}, ""},
		"failures":             {[]wire.AccessLogRule{{MinStatus: 500}}, "/503"},
		"bad requests too":     {[]wire.AccessLogRule{{MinStatus: 400}}, "/404 /503 /none"},
		"slow ones":            {[]wire.AccessLogRule{{MinDuration: wire.Duration(time.Hour)}}, ""},
		"those that took time": {[]wire.AccessLogRule{{MinDuration: 1}}, "/200 /404 /503 /none"},
		"by reason":            {[]wire.AccessLogRule{{Reasons: []string{"deadline_exceeded", "no_rule_matched"}}}, "/none"},
		"both must hold":       {[]wire.AccessLogRule{{MinStatus: 500, Reasons: []string{"no_rule_matched"}}}, ""},
		"either":               {[]wire.AccessLogRule{{MinStatus: 500}, {Reasons: []string{"no_rule_matched"}}}, "/503 /none"},
		"the first decides":    {[]wire.AccessLogRule{{MinStatus: 500, SamplingRate: none}, {}}, "/200 /404 /none"},
		"all share, as 1 / 1":  {[]wire.AccessLogRule{{MinStatus: 500, SamplingRate: &wire.Fraction{Numerator: 1, Denominator: 1}}}, "/503"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &lineWriter{}
			p := newProxy(t, logging(t, w))
			d := &wire.Destination{Namespace: namespace, Service: "web", Port: 80, Protocol: wire.ProtocolHTTP, Policy: accessLog(tc.rules...)}
			p.apply(append(backend("web", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/404":
					w.WriteHeader(http.StatusNotFound)
				case "/503":
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			})), resource(key("web"), d))...)
			for i, path := range []string{"/200", "/404", "/503"} {
				p.apply(route(string(rune('a'+i)), "web", func(r *wire.Route) {
					r.Backends = to("web")
					r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchExact, Value: path}}}
				}))
			}
			at := p.listen(key("web"))
			for _, path := range []string{"/200", "/404", "/503", "/none"} {
				get(t, at, path)
			}
			if err := p.engine.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.engine.options.AccessLog.Close(t.Context())
			var paths []string
			if w.got.Len() > 0 {
				objects, _ := w.lines(t, 1)
				for _, o := range objects {
					paths = append(paths, o["url.path"].(string))
				}
			}
			if got := strings.Join(paths, " "); got != tc.want {
				t.Errorf("written: %s\nwant: %s", got, tc.want)
			}
		})
	}
}

// What comes over the hop is written by the policy of the Service, and names its client.
func TestTheOtherProxyWritesToo(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	w := &lineWriter{}
	log := accesslog.New(w)
	t.Cleanup(func() { log.Close(context.Background()) })
	h.peers[0].engine.options.AccessLog = log
	resources := h.stockService(t, wire.ProtocolHTTP, named(t, "api"))
	resources[0] = resource(stockKey, &wire.Backend{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Policy: accessLog(wire.AccessLogRule{}),
	})
	h.peers[0].apply(resources...)
	get(t, h.listen(stockKey), "/a")
	objects, _ := w.lines(t, 1)
	for name, want := range map[string]any{
		"weft.listener": "hop", "weft.source.id": "spiffe://cluster.local/ns/shop/sa/client", "weft.backend": stockKey, "url.path": "/a",
		"network.protocol.version": "2", "http.response.status_code": 200.0,
	} {
		if got := objects[0][name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// A gRPC call is judged by its own status, wherever that is.
func TestGRPCCallsAreWrittenByTheirStatus(t *testing.T) {
	w := &lineWriter{}
	p := newProxy(t, logging(t, w))
	address, _ := startGRPC(t, &grpcBackend{name: "web"})
	p.apply(service("web", wire.ProtocolH2C, address)...)
	p.apply(route("r", "web", func(r *wire.Route) { r.Backends, r.Policy = to("web"), accessLog(wire.AccessLogRule{MinStatus: 500}) }))
	c := grpcClient(t, p.listen(key("web")))
	for _, code := range []int32{5, 14} {
		_, _ = c.UnaryCall(grpcContext(t), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: code, Message: "so"}})
	}
	objects, _ := w.lines(t, 1)
	if len(objects) != 1 || objects[0]["rpc.response.status_code"] != "UNAVAILABLE" || objects[0]["error.type"] != "UNAVAILABLE" ||
		objects[0]["http.response.status_code"] != 200.0 {
		t.Errorf("written: %v", objects)
	}
}
