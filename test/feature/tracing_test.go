package feature_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/feature/harness"
	"weft.dev/weft/test/spans"
)

// otelCollector is the receiver of the OpenTelemetry Collector, as a process of its own.
type otelCollector struct {
	// grpc and http are its addresses.
	grpc, http string
	batches    chan string
	spans      []spans.Span
}

// startCollector starts a collector that ends with the test.
func startCollector(t *testing.T) *otelCollector {
	t.Helper()
	run := exec.Command("go", "run", ".")
	run.Dir = filepath.Join("..", "..", "tools", "collector")
	run.Env = append(os.Environ(), "CGO_ENABLED=0")
	run.Stderr = os.Stderr
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	c := &otelCollector{batches: make(chan string, 1000)}
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = in.Close()
		<-read
		if err := run.Wait(); err != nil {
			t.Errorf("collector: %v", err)
		}
	})
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("collector: %v", err)
	}
	addresses := strings.Fields(first)
	c.grpc, c.http = addresses[1], addresses[2]
	go func() {
		defer close(read)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			c.batches <- line
		}
	}()
	return c
}

// await returns all spans once there are so many.
func (c *otelCollector) await(t *testing.T, n int) []spans.Span {
	t.Helper()
	deadline := time.After(patience)
	for len(c.spans) < n {
		select {
		case batch := <-c.batches:
			c.take(t, batch)
		case <-deadline:
			t.Fatalf("%d spans have come, not %d: %+v", len(c.spans), n, c.spans)
		}
	}
	return c.spans
}

func (c *otelCollector) take(t *testing.T, batch string) {
	t.Helper()
	more, err := spans.Read(batch)
	if err != nil {
		t.Fatal(err)
	}
	c.spans = append(c.spans, more...)
}

// TestTracing: the OpenTelemetry Collector gets one trace of a request across the client's proxy, the server's, and a
// retry, over gRPC and HTTP. The application continues it.
func TestTracing(t *testing.T) {
	for _, protocol := range []string{"GRPC", "HTTP"} {
		t.Run(protocol, func(t *testing.T) {
			collector := startCollector(t)
			endpoint := collector.grpc
			if protocol == "HTTP" {
				endpoint = collector.http
			}
			m := start(t)
			apply(t, m, with(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec:
  telemetry: {tracing: {endpoint: "http://`+endpoint+`", protocol: `+protocol+`}}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: all, namespace: bank}
spec:
  retry: {attempts: 1, codes: [503], backoff: {base: 1ms, max: 10ms}}
  outlierEjection: {consecutiveFailures: 0}
  telemetry: {tracing: {samplingRate: {numerator: 1, denominator: 1}}}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: none, namespace: shop}
spec:
  telemetry: {tracing: {samplingRate: {numerator: 0}}}
`))
			var requests atomic.Int32
			continued := make(chan string, 2)
			pod(t, m, "ledger").Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				continued <- r.Header.Get("Traceparent")
				if requests.Add(1) == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}))
			client := m.HTTP("shop")
			if a := must(t, client, get(t, "http://web/")); a.status != http.StatusOK {
				t.Fatalf("status %d", a.status)
			}
			if a := must(t, client, get(t, "http://ledger.bank/a?token=secret")); a.status != http.StatusOK {
				t.Fatalf("status %d", a.status)
			}
			got := collector.await(t, 7)
			slices.SortFunc(got, func(a, b spans.Span) int { return strings.Compare(a.Start, b.Start) })
			want := []string{
				"shop server GET bank/ledger:80 200",
				"  shop client GET bank/ledger:80 503",
				"    bank server GET bank/ledger:80 503",
				"      bank client GET bank/ledger:80 503",
				"  shop client GET bank/ledger:80 200 again 1",
				"    bank server GET bank/ledger:80 200",
				"      bank client GET bank/ledger:80 200 again 1",
			}
			if diff := cmp.Diff(want, spans.Tree(got)); diff != "" {
				t.Errorf("trace (-want +got):\n%s", diff)
			}
			last := got[len(got)-1]
			for _, s := range got {
				if s.TraceID != last.TraceID {
					t.Errorf("a span is in trace %s, others in %s", s.TraceID, last.TraceID)
				}
				if s.Kind == spans.KindServer && s.Attributes.Get("weft.source.id") != "spiffe://cluster.local/ns/shop/sa/client" {
					t.Errorf("the client is %q", s.Attributes.Get("weft.source.id"))
				}
			}
			<-continued
			if parent := <-continued; parent != "00-"+last.TraceID+"-"+last.SpanID+"-01" {
				t.Errorf("the application got %q, of span %s", parent, last.SpanID)
			}
			for len(collector.batches) > 0 {
				collector.take(t, <-collector.batches)
			}
			if len(collector.spans) != len(want) {
				t.Errorf("%d spans, though requests to shop are not traced: %v", len(collector.spans), spans.Tree(collector.spans))
			}
		})
	}
}

// TestACollectorThatIsAway: nobody notices but who looks at metrics.
func TestACollectorThatIsAway(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec:
  telemetry: {tracing: {endpoint: "http://127.0.0.1:1"}}
  defaults: {telemetry: {tracing: {samplingRate: {numerator: 1, denominator: 1}}}}
`))
	client := m.HTTP("shop")
	for range 100 {
		if a := must(t, client, get(t, "http://ledger.bank/")); a.status != http.StatusOK {
			t.Fatalf("status %d", a.status)
		}
	}
}

// lineWriter gathers the access log of a proxy.
type lineWriter struct {
	mu    sync.Mutex
	lines []string
	wrote chan struct{}
}

func newLineWriter() *lineWriter { return &lineWriter{wrote: make(chan struct{}, 1)} }

// Write implements io.Writer; whole lines come.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")...)
	select {
	case w.wrote <- struct{}{}:
	default:
	}
	return len(p), nil
}

// await returns the lines once there are so many.
func (w *lineWriter) await(t *testing.T, n int) []map[string]any {
	t.Helper()
	for deadline := time.After(patience); ; {
		w.mu.Lock()
		lines := slices.Clone(w.lines)
		w.mu.Unlock()
		if len(lines) >= n {
			var out []map[string]any
			for _, line := range lines {
				var object map[string]any
				if err := json.Unmarshal([]byte(line), &object); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				out = append(out, object)
			}
			return out
		}
		select {
		case <-w.wrote:
		case <-deadline:
			t.Fatalf("%d lines, not %d: %v", len(lines), n, lines)
		}
	}
}

// TestObservabilityExample applies examples/observability: failures are written everywhere, the checkout is written
// always and its health checks never, and both ends of a hop tell, with one trace.
func TestObservabilityExample(t *testing.T) {
	written := map[string]*lineWriter{"shop": newLineWriter(), "bank": newLineWriter()}
	m := startWith(t, harness.Options{AccessLog: func(namespace string) io.Writer { return written[namespace] }})
	objects := defaults(t)
	for _, file := range []string{"mesh.yaml", "shop.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "examples", "observability", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := harness.DecodeAll(data, &objects); err != nil {
			t.Fatal(err)
		}
	}
	if f := flaws(apply(t, m, objects).Compiled); len(f) > 0 {
		t.Errorf("conditions: %v", f)
	}
	pod(t, m, "ledger").Handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	client := m.HTTP("shop")
	for _, url := range []string{"http://web/other", "http://web/health", "http://web/checkout?card=1234", "http://ledger.bank/a"} {
		req := get(t, url)
		req.Header.Set("Authorization", "Bearer secret")
		must(t, client, req)
	}
	shop, bank := written["shop"].await(t, 2), written["bank"].await(t, 1)
	for i, want := range []map[string]any{
		{"url.path": "/checkout", "url.query": "card=REDACTED", "weft.rule": "checkout", "weft.listener": "captured", "http.response.status_code": 200.0},
		{"url.path": "/a", "weft.destination.namespace": "bank", "weft.destination.service": "ledger", "weft.destination.port": 80.0, "weft.listener": "captured", "http.response.status_code": 500.0},
	} {
		for name, value := range want {
			if shop[i][name] != value {
				t.Errorf("line %d of shop: %s is %v, want %v", i, name, shop[i][name], value)
			}
		}
	}
	if bank[0]["weft.listener"] != "hop" || bank[0]["weft.source.id"] != "spiffe://cluster.local/ns/shop/sa/client" || bank[0]["http.response.status_code"] != 500.0 {
		t.Errorf("bank has written %v", bank)
	}
	// The checkout was traced though nobody takes the spans.
	if id, _ := shop[0]["trace_id"].(string); len(id) != 32 {
		t.Errorf("the trace of the checkout is %q", id)
	}
	for _, line := range slices.Concat(written["shop"].lines, written["bank"].lines) {
		if strings.Contains(line, "secret") || strings.Contains(line, "1234") {
			t.Errorf("a secret was written: %s", line)
		}
	}
	if len(shop) != 2 || len(bank) != 1 {
		t.Errorf("%d and %d lines", len(shop), len(bank))
	}
}
