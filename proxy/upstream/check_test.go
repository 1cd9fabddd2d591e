package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

func TestVitals(t *testing.T) {
	policy := &wire.HealthCheck{Unhealthy: 3, Healthy: 2}
	for name, tc := range map[string]struct{ checks, want string }{
		"well":              {"++++", "++++"},
		"not yet":           {"--+--", "+++++"},
		"ill":               {"---", "++-"},
		"not yet back":      {"---+-+-", "++-----"},
		"back":              {"---++", "++--+"},
		"one failure again": {"---++--+", "++--++++"},
	} {
		t.Run(name, func(t *testing.T) {
			v := vitals{healthy: true}
			var got []byte
			for _, c := range tc.checks {
				v = v.after(c == '+', policy)
				if v.healthy {
					got = append(got, '+')
				} else {
					got = append(got, '-')
				}
			}
			if string(got) != tc.want {
				t.Errorf("after %s: %s, want %s", tc.checks, got, tc.want)
			}
		})
	}
}

// checked is a view with one Backend whose endpoints are checked.
func checked(policy *wire.HealthCheck, addresses ...netip.AddrPort) Resources {
	r := direct(addresses...)
	backend := *r.Backends[webKey]
	backend.Service, backend.Policy = "web", &wire.Policy{HealthCheck: policy}
	return Resources{
		Backends:  map[string]*wire.Backend{webKey: &backend},
		Endpoints: map[string]*wire.Endpoints{webKey: r.Endpoints[webKey]},
	}
}

func TestOneCheck(t *testing.T) {
	var asked atomic.Pointer[string]
	web := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(new(fmt.Sprintf("%s %s %s HTTP/%d", r.Method, r.Host, r.RequestURI, r.ProtoMajor)))
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/302":
			http.Redirect(w, r, "/500", http.StatusFound)
		case "/400":
			w.WriteHeader(http.StatusBadRequest)
		case "/500":
			w.WriteHeader(http.StatusInternalServerError)
		case "/hang":
			<-r.Context().Done()
		}
	})
	server := grpc.NewServer()
	states := grpchealth.NewServer()
	states.SetServingStatus("well", healthpb.HealthCheckResponse_SERVING)
	states.SetServingStatus("ill", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, states)
	listener := listen(t)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		served.Wait()
	})
	rpc := addressOf(listener)
	closed := ports.Refusing(t)

	const h, g, c = wire.HealthCheckHTTP, wire.HealthCheckGRPC, wire.HealthCheckTCP
	for name, tc := range map[string]struct {
		to     netip.AddrPort
		policy wire.HealthCheck
		http2  bool
		passes bool
		asked  string
	}{
		"HTTP":                         {to: web, policy: wire.HealthCheck{Type: h, Path: "/ok?a=%2F"}, passes: true, asked: "GET web.shop /ok?a=%2F HTTP/1"},
		"HTTP/2":                       {to: web, policy: wire.HealthCheck{Type: h, Path: "/ok"}, http2: true, passes: true, asked: "GET web.shop /ok HTTP/2"},
		"204":                          {to: web, policy: wire.HealthCheck{Type: h, Path: "/204"}, passes: true},
		"302, which is not followed":   {to: web, policy: wire.HealthCheck{Type: h, Path: "/302"}, passes: true},
		"400":                          {to: web, policy: wire.HealthCheck{Type: h, Path: "/400"}},
		"500":                          {to: web, policy: wire.HealthCheck{Type: h, Path: "/500"}},
		"no answer in time":            {to: web, policy: wire.HealthCheck{Type: h, Path: "/hang", Timeout: wire.Duration(50 * time.Millisecond)}},
		"HTTP, refused":                {to: closed, policy: wire.HealthCheck{Type: h, Path: "/"}},
		"gRPC":                         {to: rpc, policy: wire.HealthCheck{Type: g}, passes: true},
		"gRPC service":                 {to: rpc, policy: wire.HealthCheck{Type: g, Service: "well"}, passes: true},
		"gRPC service does not serve":  {to: rpc, policy: wire.HealthCheck{Type: g, Service: "ill"}},
		"gRPC service is not known":    {to: rpc, policy: wire.HealthCheck{Type: g, Service: "other"}},
		"gRPC, but it is a web server": {to: web, policy: wire.HealthCheck{Type: g}},
		"TCP":                          {to: web, policy: wire.HealthCheck{Type: c}, passes: true},
		"TCP, refused":                 {to: closed, policy: wire.HealthCheck{Type: c}},
		"another port":                 {to: closed, policy: wire.HealthCheck{Type: c, Port: web.Port()}, passes: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			if tc.policy.Timeout == 0 {
				tc.policy.Timeout = wire.Duration(30 * time.Second)
			}
			err := s.checkOnce(t.Context(), plan{
				endpoint: &endpoint{set: s, address: tc.to}, HealthCheck: tc.policy, host: "web.shop", http2: tc.http2,
			})
			if (err == nil) != tc.passes {
				t.Errorf("error %v", err)
			}
			if got := asked.Load(); tc.asked != "" && *got != tc.asked {
				t.Errorf("asked %q, want %q", *got, tc.asked)
			}
		})
	}
}

// dialled answers connections in memory: an address is well if it is in none of ill.
type dialled struct {
	mu    sync.Mutex
	ill   map[string]bool
	count map[string]int
}

func (d *dialled) dial(_ context.Context, _, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count[address]++
	if d.ill[address] {
		return nil, errors.New("refused")
	}
	near, far := net.Pipe()
	_ = far.Close()
	return near, nil
}

func (d *dialled) set(address netip.AddrPort, ill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ill[address.String()] = ill
}

func (d *dialled) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.count {
		n += c
	}
	return n
}

func TestUnhealthyEndpointIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialled{ill: map[string]bool{}, count: map[string]int{}}
		l := newLedger()
		s := newTestSet(t, Options{DialContext: d.dial, Measures: l})
		policy := &wire.HealthCheck{
			Type: wire.HealthCheckTCP, Interval: wire.Duration(10 * time.Second), Timeout: wire.Duration(time.Second), Unhealthy: 3, Healthy: 2,
		}
		s.Update(checked(policy, at(1), at(2), at(3)))
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		used := func(want int, what string) {
			t.Helper()
			if got := picks(t, s, webKey); len(got) != want {
				t.Errorf("%s: %v", what, got)
			}
		}
		d.set(at(1), true)
		used(3, "before the first check")
		pass(19 * time.Second)
		used(3, "before the third failure")
		pass(14 * time.Second)
		used(2, "after the third failure")
		if got := l.endpoints[webKey]; got != "2 usable, 0 ejected, 1 unhealthy" {
			t.Errorf("endpoints: %s", got)
		}
		// The verdict outlives a change of the others, and of how it is checked.
		s.Update(checked(policy, at(1), at(2)))
		slower := *policy
		slower.Interval = wire.Duration(11 * time.Second)
		s.Update(checked(&slower, at(1), at(2), at(3)))
		used(2, "after a change")
		d.set(at(1), false)
		pass(11 * time.Second)
		used(2, "before the second success")
		pass(13 * time.Second)
		used(3, "after the second success")
		// Nobody is left to say that it is well again.
		d.set(at(1), true)
		pass(40 * time.Second)
		used(2, "ill again")
		s.Update(checked(nil, at(1), at(2), at(3)))
		used(3, "without a check")
		before := d.total()
		pass(time.Minute)
		if n := d.total(); n != before {
			t.Errorf("%d checks without a policy", n-before)
		}
	})
}

func TestChecksEndWithTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := newTestSet(t, Options{DialContext: hang})
		policy := &wire.HealthCheck{Type: wire.HealthCheckTCP, Interval: wire.Duration(time.Second), Timeout: wire.Duration(time.Hour), Unhealthy: 1, Healthy: 1}
		var addresses []netip.AddrPort
		for i := range 2 * maxChecks {
			addresses = append(addresses, at(i+1))
		}
		s.Update(checked(policy, addresses...))
		<-time.After(2 * time.Second)
		synctest.Wait()
		if n := len(s.checks.slots); n != maxChecks {
			t.Errorf("%d checks are under way", n)
		}
		s.Close()
		s.Update(checked(policy, addresses...))
		synctest.Wait()
		if n := len(s.checks.running); n != 0 {
			t.Errorf("%d checks run in a closed Set", n)
		}
	})
}

func TestOnlyOwnBackendsAreChecked(t *testing.T) {
	s := newTestSet(t, Options{})
	policy := &wire.Policy{HealthCheck: &wire.HealthCheck{
		Type: wire.HealthCheckTCP, Interval: wire.Duration(time.Hour), Timeout: wire.Duration(time.Second), Unhealthy: 1, Healthy: 1,
	}}
	list := direct(at(1)).Endpoints[webKey]
	s.Update(Resources{
		Backends: map[string]*wire.Backend{
			"bank/ledger:80": {Namespace: "bank", Meshed: true, Policy: policy},
			"plain/old:80":   {Namespace: "plain", Policy: policy},
		},
		Endpoints: map[string]*wire.Endpoints{"bank/ledger:80": list, "plain/old:80": list},
	})
	if n := len(s.checks.running); n != 0 {
		t.Errorf("%d endpoints of others are checked", n)
	}
}
