package h2

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
)

// small makes the buffers of a connection much smaller than what is under way on it.
func small(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	tcp, ok := c.(*net.TCPConn)
	if !ok || tcp.SetReadBuffer(64<<10) != nil || tcp.SetWriteBuffer(64<<10) != nil {
		t.Error("cannot make the buffers of a socket small")
	}
	return c
}

// Two proxies are back to back, and so much is under way in both directions that all sockets are full: whoever waited
// for room to write before it reads again would wait for ever.
func TestFullSocketsInBothDirections(t *testing.T) {
	const streams, size = 40, 256 << 10
	back := &Server{Streams: streams, Limits: limits, Handle: func(s *Stream) {
		w, r := s.HTTP(context.Background())
		_ = w.FlushError()
		_, _ = io.Copy(w, r.Body)
		w.EndHTTP()
	}}
	backAddress := accept(t, func(c net.Conn) { _ = back.Serve(small(t, c), nil) }, back.Close)
	conn, err := net.Dial("tcp", backAddress)
	if err != nil {
		t.Fatal(err)
	}
	hop := NewClient(small(t, conn), limits)
	t.Cleanup(func() {
		_ = hop.Close()
		<-hop.Done()
	})
	front := &Server{Streams: streams, Limits: limits, Handle: func(s *Stream) {
		w, r := s.HTTP(context.Background())
		if err := hop.Reserve(); err != nil {
			t.Errorf("reserve: %v", err)
		}
		r.URL, r.Host = &url.URL{Scheme: "http", Path: "/"}, "web.shop"
		res, err := hop.RoundTrip(r)
		if err != nil {
			t.Errorf("pass on: %v", err)
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close()
		_ = w.FlushError()
		_, _ = io.Copy(w, res.Body)
		w.EndHTTP()
	}}
	frontAddress := accept(t, func(c net.Conn) { _ = front.Serve(small(t, c), nil) }, front.Close)
	conn, err = net.Dial("tcp", frontAddress)
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(small(t, conn), limits)
	t.Cleanup(func() {
		_ = client.Close()
		<-client.Done()
	})
	var all sync.WaitGroup
	for range streams {
		all.Go(func() {
			in, out := io.Pipe()
			go func() {
				_, _ = out.Write(make([]byte, size))
				_ = out.Close()
			}()
			if err := client.Reserve(); err != nil {
				t.Errorf("reserve: %v", err)
				return
			}
			req := request(t, "POST", "web.shop", "/", in)
			req.Host = "web.shop"
			res, err := client.RoundTrip(req)
			if err != nil {
				t.Errorf("send: %v", err)
				return
			}
			defer res.Body.Close()
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("%d bytes come back, %v, want %d", n, err, size)
			}
		})
	}
	all.Wait()
}
