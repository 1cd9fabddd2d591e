package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// brief is a timeout that tests wait for. A connection over the hop must be made well within it, on a machine that is
// busy with other things as well.
const brief = time.Second

// idle and stream return policies with one timeout.
func idle(d time.Duration) *wire.Policy {
	return &wire.Policy{Timeouts: &wire.Timeouts{Idle: new(wire.Duration(d))}}
}

func stream(d time.Duration) *wire.Policy {
	return &wire.Policy{Timeouts: &wire.Timeouts{Stream: new(wire.Duration(d))}}
}

// places are a proxy alone and two with the hop between them.
var places = map[string]func(t *testing.T, policy *wire.Policy, protocol wire.Protocol, endpoints ...string) (address string, p *proxy){
	"in one namespace": func(t *testing.T, policy *wire.Policy, protocol wire.Protocol, endpoints ...string) (string, *proxy) {
		p := newProxy(t)
		return p.policed(protocol, policy, endpoints...), p
	},
	"over the hop": func(t *testing.T, policy *wire.Policy, protocol wire.Protocol, endpoints ...string) (string, *proxy) {
		h := newHop(t, 1, protocol)
		return h.policed(policy, protocol, endpoints...), h.proxy
	},
}

// TestDeadlineCancelsTheBackend: what has no time left must not be worked on.
func TestDeadlineCancelsTheBackend(t *testing.T) {
	for place, start := range places {
		// A response must have begun in time.
		const long = 2 * brief
		for name, policy := range map[string]*wire.Policy{"request": timeouts(long, 0), "try": timeouts(0, long)} {
			want := map[string]reason.Reason{"request": reason.DeadlineExceeded, "try": reason.BackendTimeout}[name]
			for _, path := range []string{"/", "/streams"} {
				t.Run(fmt.Sprint("HTTP/1.1 connection is closed, ", place, ", ", name, path), func(t *testing.T) {
					t.Parallel()
					// The backend is a bare listener, so that the end of the connection is what is seen.
					l := listenLoopback(t)
					t.Cleanup(func() { _ = l.Close() })
					closed := make(chan error, 1)
					go func() {
						c, err := l.Accept()
						if err != nil {
							closed <- err
							return
						}
						defer func() { _ = c.Close() }()
						r := bufio.NewReader(c)
						if _, err = http.ReadRequest(r); err == nil && path == "/streams" {
							_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
						}
						if err == nil {
							_ = c.SetReadDeadline(time.Now().Add(patience))
							_, err = r.ReadByte()
						}
						closed <- err
					}()
					address, _ := start(t, policy, wire.ProtocolHTTP, l.Addr().String())
					res, err := client(t).Do(request(t, http.MethodPost, address, path, nil))
					if err != nil {
						t.Fatalf("post: %v", err)
					}
					defer func() { _ = res.Body.Close() }()
					_, readErr := io.ReadAll(res.Body)
					switch {
					case path == "/" && (res.StatusCode != http.StatusGatewayTimeout || res.Header.Get(reason.Header) != string(want)):
						t.Errorf("answer = %d %s, want 504 %s", res.StatusCode, res.Header.Get(reason.Header), want)
					case path == "/streams" && readErr == nil:
						t.Error("an answer that was cut ended as if it were whole")
					}
					if err := receive(t, closed); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
						t.Errorf("the backend saw %v, want its connection closed", err)
					}
				})
			}
			t.Run(fmt.Sprint("HTTP/2 stream is reset, ", place, ", ", name), func(t *testing.T) {
				t.Parallel()
				code := make(chan http2.ErrCode, 1)
				address, _ := start(t, policy, wire.ProtocolH2C, h2Listener(t, code))
				got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader("order")))
				if got.status != http.StatusGatewayTimeout || got.reason() != string(want) {
					t.Errorf("answer = %v, want 504 %s", got, want)
				}
				if got := receive(t, code); got != http2.ErrCodeCancel {
					t.Errorf("the stream was reset with %s, want CANCEL", got)
				}
			})
		}
	}
}

// h2Listener starts a backend that never answers and passes on the code of the first stream reset.
func h2Listener(t *testing.T, code chan<- http2.ErrCode) string {
	t.Helper()
	l := listenLoopback(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(c, c)
		_ = framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = framer.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					_ = framer.WritePing(true, f.Data)
				}
			case *http2.RSTStreamFrame:
				select {
				case code <- f.ErrCode:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// TestTheHopsDeadlineNeedsNoPolicy: the callee's proxy is told how much time is left, and takes no more,
// whether the backend works or the request waits for its turn.
func TestTheHopsDeadlineNeedsNoPolicy(t *testing.T) {
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprint("waits ", waits), func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			address := server(t, func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				close(ended)
			})
			h := newHop(t, 1, wire.ProtocolHTTP)
			stocked(h.peers[0], wire.ProtocolHTTP, address)
			if waits {
				h.peers[0].apply(resource(stockKey, &wire.Backend{
					Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true,
					Policy: &wire.Policy{CircuitBreaking: &wire.CircuitBreaking{
						MaxRequests: new(1), MaxPendingRequests: new(1), PendingTimeout: new(wire.Duration(patience)),
					}},
				}))
				held, err := h.peers[0].engine.upstream.Choose(t.Context(), stockKey, upstream.Wish{})
				if err != nil {
					t.Fatalf("choose: %v", err)
				}
				defer held.Release()
				close(ended)
			}
			// The caller is a proxy that gives no sign after it has sent the request.
			set := upstream.NewSet(upstream.Options{Namespace: namespace, Identity: h.engine.identity, DialContext: h.dial})
			t.Cleanup(set.Close)
			view := set.Update(upstream.Resources{
				Backends: map[string]*wire.Backend{stockKey: {Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true}},
				Proxies:  h.engine.builder.proxies.publish(),
			})
			endpoint, err := view.Choose(t.Context(), stockKey, upstream.Wish{})
			if err != nil {
				t.Fatalf("choose: %v", err)
			}
			req := request(t, http.MethodGet, "api.stock", "/", nil)
			res, err := set.RoundTrip(req.Context(), endpoint, upstream.Call{
				Source: upstream.Source{ServiceAccount: "client"}, Deadline: time.Now().Add(2 * brief), // enough to reach the application on a busy machine
			}, req)
			if err != nil {
				t.Fatalf("round trip: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != http.StatusGatewayTimeout || res.Header.Get(reason.Header) != string(reason.DeadlineExceeded) {
				t.Errorf("answer = %d %s, want 504 deadline_exceeded", res.StatusCode, res.Header.Get(reason.Header))
			}
			receive(t, ended)
			if o := upstream.TakeOutcome(res.Header); (o.NotProcessed != "") != waits {
				t.Errorf("the proxy says not processed %q, want it only of what waited", o.NotProcessed)
			}
		})
	}
}

// TestNoTimeForAnotherTry: a wait that the deadline would end is not begun.
func TestNoTimeForAnotherTry(t *testing.T) {
	policy := wire.Overlay(timeouts(10*time.Minute, 0), retries(1, time.Hour, 502, 503))
	policy = wire.Overlay(policy, &wire.Policy{Retry: &wire.Retry{MaxBackoff: new(wire.Duration(time.Hour))}})
	for name, tc := range map[string]struct {
		first      int
		wantStatus int
		wantReason reason.Reason
	}{
		"a failure is a deadline exceeded":          {0, 504, reason.DeadlineExceeded},
		"an answer of the backend is its own again": {503, 503, ""},
	} {
		t.Run(name, func(t *testing.T) {
			// If it waited, the test would wait for an hour.
			got := get(t, newProxy(t).policed(wire.ProtocolHTTP, policy, flaky(t, tc.first)), "/")
			if got.status != tc.wantStatus || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want %d %s", got, tc.wantStatus, tc.wantReason)
			}
		})
	}
}

func TestNoTimeForAFirstTry(t *testing.T) {
	address := newProxy(t).policed(wire.ProtocolHTTP, timeouts(minTry/2, 0), server(t, func(http.ResponseWriter, *http.Request) {
		t.Error("the backend was asked although there was no time")
	}))
	if got := get(t, address, "/"); got.status != 504 || got.reason() != string(reason.DeadlineExceeded) {
		t.Errorf("answer = %v, want 504 deadline_exceeded", got)
	}
}

func TestIdleTimeout(t *testing.T) {
	stalls := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		case "/floods":
			_ = http.NewResponseController(w).Flush()
			for block := make([]byte, 64<<10); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		case "/trickles":
			ticker := time.NewTicker(brief / 10)
			defer ticker.Stop()
			for range 15 {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				<-ticker.C
			}
			return
		}
		<-r.Context().Done()
	})
	for place, start := range places {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			address, p := start(t, idle(brief), wire.ProtocolHTTP, stalls)
			if got := get(t, address, "/"); got.status != 504 || got.reason() != string(reason.IdleTimeout) {
				t.Errorf("answer = %v, want 504 idle_timeout", got)
			}
			for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
				until(t, func() bool {
					res, err := c.Do(request(t, http.MethodGet, address, "/half", nil))
					if err != nil {
						t.Fatalf("get: %v", err)
					}
					defer func() { _ = res.Body.Close() }()
					body, err := io.ReadAll(res.Body)
					if res.StatusCode == http.StatusGatewayTimeout {
						return false // nothing had moved before the head was there
					}
					if err == nil {
						t.Errorf("%s: an answer that stalls ended as if it were whole: %q", name, body)
					}
					return true
				})
			}
			// A client that reads nothing is idle as well.
			until(t, func() bool {
				_, r := raw(t, address, lines("GET /floods HTTP/1.1", "Host: cart"))
				head, err := r.Peek(len("HTTP/1.1 200"))
				return err == nil && string(head) == "HTTP/1.1 200"
			})
			until(t, func() bool {
				return metrics(t, p.engine, "weft_exchanges_cut_total")["weft_reason="+string(reason.IdleTimeout)] == 3
			})
		})
	}
	t.Run("bytes that move", func(t *testing.T) {
		t.Parallel()
		// The pauses are shorter than the timeout, and all of them together longer.
		address := newProxy(t).policed(wire.ProtocolHTTP, idle(brief), stalls)
		if got := get(t, address, "/trickles"); got.body != strings.Repeat("x", 15) {
			t.Errorf("answer = %v, want all of it", got)
		}
	})
}

func TestIdleTimeoutEndsConnections(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		resources := service("mail", wire.ProtocolTCP, shouting(t))
		for i := range resources {
			if resources[i].Destination != nil {
				resources[i].Destination.Policy = idle(brief)
			}
		}
		p.apply(resources...)
		_, r := raw(t, p.listen(key("mail")), "helo\n")
		expect(t, r, "220 ready\nHELO\n")
		if _, err := io.ReadAll(r); err == nil {
			t.Error("the end was orderly, want a reset")
		}
		until(t, func() bool {
			return metrics(t, p.engine, "weft_exchanges_cut_total")["weft_reason="+string(reason.IdleTimeout)] == 1
		})
	})
	for place, start := range places {
		t.Run("WebSocket, "+place, func(t *testing.T) {
			t.Parallel()
			address, _ := start(t, idle(brief), wire.ProtocolHTTP, upgrading(t))
			_, r := raw(t, address, upgradeRequest)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("answer = %v, %v, want 101", res, err)
			}
			_ = res.Body.Close()
			expect(t, r, "hello ")
			if _, err := io.ReadAll(r); err == nil {
				t.Error("the end was orderly, want a reset")
			}
		})
	}
}

func TestStreamTimeoutEndsConnectionsThatMove(t *testing.T) {
	p := newProxy(t)
	address := p.policed(wire.ProtocolHTTP, wire.Overlay(stream(2*brief), timeouts(brief, 0)), upgrading(t))
	c, r := raw(t, address, upgradeRequest)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("answer = %v, %v, want 101", res, err)
	}
	_ = res.Body.Close()
	expect(t, r, "hello ")
	begin := time.Now()
	for err == nil {
		if _, err = io.WriteString(c, "x"); err == nil {
			_, err = r.ReadByte()
		}
	}
	if took := time.Since(begin); took < brief/2 {
		t.Errorf("it ended after %s with %v", took, err)
	}
	until(t, func() bool {
		return metrics(t, p.engine, "weft_exchanges_cut_total")["weft_reason="+string(reason.DeadlineExceeded)] == 1
	})
}

// TestStreamTimeoutReplacesThatOfTheRequest: a request that is answered in time by a stream goes on.
func TestStreamTimeoutReplacesThatOfTheRequest(t *testing.T) {
	events := func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.URL.Path == "/counted" {
			w.Header().Set("Content-Length", "1000")
		}
		if r.URL.Path == "/late" {
			<-r.Context().Done()
			return
		}
		ticker := time.NewTicker(brief / 10)
		defer ticker.Stop()
		for {
			_, _ = io.WriteString(w, "x")
			if rc.Flush() != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
		}
	}
	for place, start := range places {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			policy := wire.Overlay(timeouts(2*brief, 0), stream(5*brief))
			address, _ := start(t, policy, wire.ProtocolHTTP, server(t, events))
			if got := get(t, address, "/late"); got.status != 504 || got.reason() != string(reason.DeadlineExceeded) {
				t.Errorf("answer = %v, want 504 at the end of the request's timeout", got)
			}
			length := map[string]time.Duration{}
			for _, path := range []string{"/counted", "/events"} {
				begin := time.Now()
				res, err := client(t).Do(request(t, http.MethodGet, address, path, nil))
				if err != nil {
					t.Fatalf("get: %v", err)
				}
				if _, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("%s: an answer that was cut ended as if it were whole", path)
				}
				_ = res.Body.Close()
				length[path] = time.Since(begin)
			}
			if length["/events"] < 5*brief-5*time.Millisecond {
				t.Errorf("the stream was cut after %s, want %s", length["/events"], 5*brief)
			}
		})
	}
}
