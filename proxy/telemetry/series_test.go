package telemetry

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/trace"
)

var ok = &Outcome{Status: 200, Took: time.Millisecond}

func TestRequestsAreCountedByWhatTheyCameTo(t *testing.T) {
	m := New(0)
	s := m.Series(rule(0))
	till := m.Caller("shop", "till")
	for _, o := range []Outcome{
		{Caller: till, Status: 200, Took: time.Millisecond},
		{Caller: till, Status: 200, Took: time.Millisecond},
		{Caller: m.Caller("front", "web"), Secure: true, Status: 200},
		{Caller: till, Status: 503},
		{Caller: till, Status: 503, Error: "circuit_open"},
		{Caller: till, Error: ErrorClientGone},
		{Status: 999},
		{Caller: till, GRPC: true, Status: 200, RPC: "OK"},
		{Caller: till, GRPC: true, Status: 200, RPC: "UNAVAILABLE"},
		{Caller: till, GRPC: true, Status: 200, RPC: "NOT_FOUND"},
	} {
		s.Request(&o)
	}
	const (
		of = `weft_backend="shop/cart-v1:80",weft_destination_namespace="shop",weft_destination_port="80",weft_destination_service="cart",weft_listener="captured",` +
			`weft_route_kind="HTTPRoute",weft_route_name="cart",weft_route_namespace="shop",weft_rule="0",`
		fromTill = `weft_source_namespace="shop",weft_source_service_account="till",weft_tls="none"`
	)
	want := map[string]string{
		`http_response_status_code="200",` + of + fromTill:                                                                          "2",
		`http_response_status_code="200",` + of + `weft_source_namespace="front",weft_source_service_account="web",weft_tls="mtls"`: "1",
		`error_type="503",http_response_status_code="503",` + of + fromTill:                                                         "1",
		`error_type="circuit_open",http_response_status_code="503",` + of + fromTill:                                                "1",
		`error_type="client_gone",` + of + fromTill:                                                                                 "1",
		`http_response_status_code="_OTHER",` + of + `weft_tls="none"`:                                                              "1",
	}
	if diff := cmp.Diff(prefixed("http_server_request_duration_seconds_count{", want), scrape(t, m, "http_server_request_duration_seconds_count")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	want = map[string]string{
		`rpc_response_status_code="OK",` + of + fromTill:                                   "1",
		`rpc_response_status_code="NOT_FOUND",` + of + fromTill:                            "1",
		`error_type="UNAVAILABLE",rpc_response_status_code="UNAVAILABLE",` + of + fromTill: "1",
	}
	if diff := cmp.Diff(prefixed("rpc_server_call_duration_seconds_count{", want), scrape(t, m, "rpc_server_call_duration_seconds_count")); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func prefixed(prefix string, samples map[string]string) map[string]string {
	all := map[string]string{}
	for name, value := range samples {
		all[prefix+name] = value
	}
	return all
}

func TestRebuiltConfigurationGoesOnCounting(t *testing.T) {
	m := New(0)
	m.Series(rule(0)).Try(ok)
	m.Series(rule(0)).Try(ok)
	got := scrape(t, m, "http_client_request_duration_seconds_count")
	if len(got) != 1 {
		t.Errorf("%d series", len(got))
	}
	for name, value := range got {
		if value != "2" {
			t.Errorf("%s = %s, want 2", name, value)
		}
	}
}

// grown are the samples of what grows with traffic.
func grown(t *testing.T, m *Metrics) int {
	t.Helper()
	return len(scrape(t, m, "http_server_request")) + len(scrape(t, m, "http_client_")) + len(scrape(t, m, "weft_upstream_retries"))
}

func TestSeriesNeverExceedTheLimit(t *testing.T) {
	const limit = 100
	m := New(limit)
	for i := range 1000 {
		s := m.Series(rule(i))
		s.Try(ok)
		s.Retry(RetryConnect)
		s.Request(&Outcome{Caller: m.Caller("shop", strconv.Itoa(i%7)), Status: 200 + i%3})
	}
	// The overflow series exist beside the limit, once per metric.
	if samples, most := grown(t, m), limit+2*histogramSeries+1; samples > most {
		t.Errorf("%d samples exist, want at most %d", samples, most)
	}
	total := 0
	for _, value := range scrape(t, m, "http_client_request_duration_seconds_count") {
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("sample %q: %v", value, err)
		}
		total += n
	}
	if total != 1000 {
		t.Errorf("tries add up to %d, want all 1000: what has no series of its own counts under _other", total)
	}
	if dropped := scrape(t, m, "weft_telemetry_series_dropped_total"); len(dropped) != 1 || dropped["weft_telemetry_series_dropped_total 0"] == "0" {
		t.Errorf("dropped series are not reported: %v", dropped)
	}
}

func TestDroppedSeriesMakeRoom(t *testing.T) {
	m := New(histogramSeries + 1)
	first := m.Series(rule(0))
	first.Request(ok)
	m.Drop(rule(0))
	if left := grown(t, m); left != 0 {
		t.Fatalf("%d series of a dropped rule are still there", left)
	}
	// A request that began before may end after.
	first.Request(ok)
	first.Request(&Outcome{Status: 500})

	m.Series(rule(1)).Request(ok)
	found := false
	for name := range scrape(t, m, "http_server_request_duration_seconds_count") {
		found = found || strings.Contains(name, `weft_rule="1"`)
	}
	if !found {
		t.Error("a new rule got no series although an old one's were dropped")
	}
}

// TestIdleSeriesExpire: what is not used for half an hour goes and makes room, with or without anybody who scrapes;
// what is used, and a connection that is open, stays.
func TestIdleSeriesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(3*histogramSeries + 2)
		idle, busy := m.Series(rule(0)), m.Series(rule(1))
		idle.Request(ok)
		idle.Retry(RetryReset)
		m.Series(Labels{Listener: "captured", Destination: "shop/db:5432"}).Relay(nil, false, "tcp")
		for range 4 {
			busy.Request(ok)
			if n := grown(t, m); n != 2*histogramSeries+1 {
				t.Fatalf("%d series before half an hour is over", n)
			}
			<-time.After(10 * time.Minute)
		}
		for name := range scrape(t, m, "http_server_request_duration_seconds_count") {
			if strings.Contains(name, `weft_rule="0"`) {
				t.Errorf("%s has not been used for 40 minutes", name)
			}
		}
		if n := grown(t, m); n != histogramSeries {
			t.Errorf("%d series are left, want those of the rule in use", n)
		}
		if open := scrape(t, m, "weft_tcp_connections_active"); len(open) != 1 {
			t.Errorf("an open connection is not shown: %v", open)
		}
		busy.Try(ok)
		idle.Request(ok)
		<-time.After(time.Hour)
		// It is full, and nobody has scraped.
		m.Series(rule(2)).Request(ok)
		found := false
		for name := range scrape(t, m, "http_server_request_duration_seconds_count") {
			found = found || strings.Contains(name, `weft_rule="2"`)
		}
		if !found {
			t.Error("there was no room, although everything was idle")
		}
	})
}

func TestSeriesAreSafeForConcurrentUse(t *testing.T) {
	m := New(1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				s := m.Series(rule(i % 20))
				s.Try(ok)
				s.Request(&Outcome{Caller: m.Caller("shop", strconv.Itoa(i%3)), Status: 200, Trace: trace.ID{1}})
				m.Endpoints("shop/cart-v1:80", i, 1, 0)
				m.Decided(Decision{Destination: "shop/cart:80", Verdict: "denied", Rule: i % 5})
				if i%50 == 0 {
					m.Drop(rule(i % 20))
					scrape(t, m, "")
				}
			}
		})
	}
	wg.Wait()
}

// TestOffMeasuresNothing: handles of Off may be used like any others.
func TestOffMeasuresNothing(t *testing.T) {
	m := Off()
	s := m.Series(rule(0))
	s.Request(&Outcome{Caller: m.Caller("shop", "till"), Status: 200})
	s.Try(ok)
	s.Retry(RetryConnect)
	s.Refuse(nil, false, "tcp", "connect")
	s.Relay(nil, false, "tcp")(1, 2, "")
	if n := grown(t, m) + len(scrape(t, m, "weft_tcp")); n != 0 {
		t.Errorf("%d series", n)
	}
}

// TestMeasuringAllocatesNothing holds for everything that was measured before in the same way.
func TestMeasuringAllocatesNothing(t *testing.T) {
	m := New(0)
	s := m.Series(rule(0))
	o := Outcome{Caller: m.Caller("shop", "till"), Status: 503, Error: "circuit_open", Took: time.Millisecond}
	o.Trace = trace.ID{1}
	d := Decision{Destination: "shop/cart:80", Verdict: "denied", Policy: "shop/a", Rule: 1}
	if n := testing.AllocsPerRun(100, func() {
		m.Active(ListenerCaptured, 1)
		s.Request(&o)
		s.Try(&o)
		s.Retry(RetryConnect)
		m.Decided(d)
		m.Active(ListenerCaptured, -1)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := New(0)
	s := m.Series(rule(0))
	o := Outcome{Caller: m.Caller("shop", "till"), Status: 200, Took: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		s.Request(&o)
	}
}
