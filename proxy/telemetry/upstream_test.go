package telemetry

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEndpointsOfBackends(t *testing.T) {
	m := New(0)
	m.Endpoints("shop/idle:80", 3, 0, 0)
	m.Endpoints("shop/cart-v1:80", 3, 0, 0)
	m.Endpoints("shop/till:80", 2, 1, 0)
	m.Series(rule(0)).Try(&Outcome{Status: 200})
	m.Ejected("shop/till:80", "latency")
	m.Ejected("shop/till:80", "latency")
	want := map[string]string{
		`weft_upstream_endpoints{state="ejected",weft_backend="shop/cart-v1:80"`:    "0",
		`weft_upstream_endpoints{state="unhealthy",weft_backend="shop/cart-v1:80"`:  "0",
		`weft_upstream_endpoints{state="unhealthy",weft_backend="shop/till:80"`:     "0",
		`weft_upstream_endpoints{state="usable",weft_backend="shop/cart-v1:80"`:     "3",
		`weft_upstream_endpoints{state="usable",weft_backend="shop/till:80"`:        "2",
		`weft_upstream_endpoints{state="ejected",weft_backend="shop/till:80"`:       "1",
		`weft_upstream_ejections_total{cause="latency",weft_backend="shop/till:80"`: "2",
	}
	if diff := cmp.Diff(want, scrape(t, m, "weft_upstream_e")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.Endpoints("shop/till:80", 1, 0, 2)
	m.Forget("shop/cart-v1:80")
	want = map[string]string{
		`weft_upstream_endpoints{state="usable",weft_backend="shop/till:80"`:        "1",
		`weft_upstream_endpoints{state="ejected",weft_backend="shop/till:80"`:       "0",
		`weft_upstream_endpoints{state="unhealthy",weft_backend="shop/till:80"`:     "2",
		`weft_upstream_ejections_total{cause="latency",weft_backend="shop/till:80"`: "2",
	}
	if diff := cmp.Diff(want, scrape(t, m, "weft_upstream_e")); diff != "" {
		t.Errorf("after a change (-want +got):\n%s", diff)
	}
	m.Forget("shop/till:80")
	if got := scrape(t, m, "weft_upstream_e"); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestSeriesOfBackendsAreBounded(t *testing.T) {
	m := New(10)
	for i := range 100 {
		m.Endpoints(fmt.Sprintf("shop/s%d:80", i), 1, 1, 0)
		m.Ejected(fmt.Sprintf("shop/s%d:80", i), "probe")
	}
	if got := scrape(t, m, "weft_upstream_e"); len(got) > 10 || len(got) < 8 {
		t.Errorf("%d series", len(got))
	}
	for i := range 100 {
		m.Forget(fmt.Sprintf("shop/s%d:80", i))
	}
	m.Endpoints("shop/late:80", 1, 1, 0)
	if got := scrape(t, m, "weft_upstream_e"); len(got) != 3 {
		t.Errorf("there is no room after others were forgotten: %v", got)
	}
}

func TestLimitsOfBackends(t *testing.T) {
	m := New(0)
	m.Pending("shop/cart-v1:80", 0)
	m.Pending("shop/till:80", 2)
	m.CircuitOpen("shop/till:80", "requests")
	want := map[string]string{
		`weft_circuit_breaker_open_total{limit="requests",weft_backend="shop/till:80"`: "1",
	}
	if diff := cmp.Diff(want, scrape(t, m, "weft_circuit_breaker_open")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.Pending("shop/till:80", 0)
	want = map[string]string{`weft_circuit_breaker_pending{weft_backend="shop/till:80"`: "0"}
	if diff := cmp.Diff(want, scrape(t, m, "weft_circuit_breaker_pending")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.Forget("shop/till:80")
	if got := scrape(t, m, "weft_circuit"); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}
