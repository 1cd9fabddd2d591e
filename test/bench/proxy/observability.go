package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/expfmt"

	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/figures"
)

// Our proxies with nothing about requests measured, and as users have them: with metrics, which are scraped, and a
// trace of every hundredth request. Neither writes an access log.
const (
	stdSilent    = std + silent
	stdObserved  = std + observed
	weftSilent   = weft + silent
	weftObserved = weft + observed

	silent   = "-silent"
	observed = "-observed"
)

var observability = scenario{
	name: "observability", subjects: []string{stdSilent, stdObserved, weftSilent, weftObserved}, unit: cpuUnit,
	measure: saturated(16, "GET", "/1024", 0),
	goals:   []goal{{stdObserved, stdSilent, 1.10}, {weftObserved, weftSilent, 1.10}},
}

// observe changes what a proxy is made from into what its name says, and returns what it is configured with besides.
func observe(name, collector string, options *engine.Options, destination *wire.Destination) ([]wire.Resource, error) {
	switch {
	case strings.HasSuffix(name, silent):
		options.Metrics = telemetry.Off()
		return nil, nil
	case !strings.HasSuffix(name, observed):
		return nil, nil
	}
	destination.Policy = &wire.Policy{Telemetry: &wire.Telemetry{Tracing: &wire.Tracing{
		SamplingRate: &wire.Fraction{Numerator: 1, Denominator: 100},
	}}}
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		return nil, err
	}
	ca, err := identity.ParseCA(data)
	if err != nil {
		return nil, err
	}
	mesh := &wire.Mesh{
		TrustDomain: "cluster.local", TrustBundle: ca.Bundle(),
		Traces: &wire.Collector{Endpoint: collector + "/v1/traces", Protocol: wire.CollectorHTTP},
	}
	return []wire.Resource{wire.New("mesh", wire.ScopeMesh, wire.Origin{}, mesh)}, nil
}

// scrape reads an engine's metrics every second, much more often than Prometheus does, until ctx ends.
func scrape(ctx context.Context, e *engine.Engine) {
	handler := e.Metrics().Handler()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody))
		case <-ctx.Done():
			return
		}
	}
}

// collector takes traces and forgets them, on the core of the load.
type collector struct {
	*httptest.Server
	// taken counts what has come.
	taken atomic.Int64
}

func newCollector() *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		c.taken.Add(n)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	return c
}

// idleRoutes is how many routes nobody uses.
const idleRoutes = 5000

// idleSeries counts the time series of a proxy with many Services, each with a route of its own, that nobody calls.
func idleSeries() (figures.Figure, error) {
	const namespace = "shop"
	scope, origin := wire.ScopeNamespace(namespace), wire.Origin{}
	e := engine.New(engine.Options{Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"}})
	resources := make([]wire.Resource, 0, 4*idleRoutes)
	for i := range idleRoutes {
		service := fmt.Sprintf("service-%d", i)
		key := wire.ServicePortKey(namespace, service, 80)
		route := &wire.Route{
			Kind: wire.RouteHTTP, Namespace: namespace, Name: service, Destinations: []string{key}, Backends: []wire.WeightedBackend{{Backend: key, Weight: 1}},
		}
		resources = append(resources,
			wire.New(key, scope, origin, &wire.Destination{Namespace: namespace, Service: service, Port: 80, Protocol: wire.ProtocolHTTP}),
			wire.New(key, scope, origin, &wire.Backend{Namespace: namespace, Service: service, Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true}),
			wire.New(key, scope, origin, &wire.Endpoints{Endpoints: []wire.Endpoint{{Address: netip.MustParseAddrPort("127.0.0.1:1")}}}),
			wire.New(route.Key(), scope, origin, route))
	}
	if rejected := e.Apply(wire.Delta{Seq: 1, Upserted: resources}); len(rejected) > 0 {
		return figures.Figure{}, fmt.Errorf("rejected: %v", rejected)
	}
	families, err := e.Metrics().Gatherer().Gather()
	if err != nil {
		return figures.Figure{}, err
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			return figures.Figure{}, err
		}
	}
	series := 0
	for line := range bytes.Lines(text.Bytes()) {
		if line[0] != '#' {
			series++
		}
	}
	return figures.New(fmt.Sprintf("series at %d routes idle", idleRoutes), float64(series), "series").AtMost(2000), nil
}
