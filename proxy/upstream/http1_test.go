package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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
)

func TestRequestArrivesAsSent(t *testing.T) {
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
			req.Header["weft-backend"] = []string{"forged"}
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
			if req.Header["weft-backend"] == nil || req.URL.Host != "web.shop" {
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
			if average, _ := unpackLatency(to.state.latency.Load(), s.elapsed()); average == 0 {
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
		"body was read":              {script: func(_ *testing.T, c net.Conn) { _, _ = readHead(c) }, body: strings.NewReader("x"), want: outcome{ReasonReset, false, false}},
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
			address := refusing(t)
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

// A server closes an idle connection at the very moment the next request is sent. The client's kernel has
// the request written before it knows; the peer never saw a byte of it.
func TestKeepAliveRaceIsProvablyNotSent(t *testing.T) {
	for name, tc := range map[string]struct {
		req         *http.Request
		want        outcome // zero if the request is sent again on another connection
		wantArrived []string
	}{
		"without body": {newRequest("DELETE", "/second", nil), outcome{}, []string{"/first", "/second"}},
		"body was read": {
			newRequest("POST", "/second", strings.NewReader("x")), outcome{ReasonStale, true, false}, []string{"/first"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan string, 10)
			address := accept(t, func(_ int, c net.Conn) {
				if req, err := readHead(c); err == nil {
					arrived <- req.URL.Path
					_, _ = io.WriteString(c, okResponse)
				}
			})
			var gate gatedDialer
			s := newTestSet(t, Options{DialContext: gate.dial})
			s.Update(direct(address))
			to := choose(t, s, webKey)
			gate.hold() // the end of the stream is not noticed
			mustFetch(t, s, to, newRequest("GET", "/first", nil))
			first := gate.awaitEnd(t)
			first.onWrite(first.release) // until the request is written

			status, _, err := fetch(t.Context(), s, to, Call{}, tc.req)
			var got outcome
			if err != nil {
				got = asError(t, err).outcome()
			} else if status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, err)
			}
			for _, want := range tc.wantArrived {
				if path := <-arrived; path != want {
					t.Errorf("%s arrived, want %s", path, want)
				}
			}
			if len(arrived) > 0 {
				t.Errorf("%s arrived as well", <-arrived)
			}
		})
	}
}

// The same race, but the server took the request in before it closed: nothing is proven.
func TestKeepAliveRaceThatTheServerSawIsNotRepeated(t *testing.T) {
	requests := make(chan string, 10)
	address := accept(t, func(_ int, c net.Conn) {
		reader := bufio.NewReader(c)
		for i := range 2 {
			req, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			requests <- req.URL.Path
			if i == 0 {
				_, _ = io.WriteString(c, okResponse)
			}
		}
	})
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, webKey)
	mustFetch(t, s, to, newRequest("GET", "/first", nil))
	got := failure(t.Context(), t, s, to, newRequest("GET", "/second", nil))
	if diff := cmp.Diff(outcome{ReasonReset, false, true}, got.outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
	}
	for _, want := range []string{"/first", "/second"} {
		if path := <-requests; path != want {
			t.Errorf("request for %s, want %s", path, want)
		}
	}
	if len(requests) > 0 {
		t.Errorf("the server saw %s again", <-requests)
	}
}

// gatedDialer lets a test decide when a connection notices that the peer has closed.
type gatedDialer struct {
	conn *gatedConn
	held bool
}

type gatedConn struct {
	*net.TCPConn
	held     bool
	ended    chan struct{} // closed when the end of the stream was read
	released chan struct{}
	written  atomic.Pointer[func()]
}

func (g *gatedDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := &gatedConn{
		TCPConn: c.(*net.TCPConn), held: g.held, ended: make(chan struct{}), released: make(chan struct{}),
	}
	g.conn, g.held = conn, false
	return conn, nil
}

// hold makes the next connection keep the end of its stream back.
func (g *gatedDialer) hold() { g.held = true }

func (g *gatedDialer) awaitEnd(t *testing.T) *gatedConn {
	t.Helper()
	select {
	case <-g.conn.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the server did not close")
	}
	return g.conn
}

func (c *gatedConn) release()         { close(c.released) }
func (c *gatedConn) onWrite(f func()) { c.written.Store(&f) }

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil && c.held {
		close(c.ended)
		<-c.released
	}
	return n, err
}

func (c *gatedConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if f := c.written.Swap(nil); f != nil {
		(*f)()
	}
	return n, err
}

// A GOAWAY that excludes a request is repaired without the caller seeing anything of it.
func TestRequestExcludedByGoAwayIsSentAgain(t *testing.T) {
	s := newTestSet(t, Options{})
	s.Update(direct(closing(t)))
	to := choose(t, s, rpcKey)
	conns := map[string]bool{}
	for range 20 {
		conns[mustFetch(t, s, to, newRequest("GET", "/", nil))] = true
	}
	if len(conns) != 20 {
		t.Errorf("%d connections for 20 requests", len(conns))
	}
}

// closing serves like remotes, but announces the end of the connection with every response.
func closing(t *testing.T) netip.AddrPort {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, r.RemoteAddr)
	})
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		options Options
		want    int
	}{
		"per endpoint": {Options{MaxIdlePerEndpoint: 3}, 3},
		"in total":     {Options{MaxIdle: 2}, 2},
		"by default":   {Options{}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			var arrived atomic.Int32
			all := make(chan struct{})
			address := serve(t, func(http.ResponseWriter, *http.Request) {
				if arrived.Add(1) == 8 {
					close(all)
				}
				<-all
			})
			s := newTestSet(t, tc.options)
			s.Update(direct(address))
			to := choose(t, s, webKey)
			done := make(chan error, 8)
			for range 8 {
				go func() {
					_, _, err := fetch(t.Context(), s, to, Call{}, newRequest("GET", "/", nil))
					done <- err
				}()
			}
			for range 8 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if got := s.idle.Load(); int(got) != tc.want {
				t.Errorf("%d idle, want %d", got, tc.want)
			}
			s.Update(Resources{})
			if got := s.idle.Load(); got != 0 {
				t.Errorf("%d idle after the endpoint was removed", got)
			}
		})
	}
}

func TestIdleConnectionsExpire(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{}, 10)
			server := &http.Server{
				Handler:   http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
				Protocols: new(http.Protocols),
				ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				},
			}
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			s := newTestSet(t, Options{IdleTimeout: 10 * time.Millisecond})
			s.Update(direct(run(t, server, listen(t))))
			mustFetch(t, s, choose(t, s, key), newRequest("GET", "/", nil))
			<-closed
		})
	}
}

func TestRemovedEndpointIsDrained(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			arrived, finish := make(chan struct{}), make(chan struct{})
			closed := make(chan struct{}, 10)
			server := &http.Server{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.WriteString(w, "begin ")
					if r.URL.Path == "/slow" {
						_ = http.NewResponseController(w).Flush()
						arrived <- struct{}{}
						<-finish
					}
					_, _ = io.WriteString(w, "end")
				}),
				Protocols: new(http.Protocols),
				ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				},
			}
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			s := newTestSet(t, Options{})
			pinned := s.Update(direct(run(t, server, listen(t))))
			to := choose(t, s, key)

			result := make(chan string, 1)
			go func() {
				_, body, err := fetch(t.Context(), s, to, Call{}, newRequest("GET", "/slow", nil))
				result <- fmt.Sprint(body, err)
			}()
			<-arrived
			if key == webKey {
				// A second, idle connection.
				mustFetch(t, s, to, newRequest("GET", "/", nil))
			}
			s.Update(Resources{})
			if key == webKey {
				<-closed
			}
			if len(closed) > 0 {
				t.Error("a connection in use was closed")
			}
			// A request that pinned the old view may still begin.
			late, err := pinned.Choose(key, nil)
			if err != nil {
				t.Fatal(err)
			}
			mustFetch(t, s, late, newRequest("GET", "/", nil))
			<-closed
			finish <- struct{}{}
			if got := <-result; got != "begin end<nil>" {
				t.Errorf("the active request got %q", got)
			}
			<-closed
		})
	}
}

func TestUpgrade(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		if r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Upgrade") != "echo" || r.ProtoMajor != 1 {
			t.Errorf("request %s %v", r.Proto, r.Header)
		}
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
		_, _ = io.Copy(c, buffered)
	})
	for name, key := range map[string]string{"HTTP": webKey, "H2C": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(direct(address))
			to := choose(t, s, key)
			upgrade := func(path string) *http.Request {
				req := newRequest("GET", path, nil)
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", "echo")
				return req
			}
			resp, err := s.RoundTrip(t.Context(), to, Call{}, upgrade("/"))
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d", resp.StatusCode)
			}
			stream := resp.Body.(interface {
				io.ReadWriteCloser
				CloseWrite() error
			})
			if _, err := io.WriteString(stream, "there"); err != nil {
				t.Fatal(err)
			}
			if n := to.state.inFlight.Load(); n != 1 {
				t.Errorf("%d in flight", n)
			}
			if err := stream.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(stream); err != nil || string(got) != "hello there" {
				t.Errorf("read %q, %v", got, err)
			}
			stream.Close()
			if n := to.state.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight after the end", n)
			}
			status, body, err := fetch(t.Context(), s, to, Call{}, upgrade("/no"))
			if err != nil || status != http.StatusForbidden || body != "no\n" {
				t.Errorf("refused upgrade: %d %q, %v", status, body, err)
			}
			if n := s.idle.Load(); n != 0 {
				t.Errorf("%d idle connections of upgrades", n)
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
	if average, _ := unpackLatency(to.state.latency.Load(), s.elapsed()); average < float64(failureLatency.Microseconds()) {
		t.Errorf("a reset counts %v us", average)
	}
}
