package hygiene_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// backend answers requests and remembers what has arrived on which of its connections.
type backend struct {
	address string
	// reply returns the answer to a request, and whether the connection stays open after it.
	reply func(*message) (answer string, open bool)

	mu       sync.Mutex
	arrivals []arrival
	conns    int
	open     map[net.Conn]bool
	running  sync.WaitGroup
}

// arrival is a request that has reached the backend, or what was left of one.
type arrival struct {
	conn    int
	message *message
	// err tells why it is not complete or not clean.
	err error
}

// target is method and target.
func (a arrival) target() string {
	if a.message == nil {
		return ""
	}
	return strings.TrimSuffix(a.message.line, " HTTP/1.1")
}

func newBackend(t testing.TB, reply func(*message) (string, bool)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	b := &backend{address: l.Addr().String(), reply: reply, open: map[net.Conn]bool{}}
	b.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			n := b.conns
			b.open[c] = true
			b.mu.Unlock()
			b.running.Go(func() { b.serve(c, n) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.mu.Lock()
		for c := range b.open {
			_ = c.Close()
		}
		b.mu.Unlock()
		b.running.Wait()
	})
	return b
}

func (b *backend) serve(c net.Conn, n int) {
	defer func() {
		_ = c.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open, c)
	}()
	r := newReader(c)
	r.expects = func() { _, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") }
	for {
		m, err := r.request()
		if errors.Is(err, io.EOF) && m == nil && !errors.Is(err, errIncomplete) {
			return
		}
		b.mu.Lock()
		b.arrivals = append(b.arrivals, arrival{n, m, err})
		b.mu.Unlock()
		if err != nil {
			return
		}
		answer, open := b.reply(m)
		// What is short goes out in one piece, and nothing long is copied as a whole.
		if _, err := io.Copy(c, struct{ io.Reader }{strings.NewReader(answer)}); err != nil || !open {
			return
		}
	}
}

// seen returns what has arrived so far.
func (b *backend) seen() []arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]arrival(nil), b.arrivals...)
}

// named answers every request with its own method and target, so that no two answers can be confused.
func named(m *message) (answer string, open bool) {
	body := strings.TrimSuffix(m.line, " HTTP/1.1")
	answer = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
	if !strings.HasPrefix(body, "HEAD ") {
		answer += body
	}
	return answer, true
}
