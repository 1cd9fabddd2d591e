package h1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	phttp "weft.dev/weft/proxy/http"
)

// TestForwardingAllocatesNothing forwards requests as an engine without filters does: parse, write to the backend,
// parse the response, write to the client. Blocks of strings are allocated for many requests at a time, so that there
// is less than one allocation for each.
func TestForwardingAllocatesNothing(t *testing.T) {
	responses := map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nX-Served-By: 10.0.0.1\r\n\r\n" + string(make([]byte, 100)),
		"chunks": "HTTP/1.1 200 OK\r\nDate: Mon, 30 Nov 2026 09:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
	}
	for name, text := range responses {
		t.Run(name, func(t *testing.T) {
			response := []byte(text)
			backend := NewClient(pipe(t, func(c net.Conn) {
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(response); err != nil {
						return
					}
				}
			}))
			var request phttp.Request
			var answered phttp.Response
			address := start(t, &Server{Handle: func(c *Conn) {
				request.Method, request.Authority, request.Header = c.Request.Method, c.Request.Authority, c.Request.Header
				if err := request.SetTarget(c.Request.Target); err != nil {
					t.Errorf("target: %v", err)
				}
				if !backend.Clean() {
					t.Errorf("the backend's connection is not clean: %v", backend.Err())
				}
				if err := backend.Write(&request, 0, false, nil, false); err != nil {
					t.Errorf("write: %v", err)
				}
				if err := backend.Head(request.Method, false); err != nil {
					t.Errorf("head: %v", err)
				}
				answered = backend.Response.Response
				if err := c.WriteHead(&answered, backend.Response.ContentLength); err != nil {
					t.Errorf("write head: %v", err)
				}
				for {
					p, err := backend.Next()
					if _, failed := c.Write(p); failed != nil {
						t.Errorf("write: %v", failed)
					}
					if errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Errorf("body: %v", err)
						break
					}
				}
				backend.Park()
			}})
			client, _ := dial(t, address, "")
			buf := make([]byte, 4096)
			n := 0
			one := func() {
				n++
				// No two requests are equal.
				text := strconv.AppendInt(append(buf[:0], "GET /a/b?c="...), int64(n), 10)
				text = append(text, " HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"...)
				if _, err := client.Write(text); err != nil {
					t.Fatalf("write: %v", err)
				}
				for got := 0; ; {
					more, err := client.Read(buf[got:])
					if err != nil {
						t.Fatalf("read: %v", err)
					}
					got += more
					if head := bytes.Index(buf[:got], []byte("\r\n\r\n")); head >= 0 && (got-head-4 == 100 || bytes.HasSuffix(buf[:got], []byte("0\r\n\r\n"))) {
						break
					}
				}
			}
			if allocated := testing.AllocsPerRun(2000, one); allocated > mostAllocations {
				t.Errorf("%v allocations for each request", allocated)
			}
		})
	}
}

// pipe returns the client's end of a connection on loopback whose other end is served.
func pipe(t *testing.T, serve func(net.Conn)) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		serve(c)
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = l.Close()
		<-served
	})
	return c
}
