package engine

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// metric returns the value of a metric with a label, zero if there is none.
func (p *proxy) metric(name, label, value string) float64 {
	p.t.Helper()
	families, err := p.engine.Metrics().Gatherer().Gather()
	if err != nil {
		p.t.Fatalf("gather: %v", err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if family.GetName() == name && l.GetName() == label && l.GetValue() == value {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// governed returns the resources of a service whose backend has a policy.
func governed(policy *wire.Policy, name string, addresses ...string) []wire.Resource {
	resources := service(name, wire.ProtocolHTTP, addresses...)
	for i := range resources {
		if resources[i].Backend != nil {
			resources[i].Backend.Policy = policy
		}
	}
	return resources
}

func TestFailingEndpointIsEjectedAndReturns(t *testing.T) {
	var failing atomic.Bool
	var asked atomic.Int32
	failing.Store(true)
	bad := server(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if failing.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := newProxy(t)
	p.apply(governed(&wire.Policy{OutlierEjection: &wire.OutlierEjection{
		EjectionTime: new(wire.Duration(100 * time.Millisecond)), MaxEjectionTime: new(wire.Duration(200 * time.Millisecond)),
	}}, "web", bad, named(t, "good"))...)
	address := p.listen(key("web"))
	until(t, func() bool {
		get(t, address, "/")
		return p.metric("weft_upstream_endpoints", "state", "ejected") == 1
	})
	if n := asked.Load(); n != 5 {
		t.Errorf("ejected after %d failures", n)
	}
	until(t, func() bool {
		get(t, address, "/")
		return p.metric("weft_upstream_ejections_total", "cause", "probe") >= 1
	})
	failing.Store(false)
	until(t, func() bool {
		get(t, address, "/")
		return p.metric("weft_upstream_endpoints", "state", "ejected") == 0
	})
	before := asked.Load()
	until(t, func() bool {
		get(t, address, "/")
		return asked.Load() > before
	})
}

func TestRequestsWithoutHealthyEndpoints(t *testing.T) {
	var allFail atomic.Bool
	bad := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	last := server(t, func(w http.ResponseWriter, _ *http.Request) {
		if allFail.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := newProxy(t)
	policy := &wire.Policy{
		LoadBalancing:   &wire.LoadBalancing{Algorithm: new(wire.RoundRobin)},
		OutlierEjection: &wire.OutlierEjection{PanicPercent: new(0), MaxEjectedPercent: new(100)},
	}
	p.apply(governed(policy, "web", bad, last)...)
	address := p.listen(key("web"))
	until(t, func() bool {
		get(t, address, "/")
		return p.metric("weft_upstream_endpoints", "state", "ejected") == 1
	})
	allFail.Store(true)
	for range 10 {
		if a := get(t, address, "/"); a.status != http.StatusInternalServerError || a.reason() != "" {
			t.Errorf("the last endpoint: %v", a)
		}
	}
}

// TestTimeoutsOfThePolicyEject: a try that takes longer than the policy gives it is a failure of the
// endpoint, a client that goes away is not.
func TestTimeoutsOfThePolicyEject(t *testing.T) {
	// The other endpoint answers within it on a busy machine as well: where all fail, none is ejected soon.
	const short = 100 * time.Millisecond
	for name, tc := range map[string]struct {
		policy *wire.Policy
		grpc   string
		want   bool
	}{
		"backendRequest":        {policy: timeouts(0, short), want: true},
		"request":               {policy: timeouts(short, 0), want: true},
		"the client's deadline": {grpc: "100m"},
	} {
		t.Run(name, func(t *testing.T) {
			hang := func(_ http.ResponseWriter, r *http.Request) {
				// The server notices the end of a connection only once the body has been read.
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			}
			p := newProxy(t)
			turns := &wire.Policy{LoadBalancing: &wire.LoadBalancing{Algorithm: new(wire.RoundRobin)}}
			p.apply(governed(turns, "web", server(t, hang), named(t, "good"))...)
			p.apply(route("r", "web", func(r *wire.Route) { r.Backends, r.Policy = to("web"), tc.policy }))
			address := p.listen(key("web"))
			for range 30 {
				req := request(t, http.MethodPost, address, "/", strings.NewReader("x"))
				if tc.grpc != "" {
					req.Header.Set("Content-Type", "application/grpc")
					req.Header.Set("Grpc-Timeout", tc.grpc)
				}
				// Even so the time may be over between head and body of the other endpoint's answers.
				if res, err := client(t, h2c).Do(req); err == nil {
					_, _ = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
			}
			if got := p.metric("weft_upstream_ejections_total", "cause", "consecutive_failures") > 0; got != tc.want {
				t.Errorf("ejected: %v", got)
			}
		})
	}
}

// TestFailingApplicationDoesNotEjectItsProxy sends requests over the hop to an application that fails in
// every way: its proxies carry on.
func TestFailingApplicationDoesNotEjectItsProxy(t *testing.T) {
	h := newHop(t, 2, wire.ProtocolHTTP)
	application := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/status":
			w.WriteHeader(http.StatusInternalServerError)
		case "/late":
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			panic(http.ErrAbortHandler)
		}
	})
	for _, peer := range h.peers {
		stocked(peer, wire.ProtocolHTTP, application)
	}
	address := h.listen(stockKey)
	for range 15 {
		for _, path := range []string{"/status", "/late", "/never"} {
			res, err := client(t).Do(request(t, http.MethodPost, address, path, strings.NewReader("x")))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(res.Body) // breaks off
			_ = res.Body.Close()
		}
	}
	if n := h.metric("weft_upstream_ejections_total", "weft_backend", stock+"/*"); n != 0 {
		t.Errorf("%v ejections", n)
	}
	if n := metrics(t, h.engine, "weft_upstream_endpoints")["state=usable weft_backend="+stock+"/*"]; n != 2 {
		t.Errorf("%v proxies are usable", n)
	}
}
