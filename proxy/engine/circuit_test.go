package engine

import (
	"io"
	"net/http"
	"testing"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// crowded is a Service whose only instance answers when it is told to, and takes one request at a time.
type crowded struct {
	*proxy
	address string
	begun   chan struct{}
	answer  chan struct{}
}

func newCrowded(t *testing.T, pending int, wait time.Duration, policy *wire.Policy) *crowded {
	t.Helper()
	x := &crowded{proxy: newProxy(t), begun: make(chan struct{}, 8), answer: make(chan struct{})}
	backend := server(t, func(_ http.ResponseWriter, r *http.Request) {
		x.begun <- struct{}{}
		select {
		case <-x.answer:
		case <-r.Context().Done():
		}
	})
	x.apply(governed(&wire.Policy{CircuitBreaking: &wire.CircuitBreaking{
		MaxRequests: new(1), MaxPendingRequests: new(pending), PendingTimeout: new(wire.Duration(wait)),
	}}, "web", backend)...)
	x.apply(route("r", "web", func(r *wire.Route) { r.Backends, r.Policy = to("web"), policy }))
	x.address = x.listen(key("web"))
	return x
}

// send sends a request in the background.
func (x *crowded) send() <-chan answer {
	x.t.Helper()
	done := make(chan answer, 1)
	c, req := client(x.t), request(x.t, http.MethodGet, x.address, "/", nil)
	go func() {
		res, err := c.Do(req)
		if err != nil {
			x.t.Errorf("send: %v", err)
			done <- answer{}
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		done <- answer{status: res.StatusCode, header: res.Header}
	}()
	return done
}

func (x *crowded) pending() bool {
	return x.metric("weft_circuit_breaker_pending", "weft_backend", key("web")) == 1
}

func TestRequestOverTheLimitIsRefused(t *testing.T) {
	x := newCrowded(t, 0, 0, retries(3, time.Millisecond, 500))
	first := x.send()
	<-x.begun
	a := get(t, x.address, "/")
	if a.status != http.StatusServiceUnavailable || a.reason() != string(reason.CircuitOpen) || a.header.Get("Retry-After") != "1" {
		t.Errorf("answer %v, Retry-After %q", a, a.header.Get("Retry-After"))
	}
	if n := x.metric("weft_circuit_breaker_open_total", "limit", "requests"); n != 1 {
		t.Errorf("refused %v times", n)
	}
	close(x.answer)
	if a := <-first; a.status != http.StatusOK {
		t.Errorf("the first: %v", a)
	}
	if a := get(t, x.address, "/"); a.status != http.StatusOK {
		t.Errorf("afterwards: %v", a)
	}
}

func TestPendingRequestIsServedWhenThereIsRoom(t *testing.T) {
	x := newCrowded(t, 1, patience, nil)
	first := x.send()
	<-x.begun
	second := x.send()
	until(t, x.pending)
	if a := get(t, x.address, "/"); a.reason() != string(reason.CircuitOpen) {
		t.Errorf("a third: %v", a)
	}
	x.answer <- struct{}{}
	<-x.begun
	x.answer <- struct{}{}
	for name, done := range map[string]<-chan answer{"first": first, "pending": second} {
		if a := <-done; a.status != http.StatusOK {
			t.Errorf("the %s: %v", name, a)
		}
	}
}

func TestPendingRequestWaitsNoLongerThanItMay(t *testing.T) {
	x := newCrowded(t, 1, time.Millisecond, nil)
	first := x.send()
	<-x.begun
	if a := get(t, x.address, "/"); a.reason() != string(reason.CircuitOpen) || a.header.Get("Retry-After") == "" {
		t.Errorf("answer %v", a)
	}
	close(x.answer)
	<-first
}

func TestDeadlineWhilePending(t *testing.T) {
	x := newCrowded(t, 1, patience, timeouts(50*time.Millisecond, 0))
	// A first request would end by the same deadline.
	held, err := x.engine.upstream.Choose(t.Context(), key("web"), upstream.Wish{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	a := get(t, x.address, "/")
	if a.status != http.StatusGatewayTimeout || a.reason() != string(reason.DeadlineExceeded) {
		t.Errorf("answer %v", a)
	}
	if len(x.begun) > 0 {
		t.Error("the request was sent")
	}
}

func TestLimitsHoldForRequestsOfTheHop(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	stocked(h.peers[0], wire.ProtocolHTTP, server(t, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-finish
	}))
	h.peers[0].apply(resource(stockKey, &wire.Backend{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true,
		Policy: &wire.Policy{CircuitBreaking: &wire.CircuitBreaking{MaxRequests: new(1)}},
	}))
	address := h.listen(stockKey)
	done := make(chan struct{})
	c, req := client(t), request(t, http.MethodGet, address, "/", nil)
	go func() {
		defer close(done)
		if res, err := c.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-begun
	a := get(t, address, "/")
	if a.status != http.StatusServiceUnavailable || a.reason() != string(reason.CircuitOpen) || a.header.Get("Retry-After") != "1" {
		t.Errorf("answer %v, Retry-After %q", a, a.header.Get("Retry-After"))
	}
	close(finish)
	<-done
}
