package soak

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// httpBackend answers with its name, and with what it is asked for.
func httpBackend(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			upgrade(w)
		case strings.HasSuffix(r.URL.Path, "/echo"):
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(body)
		case strings.HasSuffix(r.URL.Path, "/chunks"):
			w.Header().Set("Trailer", "X-Sum")
			for range 10 {
				_, _ = io.WriteString(w, "chunk")
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set("X-Sum", "10")
		case strings.HasSuffix(r.URL.Path, "/bulk"):
			_, _ = w.Write(bulk)
		default:
			_, _ = io.WriteString(w, name)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// upgrade sends back all bytes of what is no longer HTTP.
func upgrade(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(c, rw)
}

// grpcBackend has the service of gRPC's interoperability tests.
func grpcBackend(t *testing.T) string {
	l := listen(t)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("backend of gRPC: %v", err)
		}
	})
	return l.Addr().String()
}
