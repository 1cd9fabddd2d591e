package engine

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// BenchmarkForwardAlone is what the proxy itself does for a small request: client and backend are memory. How it waits and
// what the kernel does is not in it, so it tells of changes that a loaded machine would hide.
func BenchmarkForwardAlone(b *testing.B) {
	dial := func(context.Context, string, string) (net.Conn, error) { return &inMemory{answers: true}, nil }
	e := New(Options{
		Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"}, LeaveGrace: time.Nanosecond,
		HTTP: HTTPWeft, Dial: dial, Exchanges: admin.NewExchanges(),
	})
	defer func() { _ = e.Shutdown(b.Context()) }()
	e.Apply(wire.Delta{Seq: 1, Upserted: service("cart", wire.ProtocolHTTP, "127.0.0.1:1")})
	client := &inMemory{left: b.N, closed: make(chan struct{})}
	conns := make(listened, 1)
	b.ReportAllocs()
	b.ResetTimer()
	conns <- client
	go func() { _ = e.ServeCaptured(Direct(conns, key("cart"))) }()
	<-client.closed
	b.StopTimer()
	close(conns)
	if client.left > 0 {
		b.Errorf("%d requests were not answered", client.left)
	}
}

const (
	aloneRequest = "GET /1024 HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nX-Request-Id: 0f5a3c1e-7d52-4d3b-9f0e\r\n\r\n"
	aloneAnswer  = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nDate: Mon, 30 Nov 2026 09:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"
)

// inMemory is a client that sends one request after the other, or a backend that answers each write.
type inMemory struct {
	answers, answer bool
	left            int
	closed          chan struct{}
}

func (c *inMemory) Read(p []byte) (int, error) {
	switch {
	case c.answers && c.answer:
		c.answer = false
		return copy(p, aloneAnswer), nil
	case c.answers:
		return 0, io.ErrNoProgress
	case c.left == 0:
		return 0, io.EOF
	}
	c.left--
	return copy(p, aloneRequest), nil
}

func (c *inMemory) Write(p []byte) (int, error) {
	c.answer = true
	return len(p), nil
}

func (c *inMemory) Close() error {
	if c.closed != nil {
		close(c.closed)
		c.closed = nil
	}
	return nil
}

func (*inMemory) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*inMemory) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (*inMemory) SetDeadline(time.Time) error      { return nil }
func (*inMemory) SetReadDeadline(time.Time) error  { return nil }
func (*inMemory) SetWriteDeadline(time.Time) error { return nil }

// listened are connections that a listener accepts.
type listened chan net.Conn

func (l listened) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (listened) Close() error   { return nil }
func (listened) Addr() net.Addr { return &net.TCPAddr{} }
