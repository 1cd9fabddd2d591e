package engine

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

func TestRulesChooseTheBackend(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "service"))...)
	p.apply(backend("v1", wire.ProtocolHTTP, named(t, "v1"))...)
	p.apply(backend("v2", wire.ProtocolHTTP, named(t, "v2"))...)
	address := p.listen(key("cart"))
	if got := get(t, address, "/v1"); got.body != "service" {
		t.Fatalf("answer = %v, want the Service's own endpoints before there is a route", got)
	}
	for _, v := range []string{"v1", "v2"} {
		p.apply(route(v, "cart", func(r *wire.Route) {
			r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/" + v}}}
			r.Backends = to(v)
		}))
	}
	for path, want := range map[string]string{"/v1": "v1", "/v2/a?b": "v2"} {
		if got := get(t, address, path); got.status != http.StatusOK || got.body != want {
			t.Errorf("%s: answer = %v, want %s", path, got, want)
		}
	}
	if got := get(t, address, "/other"); got.status != http.StatusNotFound || got.reason() != string(reason.NoRule) {
		t.Errorf("answer = %v, want 404: what no rule matches is not forwarded", got)
	}
	p.delta(wire.Delta{Removed: []wire.Ref{
		{Kind: wire.KindRoute, Key: "HTTPRoute/shop/v1/0"}, {Kind: wire.KindRoute, Key: "HTTPRoute/shop/v2/0"},
	}})
	if got := get(t, address, "/v1"); got.body != "service" {
		t.Errorf("answer = %v, want the Service's own endpoints when the last route is gone", got)
	}
}

func TestWeightsAreCountedPerRequest(t *testing.T) {
	// Equidistant instead of random numbers make the shares exact.
	var n uint64
	p := newProxy(t, func(o *Options) {
		o.Random = func() uint64 { n++; return n * (math.MaxUint64 / 20) }
	})
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "service"))...)
	p.apply(backend("v1", wire.ProtocolHTTP, named(t, "v1"))...)
	p.apply(backend("v2", wire.ProtocolHTTP, named(t, "v2"))...)
	p.apply(backend("v3", wire.ProtocolHTTP, named(t, "v3"))...)
	p.apply(route("split", "cart", func(r *wire.Route) {
		r.Backends = to("v1", "v2", "v3")
		r.Backends[0].Weight, r.Backends[1].Weight, r.Backends[2].Weight = 70, 30, 0
	}))
	address := p.listen(key("cart"))
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
		got := map[string]int{}
		for range 100 {
			got[do(t, c, request(t, http.MethodGet, address, "/", nil)).body]++
		}
		if diff := cmp.Diff(map[string]int{"v1": 70, "v2": 30}, got); diff != "" {
			t.Errorf("%s: shares on one connection (-want +got):\n%s", name, diff)
		}
	}
}

func TestShareOfABackendThatCannotServe(t *testing.T) {
	tests := map[string]struct {
		backends   []wire.WeightedBackend
		wantStatus int
		wantReason reason.Reason
	}{
		"not resolved":    {[]wire.WeightedBackend{{Weight: 1}}, 500, reason.InvalidBackend},
		"not known":       {to("nobody"), 500, reason.UnknownBackend},
		"no endpoints":    {to("empty"), 503, reason.NoEndpoints},
		"no backend":      {nil, 500, reason.NoBackend},
		"all weights are": {[]wire.WeightedBackend{{Backend: key("cart"), Weight: 0}}, 500, reason.NoBackend},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", wire.ProtocolHTTP, named(t, "service"))...)
			p.apply(backend("empty", wire.ProtocolHTTP)...)
			p.apply(route("broken", "cart", func(r *wire.Route) { r.Backends = tc.backends }))
			got := get(t, p.listen(key("cart")), "/")
			if got.status != tc.wantStatus || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want %d %s", got, tc.wantStatus, tc.wantReason)
			}
		})
	}
}

func TestConsumerRoutesHideProducerRoutes(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "service"))...)
	p.apply(backend("producer", wire.ProtocolHTTP, named(t, "producer"))...)
	p.apply(backend("consumer", wire.ProtocolHTTP, named(t, "consumer"))...)
	producer := route("all", "cart", func(r *wire.Route) { r.Backends = to("producer") })
	consumer := route("some", "cart", func(r *wire.Route) {
		r.Consumer = true
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/mine"}}}
		r.Backends = to("consumer")
	})
	p.apply(producer, consumer)
	address := p.listen(key("cart"))
	if got := get(t, address, "/mine"); got.body != "consumer" {
		t.Errorf("answer = %v, want consumer", got)
	}
	if got := get(t, address, "/"); got.status != http.StatusNotFound {
		t.Errorf("answer = %v, want 404: producer routes do not complement consumer routes", got)
	}
	p.delta(wire.Delta{Removed: []wire.Ref{consumer.Ref}})
	if got := get(t, address, "/"); got.body != "producer" {
		t.Errorf("answer = %v, want producer", got)
	}
}

func TestFiltersApply(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Response", "backend")
		echo(w, r)
	}))...)
	replacement := "/new"
	filters := []wire.Filter{
		{RequestHeaders: &wire.HeaderModifier{
			Set: []wire.HeaderField{{Name: "X-Set", Value: "s"}}, Remove: []string{"X-Removed"},
		}},
		{URLRewrite: &wire.URLRewrite{
			Hostname: "other.example", Path: &wire.PathModifier{ReplacePrefixMatch: &replacement},
		}},
		{ResponseHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-Response", Value: "rule"}}}},
	}
	p.apply(route("filters", "cart", func(r *wire.Route) {
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/old"}}}
		r.Filters = filters
		r.Backends = to("cart")
		r.Backends[0].Filters = []wire.Filter{
			{RequestHeaders: &wire.HeaderModifier{Add: []wire.HeaderField{{Name: "X-Set", Value: "b"}}}},
		}
	}))
	req := request(t, http.MethodGet, p.listen(key("cart")), "/old/x%2Fy?q=1", nil)
	req.Header.Set("X-Removed", "1")
	got := do(t, client(t), req)
	for _, want := range []string{"GET /new/x%2Fy?q=1 host=other.example", "X-Set: s", "X-Set: b"} {
		if !strings.Contains(got.body, want) {
			t.Errorf("arrived %q, want %q in it", got.body, want)
		}
	}
	if strings.Contains(got.body, "X-Removed") || got.header.Get("X-Response") != "rule" {
		t.Errorf("answer = %v with X-Response %q", got, got.header.Get("X-Response"))
	}
}

func TestFiltersAnswer(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	p.apply(route("redirect", "cart", func(r *wire.Route) {
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchExact, Value: "/moved"}}}
		r.Filters = []wire.Filter{{Redirect: &wire.Redirect{Hostname: "other.example", Status: 301}}}
	}))
	p.apply(route("cors", "cart", func(r *wire.Route) {
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/api"}}}
		r.Filters = []wire.Filter{{CORS: &wire.CORS{AllowOrigins: []string{"https://a.example"}, AllowMethods: []string{"PUT"}}}}
		r.Backends = to("nobody")
	}))
	address := p.listen(key("cart"))

	got := get(t, address, "/moved?a=b")
	if location := got.header.Get("Location"); got.status != 301 || location != "http://other.example/moved?a=b" {
		t.Errorf("answer = %v to %q, want 301 to the other host", got, location)
	}
	preflight := request(t, http.MethodOptions, address, "/api", nil)
	preflight.Header.Set("Origin", "https://a.example")
	preflight.Header.Set("Access-Control-Request-Method", "PUT")
	got = do(t, client(t), preflight)
	if got.status/100 != 2 || got.header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("answer = %v %v, want leave for the origin", got, got.header)
	}
	// A browser shows an error to the page only if the page's origin is allowed to see it.
	put := request(t, http.MethodPut, address, "/api", nil)
	put.Header.Set("Origin", "https://a.example")
	got = do(t, client(t), put)
	if got.status != 500 || got.header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("answer = %v %v, want 500 with leave for the origin", got, got.header)
	}
}

func TestRequestsAreMeasuredByRule(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	p.apply(route("measured", "cart", func(r *wire.Route) {
		r.RuleName = "stable"
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/a"}}}
		r.Backends = to("cart", "nobody")
		r.Backends[1].Weight = 0
	}))
	address := p.listen(key("cart"))
	get(t, address, "/a")
	get(t, address, "/a")
	get(t, address, "/b")
	got := metrics(t, p.engine, "http_server_request_duration_seconds")
	want := map[string]float64{
		"http_response_status_code=200 weft_backend=shop/cart:80 weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=cart weft_listener=captured " +
			"weft_route_kind=HTTPRoute weft_route_name=measured weft_route_namespace=shop weft_rule=stable weft_source_namespace=shop weft_source_service_account=client weft_tls=none": 2,
		"error_type=no_rule_matched http_response_status_code=404 weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=cart weft_listener=captured " +
			"weft_source_namespace=shop weft_source_service_account=client weft_tls=none": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	p.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindRoute, Key: "HTTPRoute/shop/measured/0"}}})
	for labels := range metrics(t, p.engine, "http_server_request_duration_seconds") {
		if strings.Contains(labels, "stable") {
			t.Errorf("the series of a rule that is gone are still there: %s", labels)
		}
	}
}

// metrics returns the samples of a counter or gauge by their labels, and of a histogram how much was observed.
func metrics(t *testing.T, e *Engine, name string) map[string]float64 {
	t.Helper()
	families, err := e.Metrics().Gatherer().Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	samples := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%s", label.GetName(), label.GetValue()))
			}
			samples[strings.Join(labels, " ")] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return samples
}
