package engine

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

var upgradeRequest = lines("GET /chat?room=1 HTTP/1.1", "Host: cart", "Connection: keep-alive, Upgrade",
	"Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")

// upgrading starts a backend that accepts an upgrade of /chat and then echoes bytes, and returns its
// address and the number of connections it has had.
func upgrading(t *testing.T) string {
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/chat" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Sec-Websocket-Key") == "" {
			t.Errorf("the upgrade arrived as %v", r.Header)
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer func() { _ = c.Close() }()
		// Bytes may follow the head at once.
		_, _ = rw.WriteString(lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: x") + "hello ")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw.Reader)
	})
}

func TestWebSocket(t *testing.T) {
	const limit = time.Second
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, upgrading(t))...)
	p.apply(route("chat", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		// They end with the handshake.
		r.Policy = timeouts(limit, limit)
	}))
	// Bytes that come with the request are not lost.
	c, r := raw(t, p.listen(key("cart")), upgradeRequest+"early ")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-Websocket-Accept") != "x" {
		t.Fatalf("answer = %d %v, want the backend's 101", res.StatusCode, res.Header)
	}
	expect(t, r, "hello early ")
	ticker := time.NewTicker(limit / 10)
	defer ticker.Stop()
	for range 12 {
		if _, err := io.WriteString(c, "ping"); err != nil {
			t.Fatalf("write: %v", err)
		}
		expect(t, r, "ping")
		<-ticker.C
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("after the end came %q, %v", rest, err)
	}
}

func TestRefusedUpgradeIsAnAnswer(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, upgrading(t))...)
	address := p.listen(key("cart"))
	_, r := raw(t, address, strings.Replace(upgradeRequest, "/chat", "/no", 1))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("status = %d, want the backend's 403", res.StatusCode)
	}
}

func TestBytesBehindARefusedUpgradeAreNoRequestOfTheBackend(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			t.Error("bytes behind the upgrade were taken for a request")
		}
	}))...)
	_, r := raw(t, p.listen(key("cart")), upgradeRequest+lines("GET /smuggled HTTP/1.1", "Host: cart"))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if !res.Close {
		t.Error("the connection goes on, so what the client meant for the other protocol becomes a request")
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("after the answer came %q, %v", rest, err)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// shouting starts a TCP backend that greets first and then answers each line in upper case.
func shouting(t *testing.T) string {
	t.Helper()
	l := listenLoopback(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, "220 ready\n")
				for scanner := bufio.NewScanner(c); scanner.Scan(); {
					_, _ = io.WriteString(c, strings.ToUpper(scanner.Text())+"\n")
				}
				_, _ = io.WriteString(c, "bye\n")
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestTCP(t *testing.T) {
	p := newProxy(t)
	closed := ports.Refusing(t).String()
	// An endpoint that refuses is left for another.
	p.apply(service("mail", wire.ProtocolTCP, closed, shouting(t))...)
	// A route on an opaque port is not applied.
	p.apply(route("none", "mail", func(r *wire.Route) { r.Matches = nil }))
	address := p.listen(key("mail"))
	for range 5 {
		c, r := raw(t, address, "")
		expect(t, r, "220 ready\n")
		if _, err := io.WriteString(c, "helo\n"); err != nil {
			t.Fatalf("write: %v", err)
		}
		expect(t, r, "HELO\n")
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "bye\n" {
			t.Fatalf("after the client's end came %q, %v, want the rest of the answer", rest, err)
		}
	}
}

func TestTCPWithoutABackendIsReset(t *testing.T) {
	p := newProxy(t)
	p.apply(service("mail", wire.ProtocolTCP)...)
	err := try(t, p.listen(key("mail")), "")
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset: an orderly end could be taken for an answer", err)
	}
}
