package feature_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

const retryPolicies = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: all, namespace: shop}
spec:
  retry:
    attempts: 2
    codes: [502, 503]
    backoff: {base: 1ms, max: 10ms}
    budget: {percent: 100}
  loadBalancing: {algorithm: RoundRobin}
  outlierEjection: {consecutiveFailures: 0}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: ledger, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: ledger}]
  retry:
    attempts: 2
    codes: [502, 503]
    backoff: {base: 1ms, max: 10ms}
    budget: {percent: 100}
  loadBalancing: {algorithm: RoundRobin}
  outlierEjection: {consecutiveFailures: 0}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: all-methods, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: all}]
  retry: {methods: All}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: poor, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: poor}]
  retry: {budget: {percent: 0, minRetryRate: {count: 0}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: all
    matches: [{path: {value: /all}}]
    backendRefs: [{name: web-v1, port: 80}]
  - name: poor
    matches: [{path: {value: /poor}}]
    backendRefs: [{name: web-v1, port: 80}]
  - name: rest
    backendRefs: [{name: web-v1, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v1, namespace: shop, labels: {kubernetes.io/service-name: web-v1}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.2], targetRef: {kind: Pod, name: web-v1}}
- {addresses: [10.244.0.12], targetRef: {kind: Pod, name: web-v1-busy}}
- {addresses: [10.244.0.22], targetRef: {kind: Pod, name: web-v1-dying}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger, namespace: bank, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1], targetRef: {kind: Pod, name: ledger}}
- {addresses: [10.244.1.11], targetRef: {kind: Pod, name: ledger-busy}}
- {addresses: [10.244.1.21], targetRef: {kind: Pod, name: ledger-dying}}
`

// TestPolicyRetries: of three pods one says that it is busy and one dies of every request. Who may be asked
// again always finds the third, and who may not is never asked twice.
func TestPolicyRetries(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, retryPolicies))
	var mu sync.Mutex
	arrived := map[string]int{}
	for _, name := range []string{"web-v1", "ledger"} {
		for suffix, end := range map[string]func(http.ResponseWriter){
			"":       func(http.ResponseWriter) {},
			"-busy":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
			"-dying": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		} {
			pod(t, m, name+suffix).Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				arrived[string(body)]++
				mu.Unlock()
				end(w)
			}))
		}
	}
	const requests = 60
	tests := map[string]struct {
		url  string
		post bool
		// reasons are what requests that fail may be answered with; none must fail if there are none.
		reasons string
	}{
		"idempotent":                      {url: "http://web/"},
		"idempotent, over the hop":        {url: "http://ledger.bank/"},
		"POST":                            {url: "http://web/", post: true, reasons: " upstream_reset_before_headers "},
		"POST, over the hop":              {url: "http://ledger.bank/", post: true, reasons: " upstream_reset_before_headers "},
		"POST with methods: All":          {url: "http://web/all", post: true},
		"without a budget":                {url: "http://web/poor", reasons: " retry_budget_exhausted "},
		"POST without a budget is passed": {url: "http://web/poor", post: true, reasons: " upstream_reset_before_headers "},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			client := m.HTTP("shop")
			failed := 0
			for i := range requests {
				req, order := get(t, tc.url), fmt.Sprint(name, " ", i)
				if tc.post {
					req = post(t, tc.url, order)
				}
				a := must(t, client, req)
				for field := range a.header {
					if strings.HasPrefix(field, "Weft-") && field != "Weft-Reason" {
						t.Errorf("the client sees %s", field)
					}
				}
				mu.Lock()
				times := arrived[order]
				mu.Unlock()
				if tc.post && !strings.HasSuffix(tc.url, "/all") && times != 1 {
					t.Errorf("order %q arrived %d times", order, times)
				}
				if a.status == http.StatusOK {
					continue
				}
				failed++
				if why := a.header.Get("Weft-Reason"); tc.reasons == "" || !strings.Contains(tc.reasons, " "+why+" ") && (why != "" || !tc.post) {
					t.Errorf("answer %d %q", a.status, why)
				}
			}
			if tc.reasons != "" && failed == 0 {
				t.Error("nothing failed, although two of three pods do")
			}
		})
	}
}

// TestPolicyTimeouts: a namespace's timeouts bind its Services, those of a route go first.
func TestPolicyTimeouts(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: all, namespace: shop}
spec:
  timeouts: {request: 250ms}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: idle, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: idle}]
  timeouts: {request: 0s, idle: 250ms}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: idle
    matches: [{path: {value: /idle}}]
    backendRefs: [{name: ledger, namespace: bank, port: 80}]
  - name: own
    matches: [{path: {value: /own}}]
    timeouts: {request: 1h}
    backendRefs: [{name: web-v2, port: 80}]
  - backendRefs: [{name: web-v1, port: 80}]
`))
	for _, name := range []string{"web-v1", "ledger"} {
		pod(t, m, name).Handle(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	}
	for path, want := range map[string]string{
		"/": "504 deadline_exceeded", "/idle": "504 idle_timeout", "/own": "200 ",
	} {
		a := must(t, m.HTTP("shop"), get(t, "http://web"+path))
		if got := fmt.Sprint(a.status, " ", a.header.Get("weft-reason")); got != want {
			t.Errorf("%s: answer %s, want %s", path, got, want)
		}
	}
}
