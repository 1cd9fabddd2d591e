// Package observability_test lets a real Prometheus scrape a mesh in this process.
package observability_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/config/observability"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/feature/harness"
	"weft.dev/weft/test/output"
)

// observed is a mesh in which everything happens that dashboards show.
const observed = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v2, namespace: shop, labels: {kubernetes.io/service-name: web-v2}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.3], targetRef: {kind: Pod, name: web-v2}}
- {addresses: [10.244.0.13], targetRef: {kind: Pod, name: web-v2-well}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: broken
    matches: [{path: {value: /broken}}]
    backendRefs: [{name: web-v1, port: 80}]
  - name: failing
    matches: [{path: {value: /failing}}]
    backendRefs: [{name: audit, port: 80}]
  - name: stable
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: audit, port: 80}}}]
    backendRefs: [{name: web-v1, port: 80, weight: 1}, {name: web-v2, port: 80, weight: 1}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: fault, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: broken}]
  fault: {abort: {percent: 100, status: 503}}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  retry: {attempts: 1, codes: [500], backoff: {base: 1ms, max: 1ms}, budget: {percent: 100}}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: failing, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web-v2}]
  outlierEjection: {consecutiveFailures: 2, ejectionTime: 100ms, maxEjectedPercent: 100}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: busy, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: ledger}]
  circuitBreaking: {maxRequests: 1, maxPendingRequests: 1, pendingTimeout: 1s}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: Deny
  rules:
  - from: [{namespaces: [bank]}]
    to: [{paths: [{type: Exact, value: /secret}]}]
`

const observedTrace = "0af7651916cd43dd8448eb211c80319c"

// TestPrometheus: a real Prometheus scrapes a mesh in which requests are sent, and every query of the dashboards, the
// alerts and the rules returns something, exemplars and native histograms among it.
func TestPrometheus(t *testing.T) {
	m := start(t)
	failing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	m.Pod("shop/web-v2").Handle(failing)
	m.Pod("shop/audit").Handle(failing)
	m.Pod("bank/ledger").Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select { // long enough for others to find it busy
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusOK)
	}))
	targets := exposition(t, m)
	classic := runPrometheus(t, targets, "exemplar-storage")
	native := runPrometheus(t, targets, "native-histograms")
	use(t, m)

	replace := strings.NewReplacer("$__rate_interval", "15s", "$namespace", ".+", "$service", ".+")
	queries := map[string]string{}
	for _, r := range observability.Rules {
		queries["rule "+r.Record] = r.Expr
		queries["record "+r.Record] = r.Record
	}
	for i := range observability.Alerts {
		queries["alert "+observability.Alerts[i].Name] = observability.Alerts[i].Query
	}
	for _, d := range observability.Dashboards {
		for _, p := range d.Panels {
			for _, q := range p.Queries {
				queries[d.UID+", "+p.Title+", "+q.Legend] = replace.Replace(q.Expr)
			}
		}
	}
	queries["who calls"] = `weft:requests:rate5m{weft_destination_service="web",weft_source_namespace="bank",weft_source_service_account="client"} > 0`
	queries["a failing backend"] = `weft:backend_requests_failed:rate5m{weft_rule="failing",weft_backend="shop/audit:80"} > 0`
	queries["an alert"] = `ALERTS{alertname="WeftServiceFailing",alertstate="pending",weft_destination_service="web"}`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	classic.await(ctx, t, queries)
	native.await(ctx, t, map[string]string{
		"a native histogram": `histogram_quantile(0.99, sum by (weft_destination_service) (rate(http_server_request_duration_seconds{weft_listener="captured"}[15s]))) > 0`,
		"its count":          `sum(histogram_count(rpc_server_call_duration_seconds)) > 0`,
	})
	classic.awaitExemplar(ctx, t)
}

// patience bounds what is waited for.
const patience = 2 * time.Minute

// start runs the mesh.
func start(t *testing.T) *harness.Mesh {
	t.Helper()
	defaults, err := os.ReadFile("../feature/testdata/_defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var objects compile.Snapshot
	if err := harness.DecodeAll(append(append(defaults, "---\n"...), observed...), &objects); err != nil {
		t.Fatal(err)
	}
	m, err := harness.Start(harness.Options{AccessLog: func(string) io.Writer { return io.Discard }, Log: slog.New(slog.NewTextHandler(output.Of(t), &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close the mesh: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	applied, err := m.Apply(ctx, objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range applied.Rejected {
		t.Errorf("proxies reject %s: %s", r.Ref, r.Reason)
	}
	return m
}

// use sends requests of all kinds until the test ends.
func use(t *testing.T, m *harness.Mesh) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var using sync.WaitGroup
	t.Cleanup(using.Wait)
	t.Cleanup(cancel)
	again := func(act func()) {
		using.Go(func() {
			for ctx.Err() == nil {
				act()
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	// What becomes of a request is the matter of other tests.
	send := func(client *http.Client, target string) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Traceparent", "00-"+observedTrace+"-b7ad6b7169203331-01")
		if res, err := client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}
	shop, bank := m.HTTP("shop"), m.HTTP("bank")
	again(func() {
		send(shop, "http://web/")
		send(shop, "http://web/broken")
		send(shop, "http://web/failing")
		send(bank, "http://web.shop/")
		send(bank, "http://web.shop/secret")
	})
	for range 4 {
		again(func() { send(shop, "http://ledger.bank/") })
	}
	for _, target := range []string{"web:9000", "ledger.bank:9000"} {
		conn, err := m.GRPC("shop", target)
		if err != nil {
			t.Fatal(err)
		}
		again(func() { _ = conn.Invoke(ctx, "/demo.Echo/Say", &emptypb.Empty{}, &wrapperspb.StringValue{}) })
	}
	again(func() {
		c, err := m.Dial(ctx, "shop", "ledger.bank:5432")
		if err != nil {
			return
		}
		// The pod greets, so that the connection is known to be relayed.
		_, _ = bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
	})
}

// exposition serves what Prometheus scrapes, and returns its jobs.
func exposition(t *testing.T, m *harness.Mesh) []map[string]any {
	t.Helper()
	mux := http.NewServeMux()
	for _, namespace := range []string{"shop", "bank"} {
		mux.Handle("/"+namespace, m.MetricsHandler(namespace))
	}
	// The certificate authority of the harness has no keeper that would tell.
	authority := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weft_certificate_expiration_timestamp_seconds"}, []string{"certificate"})
	authority.WithLabelValues("root").Set(float64(time.Now().Add(time.Hour).Unix()))
	operator := prometheus.NewRegistry()
	operator.MustRegister(authority)
	mux.Handle("/operator", promhttp.HandlerFor(prometheus.Gatherers{m.ControlMetrics(), operator}, promhttp.HandlerOpts{}))
	mux.Handle("/node", promhttp.HandlerFor(nodeAgent(t), promhttp.HandlerOpts{}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	job := func(name string, paths ...string) map[string]any {
		var targets []map[string]any
		for _, path := range paths {
			// One server stands for several pods.
			targets = append(targets, map[string]any{"targets": []string{address}, "labels": map[string]string{
				"__metrics_path__": "/" + path, "namespace": path, "pod": name + "-" + path, "instance": path,
			}})
		}
		return map[string]any{"job_name": name, "static_configs": targets}
	}
	return []map[string]any{job("weft-proxy", "shop", "bank"), job("weft-operator", "operator"), job("weft-node", "node")}
}

// nodeAgent runs an agent without pods, whose canary proves everything.
func nodeAgent(t *testing.T) prometheus.Gatherer {
	t.Helper()
	registry := prometheus.NewRegistry()
	proven := make(chan struct{})
	prove := sync.OnceFunc(func() { close(proven) })
	agent := capture.New(capture.Config{
		NodeAddresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil },
		Remember:      func([]string) error { return nil },
		Canary: func(context.Context) wire.CanaryReport {
			return wire.CanaryReport{Time: time.Now(), Captured: true, Guarded: true, StrictEnforced: true}
		},
		Report: func(r wire.NodeReport) {
			if r.Canary != nil {
				prove()
			}
		},
		Metrics: capture.NewMetrics(registry),
		Log:     slog.New(slog.DiscardHandler),
	})
	registry.MustRegister(agent)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { agent.Run(ctx) })
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	<-proven
	return registry
}

// prometheusServer is one that runs.
type prometheusServer struct{ url string }

// runPrometheus starts Debian's Prometheus with the rules of the PrometheusRule and a feature; it ends with the test.
func runPrometheus(t *testing.T, jobs []map[string]any, feature string) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	manifest, err := observability.PrometheusRule()
	if err != nil {
		t.Fatal(err)
	}
	var rule struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := yaml.Unmarshal(manifest, &rule); err != nil {
		t.Fatal(err)
	}
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{"rules.yaml"},
		"scrape_configs": jobs,
	})
	if err != nil {
		t.Fatal(err)
	}
	// JSON is YAML.
	for name, content := range map[string][]byte{"rules.yaml": rule.Spec, "prometheus.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := t.Output()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--enable-feature="+feature, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; the package is installed by make packages", err)
	}
	t.Cleanup(func() {
		// It has nothing to keep.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return prometheusServer{"http://" + address}
}

// asking bounds how long an answer may take.
var asking = &http.Client{Timeout: 20 * time.Second}

// get reads the data of an answer; one that is not there yet or has failed is nil.
func (p prometheusServer) get(ctx context.Context, path string, query url.Values) (json.RawMessage, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := asking.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", res.Status, body)
	}
	var answer struct{ Data json.RawMessage }
	return answer.Data, json.Unmarshal(body, &answer)
}

// await waits until each query has returned something. Those that have are removed.
func (p prometheusServer) await(ctx context.Context, t *testing.T, queries map[string]string) {
	t.Helper()
	ok := p.until(ctx, func(ctx context.Context) bool {
		maps.DeleteFunc(queries, func(_, query string) bool {
			data, err := p.get(ctx, "/api/v1/query", url.Values{"query": {query}})
			var found struct{ Result []json.RawMessage }
			return err == nil && json.Unmarshal(data, &found) == nil && len(found.Result) > 0
		})
		return len(queries) == 0
	})
	if !ok {
		for where, query := range queries {
			t.Errorf("%s returns nothing: %s", where, query)
		}
	}
}

// awaitExemplar waits until a request leads to its trace.
func (p prometheusServer) awaitExemplar(ctx context.Context, t *testing.T) {
	t.Helper()
	now := time.Now()
	query := url.Values{
		"query": {"http_server_request_duration_seconds_bucket"},
		"start": {now.Add(-time.Hour).Format(time.RFC3339)}, "end": {now.Add(time.Hour).Format(time.RFC3339)},
	}
	if !p.until(ctx, func(ctx context.Context) bool {
		data, err := p.get(ctx, "/api/v1/query_exemplars", query)
		return err == nil && strings.Contains(string(data), observedTrace)
	}) {
		t.Error("no exemplar leads to a trace")
	}
}

// until asks again and again, and is false if that was in vain.
func (p prometheusServer) until(ctx context.Context, enough func(context.Context) bool) bool {
	for !enough(ctx) {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}
