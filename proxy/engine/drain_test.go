package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// shutdown begins to end an engine and returns what Shutdown will.
func shutdown(ctx context.Context, e *Engine) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- e.Shutdown(ctx) }()
	return ended
}

// TestRollingRestartFailsNoRequest replaces proxies one after the other under load. The clients connect
// to a proxy that says it is accepting, as node agents make them.
func TestRollingRestartFailsNoRequest(t *testing.T) {
	backend := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	type replica struct {
		*proxy
		address string
	}
	start := func() *replica {
		p := newProxy(t, func(o *Options) { o.LeaveGrace = 500 * time.Millisecond })
		p.apply(service("cart", wire.ProtocolHTTP, backend)...)
		return &replica{proxy: p, address: p.listen(key("cart"))}
	}
	var mu sync.Mutex
	replicas := []*replica{start(), start()}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		address := replicas[0].address
		mu.Unlock()
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	stop := make(chan struct{})
	served := make(chan struct{}, 1)
	var clients sync.WaitGroup
	for _, c := range []*http.Client{client(t), client(t), client(t, h2c), client(t, h2c)} {
		c.Transport.(*http.Transport).DialContext = dial
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got := do(t, c, request(t, http.MethodPost, "proxy", "/", strings.NewReader("order")))
				if got.status != http.StatusOK || got.body != "order" {
					t.Errorf("answer = %v", got)
				}
				select {
				case served <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 5 {
		receive(t, served)
		leaving, fresh := replicas[0], start()
		ended := shutdown(t.Context(), leaving.engine)
		// Agents notice within the grace.
		until(t, func() bool { return !leaving.engine.Accepting() })
		mu.Lock()
		replicas = []*replica{replicas[1], fresh}
		mu.Unlock()
		if err := receive(t, ended); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	}
	close(stop)
	clients.Wait()
}

func TestShutdownWaitsForRequests(t *testing.T) {
	p := newProxy(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	}))...)
	address := p.listen(key("cart"))
	answers := make(chan answer, 1)
	closed := make(chan bool, 1)
	go func() {
		res, err := client(t).Do(request(t, http.MethodGet, address, "/", nil))
		if err != nil {
			t.Errorf("get: %v", err)
			answers <- answer{}
			return
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		closed <- res.Close
		answers <- answer{status: res.StatusCode, body: string(body)}
	}()
	<-arrived
	ended := shutdown(t.Context(), p.engine)
	until(t, func() bool { return !p.engine.Accepting() })
	select {
	case err := <-ended:
		t.Fatalf("shutdown ended with %v while a request was running", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := receive(t, answers); got.body != "done" {
		t.Errorf("answer = %v, want the whole of it", got)
	}
	if !receive(t, closed) {
		t.Error("the answer does not end the connection")
	}
	if err := receive(t, ended); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestConnectionsAreAcceptedWhileAgentsLeave(t *testing.T) {
	p := newProxy(t, func(o *Options) { o.LeaveGrace = patience })
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	address := p.listen(key("cart"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := shutdown(ctx, p.engine)
	until(t, func() bool { return !p.engine.Accepting() })
	if got := get(t, address, "/"); got.body != "cart" {
		t.Errorf("answer = %v, want one although the proxy is leaving", got)
	}
	cancel()
	receive(t, ended)
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("a connection was accepted after the end")
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	arrived := make(chan struct{})
	tests := map[string]func(*testing.T, *proxy) io.Reader{
		"request": func(t *testing.T, p *proxy) io.Reader {
			p.apply(service("slow", wire.ProtocolHTTP, server(t, func(_ http.ResponseWriter, r *http.Request) {
				close(arrived)
				<-r.Context().Done()
			}))...)
			_, r := raw(t, p.listen(key("slow")), lines("GET / HTTP/1.1", "Host: slow"))
			<-arrived
			return r
		},
		"WebSocket": func(t *testing.T, p *proxy) io.Reader {
			p.apply(service("chat", wire.ProtocolHTTP, upgrading(t))...)
			_, r := raw(t, p.listen(key("chat")), upgradeRequest)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("read answer: %v", err)
			}
			t.Cleanup(func() { _ = res.Body.Close() })
			expect(t, r, "hello ")
			return r
		},
		"TCP": func(t *testing.T, p *proxy) io.Reader {
			p.apply(service("mail", wire.ProtocolTCP, shouting(t))...)
			_, r := raw(t, p.listen(key("mail")), "")
			expect(t, r, "220 ready\n")
			return r
		},
	}
	for name, open := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			r := open(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			ended := shutdown(ctx, p.engine)
			select {
			case err := <-ended:
				t.Fatalf("shutdown ended with %v before its time was up", err)
			case <-time.After(50 * time.Millisecond):
			}
			cancel()
			if err := receive(t, ended); !errors.Is(err, context.Canceled) {
				t.Errorf("shutdown = %v, want it to say that something was cut", err)
			}
			if n, err := io.Copy(io.Discard, r); err == nil && n > 0 {
				t.Errorf("%d bytes came after the end", n)
			}
		})
	}
}

// TestAcceptingThatBeginsTooLate: a signal may come before the process has begun to accept. That is no
// failure, and nothing is accepted.
func TestAcceptingThatBeginsTooLate(t *testing.T) {
	p := newProxy(t)
	if err := p.engine.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	captured, hop := listenLoopback(t), listenLoopback(t)
	for name, err := range map[string]error{
		"captured": p.engine.ServeCaptured(Direct(captured, key("cart"))), "hop": p.engine.ServeHop(hop),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, l := range []net.Listener{captured, hop} {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			_ = c.Close()
			t.Error("a connection is accepted after the end")
		}
	}
}

// TestPeersOfALeavingProxyFailNoRequest ends the proxy at the other end of the hop under load.
func TestPeersOfALeavingProxyFailNoRequest(t *testing.T) {
	h := newHop(t, 2, wire.ProtocolHTTP)
	api := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	for _, peer := range h.peers {
		stocked(peer, wire.ProtocolHTTP, api)
	}
	address := h.listen(stockKey)
	stop := make(chan struct{})
	served := make(chan struct{}, 1)
	var clients sync.WaitGroup
	for range 4 {
		c := client(t)
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got := do(t, c, request(t, http.MethodPost, address, "/", strings.NewReader("order")))
				if got.status != http.StatusOK || got.body != "order" {
					t.Errorf("answer = %v", got)
				}
				select {
				case served <- struct{}{}:
				default:
				}
			}
		})
	}
	receive(t, served)
	// Nobody tells shop's proxy: all it has is the GOAWAY and then a port that is closed.
	if err := receive(t, shutdown(t.Context(), h.peers[0].engine)); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	for range 20 {
		receive(t, served)
	}
	close(stop)
	clients.Wait()
}
