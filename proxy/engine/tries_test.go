package engine

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// policed gives a Service these endpoints and a route with a policy, and returns where it is called.
func (p *proxy) policed(protocol wire.Protocol, policy *wire.Policy, endpoints ...string) string {
	p.t.Helper()
	p.apply(service("cart", protocol, endpoints...)...)
	p.apply(route("policed", "cart", func(r *wire.Route) { r.Backends, r.Policy = to("cart"), policy }))
	return p.listen(key("cart"))
}

// ledger counts which orders a backend has had, across its instances.
type ledger struct {
	mu     sync.Mutex
	orders map[string]int
}

func (l *ledger) enter(order string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.orders == nil {
		l.orders = map[string]int{}
	}
	l.orders[order]++
}

func (l *ledger) twice() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var twice []string
	for order, n := range l.orders {
		if n > 1 {
			twice = append(twice, order)
		}
	}
	return twice
}

// failing starts an instance that enters the order and then does what its name says.
func failing(t *testing.T, l *ledger, how string) string {
	var n atomic.Int64
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // a try that was given up before it had arrived
		}
		l.enter(string(body))
		switch how {
		case "500", "503":
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(map[string]int{"500": 500, "503": 503}[how])
		case "reset":
			panic(http.ErrAbortHandler)
		case "hang":
			<-r.Context().Done()
		case "half":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "close":
			// The client learns of it only when it uses the connection again.
			w.Header().Set("Connection", "close")
		case "now and then":
			if n.Add(1)%3 == 0 {
				panic(http.ErrAbortHandler)
			}
		}
	})
}

// TestPostIsNeverSentTwice sends orders to a Service of which most instances fail, each in its own way.
func TestPostIsNeverSentTwice(t *testing.T) {
	const orders = 150
	hows := []string{"well", "500", "503", "reset", "half", "hang", "close", "now and then", "refuse"}
	policies := map[string]*wire.Policy{
		"by default": timeouts(0, 100*time.Millisecond),
		"with attempts and codes for idempotent methods": wire.Overlay(timeouts(0, 100*time.Millisecond), &wire.Policy{Retry: &wire.Retry{
			Attempts: new(5), Codes: []int{500, 502, 503, 504}, Methods: new(wire.RetryIdempotent),
			Backoff: new(wire.Duration(time.Millisecond)), Budget: &wire.RetryBudget{Percent: new(100)},
		}}),
		"with codes that none of them answers": wire.Overlay(timeouts(0, 100*time.Millisecond), retries(5, time.Millisecond, 429)),
	}
	for name, policy := range policies {
		for _, far := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, over the hop %t", name, far), func(t *testing.T) {
				t.Parallel()
				var l ledger
				var endpoints []string
				for _, how := range hows {
					if how == "refuse" {
						closed := ports.Refusing(t).String()
						endpoints = append(endpoints, closed)
						continue
					}
					endpoints = append(endpoints, failing(t, &l, how))
				}
				var address string
				if far {
					address = newHop(t, 2, wire.ProtocolHTTP).policed(policy, wire.ProtocolHTTP, endpoints...)
				} else {
					address = newProxy(t).policed(wire.ProtocolHTTP, policy, endpoints...)
				}
				c := client(t)
				statuses := map[int]int{}
				for i := range orders {
					res, err := c.Do(request(t, http.MethodPost, address, "/", strings.NewReader(fmt.Sprint("order ", i))))
					if err != nil {
						continue
					}
					statuses[res.StatusCode]++
					_ = res.Body.Close()
				}
				if twice := l.twice(); len(twice) > 0 {
					t.Errorf("arrived more than once: %v", twice)
				}
				if statuses[200] == 0 || statuses[200] == orders {
					t.Errorf("statuses = %v, want some orders to fail and some not", statuses)
				}
			})
		}
	}
}

func TestRetryGoesToAnotherInstance(t *testing.T) {
	answers := func(statuses ...int) func(t *testing.T) []string {
		return func(t *testing.T) []string {
			var endpoints []string
			for _, status := range statuses {
				endpoints = append(endpoints, server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			}
			return endpoints
		}
	}
	hangsUp := func(t *testing.T) []string {
		return append(answers(200)(t), server(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	}
	tests := map[string]struct {
		endpoints func(*testing.T) []string
		attempts  int
	}{
		"one that answers 503":    {answers(503, 200), 1},
		"all that answer 503":     {answers(503, 503, 503, 200), 3},
		"one that hangs up":       {hangsUp, 1},
		"different failing kinds": {func(t *testing.T) []string { return append(hangsUp(t), answers(503, 503)(t)...) }, 3},
	}
	for name, tc := range tests {
		for _, far := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, over the hop %t", name, far), func(t *testing.T) {
				policy := retries(tc.attempts, time.Millisecond, 502, 503)
				var address string
				if far {
					address = newHop(t, 1, wire.ProtocolHTTP).policed(policy, wire.ProtocolHTTP, tc.endpoints(t)...)
				} else {
					address = newProxy(t).policed(wire.ProtocolHTTP, policy, tc.endpoints(t)...)
				}
				c := client(t)
				for range 40 {
					if got := do(t, c, request(t, http.MethodGet, address, "/", nil)); got.status != 200 {
						t.Fatalf("answer = %v, want that of the instance that is well", got)
					} else if leaked := weftFields(got.header); len(leaked) > 0 {
						t.Fatalf("the client sees %v", leaked)
					}
				}
			})
		}
	}
}

// weftFields returns the names of what proxies tell each other.
func weftFields(header http.Header) []string {
	var names []string
	for name := range header {
		if strings.HasPrefix(strings.ToLower(name), "weft-") && !strings.EqualFold(name, reason.Header) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestRetryAfterIsHonoured(t *testing.T) {
	asking := func(value string) func(http.ResponseWriter, int64) {
		return func(w http.ResponseWriter, n int64) {
			if n == 1 {
				w.Header().Set("Retry-After", value)
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	}
	tests := map[string]struct {
		value      string
		longest    time.Duration
		request    time.Duration
		wantStatus int
		least      time.Duration
	}{
		"it is waited for":                     {value: "1", longest: 2 * time.Second, wantStatus: 200, least: time.Second},
		"more than is allowed is an answer":    {value: "3", longest: 2 * time.Second, wantStatus: 503},
		"a date that is too far off is one":    {value: time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), longest: time.Minute, wantStatus: 503},
		"it may be ignored":                    {value: "3600", wantStatus: 200},
		"more than there is time is an answer": {value: "600", longest: time.Hour, request: patience, wantStatus: 503},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			backend := server(t, func(w http.ResponseWriter, _ *http.Request) { asking(tc.value)(w, n.Add(1)) })
			policy := wire.Overlay(timeouts(tc.request, 0), retries(1, time.Millisecond, 503))
			policy = wire.Overlay(policy, &wire.Policy{Retry: &wire.Retry{MaxRetryAfter: new(wire.Duration(tc.longest))}})
			begin := time.Now()
			got := get(t, newProxy(t).policed(wire.ProtocolHTTP, policy, backend), "/")
			if took := time.Since(begin); got.status != tc.wantStatus || got.reason() != "" || took < tc.least {
				t.Errorf("answer = %v after %s, want the backend's %d after %s", got, took, tc.wantStatus, tc.least)
			}
		})
	}
}

func TestRetriesBeyondTheBudgetAreRefused(t *testing.T) {
	var tried atomic.Int64
	backend := server(t, func(w http.ResponseWriter, _ *http.Request) {
		tried.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	})
	policy := wire.Overlay(retries(3, time.Millisecond, 500), &wire.Policy{Retry: &wire.Retry{
		Budget: &wire.RetryBudget{
			Percent: new(20), Interval: new(wire.Duration(time.Hour)), MinRetries: new(2), MinInterval: new(wire.Duration(time.Hour)),
		},
	}})
	p := newProxy(t)
	address := p.policed(wire.ProtocolHTTP, policy, backend)
	const requests = 50
	statuses := map[string]int{}
	for i := range requests {
		if i == requests/2 {
			// The count goes on when the configuration changes, even that of the backend.
			p.policed(wire.ProtocolHTTP, policy, backend)
		}
		got := get(t, address, "/")
		statuses[fmt.Sprint(got.status, " ", got.reason())]++
	}
	// Two always, and one for every five requests from the fifteenth on.
	if retries := tried.Load() - requests; retries != 10 {
		t.Errorf("%d retries of %d requests, want 10", retries, requests)
	}
	refused := "503 " + string(reason.RetryBudgetExhausted)
	if statuses[refused] == 0 || statuses[refused]+statuses["500 "] != requests {
		t.Errorf("answers = %v, want %s for what the budget refused", statuses, refused)
	}
	if got := metrics(t, p.engine, "weft_local_responses_total")["weft_reason="+string(reason.RetryBudgetExhausted)]; got != float64(statuses[refused]) {
		t.Errorf("%v refusals are counted, want %d", got, statuses[refused])
	}
	// The budget goes with the backend.
	p.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindBackend, Key: key("cart")}}})
	if p.engine.config.Load().reached.has(key("cart")) {
		t.Error("the budget is kept although its backend is gone")
	}
}

func TestConnectFailuresNeedNoBudget(t *testing.T) {
	closed := ports.Refusing(t).String()
	policy := &wire.Policy{Retry: &wire.Retry{Attempts: new(1), Budget: &wire.RetryBudget{
		Percent: new(0), MinRetries: new(0),
	}}}
	address := newProxy(t).policed(wire.ProtocolHTTP, policy, closed, named(t, "alive"))
	for range 20 {
		if got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader("order"))); got.body != "alive" {
			t.Fatalf("answer = %v, want one from the endpoint that is alive", got)
		}
	}
}

// TestAnotherProxyIsAskedIfOneReachesNobody: the callee's proxy says that no application has seen the
// request, so that it may go to another proxy whatever its method, if policy allows another try.
func TestAnotherProxyIsAskedIfOneReachesNobody(t *testing.T) {
	closed := ports.Refusing(t).String()
	for name, tc := range map[string]struct {
		policy *wire.Policy
		cut    []string // endpoints of the proxy that reaches nobody
		// want is the reason of those that fail, "" if none does.
		want reason.Reason
	}{
		"no attempts":               {policy: nil, cut: []string{closed}, want: reason.Connect},
		"attempts":                  {policy: retries(1, time.Millisecond), cut: []string{closed}},
		"no endpoints":              {policy: retries(1, time.Millisecond), want: reason.NoEndpoints},
		"no endpoints, 503 listed":  {policy: retries(1, time.Millisecond, 503)},
		"no endpoints, 500 listed":  {policy: retries(1, time.Millisecond, 500), want: reason.NoEndpoints},
		"attempts but for no POSTs": {policy: wire.Overlay(retries(1, time.Millisecond, 503), &wire.Policy{Retry: &wire.Retry{Methods: new(wire.RetryIdempotent)}})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHop(t, 2, wire.ProtocolHTTP)
			address := h.policed(tc.policy, wire.ProtocolHTTP, named(t, "alive"))
			stocked(h.peers[0], wire.ProtocolHTTP, tc.cut...)
			c := client(t)
			failures := 0
			for range 40 {
				got := do(t, c, request(t, http.MethodPost, address, "/", strings.NewReader("order")))
				if leaked := weftFields(got.header); len(leaked) > 0 {
					t.Fatalf("the client sees %v", leaked)
				}
				if got.status == 200 {
					continue
				}
				failures++
				if got.status != 503 || got.reason() != string(tc.want) {
					t.Fatalf("answer = %v, want 503 %s", got, tc.want)
				}
			}
			if tc.want != "" && failures == 0 {
				t.Error("nothing failed, although one of two proxies reaches nobody")
			}
		})
	}
}
