package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
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
	two := &wire.Retry{Attempts: 2, Codes: []int{500, 503}, Backoff: wire.Duration(time.Millisecond)}
	resets := &wire.Retry{Attempts: 2, Codes: []int{502}, Backoff: wire.Duration(time.Millisecond)}
	tests := map[string]struct {
		retry      *wire.Retry
		method     string
		body       string
		answers    []int
		wantStatus int
		wantBody   string
	}{
		"a listed status is tried again": {
			retry: two, method: "GET", answers: []int{500, 503}, wantStatus: 200, wantBody: "try 3 ",
		},
		"whatever the method, with the same body": {
			retry: two, method: "POST", body: "order", answers: []int{500}, wantStatus: 200, wantBody: "try 2 order",
		},
		"until the tries are used up": {retry: two, method: "GET", answers: []int{500, 500, 500}, wantStatus: 500},
		"a status that is not listed is passed on": {
			retry: two, method: "GET", answers: []int{502}, wantStatus: 502,
		},
		"nothing is tried again unasked": {method: "GET", answers: []int{500}, wantStatus: 500},
		"a zero of attempts disables": {
			retry: &wire.Retry{Codes: []int{500}}, method: "GET", answers: []int{500}, wantStatus: 500,
		},
		"a reset of an idempotent request": {
			retry: two, method: "PUT", body: "order", answers: []int{0}, wantStatus: 200, wantBody: "try 2 order",
		},
		"a reset of another request is not repeated": {
			retry: two, method: "POST", body: "order", answers: []int{0}, wantStatus: 502, wantBody: "weft: the backend closed the connection before it answered\n",
		},
		"unless its status is listed": {
			retry: resets, method: "POST", body: "order", answers: []int{0}, wantStatus: 200, wantBody: "try 2 order",
		},
		"a body that is not kept is not repeated": {
			retry: two, method: "PUT", body: strings.Repeat("a", 2*maxReplay), answers: []int{500}, wantStatus: 500,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", wire.ProtocolHTTP, flaky(t, tc.answers...))...)
			p.apply(route("retries", "cart", func(r *wire.Route) {
				r.Backends = to("cart")
				r.Retry = tc.retry
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
		r.Retry = &wire.Retry{Attempts: 5, Codes: []int{500}, Backoff: wire.Duration(time.Millisecond)}
	}))
	get(t, p.listen(key("cart")), "/")
	got := map[string]float64{}
	for labels, n := range metrics(t, p.engine, "weft_upstream_retries_total") {
		_, rest, _ := strings.Cut(labels, "reason=")
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
		r.Retry = &wire.Retry{Attempts: 2, Codes: []int{500}, Backoff: wire.Duration(backoff)}
	}))
	begin := time.Now()
	got := get(t, p.listen(key("cart")), "/")
	if took := time.Since(begin); got.body != "try 3 " || took < 3*backoff {
		t.Errorf("answer = %v after %s, want the third try after %s and twice that", got, took, backoff)
	}
}

func TestEndpointThatRefusesIsLeftWhateverTheMethod(t *testing.T) {
	closed := listenLoopback(t)
	_ = closed.Close()
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, closed.Addr().String(), named(t, "alive"))...)
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
	short := wire.Duration(40 * time.Millisecond)
	tests := map[string]struct {
		timeouts   wire.Timeouts
		retry      *wire.Retry
		wantReason reason
	}{
		"request": {timeouts: wire.Timeouts{Request: short}, wantReason: reasonRequestTimeout},
		"backend request": {
			timeouts: wire.Timeouts{Request: wire.Duration(patience), BackendRequest: short}, wantReason: reasonBackendTimeout,
		},
		"request over all tries": {
			timeouts:   wire.Timeouts{Request: 4 * short, BackendRequest: short},
			retry:      &wire.Retry{Attempts: 1000, Codes: []int{504}, Backoff: wire.Duration(time.Millisecond)},
			wantReason: reasonRequestTimeout,
		},
		"request that ends in a pause": {
			timeouts:   wire.Timeouts{Request: 2 * short, BackendRequest: short},
			retry:      &wire.Retry{Attempts: 1, Codes: []int{504}, Backoff: wire.Duration(patience)},
			wantReason: reasonRequestTimeout,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", wire.ProtocolHTTP, server(t, slow))...)
			p.apply(route("limits", "cart", func(r *wire.Route) {
				r.Backends, r.Timeouts, r.Retry = to("cart"), tc.timeouts, tc.retry
			}))
			address := p.listen(key("cart"))
			got := get(t, address, "/")
			if got.status != http.StatusGatewayTimeout || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want 504 %s", got, tc.wantReason)
			}
			res, err := client(t).Do(request(t, http.MethodGet, address, "/stalls", nil))
			if err != nil {
				t.Fatalf("get: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("an answer that stalls ended as if it were whole: %q", body)
			}
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
		r.Timeouts.BackendRequest = wire.Duration(500 * time.Millisecond)
		r.Retry = &wire.Retry{Attempts: 1}
	}))
	if got := get(t, p.listen(key("cart")), "/"); got.body != "second" {
		t.Errorf("answer = %v, want that of the second try", got)
	}
}
