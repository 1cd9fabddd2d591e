package feature_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/test/feature/harness"
)

// five is a Service of five pods in each of two namespaces, under one policy.
const five = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec: POLICY
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: ledger, namespace: bank}
spec: POLICY
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.1], targetRef: {kind: Pod, name: web}}
- {addresses: [10.244.0.12], targetRef: {kind: Pod, name: web-slow}}
- {addresses: [10.244.0.13], targetRef: {kind: Pod, name: web-failing}}
- {addresses: [10.244.0.14], targetRef: {kind: Pod, name: web-dying}}
- {addresses: [10.244.0.15], targetRef: {kind: Pod, name: web-closed}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger, namespace: bank, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1], targetRef: {kind: Pod, name: ledger}}
- {addresses: [10.244.1.12], targetRef: {kind: Pod, name: ledger-slow}}
- {addresses: [10.244.1.13], targetRef: {kind: Pod, name: ledger-failing}}
- {addresses: [10.244.1.14], targetRef: {kind: Pod, name: ledger-dying}}
- {addresses: [10.244.1.15], targetRef: {kind: Pod, name: ledger-closed}}
`

func fiveWith(policy string) string { return strings.ReplaceAll(five, "POLICY", policy) }

// services are one in the client's own namespace, whose proxy picks the pods, and one over the hop, where
// another proxy does.
var services = map[string]struct{ namespace, name, url, backend string }{
	"in the same namespace": {"shop", "web", "http://web/", "shop/web:80"},
	"in another namespace":  {"bank", "ledger", "http://ledger.bank/", "bank/ledger:80"},
}

// upstream returns a metric about a backend of a namespace's proxy.
func upstream(t *testing.T, m *harness.Mesh, namespace, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := m.Metrics(namespace).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && hasLabels(metric, labels) {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestInstancesThatAreNotWell: of five pods one is slow, one fails, one dies of every request and one
// refuses connections. Clients see nothing of it, and once the bad ones are ejected they get next to nothing.
func TestInstancesThatAreNotWell(t *testing.T) {
	for name, tc := range services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			apply(t, m, with(t, fiveWith(`
  retry: {attempts: 4, codes: [500, 502, 503], backoff: {base: 1ms, max: 10ms}, budget: {percent: 100}}
  outlierEjection: {consecutiveFailures: 2, ejectionTime: 1m, maxEjectedPercent: 60}`)))
			handle(t, m, tc.name+"-slow", func(http.ResponseWriter, *http.Request) { <-time.After(time.Second) })
			handle(t, m, tc.name+"-failing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
			handle(t, m, tc.name+"-dying", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			if err := m.Refuse(pod(t, m, tc.name+"-closed")); err != nil {
				t.Fatal(err)
			}
			client := m.HTTP("shop")
			ask := func() {
				t.Helper()
				if a := must(t, client, get(t, tc.url)); a.status != http.StatusOK {
					t.Fatalf("answer %d %s", a.status, a.header.Get("Weft-Reason"))
				}
			}
			ejected := func() float64 {
				return upstream(t, m, tc.namespace, "weft_upstream_endpoints", map[string]string{"weft_backend": tc.backend, "state": "ejected"})
			}
			for end := time.Now().Add(patience); ejected() < 3; {
				if time.Now().After(end) {
					t.Fatalf("%v instances are ejected", ejected())
				}
				ask()
			}
			before := map[string]int{}
			for _, suffix := range []string{"-slow", "-failing", "-dying"} {
				before[suffix] = pod(t, m, tc.name+suffix).Requests()
			}
			const requests = 600
			for range requests {
				ask()
			}
			for suffix, most := range map[string]int{"-slow": requests * 5 / 100, "-failing": requests / 100, "-dying": requests / 100} {
				if n := pod(t, m, tc.name+suffix).Requests() - before[suffix]; n >= most {
					t.Errorf("%s got %d of %d requests", tc.name+suffix, n, requests)
				}
			}
		})
	}
}

// handle makes a pod answer with a handler.
func handle(t *testing.T, m *harness.Mesh, name string, h http.HandlerFunc) {
	t.Helper()
	pod(t, m, name).Handle(h)
}

// TestInstancesThatRecover: pods that are well again come back into use.
func TestInstancesThatRecover(t *testing.T) {
	for name, tc := range services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			apply(t, m, with(t, fiveWith(`
  loadBalancing: {algorithm: RoundRobin}
  outlierEjection: {consecutiveFailures: 2, ejectionTime: 100ms, maxEjectionTime: 200ms}`)))
			var well atomic.Bool
			for _, suffix := range []string{"-failing", "-dying"} {
				handle(t, m, tc.name+suffix, func(w http.ResponseWriter, _ *http.Request) {
					if well.Load() {
						return
					}
					if suffix == "-dying" {
						panic(http.ErrAbortHandler)
					}
					w.WriteHeader(http.StatusInternalServerError)
				})
			}
			client := m.HTTP("shop")
			until := func(ejected float64) {
				t.Helper()
				for end := time.Now().Add(patience); ; {
					is := upstream(t, m, tc.namespace, "weft_upstream_endpoints", map[string]string{"weft_backend": tc.backend, "state": "ejected"})
					if is == ejected {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("%v instances are ejected, want %v", is, ejected)
					}
					must(t, client, get(t, tc.url))
				}
			}
			until(2)
			well.Store(true)
			until(0)
			before := map[string]int{}
			for _, suffix := range []string{"-failing", "-dying"} {
				before[suffix] = pod(t, m, tc.name+suffix).Requests()
			}
			for range 50 {
				if a := must(t, client, get(t, tc.url)); a.status != http.StatusOK {
					t.Errorf("answer %d %s", a.status, a.header.Get("Weft-Reason"))
				}
			}
			for suffix, n := range before {
				if got := pod(t, m, tc.name+suffix).Requests() - n; got != 10 {
					t.Errorf("%s got %d of 50 requests", tc.name+suffix, got)
				}
			}
		})
	}
}

// TestHealthChecks: a pod that fails its health check gets no requests, although it would answer them.
func TestHealthChecks(t *testing.T) {
	for name, tc := range services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			apply(t, m, with(t, fiveWith(`
  healthCheck: {type: HTTP, path: /healthz, interval: 3s, timeout: 3s, unhealthyThreshold: 1}
  outlierEjection: {panicPercent: 0}`)))
			asked := make(chan struct{}, 1)
			handle(t, m, tc.name+"-failing", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/healthz" {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				select {
				case asked <- struct{}{}:
				default:
				}
			})
			client := m.HTTP("shop")
			for end := time.Now().Add(patience); ; {
				if upstream(t, m, tc.namespace, "weft_upstream_endpoints", map[string]string{"weft_backend": tc.backend, "state": "unhealthy"}) == 1 {
					break
				}
				if time.Now().After(end) {
					t.Fatal("no instance is unhealthy")
				}
				must(t, client, get(t, tc.url))
			}
			select {
			case <-asked:
			default:
			}
			for range 50 {
				must(t, client, get(t, tc.url))
			}
			if len(asked) > 0 {
				t.Error("the unhealthy instance was asked")
			}
		})
	}
}

// TestCircuitBreaking: a Service that has as many requests as it may lets one more wait, and the others
// hear it at once.
func TestCircuitBreaking(t *testing.T) {
	for name, tc := range services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			apply(t, m, with(t, fiveWith(`
  circuitBreaking: {maxRequests: 1, maxPendingRequests: 1, pendingTimeout: 1m}`)))
			arrived, finish := make(chan struct{}), make(chan struct{})
			for _, suffix := range []string{"", "-slow", "-failing", "-dying", "-closed"} {
				handle(t, m, tc.name+suffix, func(http.ResponseWriter, *http.Request) {
					arrived <- struct{}{}
					<-finish
				})
			}
			client := m.HTTP("shop")
			status := make(chan int, 2)
			send := func() {
				req := get(t, tc.url)
				go func() {
					res, err := client.Do(req)
					if err != nil {
						t.Errorf("send: %v", err)
						status <- 0
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					status <- res.StatusCode
				}()
			}
			send()
			<-arrived
			send()
			for end := time.Now().Add(patience); ; {
				if upstream(t, m, tc.namespace, "weft_circuit_breaker_pending", map[string]string{"weft_backend": tc.backend}) == 1 {
					break
				}
				if time.Now().After(end) {
					t.Fatal("no request waits")
				}
			}
			a := must(t, client, get(t, tc.url))
			if a.status != http.StatusServiceUnavailable || a.header.Get("Weft-Reason") != "circuit_open" || a.header.Get("Retry-After") != "1" {
				t.Errorf("answer %d %q, Retry-After %q", a.status, a.header.Get("Weft-Reason"), a.header.Get("Retry-After"))
			}
			finish <- struct{}{}
			<-arrived
			finish <- struct{}{}
			for range 2 {
				if s := <-status; s != http.StatusOK {
					t.Errorf("status %d", s)
				}
			}
		})
	}
}
