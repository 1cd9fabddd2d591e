package engine

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

func TestProtectionThatCannotBeIsRejected(t *testing.T) {
	check := func(edit func(*wire.HealthCheck)) *wire.Policy {
		c := &wire.HealthCheck{
			Type: wire.HealthCheckHTTP, Path: "/healthz", Interval: wire.Duration(time.Second), Timeout: wire.Duration(time.Second),
			Unhealthy: 1, Healthy: 1,
		}
		edit(c)
		return &wire.Policy{HealthCheck: c}
	}
	for name, tc := range map[string]struct {
		policy *wire.Policy
		want   string // empty if it is accepted
	}{
		"fine":            {check(func(*wire.HealthCheck) {}), ""},
		"TCP":             {check(func(c *wire.HealthCheck) { c.Type, c.Path = wire.HealthCheckTCP, "" }), ""},
		"no interval":     {check(func(c *wire.HealthCheck) { c.Interval = 0 }), "interval"},
		"negative":        {check(func(c *wire.HealthCheck) { c.Timeout = -1 }), "timeout"},
		"no threshold":    {check(func(c *wire.HealthCheck) { c.Unhealthy = 0 }), "failures"},
		"no path":         {check(func(c *wire.HealthCheck) { c.Path = "" }), "path"},
		"relative path":   {check(func(c *wire.HealthCheck) { c.Path = "healthz" }), "path"},
		"type":            {check(func(c *wire.HealthCheck) { c.Type = "Exec" }), "Exec"},
		"percent":         {&wire.Policy{OutlierEjection: &wire.OutlierEjection{PanicPercent: new(101)}}, "panicPercent"},
		"percent of 100":  {&wire.Policy{OutlierEjection: &wire.OutlierEjection{MaxEjectedPercent: new(100)}}, ""},
		"negative number": {&wire.Policy{CircuitBreaking: &wire.CircuitBreaking{MaxRequests: new(-1)}}, "maxRequests"},
	} {
		t.Run(name, func(t *testing.T) {
			rejected := newProxy(t).delta(wire.Delta{Upserted: governed(tc.policy, "web", "127.0.0.1:1")})
			switch {
			case tc.want == "" && len(rejected) > 0:
				t.Errorf("rejected: %v", rejected)
			case tc.want != "" && (len(rejected) != 1 || !strings.Contains(rejected[0].Reason, tc.want)):
				t.Errorf("rejected: %v, want something about %s", rejected, tc.want)
			}
		})
	}
}

func TestEndpointThatFailsItsHealthCheckIsNotUsed(t *testing.T) {
	var ill atomic.Bool
	ill.Store(true)
	asked := make(chan struct{}, 1)
	bad := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			select {
			case asked <- struct{}{}:
			default:
			}
			return
		}
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	good := named(t, "good")
	p := newProxy(t)
	p.apply(governed(&wire.Policy{HealthCheck: &wire.HealthCheck{
		Type: wire.HealthCheckHTTP, Path: "/healthz", Interval: wire.Duration(10 * time.Millisecond), Timeout: wire.Duration(patience),
		Unhealthy: 2, Healthy: 2,
	}}, "web", bad, good)...)
	address := p.listen(key("web"))
	until(t, func() bool { return p.metric("weft_upstream_endpoints", "state", "unhealthy") == 1 })
	for range 20 {
		if a := get(t, address, "/"); a.body != "good" {
			t.Errorf("answer %v", a)
		}
	}
	ill.Store(false)
	until(t, func() bool {
		get(t, address, "/")
		return len(asked) > 0
	})
}
