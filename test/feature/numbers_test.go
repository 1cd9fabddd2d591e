package feature_test

import (
	"net/http"
	"slices"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"weft.dev/weft/test/feature/harness"
)

// TestRandomSplit is a split as in production, where no choice knows of the others. Its limits are five
// standard deviations wide.
func TestRandomSplit(t *testing.T) {
	m := startWith(t, harness.Options{})
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: web-v1, port: 80, weight: 90}, {name: web-v2, port: 80, weight: 10}]}]
`))
	client := m.HTTP("shop")
	const n, want, limit = 2000, 200, 68
	for range n {
		must(t, client, get(t, "http://web/"))
	}
	if got := pod(t, m, "web-v2").Requests(); got < want-limit || got > want+limit {
		t.Errorf("%d of %d requests reached web-v2, want %d", got, n, want)
	}
}

// TestMirrorShares: mirrors take the share that they declare, each independently of the others. The
// limits are five standard deviations wide.
func TestMirrorShares(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: web-v2, port: 80}, percent: 20}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: audit, port: 80}, fraction: {numerator: 1, denominator: 2}}}
    backendRefs: [{name: web-v1, port: 80}]
`))
	client := m.HTTP("shop")
	const n = 1000
	for range n {
		if a := must(t, client, get(t, "http://web/")); a.echo.Pod != "web-v1" {
			t.Fatalf("answered by %q, want web-v1", a.echo.Pod)
		}
	}
	// A proxy that ends finishes its mirrors first.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for name, limits := range map[string][2]int{"web-v1": {n, n}, "web-v2": {136, 264}, "audit": {420, 580}} {
		if got := pod(t, m, name).Requests(); got < limits[0] || got > limits[1] {
			t.Errorf("%d of %d requests reached %s, want between %d and %d", got, n, name, limits[0], limits[1])
		}
	}
}

// TestMetrics: requests are counted by route, rule, backend and status; a rule goes by its name if it has
// one.
func TestMetrics(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: checkout
    matches: [{path: {value: /checkout}}]
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /missing}}]
    backendRefs: [{name: nobody, port: 80}]
`))
	client := m.HTTP("shop")
	for _, path := range []string{"/checkout", "/checkout", "/missing", "/else"} {
		must(t, client, get(t, "http://web"+path))
	}
	for name, labels := range map[string]map[string]string{
		"a named rule":          {"weft_route_name": "web", "weft_rule": "checkout", "weft_backend": "shop/web-v1:80", "http_response_status_code": "200"},
		"a rule without a name": {"weft_route_name": "web", "weft_rule": "1", "http_response_status_code": "500", "error_type": "invalid_backend"},
		"no rule":               {"weft_destination_namespace": "shop", "weft_destination_service": "web", "weft_destination_port": "80", "weft_route_name": "", "http_response_status_code": "404"},
	} {
		t.Run(name, func(t *testing.T) {
			want := 1.0
			if labels["weft_rule"] == "checkout" {
				want = 2
			}
			if got := requests(t, m, labels); got != want {
				t.Errorf("%v requests counted for %v, want %v", got, labels, want)
			}
		})
	}
	if a := must(t, client, get(t, "http://web/checkout")); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
}

// requests counts requests that have all labels.
func requests(t *testing.T, m *harness.Mesh, labels map[string]string) float64 {
	t.Helper()
	return counted(t, m, "shop", "http_server_request_duration_seconds", labels)
}

// counted sums the counters of that name, or what its histograms have observed, of a namespace's proxy that have all labels.
func counted(t *testing.T, m *harness.Mesh, namespace, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := m.Metrics(namespace).Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if hasLabels(metric, labels) {
				sum += metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func hasLabels(metric *dto.Metric, labels map[string]string) bool {
	for name, value := range labels {
		i := slices.IndexFunc(metric.GetLabel(), func(p *dto.LabelPair) bool { return p.GetName() == name })
		if i < 0 && value != "" || i >= 0 && metric.GetLabel()[i].GetValue() != value {
			return false
		}
	}
	return true
}
