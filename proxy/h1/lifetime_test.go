package h1

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) {
	for name, sent := range map[string]string{"nothing": "", "half a head": "GET / HTTP/1.1\r\nHost"} {
		t.Run(name, func(t *testing.T) {
			address := start(t, &Server{Handle: echo, HeadTimeout: 10 * time.Millisecond, IdleTimeout: patience})
			_, r := dial(t, address, sent)
			ended(t, r)
		})
	}
	t.Run("between requests", func(t *testing.T) {
		address := start(t, &Server{Handle: echo, HeadTimeout: patience, IdleTimeout: 10 * time.Millisecond})
		_, r := dial(t, address, head("GET / HTTP/1.1", "Host: a"))
		if _, got := readAnswer(t, r, "GET"); got != "GET / " {
			t.Errorf("answer = %q", got)
		}
		ended(t, r)
	})
}

func TestClientThatGoesAway(t *testing.T) {
	for name, request := range map[string]string{
		"without body": head("GET / HTTP/1.1", "Host: a"),
		"with body":    head("POST / HTTP/1.1", "Host: a", "Content-Length: 2") + "ok",
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			address := start(t, &Server{Handle: func(c *Conn) {
				c.OnGone(func() { close(gone) })
				_, _ = io.ReadAll(readerFunc(c.ReadBody))
				<-gone
				panic(http.ErrAbortHandler)
			}})
			c, _ := dial(t, address, request)
			_ = c.Close()
			select {
			case <-gone:
			case <-time.After(patience):
				t.Error("nobody noticed")
			}
		})
	}
}

// awaitWatching waits until somebody waits for the end of the connection.
func awaitWatching(c *Conn) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for watching := false; !watching; <-ticker.C {
		c.client.mu.Lock()
		watching = c.client.running != nil
		c.client.mu.Unlock()
	}
}

// A client that is watched and stays can send its next request.
func TestClientThatStays(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		c.OnGone(func() { t.Error("it has not gone") })
		if c.Request.Target == "/slow" {
			awaitWatching(c)
		}
		echo(c)
	}})
	c, r := dial(t, address, "")
	for _, target := range []string{"/slow", "/fast", "/slow"} {
		if _, err := io.WriteString(c, head("GET "+target+" HTTP/1.1", "Host: a")); err != nil {
			t.Fatalf("write: %v", err)
		}
		if _, got := readAnswer(t, r, "GET"); got != "GET "+target+" " {
			t.Errorf("answer = %q", got)
		}
	}
}

func TestShutdown(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	s := &Server{Handle: func(c *Conn) {
		if c.Request.Target == "/busy" {
			close(arrived)
			<-release
		}
		echo(c)
	}}
	address := start(t, s)
	_, idle := dial(t, address, head("GET / HTTP/1.1", "Host: a"))
	readAnswer(t, idle, "GET")
	_, fresh := dial(t, address, "")
	_, busy := dial(t, address, head("GET /busy HTTP/1.1", "Host: a"))
	<-arrived
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	ended(t, idle)
	ended(t, fresh)
	select {
	case err := <-done:
		t.Fatalf("shutdown = %v while a request is under way", err)
	default:
	}
	close(release)
	if res, got := readAnswer(t, busy, "GET"); got != "GET /busy " || !res.Close {
		t.Errorf("answer = %q, close %t, want it whole and the last", got, res.Close)
	}
	ended(t, busy)
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer func() { _ = c.Close() }()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes after shutdown", n)
	}
}

func TestTake(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		c.OnGone(func() {})
		conn, err := c.Take()
		if err != nil {
			t.Errorf("take: %v", err)
			return
		}
		defer func() { _ = conn.Close() }()
		b := make([]byte, len("hello"))
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Errorf("read: %v", err)
		}
		_, _ = conn.Write(b)
	}})
	// The bytes that follow the head belong to the other protocol.
	c, r := dial(t, address, head("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: x")+"he")
	if _, err := io.WriteString(c, "llo"); err != nil {
		t.Fatalf("write: %v", err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestPreface(t *testing.T) {
	s := &Server{Handle: echo, Preface: func(conn net.Conn, first []byte) {
		_, _ = conn.Write(first)
		_ = conn.Close()
	}}
	address := start(t, s)
	c, r := dial(t, address, preface[:5])
	if _, err := io.WriteString(c, preface[5:]); err != nil {
		t.Fatalf("write: %v", err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != preface {
		t.Errorf("read %q, %v", got, err)
	}
	_, r = dial(t, address, head("PRI /x HTTP/1.1", "Host: a"))
	if _, got := readAnswer(t, r, "GET"); got != "PRI /x " {
		t.Errorf("answer = %q", got)
	}
}

// TestAConnectionThatWaitsCostsNoServingGoroutine: while a connection waits for long, whoever has begun to serve it is free,
// and requests that come later are answered all the same.
func TestAConnectionThatWaitsCostsNoServingGoroutine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer func() { _ = l.Close() }()
	s := &Server{Handle: echo, HeadTimeout: patience, IdleTimeout: patience}
	left, over := make(chan error, 1), make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = s.Serve(c, func() { close(over) })
		}
		left <- err
	}()
	c, r := dial(t, l.Addr().String(), head("GET /first HTTP/1.1", "Host: a"))
	if _, got := readAnswer(t, r, "GET"); got != "GET /first " {
		t.Errorf("answer = %q", got)
	}
	if err := <-left; err != nil {
		t.Fatalf("serve: %v", err)
	}
	for range 2 {
		if _, err := io.WriteString(c, head("GET /later HTTP/1.1", "Host: a")); err != nil {
			t.Fatalf("write: %v", err)
		}
		if _, got := readAnswer(t, r, "GET"); got != "GET /later " {
			t.Errorf("answer = %q", got)
		}
	}
	select {
	case <-over:
		t.Error("the connection has ended")
	default:
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	<-over
	ended(t, r)
}
