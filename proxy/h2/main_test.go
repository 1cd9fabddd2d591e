package h2

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	phttp "weft.dev/weft/proxy/http"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what must happen. It is only used up by a failure.
const patience = 20 * time.Second

// limits are those of tests that are not about them.
var limits = Limits{
	StreamWindow: 256 << 10, ConnWindow: 64 << 20, MaxFrame: 16 << 10, MaxHead: 64 << 10,
	Resets: 1000, ResetsPerSecond: 100,
	PingAfter: time.Minute, PingTimeout: time.Minute, IdleTimeout: time.Hour, HeadTimeout: time.Minute,
}

// serve runs a server whose handler is one of net/http's, and returns its address.
func serve(t testing.TB, handler http.HandlerFunc, edit ...func(*Server)) string {
	t.Helper()
	s := &Server{
		Handle: func(s *Stream) {
			w, r := s.HTTP(context.Background())
			handler(w, r)
			w.EndHTTP()
		},
		Refuse: func(_ net.Conn, s *Stream, err *Error) {
			if s != nil {
				_ = s.WriteHead(&phttp.Response{Status: http.StatusRequestHeaderFieldsTooLarge}, 0)
			}
		},
		Streams: 100, Limits: limits,
		Failed: func(panicked any) { t.Errorf("panic: %v", panicked) },
	}
	for _, f := range edit {
		f(s)
	}
	return accept(t, func(c net.Conn) {
		if err := s.Serve(c, nil); err != nil {
			_ = c.Close()
		}
	}, s.Close)
}

// accept serves connections until the end of the test, which begins with stop.
func accept(t testing.TB, serve func(net.Conn), stop func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		stop()
	})
	return l.Addr().String()
}

// stdServer runs a server of net/http.
func stdServer(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with the test
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// stdClient returns a client of net/http that speaks HTTP/2 in plain text.
func stdClient(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, ExpectContinueTimeout: patience}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// dial returns a connection of this package to an address.
func dial(t testing.TB, address string, edit ...func(*Limits)) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	l := limits
	for _, f := range edit {
		f(&l)
	}
	c := NewClient(conn, l)
	t.Cleanup(func() {
		_ = c.Close()
		<-c.Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Greeted(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// RoundTripper makes a Client one of net/http's.
type roundTripper struct{ *Client }

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := r.Reserve(); err != nil {
		return nil, err
	}
	req.Host = req.URL.Host
	return r.Client.RoundTrip(req)
}

// pairs are all combinations of our ends with those of net/http.
func pairs(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, client *http.Client, address string)) {
	t.Helper()
	t.Run("our server", func(t *testing.T) { test(t, stdClient(t), serve(t, handler)) })
	for name, start := range map[string]func(testing.TB, http.HandlerFunc) string{
		"our client": stdServer,
		"both":       func(t testing.TB, h http.HandlerFunc) string { return serve(t, h) },
	} {
		t.Run(name, func(t *testing.T) {
			address := start(t, handler)
			test(t, &http.Client{Transport: roundTripper{dial(t, address)}}, address)
		})
	}
}

// request makes a request that fails when the test does.
func request(t *testing.T, method, address, target string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+target, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// fetch sends a request and returns the answer with its whole body.
func fetch(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: read the answer: %v", req.Method, req.URL, err)
	}
	return res, string(body)
}
