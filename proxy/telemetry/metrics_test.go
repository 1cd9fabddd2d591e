package telemetry

import (
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scrape returns the samples whose name starts with prefix, as Prometheus would read them.
func scrape(t *testing.T, m *Metrics, prefix string) map[string]string {
	t.Helper()
	recorder := httptest.NewRecorder()
	m.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil {
		t.Fatalf("read metrics: %v", err)
	}
	samples := map[string]string{}
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		samples[name] = value
	}
	return samples
}

func rule(i int) Labels {
	return Labels{
		Listener: "captured", Destination: "shop/cart:80", Route: "HTTPRoute/shop/cart", Rule: strconv.Itoa(i), Backend: "shop/cart-v1:80",
	}
}

func TestRequestsAreCountedByRuleBackendAndClass(t *testing.T) {
	m := New(0)
	s := m.Series(rule(0))
	s.Request(200, time.Millisecond)
	s.Request(204, time.Millisecond)
	s.Request(503, time.Millisecond)
	s.Request(0, time.Millisecond)
	m.Series(rule(1)).Request(404, time.Millisecond)

	labels := `backend="shop/cart-v1:80",destination="shop/cart:80",`
	route := `route="HTTPRoute/shop/cart",rule=`
	class := `http_response_status_class=`
	listener := `,listener="captured",`
	want := map[string]string{
		"http_server_requests_total{" + labels + class + `"2xx"` + listener + route + `"0"`: "2",
		"http_server_requests_total{" + labels + class + `"5xx"` + listener + route + `"0"`: "1",
		"http_server_requests_total{" + labels + class + `"0xx"` + listener + route + `"0"`: "1",
		"http_server_requests_total{" + labels + class + `"4xx"` + listener + route + `"1"`: "1",
	}
	if diff := cmp.Diff(want, scrape(t, m, "http_server_requests_total")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	count := scrape(t, m, "http_server_request_duration_seconds_count")
	wantCount := map[string]string{
		"http_server_request_duration_seconds_count{" + labels + listener[1:] + route + `"0"`: "4",
		"http_server_request_duration_seconds_count{" + labels + listener[1:] + route + `"1"`: "1",
	}
	if diff := cmp.Diff(wantCount, count); diff != "" {
		t.Errorf("durations (-want +got):\n%s", diff)
	}
}

func TestRebuiltConfigurationGoesOnCounting(t *testing.T) {
	m := New(0)
	m.Series(rule(0)).Try()
	m.Series(rule(0)).Try()
	for name, value := range scrape(t, m, "weft_upstream_tries_total") {
		if value != "2" {
			t.Errorf("%s = %s, want 2", name, value)
		}
	}
}

func TestSeriesNeverExceedTheLimit(t *testing.T) {
	const limit = 100
	m := New(limit)
	for i := range 1000 {
		s := m.Series(rule(i))
		s.Try()
		s.Retry(RetryConnect)
		s.Request(200, time.Millisecond)
	}
	samples := len(scrape(t, m, "http_server_")) + len(scrape(t, m, "weft_upstream_"))
	// The overflow series exist beside the limit, once per metric.
	if overflow := len(durationBuckets) + 3 + 3; samples > limit+overflow {
		t.Errorf("%d samples exist, want at most %d", samples, limit+overflow)
	}
	total := 0
	for _, value := range scrape(t, m, "weft_upstream_tries_total") {
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("sample %q: %v", value, err)
		}
		total += n
	}
	if total != 1000 {
		t.Errorf("tries add up to %d, want all 1000: what has no series of its own counts under _other", total)
	}
	dropped := scrape(t, m, "weft_telemetry_series_dropped_total")
	if len(dropped) != 1 {
		t.Errorf("dropped series are not reported: %v", dropped)
	}
}

func TestDroppedSeriesMakeRoom(t *testing.T) {
	m := New(len(durationBuckets) + 4)
	first := m.Series(rule(0))
	first.Request(200, time.Millisecond)
	m.Drop(rule(0))
	if left := scrape(t, m, "http_server_"); len(left) != 0 {
		t.Fatalf("series of a dropped rule are still there: %v", left)
	}
	// A request that began before may end after.
	first.Request(200, time.Millisecond)
	first.Request(500, time.Millisecond)

	m.Series(rule(1)).Request(200, time.Millisecond)
	found := false
	for name := range scrape(t, m, "http_server_requests_total") {
		found = found || strings.Contains(name, `rule="1"`)
	}
	if !found {
		t.Error("a new rule got no series although an old one's were dropped")
	}
}

func TestSeriesAreSafeForConcurrentUse(t *testing.T) {
	m := New(200)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				s := m.Series(rule(i % 20))
				s.Try()
				s.Request(200, time.Millisecond)
				if i%50 == 0 {
					m.Drop(rule(i % 20))
				}
			}
		})
	}
	wg.Wait()
}

func TestConnectionsAndConfigurationAreReported(t *testing.T) {
	m := New(0)
	closed := m.ConnectionOpened("captured", "HTTP")
	m.ConnectionOpened("captured", "HTTP")
	closed()
	m.ConnectionRefused("captured", "unknown_source")
	m.ConfigApplied(7, time.Millisecond)
	m.ConfigRejected("Route")
	m.Ready()
	m.Draining()
	m.Mirror(MirrorDropped)
	m.Fallback(FallbackDeparted)
	m.LocalResponse("no_route")
	m.Cut("idle_timeout")
	m.Relayed("TCP", 3, 5)

	want := map[string]string{
		`weft_connections_active{listener="captured",protocol="HTTP"`:                "1",
		`weft_connections_total{listener="captured",protocol="HTTP"`:                 "2",
		`weft_connections_refused_total{listener="captured",reason="unknown_source"`: "1",
		`weft_config_rejections_total{kind="Route"`:                                  "1",
		`weft_mirror_requests_total{outcome="dropped"`:                               "1",
		`weft_fallbacks_total{reason="departed"`:                                     "1",
		`weft_local_responses_total{reason="no_route"`:                               "1",
		`weft_exchanges_cut_total{reason="idle_timeout"`:                             "1",
		`weft_relayed_bytes_total{direction="sent",protocol="TCP"`:                   "3",
		`weft_relayed_bytes_total{direction="received",protocol="TCP"`:               "5",
		"weft_config_sequence 7":                                                     "",
		"weft_ready 1":                                                               "",
		"weft_draining 1":                                                            "",
	}
	got := map[string]string{}
	for name, value := range scrape(t, m, "weft_") {
		if _, wanted := want[name]; wanted {
			got[name] = value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func BenchmarkRequest(b *testing.B) {
	s := New(0).Series(rule(0))
	b.ReportAllocs()
	for b.Loop() {
		s.Request(200, time.Millisecond)
	}
}
