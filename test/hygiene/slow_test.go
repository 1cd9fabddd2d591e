package hygiene_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"weft.dev/weft/proxy/wire"
)

// TestSlowClients waits for the end of connections that hold the proxy up before there is a request.
func TestSlowClients(t *testing.T) {
	for _, k := range kinds {
		if k.hop {
			t.Run(k.name, func(t *testing.T) { testSlowClients(t, k) })
		}
	}
}

func testSlowClients(t *testing.T, k kind) {
	t.Parallel()
	p := k.start(t)
	address := p.service(t, "slow", newBackend(t, named).address, wire.ProtocolHTTP)
	hop := listen(t)
	serve(t, hop, func() error { return p.server.ServeHop(hop) })
	for name, tc := range map[string]struct{ address, sends, trickles string }{
		"nothing":                     {address: address},
		"half a request line":         {address: address, sends: "GET / HT"},
		"half a header":               {address: address, sends: "GET / HTTP/1.1\r\nHost: h\r\n"},
		"a header that trickles":      {address: address, sends: "GET / HTTP/1.1\r\n", trickles: "X-A: 1\r\n"},
		"half a preface":              {address: address, sends: "PRI * HT"},
		"a preface without settings":  {address: address, sends: http2.ClientPreface},
		"half a frame":                {address: address, sends: http2.ClientPreface + "\x00\x00\x06\x04"},
		"no handshake of the hop":     {address: hop.Addr().String()},
		"half a handshake of the hop": {address: hop.Addr().String(), sends: "\x16\x03\x01\x02"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, tc.address)
			if _, err := io.WriteString(c, tc.sends); err != nil {
				t.Fatalf("send: %v", err)
			}
			if tc.trickles != "" {
				trickle(t, c, tc.trickles)
			}
			// What the proxy may say at the end does not matter.
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection goes on")
			}
		})
	}
}

// trickle sends something again and again until the connection ends.
func trickle(t *testing.T, c net.Conn, something string) {
	end := make(chan struct{})
	t.Cleanup(func() { <-end })
	go func() {
		defer close(end)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for range ticker.C {
			if _, err := io.WriteString(c, something); err != nil {
				return
			}
		}
	}()
}

// TestSlowBodies: a body that stands still for as long as the idle timeout of its Service ends with the
// request, and so does a client that does not read.
func TestSlowBodies(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { testSlowBodies(t, k) })
	}
}

func testSlowBodies(t *testing.T, k kind) {
	t.Parallel()
	p := k.start(t)
	const length = 32 << 20 // more than the kernel keeps for both
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("a", length))
	b := newBackend(t, func(*message) (string, bool) { return answer, true })
	address := p.service(t, "slow", b.address, wire.ProtocolHTTP)
	key := wire.ServicePortKey(p.namespace, "slow", 80)
	p.apply(t, p.client, resource(near, key, &wire.Destination{
		Namespace: p.namespace, Service: "slow", Port: 80, Protocol: wire.ProtocolHTTP,
		Policy: &wire.Policy{Timeouts: &wire.Timeouts{Idle: new(wire.Duration(300 * time.Millisecond))}},
	}))
	for name, tc := range map[string]struct{ request, want string }{
		"a body that stands still":          {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel", "504"},
		"a chunk that stands still":         {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "504"},
		"a trailer that stands still":       {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A", "504"},
		"a body that stands still, refused": {"POST /%zz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel", "400"},
		"a client that does not read":       {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, address)
			if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				t.Fatalf("set the size of a buffer: %v", err)
			}
			if _, err := io.WriteString(c, tc.request); err != nil {
				t.Fatalf("send: %v", err)
			}
			if tc.want == "" {
				// Nobody reads on. That the proxy has given up shows in its own count.
				awaitHead(t, address, c, tc.request)
				awaitCut(t, p)
				return
			}
			got, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection goes on")
			}
			if !strings.HasPrefix(string(got), "HTTP/1.1 "+tc.want+" ") {
				t.Errorf("answered %.100q, want %s", got, tc.want)
			}
		})
	}
}

// awaitHead returns when an answer of the backend has begun. On a busy machine the proxy may have given up before.
func awaitHead(t *testing.T, address string, c net.Conn, request string) {
	t.Helper()
	for {
		begin := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c, begin); err != nil {
			t.Fatalf("read: %v", err)
		}
		switch string(begin) {
		case "HTTP/1.1 200":
			return
		case "HTTP/1.1 504":
			c = dial(t, address)
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatalf("send: %v", err)
			}
		default:
			t.Fatalf("answered %q", begin)
		}
	}
}

// awaitCut returns when the proxy has counted an exchange that it cut.
func awaitCut(t *testing.T, p *plane) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-ticker.C {
		families, err := p.client.Metrics().Gatherer().Gather()
		if err != nil {
			t.Fatalf("gather: %v", err)
		}
		for _, f := range families {
			if f.GetName() == "weft_exchanges_cut_total" && len(f.GetMetric()) > 0 {
				return
			}
		}
	}
	t.Fatal("the proxy has cut nothing")
}
