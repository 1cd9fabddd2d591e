package engine

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// recorded starts a backend that keeps the bytes of one request's head and sends bytes as they are.
func recorded(t *testing.T, response string) (address string, arrived <-chan string) {
	t.Helper()
	l := listenLoopback(t)
	heads, served := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		var head strings.Builder
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadString('\n')
			if head.WriteString(line); err != nil || line == "\r\n" {
				break
			}
		}
		heads <- head.String()
		_, _ = io.WriteString(c, response)
		_, _ = io.Copy(io.Discard, c)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	return l.Addr().String(), heads
}

// net/http writes names as it likes them, sorted by name.
func TestHeaderKeepsItsBytesAndOrder(t *testing.T) {
	if tested != HTTPWeft {
		return
	}
	const response = "HTTP/1.1 200 Fine\r\nx-b: 1\r\ncontent-length: 2\r\nDATE: Mon, 30 Nov 2026 09:00:00 GMT\r\nX-a: \xe4\r\nx-B: 2\r\n\r\nok"
	address, arrived := recorded(t, response)
	p := newProxy(t)
	p.apply(append(service("cart", wire.ProtocolHTTP, address), route("r", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Filters = []wire.Filter{
			{RequestHeaders: &wire.HeaderModifier{Add: []wire.HeaderField{{Name: "added", Value: "1"}}}},
			{ResponseHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-A", Value: "set"}}}},
		}
	}))...)
	c, r := raw(t, p.listen(key("cart")),
		"GET /a%2Fb?c HTTP/1.1\r\nx-b: 1\r\nhost: Cart:80\r\nAccept-LANGUAGE:  de \r\nconnection: x-hop\r\nx-hop: 1\r\nX-B: \"\xe4\"\r\n\r\n")
	if got, want := <-arrived, "GET /a%2Fb?c HTTP/1.1\r\nHost: Cart:80\r\nx-b: 1\r\nAccept-LANGUAGE: de\r\nX-B: \"\xe4\"\r\nadded: 1\r\n\r\n"; got != want {
		t.Errorf("arrived %q, want %q", got, want)
	}
	const want = "HTTP/1.1 200 OK\r\nx-b: 1\r\ncontent-length: 2\r\nDATE: Mon, 30 Nov 2026 09:00:00 GMT\r\nX-A: set\r\nx-B: 2\r\n\r\nok"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("answer = %q, %v, want %q", got, err, want)
	}
	_ = c.Close()
}

// Two proxies in a row pass on both directions of an exchange at once, with more under way than all sockets hold:
// none of them waits for one direction while it holds up the other.
func TestProxiesInARowMoveBothDirections(t *testing.T) {
	echo := server(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	})
	second := newProxy(t)
	second.apply(service("cart", wire.ProtocolHTTP, echo)...)
	first := newProxy(t)
	first.apply(service("cart", wire.ProtocolHTTP, second.listen(key("cart")))...)
	const size = 32 << 20
	c, r := raw(t, first.listen(key("cart")), lines("POST / HTTP/1.1", "Host: cart", fmt.Sprint("Content-Length: ", size)))
	sent := sha256.New()
	writing := make(chan error, 1)
	go func() {
		block := make([]byte, 64<<10)
		var err error
		for left := size; left > 0 && err == nil; left -= len(block) {
			block[0]++
			sent.Write(block)
			_, err = c.Write(block)
		}
		writing <- err
	}()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	received := sha256.New()
	n, err := io.Copy(received, res.Body)
	if failed := <-writing; failed != nil {
		t.Errorf("write: %v", failed)
	}
	if n != size || err != nil || !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Errorf("%d bytes came back, %v, want the %d that were sent", n, err, size)
	}
}

// A client that reads nothing holds its backend back: the proxy keeps no more than its buffers.
func TestSlowClientHoldsTheBackendBack(t *testing.T) {
	const size = 256 << 20
	wrote := make(chan int, 1)
	address := server(t, func(w http.ResponseWriter, _ *http.Request) {
		n, block := 0, make([]byte, 64<<10)
		for n < size {
			m, err := w.Write(block)
			if n += m; err != nil {
				break
			}
		}
		wrote <- n
	})
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, address)...)
	c, r := raw(t, p.listen(key("cart")), lines("GET / HTTP/1.1", "Host: cart"))
	if _, err := r.Peek(1); err != nil {
		t.Fatalf("read: %v", err)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	if n := <-wrote; n >= size {
		t.Errorf("the backend could write %d bytes that nobody has read", n)
	}
}
