package telemetry

import (
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
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
	m.Connected(true)
	m.Active(ListenerHop, 2)
	m.Certificates(map[string]time.Time{"till": time.Unix(1700000000, 0)})
	relayed := m.Series(Labels{Listener: "captured", Destination: "shop/db:5432"})
	ended := relayed.Relay(m.Caller("shop", "till"), false, "tcp")
	relayed.Relay(m.Caller("shop", "till"), false, "tcp")
	ended(3, 5, "idle_timeout")

	const db = `network_protocol_name="tcp",weft_destination_namespace="shop",weft_destination_port="5432",weft_destination_service="db",weft_listener="captured",` +
		`weft_source_namespace="shop",weft_source_service_account="till",weft_tls="none"`
	want := map[string]string{
		`weft_connections_active{protocol="HTTP",weft_listener="captured"`:                                        "1",
		`weft_connections_total{protocol="HTTP",weft_listener="captured"`:                                         "2",
		`weft_connections_refused_total{weft_listener="captured",weft_reason="unknown_source"`:                    "1",
		`weft_config_rejections_total{kind="Route"`:                                                               "1",
		`weft_mirror_requests_total{outcome="dropped"`:                                                            "1",
		`weft_fallbacks_total{reason="departed"`:                                                                  "1",
		`weft_local_responses_total{weft_reason="no_route"`:                                                       "1",
		`weft_exchanges_cut_total{weft_reason="idle_timeout"`:                                                     "1",
		"weft_config_connected 1":                                                                                 "",
		`weft_certificate_expiration_timestamp_seconds{certificate="workload",weft_source_service_account="till"`: "1.7e+09",
		"weft_tcp_sent_bytes_total{" + db:                                                                         "3",
		"weft_tcp_received_bytes_total{" + db:                                                                     "5",
		"weft_tcp_connections_active{" + db:                                                                       "1",
		`weft_tcp_connections_total{error_type="idle_timeout",` + db:                                              "1",
		"weft_config_sequence 7":                                                                                  "",
		"weft_ready 1":                                                                                            "",
		"weft_draining 1":                                                                                         "",
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
