package proxies

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
)

func destination(key string, number uint16, protocol wire.Protocol) wire.Resource {
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, &wire.Destination{Service: key, Number: number, Protocol: protocol})
}

func backend(key string, protocol wire.Protocol) wire.Resource {
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, &wire.Backend{Service: key, Protocol: protocol})
}

func authorization(namespace string) wire.Resource {
	return wire.New(namespace+"/a", wire.ScopeNamespace(namespace), wire.Origin{}, &wire.Authorization{Namespace: namespace, Name: "a"})
}

func TestCompare(t *testing.T) {
	compiled := []wire.Resource{
		destination("same", 1, wire.ProtocolHTTP), destination("changed", 2, wire.ProtocolHTTP), backend("changed", wire.ProtocolHTTP),
		backend("missing", wire.ProtocolHTTP), authorization("shop"), authorization("other"),
		wire.New("mesh", wire.ScopeMesh, wire.Origin{}, &wire.Mesh{TrustDomain: "x"}),
	}
	has := []wire.Resource{
		destination("same", 20000, wire.ProtocolHTTP), destination("changed", 20001, wire.ProtocolTCP), backend("changed", wire.ProtocolH2C),
		backend("old", wire.ProtocolHTTP), authorization("shop"), wire.New("10.0.0.1", wire.ScopeNamespace("shop"), wire.Origin{}, &wire.Workload{}),
	}
	want := []Difference{
		{Ref: wire.Ref{Kind: wire.KindBackend, Key: "changed"}, What: Changed, Lines: []string{"- protocol: H2C", "+ protocol: HTTP"}},
		{Ref: wire.Ref{Kind: wire.KindBackend, Key: "missing"}, What: Missing},
		{Ref: wire.Ref{Kind: wire.KindBackend, Key: "old"}, What: LeftOver},
		{Ref: wire.Ref{Kind: wire.KindDestination, Key: "changed"}, What: Changed, Lines: []string{"- protocol: TCP", "+ protocol: HTTP"}},
	}
	if diff := cmp.Diff(want, CompareContent(compiled, "shop", has)); diff != "" {
		t.Errorf("by content (-want +got):\n%s", diff)
	}
	var held []wire.Held
	for _, r := range has {
		held = append(held, wire.Held{Ref: r.Ref, Version: r.Version})
	}
	// A destination's version depends on its number.
	for i := range want {
		want[i].Lines = nil
	}
	if diff := cmp.Diff(want[:3], Compare(compiled, "shop", held)); diff != "" {
		t.Errorf("by version (-want +got):\n%s", diff)
	}
	if got := CompareContent(compiled, "shop", append(compiled[:4:4], authorization("shop"))); len(got) != 0 {
		t.Errorf("equal ones differ: %v", got)
	}
}

func TestLines(t *testing.T) {
	got := Lines(strings.Fields("a b c d"), strings.Fields("a x c d e"))
	if diff := cmp.Diff([]string{"- b", "+ x", "+ e"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// exposed are the metrics of a proxy as text, read as from the network.
func exposed(t *testing.T, m *telemetry.Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Traffic is read from what real proxies expose, so that names cannot drift apart.
func TestTraffic(t *testing.T) {
	m := telemetry.New(0)
	labels := telemetry.Labels{Listener: "captured", Destination: "shop/cart:80", Route: "HTTPRoute/shop/cart", Rule: "main", Backend: "shop/cart-v1:80"}
	series := m.Series(labels)
	caller := m.Caller("front", "web")
	labels.Listener = "hop"
	hop := m.Series(labels)
	sample := func(by By) Sample {
		s := Sample{}
		s.Add("front", exposed(t, m), by)
		return s
	}
	for range 10 {
		series.Request(&telemetry.Outcome{Caller: caller, Status: 200, Took: 3 * time.Millisecond})
	}
	before := map[string]Sample{}
	groups := map[string]By{"shop/cart:80": ByService, "shop/cart-v1:80": ByBackend, "HTTPRoute/shop/cart main": ByRoute, "front": ByNamespace, "front/web": ByCaller}
	for name, by := range groups {
		before[name] = sample(by)
	}
	for range 95 {
		series.Request(&telemetry.Outcome{Caller: caller, Status: 200, Took: 7 * time.Millisecond})
	}
	for range 4 {
		series.Request(&telemetry.Outcome{Caller: caller, Status: 503, Took: 90 * time.Millisecond})
	}
	series.Request(&telemetry.Outcome{Caller: caller, GRPC: true, RPC: "UNAVAILABLE", Status: 200, Took: 90 * time.Millisecond})
	hop.Request(&telemetry.Outcome{Caller: caller, Status: 500, Took: time.Hour})
	for name, by := range groups {
		got := Between(before[name], sample(by), 10*time.Second)
		want := []Traffic{{Name: name, Requests: 100, PerSecond: 10, Success: 95, P50: 7.6, P95: 10, P99: 95}}
		if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 0.4)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := Between(sample(ByService), sample(ByService), time.Second); len(got) != 0 {
		t.Errorf("without requests: %v", got)
	}
}

func TestMerge(t *testing.T) {
	m := telemetry.New(0)
	m.Series(telemetry.Labels{Listener: "captured", Destination: "a"}).Request(&telemetry.Outcome{Status: 200, Took: time.Millisecond})
	one, two := Sample{}, Sample{}
	one.Add("x", exposed(t, m), ByService)
	two.Add("x", exposed(t, m), ByService)
	one.Merge(two)
	if got := Between(Sample{}, one, time.Second); len(got) != 1 || got[0].PerSecond != 2 {
		t.Errorf("two proxies with a request each: %+v", got)
	}
}
