package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/bench/figures"
	"weft.dev/weft/test/feature/harness"
)

// splitShares are what rules declare for the first of two backends, in percent.
var splitShares = []int{1, 5, 20, 50, 99}

// splitProtocols are how the requests come: over several connections of HTTP/1.1, and over one of HTTP/2.
var splitProtocols = []splitProtocol{
	{name: "HTTP/1.1", workers: 8, client: (*harness.Mesh).HTTP},
	{name: "one HTTP/2 connection", workers: 32, one: true, client: (*harness.Mesh).H2C},
}

// splitProtocol is one way for requests to come.
type splitProtocol struct {
	name string
	// workers send at once, each its next request after the answer to the last.
	workers int
	// one tells that they share one connection.
	one    bool
	client func(*harness.Mesh, string) *http.Client
}

// splitPlan is how many requests are sent for each share on each protocol, and how long all of that may
// take: then there are fewer.
type splitPlan struct {
	requests int
	limit    time.Duration
}

// splitRounds is how often the shares take turns.
const splitRounds = 10

func splitPath(percent int) string { return fmt.Sprintf("/%d", percent) }

// splitObjects are a Service of two others, with a rule for each share.
func splitObjects() string {
	var rules strings.Builder
	for _, percent := range splitShares {
		fmt.Fprintf(&rules, `
  - matches: [{path: {type: Exact, value: %s}}]
    backendRefs: [{name: first, port: 80, weight: %d}, {name: second, port: 80, weight: %d}]`, splitPath(percent), percent, 100-percent)
	}
	return service(1) + `
---
apiVersion: v1
kind: Service
metadata: {name: first, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: shop}
spec:
  clusterIP: 10.96.0.3
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: first, namespace: shop, labels: {kubernetes.io/service-name: first}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.1.1], targetRef: {kind: Pod, name: first}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: second, namespace: shop, labels: {kubernetes.io/service-name: second}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.2.1], targetRef: {kind: Pod, name: second}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:` + rules.String()
}

// splits is the scenario of routes that split.
func splits(ctx context.Context, random *rand.Rand, p plan) (out []figures.Figure, err error) {
	mesh, err := startMesh(random)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mesh.Close()) }()
	var objects compile.Snapshot
	if err := harness.DecodeAll([]byte(splitObjects()), &objects); err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if err := apply(ctx, mesh, objects); err != nil {
		return nil, err
	}
	counted := map[string]*backends{}
	for _, percent := range splitShares {
		counted[splitPath(percent)] = &backends{}
	}
	// The pods only count: what they do is the price of a request.
	mesh.Pod(namespace + "/first").Handle(counting(counted, func(b *backends) *atomic.Int64 { return &b.first }))
	mesh.Pod(namespace + "/second").Handle(counting(counted, func(b *backends) *atomic.Int64 { return &b.second }))
	limited, cancel := context.WithTimeout(ctx, p.split.limit)
	defer cancel()
	for i := range splitProtocols {
		out = append(out, splitProtocols[i].measure(limited, mesh, counted, p.split)...)
	}
	return out, ctx.Err()
}

// backends is what the two backends have counted.
type backends struct{ first, second atomic.Int64 }

// counting answers requests and counts them by their path.
func counting(counted map[string]*backends, at func(*backends) *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b := counted[r.URL.Path]; b != nil {
			at(b).Add(1)
		}
		w.WriteHeader(http.StatusOK)
	})
}

// splitResult is what came of the requests of one share.
type splitResult struct {
	percent int
	// first and second are what the backends have counted, failed the requests that were not answered 200.
	first, second, failed int64
}

// measure sends the requests of one protocol, for all shares in turn, so that all have as many if it has to
// end early. Half of the time is for each protocol.
func (p *splitProtocol) measure(ctx context.Context, mesh *harness.Mesh, counted map[string]*backends, plan splitPlan) []figures.Figure {
	ctx, cancel := context.WithTimeout(ctx, plan.limit/time.Duration(len(splitProtocols)))
	defer cancel()
	client := p.client(mesh, namespace)
	results := make([]splitResult, len(splitShares))
	for i, percent := range splitShares {
		b := counted[splitPath(percent)]
		results[i] = splitResult{percent: percent, first: -b.first.Load(), second: -b.second.Load()}
	}
	var connections sync.Map
	for range splitRounds {
		for i, percent := range splitShares {
			results[i].failed += p.send(ctx, client, "http://web"+splitPath(percent), plan.requests/splitRounds, &connections)
		}
	}
	for i, percent := range splitShares {
		b := counted[splitPath(percent)]
		results[i].first += b.first.Load()
		results[i].second += b.second.Load()
	}
	opened := 0
	connections.Range(func(any, any) bool { opened++; return true })
	return splitFigures(p, results, plan.requests, opened)
}

// send sends n requests, or fewer if ctx ends before, notes their connections and returns how many of them
// failed.
func (p *splitProtocol) send(ctx context.Context, client *http.Client, url string, n int, connections *sync.Map) int64 {
	traced := httptrace.WithClientTrace(context.WithoutCancel(ctx), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { connections.Store(info.Conn, true) },
	})
	var begun, failed atomic.Int64
	again := func() bool { return ctx.Err() == nil && begun.Add(1) <= int64(n) }
	one := func() {
		if status, err := get(traced, client, url); err != nil || status != http.StatusOK {
			failed.Add(1)
		}
	}
	// The first one opens the connection that the others share, where there is to be one.
	if again() {
		one()
	}
	var workers sync.WaitGroup
	for range p.workers {
		workers.Go(func() {
			for again() {
				one()
			}
		})
	}
	workers.Wait()
	return failed.Load()
}

// splitFigures judge the counts of one protocol.
func splitFigures(p *splitProtocol, results []splitResult, requests, connections int) []figures.Figure {
	out := make([]figures.Figure, 0, len(results)+3)
	fewest, failed := results[0].first+results[0].second, int64(0)
	for _, r := range results {
		n := r.first + r.second
		fewest, failed = min(fewest, n), failed+r.failed
		out = append(out, splitFigure(fmt.Sprintf("%d%% on %s", r.percent, p.name), r.percent, r.first, n))
	}
	opened := figures.New(p.name+": connections", float64(connections), "connections")
	if p.one {
		opened = opened.AtMost(1)
	} else {
		opened = opened.AtLeast(2)
	}
	return append(out,
		opened,
		figures.New(p.name+": requests for each share", float64(fewest), "requests").AtLeast(float64(requests)),
		figures.New(p.name+": not answered 200", float64(failed), "requests").AtMost(0),
	)
}

// splitFigure judges one share: the declared one must be in the interval of those that the count speaks for.
func splitFigure(name string, percent int, hits, n int64) figures.Figure {
	in := wilson(int(hits), int(n), z999)
	f := figures.New(name, percentage(float64(hits), float64(n)), "%")
	met := n > 0 && in.holds(float64(percent)/100)
	f.Goal, f.Met = fmt.Sprintf("%.3f <= %d <= %.3f", 100*in.low, percent, 100*in.high), &met
	return f
}
