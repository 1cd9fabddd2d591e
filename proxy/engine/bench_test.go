package engine

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// BenchmarkForward sends requests through the proxy, one after the other on each connection. It includes
// client and backend.
func BenchmarkForward(b *testing.B) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer backend.Close()
	e := New(Options{Namespace: namespace, Source: &wire.Workload{}, LeaveGrace: time.Nanosecond, HTTP: tested})
	defer func() { _ = e.Shutdown(b.Context()) }()
	e.Apply(wire.Delta{Seq: 1, Upserted: append(service("cart", wire.ProtocolHTTP, backend.Listener.Addr().String()),
		route("r", "cart", func(r *wire.Route) { r.Backends = to("cart") }))})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.ServeCaptured(Direct(l, key("cart"))) }()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := &http.Client{Transport: &http.Transport{}}
		defer c.CloseIdleConnections()
		for pb.Next() {
			res, err := c.Get("http://" + l.Addr().String() + "/")
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	})
}
