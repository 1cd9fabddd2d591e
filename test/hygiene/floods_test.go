package hygiene_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft.dev/weft/proxy/wire"
)

// attacker speaks HTTP/2 frame by frame.
type attacker struct {
	net.Conn
	*http2.Framer
	head    bytes.Buffer
	encoder *hpack.Encoder
}

func newAttacker(t *testing.T, address string, settings ...http2.Setting) *attacker {
	t.Helper()
	a := &attacker{Conn: dial(t, address)}
	if err := a.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatalf("set the size of a buffer: %v", err)
	}
	a.Framer = http2.NewFramer(a.Conn, a.Conn)
	a.encoder = hpack.NewEncoder(&a.head)
	if _, err := io.WriteString(a.Conn, http2.ClientPreface); err != nil {
		t.Fatalf("write the preface: %v", err)
	}
	if err := a.WriteSettings(settings...); err != nil {
		t.Fatalf("write settings: %v", err)
	}
	return a
}

// block returns the encoded head of a request with more fields, "name: value" each.
func (a *attacker) block(method, path string, more ...string) []byte {
	a.head.Reset()
	for _, line := range append([]string{":method: " + method, ":scheme: http", ":authority: h", ":path: " + path}, more...) {
		name, value, _ := strings.Cut(line, ": ")
		// A bytes.Buffer takes everything.
		_ = a.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	return a.head.Bytes()
}

// open begins a request.
func (a *attacker) open(stream uint32, method, path string, end bool) error {
	return a.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: a.block(method, path), EndHeaders: true, EndStream: end,
	})
}

// send repeats something until the proxy has ended the connection, which must be before the n-th time.
func (a *attacker) send(t *testing.T, n int, something func(i int) error) {
	t.Helper()
	for i := range n {
		switch err := something(i); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("the connection stalls after %d times", i)
			return
		case err != nil:
			return
		}
	}
	t.Errorf("the connection goes on after %d times", n)
}

// flood is what a client sends, and whether it must be the end of its connection.
type flood struct {
	settings []http2.Setting
	send     func(t *testing.T, a *attacker)
}

// repeated sends something n times, as far as the proxy takes it.
func repeated(n int, something func(a *attacker, i int) error) func(*testing.T, *attacker) {
	return func(_ *testing.T, a *attacker) {
		for i := range n {
			if something(a, i) != nil {
				return
			}
		}
	}
}

// ended sends something until the proxy has had enough.
func ended(n int, something func(a *attacker, i int) error) func(*testing.T, *attacker) {
	return func(t *testing.T, a *attacker) {
		t.Helper()
		a.send(t, n, func(i int) error { return something(a, i) })
	}
}

func stream(i int) uint32 { return uint32(2*i + 1) }

var floods = map[string]flood{
	"streams that are reset at once": {send: repeated(20_000, func(a *attacker, i int) error {
		return errors.Join(a.open(stream(i), "GET", "/", true), a.WriteRSTStream(stream(i), http2.ErrCodeCancel))
	})},
	"streams that the proxy must reset": {send: repeated(20_000, func(a *attacker, i int) error {
		return errors.Join(a.open(stream(i), "GET", "/", true), a.WriteWindowUpdate(stream(i), 1<<31-1))
	})},
	"more streams than are allowed": {send: repeated(2_000, func(a *attacker, i int) error {
		return a.open(stream(i), "GET", "/wait", true)
	})},
	"a head that goes on for ever": {send: ended(10_000, func(a *attacker, i int) error {
		if i == 0 {
			return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block("GET", "/")})
		}
		return a.WriteContinuation(1, false, a.block("GET", "/", "x-a: "+strings.Repeat("a", 8<<10))[8:])
	})},
	"empty continuations": {send: repeated(100_000, func(a *attacker, i int) error {
		if i == 0 {
			return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block("GET", "/")})
		}
		return a.WriteContinuation(1, false, nil)
	})},
	"a small head that is large when it is decoded": {send: repeated(50, func(a *attacker, i int) error {
		lines := make([]string, 2000)
		for n := range lines {
			lines[n] = "x-a: " + strings.Repeat("a", 3000)
		}
		return a.WriteHeaders(http2.HeadersFrameParam{StreamID: stream(i), BlockFragment: a.block("GET", "/", lines...), EndHeaders: true, EndStream: true})
	})},
	"cookies that are large when they are decoded": {send: repeated(50, func(a *attacker, i int) error {
		lines := make([]string, 2000)
		for n := range lines {
			lines[n] = "cookie: " + strings.Repeat("a", 3000)
		}
		return a.WriteHeaders(http2.HeadersFrameParam{StreamID: stream(i), BlockFragment: a.block("GET", "/", lines...), EndHeaders: true, EndStream: true})
	})},
	// Our own engine ends the connection, which package h2 tests. With net/http nothing may move any more before it would:
	// TCP drops what comes for a buffer that nobody empties, and acknowledgements with it.
	"pings whose answers nobody reads": {send: repeated(5_000, func(a *attacker, i int) error {
		if i == 0 {
			_ = a.SetWriteDeadline(time.Now().Add(3 * time.Second))
		}
		_, err := a.Write(bytes.Repeat([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping"), 1000))
		return err
	})},
	"settings whose answers nobody reads": {send: repeated(5_000, func(a *attacker, i int) error {
		if i == 0 {
			// The proxy stops reading until it can answer.
			_ = a.SetWriteDeadline(time.Now().Add(3 * time.Second))
		}
		_, err := a.Write(bytes.Repeat([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), 1000))
		return err
	})},
	"empty bodies": {send: repeated(100_000, func(a *attacker, i int) error {
		if i == 0 {
			return a.open(1, "POST", "/", false)
		}
		return a.WriteData(1, false, nil)
	})},
	"priorities": {send: repeated(100_000, func(a *attacker, i int) error {
		return a.WritePriority(stream(i), http2.PriorityParam{Weight: 1})
	})},
	"windows": {send: repeated(100_000, func(a *attacker, i int) error {
		if i == 0 {
			return a.open(1, "GET", "/", true)
		}
		return a.WriteWindowUpdate(0, 1)
	})},
	"frames that nobody knows": {send: repeated(100_000, func(a *attacker, i int) error {
		return a.WriteRawFrame(http2.FrameType(0x0a+i%6), 0xff, uint32(i%3), []byte("abc"))
	})},
	"answers that nobody reads": {
		settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}},
		send: repeated(200, func(a *attacker, i int) error {
			return a.open(stream(i), "GET", "/large", true)
		}),
	},
	"frames that are larger than allowed": {send: ended(1000, func(a *attacker, i int) error {
		if i == 0 {
			return a.open(1, "POST", "/", false)
		}
		return a.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<20))
	})},
}

// maxGrowth is how much more memory an attack may hold. The race detector's is not counted.
const maxGrowth = 50 << 20

// TestFloods holds one client against another: whatever the first sends, the second is served, and what the
// first costs is bounded.
func TestFloods(t *testing.T) {
	for _, k := range []kind{kindOf("std"), kindOf("weft")} {
		t.Run(k.name, func(t *testing.T) { testFloods(t, k) })
	}
}

func testFloods(t *testing.T, k kind) {
	t.Helper()
	for name, f := range floods {
		t.Run(name, func(t *testing.T) {
			p := k.start(t)
			release, large := make(chan struct{}), "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"+strings.Repeat("a", 1<<20)
			b := newBackend(t, func(m *message) (string, bool) {
				switch {
				case strings.HasPrefix(m.line, "GET /wait "):
					<-release
				case strings.HasPrefix(m.line, "GET /large "):
					return large, true
				}
				return named(m)
			})
			t.Cleanup(func() { close(release) })
			address := p.service(t, "flooded", b.address, wire.ProtocolHTTP)
			before := memory()
			f.send(t, newAttacker(t, address, f.settings...))
			if got := ask(t, address); got != next {
				t.Errorf("another client got %q for %s", got, next)
			}
			if grown := memory() - before; grown > maxGrowth {
				t.Errorf("it holds %d more bytes, want at most %d", grown, maxGrowth)
			}
			waiting := 0
			for _, a := range b.seen() {
				if a.target() == "GET /wait" {
					waiting++
				}
			}
			if waiting > 250 {
				t.Errorf("%d requests of one connection are at the backend, want at most 250", waiting)
			}
		})
	}
}

// memory is what the process holds after it was tidied up.
func memory() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}
