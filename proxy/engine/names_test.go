package engine

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/trace/tracetest"
	"weft.dev/weft/proxy/wire"
)

// TestSpansLinesAndMetricsSayTheSame: every label of the metrics of requests is an attribute of the request's span and a
// name in its line, with the same value, so that one leads to the others. The span of a try has those of its own.
func TestSpansLinesAndMetricsSayTheSame(t *testing.T) {
	collector, w := tracetest.Start(t), &lineWriter{}
	h := newHop(t, 1, wire.ProtocolHTTP)
	logging(t, w)(&h.engine.options)
	h.apply(collected(t, h.ca, collector))
	h.peers[0].apply(h.stockService(t, wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInsufficientStorage)
	}))...)
	h.apply(resource("stock/r/0", &wire.Route{
		Kind: wire.RouteHTTP, Namespace: stock, Name: "r", RuleName: "main", Destinations: []string{stockKey}, Matches: []wire.Match{{}},
		Backends: []wire.WeightedBackend{{Backend: stockKey, Weight: 1}}, Policy: traceAll(accessLog(wire.AccessLogRule{})),
	}))
	get(t, h.listen(stockKey), "/a")

	objects, _ := w.lines(t, 1)
	line := map[string]string{}
	for key, value := range objects[0] {
		line[attribute.Label(key)] = fmt.Sprint(value)
	}
	spans := map[string]map[string]string{}
	for _, s := range collector.Await(t, 2) {
		spans[s.Kind] = map[string]string{}
		for key, value := range s.Attributes {
			spans[s.Kind][attribute.Label(key)] = value
		}
	}
	compared := 0
	for _, metric := range []string{"http_server_request_duration_seconds", "http_client_request_duration_seconds"} {
		counted := metrics(t, h.engine, metric)
		if len(counted) != 1 {
			t.Fatalf("%s has %v", metric, counted)
		}
		for labels := range counted {
			for _, label := range strings.Fields(labels) {
				name, value, _ := strings.Cut(label, "=")
				compared++
				// The connection of the request is not protected, and that of the try is.
				protection := name == attribute.Label(attribute.TLS)
				ofTry := protection && metric == "http_client_request_duration_seconds"
				ofRequest := protection && !ofTry
				if got := spans["SERVER"][name]; got != value && !ofTry {
					t.Errorf("%s has %s=%q, and the span %q", metric, name, value, got)
				}
				if got := line[name]; got != value && !ofTry {
					t.Errorf("%s has %s=%q, and the line %q", metric, name, value, got)
				}
				if got, has := spans["CLIENT"][name]; (has || ofTry) && got != value && !ofRequest {
					t.Errorf("%s has %s=%q, and the span of the try %q", metric, name, value, got)
				}
			}
		}
	}
	if compared < 20 {
		t.Errorf("only %d labels were compared", compared)
	}
}
