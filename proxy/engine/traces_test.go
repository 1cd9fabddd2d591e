package engine

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/attribute"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/trace/tracetest"
	"weft.dev/weft/proxy/wire"
)

// traceAll samples every request, whoever has decided otherwise before.
func traceAll(more ...*wire.Policy) *wire.Policy {
	p := &wire.Policy{Telemetry: &wire.Telemetry{Tracing: &wire.Tracing{
		SamplingRate: &wire.Fraction{Numerator: 1, Denominator: 1},
	}}}
	for _, other := range more {
		p = wire.Overlay(p, other)
	}
	return p
}

// collected returns a Mesh that names a collector.
func collected(t *testing.T, ca *identitytest.CA, c *tracetest.Collector) wire.Resource {
	t.Helper()
	mesh := ca.Mesh()
	mesh.Traces = c.Over(wire.CollectorGRPC)
	return resource("mesh", mesh)
}

// recorder is a backend that remembers the headers of its requests, and answers each with the next status.
type recorder struct {
	mu       sync.Mutex
	headers  []http.Header
	statuses []int
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, req.Header.Clone())
	if len(r.statuses) > 0 {
		w.WriteHeader(r.statuses[0])
		r.statuses = r.statuses[1:]
	}
}

func (r *recorder) got() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.headers)
}

// tree writes spans down with what they belong to, in the order of their beginning.
func tree(spans []tracetest.Span, parent string, depth int) []string {
	slices.SortStableFunc(spans, func(a, b tracetest.Span) int { return a.Start.Compare(b.Start) })
	var out []string
	for _, s := range spans {
		if s.Parent != parent {
			continue
		}
		line := []string{strings.Repeat("  ", depth) + s.Kind, s.Name}
		for _, key := range []string{attribute.Listener, attribute.Status, attribute.ResendCount, attribute.RetryReason, attribute.ErrorType, attribute.Tries, attribute.Hop} {
			if value, ok := s.Attributes[key]; ok {
				line = append(line, key[strings.LastIndexByte(key, '.')+1:]+"="+value)
			}
		}
		if s.Failed {
			line = append(line, "failed")
		}
		out = append(append(out, strings.Join(line, " ")), tree(spans, s.ID, depth+1)...)
	}
	return out
}

// One trace leads from the client's proxy through each try to the other proxy, and to the application.
func TestATraceAcrossTheHopAndARetry(t *testing.T) {
	collector := tracetest.Start(t)
	h := newHop(t, 1, wire.ProtocolHTTP)
	h.apply(collected(t, h.ca, collector), resource(stockKey, &wire.Destination{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Policy: traceAll(retries(1, time.Millisecond, 503)),
	}))
	h.peers[0].apply(collected(t, h.ca, collector))
	backend := &recorder{statuses: []int{503}}
	h.peers[0].apply(h.stockService(t, wire.ProtocolHTTP, server(t, backend.ServeHTTP))...)
	req := request(t, http.MethodGet, h.listen(stockKey), "/a?token=x", nil)
	req.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	req.Header.Set("Tracestate", "vendor=1")
	if got := do(t, client(t), req); got.status != http.StatusOK {
		t.Fatalf("answer = %s", got)
	}
	spans := collector.Await(t, 7)
	want := []string{
		"SERVER GET stock/api:80 listener=captured status_code=200 tries=2",
		"  CLIENT GET stock/api:80 status_code=503 type=503 hop=stock failed",
		"    SERVER GET stock/api:80 listener=hop status_code=503 type=503 tries=1 failed",
		"      CLIENT GET stock/api:80 status_code=503 type=503 failed",
		"  CLIENT GET stock/api:80 status_code=200 resend_count=1 reason=status hop=stock",
		"    SERVER GET stock/api:80 listener=hop status_code=200 tries=1",
		"      CLIENT GET stock/api:80 status_code=200 resend_count=1",
	}
	if diff := cmp.Diff(want, tree(spans, "00f067aa0ba902b7", 0)); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
	var last tracetest.Span
	for _, s := range spans {
		if s.Trace != "4bf92f3577b34da6a3ce929d0e0e4736" || s.State != "vendor=1" {
			t.Errorf("span of trace %s with state %s", s.Trace, s.State)
		}
		if strings.Contains(strings.Join(mapValues(s.Attributes), " "), "token=x") {
			t.Errorf("a secret is in %v", s.Attributes)
		}
		if s.Kind == "SERVER" && (s.Attributes[attribute.SourceID] != "spiffe://cluster.local/ns/shop/sa/client" || !s.Remote) {
			t.Errorf("span of %q, remote %v", s.Attributes[attribute.SourceID], s.Remote)
		}
		if s.Kind == "CLIENT" && s.Attributes[attribute.Hop] == "" && s.Attributes[attribute.Status] == "200" {
			last = s
		}
	}
	// The application continues the trace of its own proxy.
	header := backend.got()[1]
	if got := header.Get("Traceparent"); got != "00-"+last.Trace+"-"+last.ID+"-01" || header.Get("Tracestate") != "vendor=1" {
		t.Errorf("the application got %q and %q", got, header.Get("Tracestate"))
	}
}

func mapValues(m map[string]string) []string {
	var out []string
	for _, value := range m {
		out = append(out, value)
	}
	return out
}

// stockService is Service stock/api as its own proxies know it.
func (h *hop) stockService(t *testing.T, protocol wire.Protocol, addresses ...string) []wire.Resource {
	t.Helper()
	endpoints := &wire.Endpoints{}
	for _, address := range addresses {
		endpoints.Endpoints = append(endpoints.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(address)})
	}
	return []wire.Resource{
		resource(stockKey, &wire.Backend{Namespace: stock, Service: "api", Port: 80, Protocol: protocol, Meshed: true}),
		resource(stockKey, endpoints),
	}
}

func TestWhoDecidesWhatIsTraced(t *testing.T) {
	const sampled, not, b3 = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
		"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
	rate := func(numerator int) *wire.Policy {
		return &wire.Policy{Telemetry: &wire.Telemetry{Tracing: &wire.Tracing{SamplingRate: &wire.Fraction{Numerator: numerator, Denominator: 100}}}}
	}
	// 0xa3ce929d0e0e4736 % 100 is what decides by the trace's name.
	own := func(p *wire.Policy) *wire.Policy {
		p.Telemetry.Tracing.ParentBasedSampling = new(wire.SamplingDisabled)
		return p
	}
	tests := map[string]struct {
		policy     *wire.Policy
		header     map[string]string
		noTracing  bool
		want       bool
		wantHeader map[string]string // what the application gets; "*" is something new
	}{
		"all":                           {policy: rate(100), want: true, wantHeader: map[string]string{"Traceparent": "*"}},
		"none":                          {policy: rate(0)},
		"the default":                   {policy: nil, want: true, wantHeader: map[string]string{"Traceparent": "*"}}, // the random number is 0
		"no collector":                  {policy: rate(100), noTracing: true, header: map[string]string{"Traceparent": sampled}, wantHeader: map[string]string{"Traceparent": sampled}},
		"the caller has sampled":        {policy: rate(0), header: map[string]string{"Traceparent": sampled}, want: true, wantHeader: map[string]string{"Traceparent": "*"}},
		"the caller has not sampled":    {policy: rate(100), header: map[string]string{"Traceparent": not, "Tracestate": "a=1"}, wantHeader: map[string]string{"Traceparent": not, "Tracestate": "a=1"}},
		"the caller has not, by b3":     {policy: rate(100), header: map[string]string{"B3": "0"}, wantHeader: map[string]string{"B3": "0"}},
		"b3, undecided, all":            {policy: rate(100), header: map[string]string{"B3": b3}, want: true, wantHeader: map[string]string{"Traceparent": "*", "B3": "*"}},
		"b3, undecided, none":           {policy: rate(0), header: map[string]string{"B3": b3}, wantHeader: map[string]string{"B3": b3}},
		"own decision against a caller": {policy: own(rate(0)), header: map[string]string{"Traceparent": sampled}, wantHeader: map[string]string{"Traceparent": "*"}},
		"own decision for a caller":     {policy: own(rate(100)), header: map[string]string{"Traceparent": not}, want: true, wantHeader: map[string]string{"Traceparent": "*"}},
		"a context that is none":        {policy: rate(100), header: map[string]string{"Traceparent": "x", "Tracestate": "a=1"}, want: true, wantHeader: map[string]string{"Traceparent": "*"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			collector := tracetest.Start(t)
			numbers := uint64(0)
			p := newProxy(t, func(o *Options) { o.Random = func() uint64 { numbers++; return (numbers - 1) * 100 } })
			ca := identitytest.NewCA(t, "cluster.local")
			if tc.noTracing {
				p.apply(resource("mesh", ca.Mesh()))
			} else {
				p.apply(collected(t, ca, collector))
			}
			backend := &recorder{}
			p.apply(service("web", wire.ProtocolHTTP, server(t, backend.ServeHTTP))...)
			p.apply(route("r", "web", func(r *wire.Route) { r.Backends, r.Policy = to("web"), tc.policy }))
			req := request(t, http.MethodGet, p.listen(key("web")), "/", nil)
			for name, value := range tc.header {
				req.Header.Set(name, value)
			}
			if got := do(t, client(t), req); got.status != http.StatusOK {
				t.Fatalf("answer = %s", got)
			}
			got := backend.got()[0]
			for _, name := range []string{"Traceparent", "Tracestate", "B3"} {
				switch want := tc.wantHeader[name]; {
				case want == "*":
					if got.Get(name) == "" || got.Get(name) == tc.header[name] {
						t.Errorf("the application got %s %q", name, got.Get(name))
					}
				case got.Get(name) != want:
					t.Errorf("the application got %s %q, want %q", name, got.Get(name), want)
				}
			}
			if name == "own decision against a caller" && !strings.HasSuffix(got.Get("Traceparent"), "-00") {
				t.Errorf("the application got %q, though the trace is not sampled", got.Get("Traceparent"))
			}
			if tc.want {
				collector.Await(t, 2)
				return
			}
			if err := p.engine.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := collector.Tries(); got != 0 {
				t.Errorf("%d batches of spans", got)
			}
		})
	}
}

// What the proxy answers itself is traced, and says why.
func TestAnswersOfTheProxyAreTraced(t *testing.T) {
	collector := tracetest.Start(t)
	p := newProxy(t)
	p.apply(collected(t, identitytest.NewCA(t, "cluster.local"), collector))
	d := &wire.Destination{Namespace: namespace, Service: "web", Port: 80, Protocol: wire.ProtocolHTTP, Policy: traceAll()}
	p.apply(append(backend("web", wire.ProtocolHTTP), resource(key("web"), d))...)
	p.apply(route("r", "web", func(r *wire.Route) {
		r.Backends = to("web")
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/a"}}}
	}))
	at := p.listen(key("web"))
	get(t, at, "/a")
	get(t, at, "/other")
	req := request(t, "BREW", at, "/a", nil)
	do(t, client(t), req)
	got := collector.Await(t, 3)
	slices.SortFunc(got, func(a, b tracetest.Span) int { return a.Start.Compare(b.Start) })
	for i, want := range []struct {
		name, reason, route, method string
		failed                      bool
	}{
		{"GET shop/web:80", "no_endpoints", "r", "", true},
		{"GET shop/web:80", "no_rule_matched", "", "", false},
		{"HTTP shop/web:80", "no_endpoints", "r", "BREW", true},
	} {
		s := got[i]
		if s.Name != want.name || s.Attributes[attribute.Reason] != want.reason || s.Attributes[attribute.ErrorType] != want.reason ||
			s.Attributes[attribute.RouteName] != want.route || s.Attributes[attribute.MethodOriginal] != want.method || s.Failed != want.failed {
			t.Errorf("span %d is %+v", i, s)
		}
	}
}

// Requests that are not traced pay nothing for those that are.
func TestWhatIsNotTracedCostsNothing(t *testing.T) {
	p := newProxy(t)
	p.apply(collected(t, identitytest.NewCA(t, "cluster.local"), tracetest.Start(t)))
	none := effective(&wire.Policy{Telemetry: &wire.Telemetry{Tracing: &wire.Tracing{SamplingRate: &wire.Fraction{Denominator: 1}}}})
	x := &exchange{engine: p.engine, config: p.engine.config.Load(), policy: none, status: 200, head: phttp.Request{Header: phttp.Header{
		{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "test"}, {Name: "Traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"},
	}}}
	allocated := testing.AllocsPerRun(100, func() {
		x.traceDecided = false
		(&tries{exchange: x}).beginTry(&attempt{})
		x.observe(time.Second)
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}

func BenchmarkNotTraced(b *testing.B) {
	e := New(Options{Namespace: namespace})
	defer func() { _ = e.Shutdown(b.Context()) }()
	x := &exchange{engine: e, config: &config{mesh: wire.Mesh{Traces: &wire.Collector{}}}, policy: defaultPolicy, status: 200, head: phttp.Request{Header: phttp.Header{
		{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "test"}, {Name: "Accept-Encoding", Value: "gzip"}, {Name: "X-Request-Id", Value: "1"},
		{Name: "Traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"},
	}}}
	b.ReportAllocs()
	for b.Loop() {
		x.traceDecided = false
		x.traces()
		x.observe(time.Second)
	}
}
