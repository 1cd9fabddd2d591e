package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// flaky starts a backend whose first answers have the statuses given; 0 means that it hangs up without
// one. After them it answers 200 with the number of the try and the body.
func flaky(t *testing.T, statuses ...int) string {
	var tries atomic.Int64
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		n := int(tries.Add(1))
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		if n <= len(statuses) {
			if statuses[n-1] == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(statuses[n-1])
			return
		}
		fmt.Fprintf(w, "try %d %s", n, body)
	})
}

func TestRetries(t *testing.T) {
	two := retries(2, time.Millisecond, 500, 503)
	resets := retries(2, time.Millisecond, 502)
	tests := map[string]struct {
		policy     *wire.Policy
		method     string
		body       string
		answers    []int
		wantStatus int
		wantBody   string
	}{
		"a listed status is tried again": {
			policy: two, method: "GET", answers: []int{500, 503}, wantStatus: 200, wantBody: "try 3 ",
		},
		"whatever the method, with the same body": {
			policy: two, method: "POST", body: "order", answers: []int{500}, wantStatus: 200, wantBody: "try 2 order",
		},
		"until the tries are used up": {policy: two, method: "GET", answers: []int{500, 500, 500}, wantStatus: 500},
		"a status that is not listed is passed on": {
			policy: two, method: "GET", answers: []int{502}, wantStatus: 502,
		},
		"nothing is tried again unasked": {method: "GET", answers: []int{500}, wantStatus: 500},
		"a zero of attempts disables": {
			policy: retries(0, time.Millisecond, 500), method: "GET", answers: []int{500}, wantStatus: 500,
		},
		"a reset of an idempotent request": {
			policy: two, method: "PUT", body: "order", answers: []int{0}, wantStatus: 200, wantBody: "try 2 order",
		},
		"a reset of another request is not repeated": {
			policy: two, method: "POST", body: "order", answers: []int{0}, wantStatus: 502, wantBody: "weft: the backend closed the connection before it answered\n",
		},
		"unless its status is listed": {
			policy: resets, method: "POST", body: "order", answers: []int{0}, wantStatus: 200, wantBody: "try 2 order",
		},
		"a body that is not kept is not repeated": {
			policy: two, method: "PUT", body: strings.Repeat("a", 2*maxReplay), answers: []int{500}, wantStatus: 500,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", wire.ProtocolHTTP, flaky(t, tc.answers...))...)
			p.apply(route("retries", "cart", func(r *wire.Route) {
				r.Backends = to("cart")
				r.Policy = tc.policy
			}))
			address := p.listen(key("cart"))
			got := do(t, client(t), request(t, tc.method, address, "/", strings.NewReader(tc.body)))
			if got.status != tc.wantStatus || got.body != tc.wantBody {
				t.Errorf("answer = %v, want %d %q", got, tc.wantStatus, tc.wantBody)
			}
		})
	}
}

func TestRetriesAreCountedByReason(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, flaky(t, 500, 0))...)
	p.apply(route("retries", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Policy = retries(5, time.Millisecond, 500)
	}))
	get(t, p.listen(key("cart")), "/")
	got := map[string]float64{}
	for labels, n := range metrics(t, p.engine, "weft_upstream_retries_total") {
		_, rest, _ := strings.Cut(labels, "weft_retry_reason=")
		reason, _, _ := strings.Cut(rest, " ")
		got[reason] = n
	}
	if got["status"] != 1 || got["reset"] != 1 {
		t.Errorf("retries = %v, want one for a status and one for a reset", got)
	}
}

func TestBackoffIsTheLeastTimeBetweenTries(t *testing.T) {
	const backoff = 30 * time.Millisecond
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, flaky(t, 500, 500))...)
	p.apply(route("retries", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Policy = retries(2, backoff, 500)
	}))
	begin := time.Now()
	got := get(t, p.listen(key("cart")), "/")
	if took := time.Since(begin); got.body != "try 3 " || took < 3*backoff {
		t.Errorf("answer = %v after %s, want the third try after %s and twice that", got, took, backoff)
	}
}

func TestEndpointThatRefusesIsLeftWhateverTheMethod(t *testing.T) {
	closed := ports.Refusing(t).String()
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, closed, named(t, "alive"))...)
	address := p.listen(key("cart"))
	for range 20 {
		got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader("order")))
		if got.status != http.StatusOK || got.body != "alive" {
			t.Fatalf("answer = %v, want one from the endpoint that is alive", got)
		}
	}
}

func TestTimeouts(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalls" {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}
	const short = 40 * time.Millisecond
	tests := map[string]struct {
		policy     *wire.Policy
		wantReason reason.Reason
	}{
		"request": {policy: timeouts(short, 0), wantReason: reason.DeadlineExceeded},
		"backend request": {
			policy: timeouts(patience, short), wantReason: reason.BackendTimeout,
		},
		"request over all tries": {
			policy:     wire.Overlay(timeouts(4*short, short), retries(1000, time.Millisecond, 504)),
			wantReason: reason.DeadlineExceeded,
		},
		"request that ends in a pause": {
			policy:     wire.Overlay(timeouts(2*short, short), retries(1, patience, 504)),
			wantReason: reason.DeadlineExceeded,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", wire.ProtocolHTTP, server(t, slow))...)
			p.apply(route("limits", "cart", func(r *wire.Route) {
				r.Backends, r.Policy = to("cart"), tc.policy
			}))
			address := p.listen(key("cart"))
			got := get(t, address, "/")
			if got.status != http.StatusGatewayTimeout || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want 504 %s", got, tc.wantReason)
			}
			until(t, func() bool {
				res, err := client(t).Do(request(t, http.MethodGet, address, "/stalls", nil))
				if err != nil {
					t.Fatalf("get: %v", err)
				}
				defer func() { _ = res.Body.Close() }()
				body, err := io.ReadAll(res.Body)
				if res.StatusCode == http.StatusGatewayTimeout {
					return false // the time was over before the head was there
				}
				if err == nil {
					t.Errorf("an answer that stalls ended as if it were whole: %q", body)
				}
				return true
			})
		})
	}
}

func TestSlowBackendIsTriedAgain(t *testing.T) {
	p := newProxy(t)
	var tries atomic.Int64
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "second")
	}))...)
	p.apply(route("limits", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Policy = wire.Overlay(timeouts(0, 500*time.Millisecond), retries(1, time.Millisecond))
	}))
	if got := get(t, p.listen(key("cart")), "/"); got.body != "second" {
		t.Errorf("answer = %v, want that of the second try", got)
	}
}
