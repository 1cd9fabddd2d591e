package engine

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// limits returns a policy of rate limits.
func limits(list ...wire.RateLimit) *wire.Policy { return &wire.Policy{RateLimits: list} }

// hourly is a limit that no test lives long enough to see return a token.
func hourly(n int, keys ...wire.RateLimitKey) wire.RateLimit {
	return wire.RateLimit{Requests: n, Burst: n, Interval: wire.Duration(time.Hour), Keys: keys}
}

// limitedBackend is a backend with a policy.
func limitedBackend(name string, policy *wire.Policy) wire.Resource {
	return resource(key(name), &wire.Backend{
		Namespace: namespace, Service: name, Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Policy: policy,
	})
}

// outcomes sends GET requests and returns their statuses and reasons.
func outcomes(t *testing.T, n int, ask func(i int) *http.Request) []string {
	t.Helper()
	var got []string
	for i := range n {
		a := do(t, client(t), ask(i))
		got = append(got, strings.TrimSpace(http.StatusText(a.status)+" "+a.reason()))
	}
	return got
}

const (
	passes  = "OK"
	refused = "Too Many Requests rate_limited"
)

func TestRateLimitOfARoute(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	limited := func(policy *wire.Policy) wire.Resource {
		return route("limited", "cart", func(r *wire.Route) {
			r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/limited"}}}
			r.Backends, r.Policy = to("cart"), policy
		})
	}
	p.apply(
		limited(limits(hourly(2), hourly(100))),
		route("free", "cart", func(r *wire.Route) { r.Backends = to("cart") }),
	)
	address := p.listen(key("cart"))
	ask := func(int) *http.Request { return request(t, http.MethodGet, address, "/limited", nil) }
	if diff := cmp.Diff([]string{passes, passes, refused}, outcomes(t, 3, ask)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	got := get(t, address, "/limited")
	want := map[string]string{
		"Ratelimit-Policy": `"route-1";q=2;w=3600, "route-2";q=100;w=3600`,
		"Ratelimit":        `"route-1";r=0;t=1800`,
		"Retry-After":      "1800",
	}
	for name, value := range want {
		if got.header.Get(name) != value {
			t.Errorf("%s = %q, want %q", name, got.header.Get(name), value)
		}
	}
	if got := get(t, address, "/"); got.status != http.StatusOK || got.header.Get("RateLimit") != "" {
		t.Errorf("answer without a limit = %v %v", got.status, got.header)
	}

	// What was counted survives a change beside it, and is forgotten with the limit.
	p.apply(limited(limits(hourly(100), hourly(2))))
	if got := outcomes(t, 1, ask); got[0] != refused {
		t.Errorf("outcome after a change = %s, want that the limit that stayed goes on", got)
	}
	p.apply(limited(limits(hourly(1))))
	if diff := cmp.Diff([]string{passes, refused}, outcomes(t, 2, ask)); diff != "" {
		t.Errorf("outcomes with another limit (-want +got):\n%s", diff)
	}
	p.apply(limited(nil))
	if got := outcomes(t, 1, ask); got[0] != passes {
		t.Errorf("outcome without limits = %s", got)
	}
	if got := metrics(t, p.engine, "weft_local_responses_total")["weft_reason=rate_limited"]; got != 4 {
		t.Errorf("%v answers were counted, want 4", got)
	}
}

// TestRateLimitOfARouteByWhatTheClientSent has filters that make all requests the same.
func TestRateLimitOfARouteByWhatTheClientSent(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	same := "/same"
	p.apply(route("r", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Policy = limits(hourly(1, wire.RateLimitKey{Type: wire.RateLimitPath}, wire.RateLimitKey{Type: wire.RateLimitHeader, Name: "X-User"}))
		r.Filters = []wire.Filter{
			{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: &same}}},
			{RequestHeaders: &wire.HeaderModifier{Remove: []string{"X-User"}}},
		}
	}))
	address := p.listen(key("cart"))
	sent := [][2]string{{"/a", "ann"}, {"/b", "ann"}, {"/b", "bob"}, {"/a", "ann"}, {"/b", "bob"}}
	got := outcomes(t, len(sent), func(i int) *http.Request {
		req := request(t, http.MethodGet, address, sent[i][0], nil)
		req.Header.Set("X-User", sent[i][1])
		return req
	})
	if diff := cmp.Diff([]string{passes, passes, passes, refused, refused}, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestRateLimitOfAService(t *testing.T) {
	header := wire.RateLimitKey{Type: wire.RateLimitHeader, Name: "X-User"}
	path := wire.RateLimitKey{Type: wire.RateLimitPath}
	as := func(address string, users ...string) func(i int) *http.Request {
		return func(i int) *http.Request {
			req := request(t, http.MethodGet, address, "/", nil)
			if users[i] != "" {
				req.Header.Set("x-user", users[i])
			}
			return req
		}
	}
	t.Run("each proxy has its part", func(t *testing.T) {
		p := newProxy(t)
		p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
		proxies := &wire.Proxies{}
		for i := range 3 {
			proxies.Proxies = append(proxies.Proxies, wire.Proxy{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}})
		}
		p.apply(limitedBackend("cart", limits(hourly(6))), resource(namespace, proxies))
		address := p.listen(key("cart"))
		ask := func(int) *http.Request { return request(t, http.MethodGet, address, "/", nil) }
		if diff := cmp.Diff([]string{passes, passes, refused}, outcomes(t, 3, ask)); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
	t.Run("by header, and those without one together", func(t *testing.T) {
		p := newProxy(t)
		p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
		p.apply(limitedBackend("cart", limits(hourly(1, header))))
		got := outcomes(t, 6, as(p.listen(key("cart")), "ann", "ann", "bob", "", "", "ann"))
		if diff := cmp.Diff([]string{passes, refused, passes, passes, refused, refused}, got); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
	t.Run("by path, as the Service is asked for it", func(t *testing.T) {
		p := newProxy(t)
		p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
		same := "/a"
		p.apply(limitedBackend("cart", limits(hourly(1, path))), route("r", "cart", func(r *wire.Route) {
			r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchExact, Value: "/alias"}}}
			r.Backends = to("cart")
			r.Filters = []wire.Filter{{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: &same}}}}
		}), route("rest", "cart", func(r *wire.Route) { r.Backends = to("cart") }))
		address := p.listen(key("cart"))
		targets := []string{"/a", "/b", "/%61", "/b?c", "/x/../a", "/alias"}
		got := outcomes(t, len(targets), func(i int) *http.Request { return request(t, http.MethodGet, address, targets[i], nil) })
		if diff := cmp.Diff([]string{passes, passes, refused, refused, refused, refused}, got); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
	})
	t.Run("once for all tries", func(t *testing.T) {
		p := newProxy(t)
		p.apply(service("cart", wire.ProtocolHTTP, flaky(t, 500, 500))...)
		p.apply(limitedBackend("cart", limits(hourly(1))), route("r", "cart", func(r *wire.Route) {
			r.Backends, r.Policy = to("cart"), retries(2, time.Millisecond, 500)
		}))
		if got := get(t, p.listen(key("cart")), "/"); got.body != "try 3 " {
			t.Errorf("answer = %v, want that of the third try", got)
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		p := newProxy(t)
		backend, _ := startGRPC(t, &grpcBackend{name: "cart"})
		p.apply(service("cart", wire.ProtocolH2C, backend)...)
		p.apply(limitedBackend("cart", limits(hourly(1))))
		c := grpcClient(t, p.listen(key("cart")))
		if _, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
			t.Fatalf("first call: %v", err)
		}
		if _, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("second call = %v, want ResourceExhausted", err)
		}
	})
}

// TestRateLimitBeyondTheHop counts where the pod is picked, for each caller by its certificate.
func TestRateLimitBeyondTheHop(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	policy := limits(hourly(2, wire.RateLimitKey{Type: wire.RateLimitIdentity}))
	limited := resource(stockKey, &wire.Backend{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Policy: policy,
	})
	stocked(h.peers[0], wire.ProtocolHTTP, upgrading(t))
	h.peers[0].apply(limited)
	// The caller's proxy knows of the limit and leaves it to the other side.
	h.apply(limited)
	address := h.listen(stockKey)
	ask := func(int) *http.Request { return request(t, http.MethodGet, address, "/", nil) }
	got := outcomes(t, 3, ask)
	if got[1] == refused || got[2] != refused {
		t.Errorf("outcomes = %q, want only the third refused", got)
	}
	a := get(t, address, "/")
	if a.header.Get("RateLimit") != `"service";r=0;t=1800` || a.header.Get("Retry-After") != "1800" {
		t.Errorf("answer over the hop has %v", a.header)
	}
	_, r := raw(t, address, upgradeRequest)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(reason.Header) != string(reason.NotProcessed) {
		t.Errorf("upgrade = %v, want that it does not pass by the limit", res)
	}
	other := newProxy(t, func(o *Options) {
		o.Source, o.Dial, o.SourceWait = &wire.Workload{Namespace: namespace, ServiceAccount: "other"}, h.dial, patience
	})
	other.apply(
		resource("mesh", h.ca.Mesh()), resource("shop/other", h.ca.Issue(t, namespace, "other")),
		resource("shop/weft-proxy", h.ca.IssueProxy(t, namespace)), limited,
		resource(stock, &wire.Proxies{Proxies: []wire.Proxy{{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})}}}}),
		resource(stockKey, &wire.Destination{Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP}),
	)
	if got := get(t, other.listen(stockKey), "/"); got.status == http.StatusTooManyRequests {
		t.Errorf("another caller was answered %v", got)
	}
}

func TestMirrorsCountAgainstTheirService(t *testing.T) {
	p := newProxy(t)
	seen := make(chan string, 10)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	p.apply(service("copy", wire.ProtocolHTTP, server(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.URL.Path }))...)
	p.apply(limitedBackend("copy", limits(hourly(1))), route("r", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Filters = []wire.Filter{{Mirror: &wire.Mirror{Backend: key("copy"), Numerator: 1, Denominator: 1}}}
	}))
	address := p.listen(key("cart"))
	for _, target := range []string{"/1", "/2"} {
		if got := get(t, address, target); got.body != "cart" {
			t.Fatalf("answer = %v", got)
		}
	}
	if got := <-seen; got != "/1" {
		t.Errorf("mirrored %q, want the first request", got)
	}
	if got := metrics(t, p.engine, "weft_mirror_requests_total")["outcome=dropped"]; got != 1 {
		t.Errorf("%v copies were dropped, want 1", got)
	}
}

func TestUnusablePoliciesAreRejected(t *testing.T) {
	for name, policy := range map[string]*wire.Policy{
		"a limit of nothing":      limits(hourly(0)),
		"a header that is a wild": {Fault: &wire.Fault{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "("}}}},
		"an abort without status": {Fault: &wire.Fault{Abort: &wire.FaultAbort{Percent: 1}}},
		"an unknown gRPC status":  {Fault: &wire.Fault{Abort: &wire.FaultAbort{Percent: 1, Status: 500, GRPCStatus: "FINE"}}},
		"a delay of nothing":      {Fault: &wire.Fault{Delay: &wire.FaultDelay{Percent: 1}}},
		"a retry on no status":    retries(1, 0, 99),
		"a retry on success":      grpcRetries(1, "OK"),
		"a retry on a wish":       grpcRetries(1, "TIRED"),
		"a set of methods":        {Retry: &wire.Retry{Methods: new(wire.RetryMethods("Some"))}},
		"a budget of too much":    {Retry: &wire.Retry{Budget: &wire.RetryBudget{Percent: new(101)}}},
		"a budget over nothing":   {Retry: &wire.Retry{Budget: &wire.RetryBudget{Interval: new(wire.Duration)}}},
		"a least over nothing":    {Retry: &wire.Retry{Budget: &wire.RetryBudget{MinInterval: new(wire.Duration)}}},
		"more than all":           {Fault: &wire.Fault{Delay: &wire.FaultDelay{Percent: 101, Duration: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			rejected := p.delta(wire.Delta{Upserted: []wire.Resource{
				limitedBackend("cart", policy),
				route("r", "cart", func(r *wire.Route) { r.Policy = policy }),
			}})
			if len(rejected) != 2 {
				t.Errorf("rejected %v, want both resources", rejected)
			}
		})
	}
}
