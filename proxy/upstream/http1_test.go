package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/ports"
)

func TestRequestArrivesAsSent(t *testing.T) {
	forged := strings.ToLower(FieldBackend)
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			type seen struct {
				Method, Host, URI, Body, Proto string
				Header, Trailer                http.Header
			}
			arrived := make(chan seen, 1)
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("read body: %v", err)
				}
				r.Header.Del("Content-Length")
				arrived <- seen{r.Method, r.Host, r.RequestURI, string(body), r.Proto, r.Header, r.Trailer}
				w.Header().Set("Weft-Not-Processed", "forged")
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Trailer", "Checksum")
				w.WriteHeader(http.StatusMisdirectedRequest)
				_, _ = io.WriteString(w, "not gzip at all")
				w.Header().Set("Checksum", "2")
			})
			s := newTestSet(t, Options{})
			s.Update(direct(address))

			req := newRequest("POST", "/a/b", io.NopCloser(strings.NewReader("hello")))
			req.URL.RawQuery = "q=%20"
			req.Header["X-Two"] = []string{"1", "2"}
			req.Header[forged] = []string{"forged"}
			req.Trailer = http.Header{"Sum": {"1"}}
			resp, err := s.RoundTrip(t.Context(), choose(t, s, key), Call{Attempt: 1}, req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "not gzip at all" || resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("response %d %q, %v", resp.StatusCode, body, err)
			}
			resp.Header.Del("Date")
			resp.Header.Del("Content-Type")
			resp.Header.Del("Content-Length")
			wantHeader := http.Header{"Content-Encoding": {"gzip"}, "Location": {"/elsewhere"}}
			if diff := cmp.Diff(wantHeader, resp.Header); diff != "" {
				t.Errorf("response header (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(http.Header{"Checksum": {"2"}}, resp.Trailer); diff != "" {
				t.Errorf("response trailer (-want +got):\n%s", diff)
			}
			want := seen{
				"POST", "web.shop", "/a/b?q=%20", "hello", name,
				http.Header{"X-Two": {"1", "2"}}, http.Header{"Sum": {"1"}},
			}
			if key == rpcKey {
				want.Proto = "HTTP/2.0"
			}
			if diff := cmp.Diff(want, <-arrived); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if req.Header[forged] == nil || req.URL.Host != "web.shop" {
				t.Error("the caller's request was modified")
			}
		})
	}
}

// remotes serves the client's address, which names the connection.
func remotes(t *testing.T) netip.AddrPort {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.RemoteAddr)
	})
}

func TestConnectionsAreReused(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(direct(remotes(t)))
			to := choose(t, s, key)
			first := mustFetch(t, s, to, newRequest("GET", "/", nil))
			for range 50 {
				if got := mustFetch(t, s, to, newRequest("POST", "/", strings.NewReader("x"))); got != first {
					t.Fatalf("another connection: %s, %s", got, first)
				}
			}
			if n := to.state.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight", n)
			}
			if average, _ := unpackLatency(to.state.peak.Load(), s.elapsed()); average == 0 {
				t.Error("no latency was observed")
			}
		})
	}
}

func TestResponseWithoutBodyGivesTheConnectionBack(t *testing.T) {
	var conns atomic.Int32
	server := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		ConnState: func(_ net.Conn, state http.ConnState) { conns.Add(map[http.ConnState]int32{http.StateNew: 1}[state]) },
	}
	s := newTestSet(t, Options{})
	s.Update(direct(run(t, server, listen(t))))
	for range 20 {
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			resp, err := s.RoundTrip(t.Context(), choose(t, s, webKey), Call{}, newRequest(method, "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// chunks is a request body that is read piece by piece; nil fails it.
type chunks struct {
	next   chan []byte
	closed chan struct{}
}

func newChunks() *chunks { return &chunks{next: make(chan []byte), closed: make(chan struct{})} }

func (c *chunks) Read(p []byte) (int, error) {
	select {
	case chunk := <-c.next:
		if chunk == nil {
			return 0, errors.New("client is gone")
		}
		return copy(p, chunk), nil
	case <-c.closed:
		return 0, errors.New("read after close")
	}
}

func (c *chunks) Close() error {
	close(c.closed)
	return nil
}

// readHead reads a request's head.
func readHead(c net.Conn) (*http.Request, error) { return http.ReadRequest(bufio.NewReader(c)) }

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestFailuresOfAFreshConnection(t *testing.T) {
	for name, tc := range map[string]struct {
		script func(t *testing.T, c net.Conn) // nil: nobody listens
		key    string
		body   io.Reader
		want   outcome
	}{
		"connection refused":         {want: outcome{ReasonConnect, true, true}},
		"connection refused, HTTP/2": {key: rpcKey, want: outcome{ReasonConnect, true, true}},
		"connection refused, body":   {body: strings.NewReader("x"), want: outcome{ReasonConnect, true, true}},
		"not HTTP":                   {key: tcpKey, want: outcome{ReasonRequest, true, true}},
		"closed after the request":   {script: func(_ *testing.T, c net.Conn) { _, _ = readHead(c) }, want: outcome{ReasonReset, false, true}},
		"reset after the request":    {script: func(_ *testing.T, c net.Conn) { _, _ = readHead(c); reset(c) }, want: outcome{ReasonReset, false, true}},
		"body was read": {script: func(_ *testing.T, c net.Conn) {
			if req, err := readHead(c); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
			}
		}, body: strings.NewReader("x"), want: outcome{ReasonReset, false, false}},
		"closed within the response": {script: func(_ *testing.T, c net.Conn) { _, _ = readHead(c); _, _ = io.WriteString(c, okResponse[:20]) }, want: outcome{ReasonReset, false, true}},
		"not an HTTP response": {script: func(_ *testing.T, c net.Conn) {
			_, _ = readHead(c)
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n\r\n")
			drain(c)
		}, want: outcome{ReasonProtocol, false, true}},
		"conflicting lengths": {script: func(_ *testing.T, c net.Conn) {
			_, _ = readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
			drain(c)
		}, want: outcome{ReasonProtocol, false, true}},
		"endless response header": {script: endlessHeader, want: outcome{ReasonProtocol, false, true}},
		"HTTP/1.1 only, HTTP/2 asked": {script: func(_ *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}, key: rpcKey, want: outcome{ReasonProtocol, true, true}},
		"closed at once, HTTP/2": {script: func(_ *testing.T, c net.Conn) { c.Close() }, key: rpcKey, want: outcome{ReasonConnect, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			address := ports.Refusing(t)
			if tc.script != nil {
				address = accept(t, func(_ int, c net.Conn) { tc.script(t, c) })
			}
			if tc.key == "" {
				tc.key = webKey
			}
			s := newTestSet(t, Options{})
			s.Update(direct(address))
			to := choose(t, s, tc.key)
			got := failure(t.Context(), t, s, to, newRequest("GET", "/", tc.body))
			if diff := cmp.Diff(tc.want, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
			if got.Endpoint != address || got.Err == nil {
				t.Errorf("error %+v", got)
			}
			if n := to.state.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight", n)
			}
		})
	}
}

// drain reads until the other side closes, so that what was written is not lost to a reset.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func endlessHeader(_ *testing.T, c net.Conn) {
	_, _ = readHead(c)
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
	for {
		if _, err := io.WriteString(c, "X: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
			return
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{
				DialTimeout: 10 * time.Millisecond,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				},
			})
			s.Update(direct(at(1)))
			to := choose(t, s, key)
			got := failure(t.Context(), t, s, to, newRequest("POST", "/", strings.NewReader("x")))
			if diff := cmp.Diff(outcome{ReasonConnectTimeout, true, true}, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
			if !to.state.refusing(s.elapsed()) {
				t.Error("the endpoint is not avoided")
			}
		})
	}
}

func TestServerThatAcceptsButDoesNotSpeakHTTP2(t *testing.T) {
	address := accept(t, func(_ int, c net.Conn) { drain(c) })
	s := newTestSet(t, Options{DialTimeout: 20 * time.Millisecond})
	s.Update(direct(address))
	got := failure(t.Context(), t, s, choose(t, s, rpcKey), newRequest("GET", "/", nil))
	if diff := cmp.Diff(outcome{ReasonConnectTimeout, true, true}, got.outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
	}
}

func TestContextEnds(t *testing.T) {
	arrived := make(chan struct{}, 1)
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	blocked := func(ctx context.Context, _, _ string) (net.Conn, error) {
		arrived <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, tc := range map[string]struct {
		options Options
		key     string
		expired bool
		want    outcome
	}{
		"canceled while connecting":         {Options{DialContext: blocked}, webKey, false, outcome{ReasonCanceled, true, true}},
		"canceled while connecting, HTTP/2": {Options{DialContext: blocked}, rpcKey, false, outcome{ReasonCanceled, true, true}},
		"expired while connecting":          {Options{DialContext: blocked}, webKey, true, outcome{ReasonTimeout, true, true}},
		"canceled after sending":            {Options{}, webKey, false, outcome{ReasonCanceled, false, true}},
		"canceled after sending, HTTP/2":    {Options{}, rpcKey, false, outcome{ReasonCanceled, false, true}},
		"expired after sending":             {Options{}, webKey, true, outcome{ReasonTimeout, false, true}},
		"expired after sending, HTTP/2":     {Options{}, rpcKey, true, outcome{ReasonTimeout, false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, tc.options)
			s.Update(direct(address))
			to := choose(t, s, tc.key)
			ctx, cancel := context.WithCancel(t.Context())
			if tc.expired {
				ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
			} else {
				go func() {
					<-arrived
					cancel()
				}()
			}
			defer cancel()
			got := failure(ctx, t, s, to, newRequest("GET", "/", nil))
			if tc.expired {
				<-arrived
			}
			if diff := cmp.Diff(tc.want, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
			if to.state.refusing(s.elapsed()) {
				t.Error("the endpoint is blamed for the caller's context")
			}
		})
	}
}

func TestRequestBodyThatFails(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(direct(remotes(t)))
			body := newChunks()
			go func() {
				body.next <- []byte("x")
				body.next <- nil
			}()
			got := failure(t.Context(), t, s, choose(t, s, key), newRequest("POST", "/", body))
			if diff := cmp.Diff(outcome{ReasonRequestBody, false, false}, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
			<-body.closed
		})
	}
}

func TestRequestThatCannotBeSent(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(direct(remotes(t)))
			to := choose(t, s, key)
			first := mustFetch(t, s, to, newRequest("GET", "/", nil))
			req := newRequest("GET", "/", nil)
			req.Header["X"] = []string{"a\nb"}
			got := failure(t.Context(), t, s, to, req)
			if diff := cmp.Diff(outcome{ReasonRequest, true, true}, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
			if key == rpcKey && mustFetch(t, s, to, newRequest("GET", "/", nil)) != first {
				t.Error("the connection was given up")
			}
		})
	}
}

func TestExpectContinueKeepsTheBodyBack(t *testing.T) {
	address := accept(t, func(_ int, c net.Conn) {
		if _, err := readHead(c); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	body := newChunks() // a Read would block for ever
	req := newRequest("POST", "/", body)
	req.Header.Set("Expect", "100-continue")
	status, _, err := fetch(t.Context(), s, choose(t, s, webKey), Call{}, req)
	if err != nil || status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, %v", status, err)
	}
	<-body.closed
}

func TestFailureCountsAsLatency(t *testing.T) {
	address := accept(t, func(_ int, c net.Conn) { _, _ = readHead(c); reset(c) })
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, webKey)
	got := failure(t.Context(), t, s, to, newRequest("GET", "/", nil))
	if !errors.Is(got, syscall.ECONNRESET) {
		t.Errorf("error %v", got)
	}
	if average, _ := unpackLatency(to.state.peak.Load(), s.elapsed()); average < float64(failureLatency.Microseconds()) {
		t.Errorf("a reset counts %v us", average)
	}
}
