package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// canned starts a backend that answers every request that has come whole, which is when the end has come, with the same
// bytes.
func canned(t *testing.T, answer, end string) string {
	t.Helper()
	text, last := []byte(answer), []byte(end)
	return accepting(t, func(c net.Conn) {
		buf := make([]byte, 128<<10)
		for got := 0; ; {
			n, err := c.Read(buf[got:])
			if err != nil {
				return
			}
			if got += n; !bytes.HasSuffix(buf[:got], last) {
				continue
			}
			got = 0
			if _, err := c.Write(text); err != nil {
				return
			}
		}
	})
}

// TestForwardingMakesNoGarbage: a request goes through routes, filters, balancing, metrics and the memory of exchanges
// without an allocation. Blocks of strings are allocated for many requests at a time, so that there is less than one for
// each.
func TestForwardingMakesNoGarbage(t *testing.T) {
	if tested != HTTPWeft || raceEnabled {
		return // net/http has many, and so has the race detector
	}
	const (
		hello  = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
		chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"
	)
	seconds := wire.Duration(30 * time.Second)
	for name, tc := range map[string]struct {
		framing, body, answer, end string
		timeouts                   *wire.Timeouts
	}{
		"no body":                     {answer: hello, end: "hello"},
		"a body":                      {framing: "Content-Length: 9\r\n", body: "body!\r\n\r\n", answer: hello, end: "hello"},
		"a body in chunks":            {framing: "Transfer-Encoding: chunked\r\n", body: "4\r\nbody\r\n0\r\n\r\n", answer: hello, end: "hello"},
		"a body that comes in pieces": {framing: "Content-Length: 65536\r\n", body: strings.Repeat("x", 65536-4) + "\r\n\r\n", answer: hello, end: "hello"},
		"pieces in chunks":            {framing: "Transfer-Encoding: chunked\r\n", body: "8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n4\r\nbody\r\n0\r\n\r\n", answer: hello, end: "hello"},
		"an answer in chunks":         {answer: chunks, end: "0\r\n\r\n"},
		"timeouts":                    {answer: hello, end: "hello", timeouts: &wire.Timeouts{Request: &seconds, BackendRequest: &seconds, Idle: &seconds, Stream: &seconds}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, func(o *Options) { o.Exchanges = admin.NewExchanges() })
			last := "\r\n\r\n"
			if tc.body != "" {
				last = tc.body[len(tc.body)-5:]
			}
			p.apply(service("cart", wire.ProtocolHTTP, canned(t, tc.answer, last), canned(t, tc.answer, last))...)
			p.apply(route("r", "cart", func(r *wire.Route) {
				r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/shop"}}}
				r.Backends = to("cart")
				r.Filters = []wire.Filter{{RequestHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-Team", Value: "shop"}}}}}
				r.Policy = &wire.Policy{Timeouts: tc.timeouts}
			}))
			c, _ := raw(t, p.listen(key("cart")), "")
			buf := make([]byte, 128<<10)
			n, end := 0, []byte(tc.end)
			one := func() {
				n++
				text := strconv.AppendInt(append(buf[:0], "POST /shop/a?n="...), int64(n), 10)
				text = append(text, " HTTP/1.1\r\nHost: cart.shop\r\nUser-Agent: test\r\nAccept: */*\r\nX-Request-Id: 1\r\nConnection: keep-alive\r\n"...)
				text = append(text, tc.framing...)
				text = append(text, '\r', '\n')
				text = append(text, tc.body...)
				if _, err := c.Write(text); err != nil {
					t.Fatalf("write: %v", err)
				}
				for got := 0; !bytes.HasSuffix(buf[:got], end); {
					more, err := c.Read(buf[got:])
					if err != nil {
						t.Fatalf("read: %v", err)
					}
					got += more
				}
			}
			if allocated := testing.AllocsPerRun(2000, one); allocated >= 1 {
				t.Errorf("%v allocations for each request", allocated)
			}
		})
	}
}

// TestDirectExchanges: what begins as a plain exchange and turns out to be more than that.
func TestDirectExchanges(t *testing.T) {
	var answers atomic.Pointer[[]string]
	requests := make(chan string, 10)
	backend := accepting(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			requests <- req.URL.Path
			queue := *answers.Load()
			rest := queue[1:]
			answers.Store(&rest)
			if _, err := io.WriteString(c, queue[0]); err != nil || strings.Contains(queue[0], "cut") {
				return
			}
		}
	})
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, backend)...)
	p.apply(route("r", "cart", func(r *wire.Route) { r.Backends, r.Policy = to("cart"), retries(1, time.Millisecond, 503) }))
	address := p.listen(key("cart"))
	c := client(t)
	const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
	for name, tc := range map[string]struct {
		answers []string
		want    answer
	}{
		"plain":                        {[]string{fine}, answer{status: 200, body: "fine"}},
		"chunks and a trailer":         {[]string{"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n"}, answer{status: 200, body: "abc", trailer: http.Header{"X-Sum": {"3"}}}},
		"informational first":          {[]string{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + fine}, answer{status: 200, body: "fine"}},
		"a status that is tried again": {[]string{"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", fine}, answer{status: 200, body: "fine"}},
		"nothing, and then an answer":  {[]string{"cut", fine}, answer{status: 200, body: "fine"}},
		"no content":                   {[]string{"HTTP/1.1 204 No Content\r\n\r\n"}, answer{status: 204}},
		"longer than a buffer": {
			[]string{"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("x", 300000)},
			answer{status: 200, body: strings.Repeat("x", 300000)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			// The first request makes the connection that the second finds idle.
			queue := append([]string{fine}, tc.answers...)
			answers.Store(&queue)
			for _, want := range []answer{{status: 200, body: "fine"}, tc.want} {
				got := do(t, c, request(t, http.MethodGet, address, "/", nil))
				if got.status != want.status || got.body != want.body || len(want.trailer) > 0 && !reflect.DeepEqual(got.trailer, want.trailer) {
					t.Errorf("answer = %d %.20q %v, want %d %.20q %v", got.status, got.body, got.trailer, want.status, want.body, want.trailer)
				}
			}
			for range 1 + len(tc.answers) {
				receive(t, requests)
			}
		})
	}
	t.Run("a response that breaks off", func(t *testing.T) {
		answers.Store(&[]string{fine, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut"})
		if got := do(t, c, request(t, http.MethodGet, address, "/", nil)); got.body != "fine" {
			t.Errorf("answer = %v", got)
		}
		res, err := c.Do(request(t, http.MethodGet, address, "/", nil))
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		defer func() { _ = res.Body.Close() }()
		if body, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("the answer ended as if it were whole: %q", body)
		}
		until(t, func() bool {
			return metrics(t, p.engine, "weft_exchanges_cut_total")["weft_reason="+string(reason.ResetAfterHeaders)] == 1
		})
	})
}

// TestClientThatLeavesEndsADirectExchange: nobody works on what nobody waits for.
func TestClientThatLeavesEndsADirectExchange(t *testing.T) {
	arrived, gone := make(chan struct{}), make(chan struct{})
	address := newProxy(t).policed(wire.ProtocolHTTP, nil, server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/waits" {
			close(arrived)
			<-r.Context().Done()
			close(gone)
		}
	}))
	c, r := raw(t, address, lines("GET / HTTP/1.1", "Host: cart"))
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("answer = %v, %v", res, err)
	}
	_ = res.Body.Close()
	if _, err := io.WriteString(c, lines("GET /waits HTTP/1.1", "Host: cart")); err != nil {
		t.Fatalf("write: %v", err)
	}
	receive(t, arrived)
	_ = c.Close()
	receive(t, gone)
}

// TestDirectExchangesEndWithTheirPermission: like other requests they have their time and no more.
func TestDirectExchangesEndWithTheirPermission(t *testing.T) {
	arrived := make(chan struct{})
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/first":
			return
		case "/begun":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	s := sides(t, wire.ProtocolHTTP, backend, func(o *Options) { o.DenialGrace = time.Millisecond })["own namespace"]
	for _, path := range []string{"/waits", "/begun"} {
		t.Run(path, func(t *testing.T) {
			s.allow("client")
			c, r := raw(t, s.address, lines("GET /first HTTP/1.1", "Host: web"))
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("answer = %v, %v", res, err)
			}
			_ = res.Body.Close()
			if _, err := io.WriteString(c, lines("GET "+path+" HTTP/1.1", "Host: web")); err != nil {
				t.Fatalf("write: %v", err)
			}
			receive(t, arrived)
			if path == "/begun" {
				if _, err := r.Peek(1); err != nil {
					t.Fatalf("read: %v", err)
				}
			}
			s.allow("other")
			res, err = http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			switch {
			case path == "/begun" && (err == nil || string(body) != "begun"):
				t.Errorf("body = %q, %v, want that it breaks off", body, err)
			case path == "/waits" && (res.StatusCode != http.StatusForbidden || res.Header.Get(reason.Header) != string(reason.AuthorizationDenied)):
				t.Errorf("answer = %d %s, want 403", res.StatusCode, res.Header.Get(reason.Header))
			}
		})
	}
}

// scripted starts a backend whose connections are served one after the other by the functions, the last of them again and
// again. It returns its address, and how many connections there were.
func scripted(t *testing.T, serve ...func(c net.Conn, r *bufio.Reader)) (address string, conns *atomic.Int32) {
	t.Helper()
	l := listenLoopback(t)
	t.Cleanup(func() { _ = l.Close() })
	conns = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(conns.Add(1))
			go func() {
				defer func() { _ = c.Close() }()
				serve[min(n, len(serve))-1](c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String(), conns
}

// echoes answers each request with its body.
func echoes(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			return
		}
	}
}

// TestBodiesAreSentAgainFromTheirBeginning: what was sent in vain, and what has come meanwhile, is there for another try as
// long as all of it is kept.
func TestBodiesAreSentAgainFromTheirBeginning(t *testing.T) {
	long := strings.Repeat("0123456789", 5000)
	for name, tc := range map[string]struct {
		body    io.Reader
		want    string
		refused bool
	}{
		"with the head":               {body: strings.NewReader("short"), want: "short"},
		"in pieces":                   {body: strings.NewReader(long), want: long},
		"in chunks":                   {body: io.MultiReader(strings.NewReader(long)), want: long},
		"with more than what is kept": {body: strings.NewReader(strings.Repeat(long, 4)), refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			backend, conns := scripted(t, func(c net.Conn, r *bufio.Reader) {
				if req, err := http.ReadRequest(r); err == nil && !tc.refused {
					_, _ = io.CopyN(io.Discard, req.Body, 5)
					return
				}
				_, _ = io.CopyN(io.Discard, r, int64(3*len(long)))
			}, echoes)
			address := newProxy(t).policed(wire.ProtocolHTTP, retries(1, time.Millisecond), backend)
			got := do(t, client(t), request(t, http.MethodPut, address, "/", tc.body))
			switch {
			case tc.refused && (got.status != http.StatusBadGateway || conns.Load() != 1):
				t.Errorf("answer = %d after %d connections, want 502 after one", got.status, conns.Load())
			case !tc.refused && (got.status != http.StatusOK || got.body != tc.want):
				t.Errorf("answer = %d with %d bytes, want 200 with %d", got.status, len(got.body), len(tc.want))
			}
		})
	}
}

// TestAnEarlyAnswerLeavesNoConnectionBehind: what is left of a request must not begin another one.
func TestAnEarlyAnswerLeavesNoConnectionBehind(t *testing.T) {
	backend, conns := scripted(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
	}, echoes)
	address := newProxy(t).policed(wire.ProtocolHTTP, nil, backend)
	c, r := raw(t, address, lines("POST / HTTP/1.1", "Host: cart", "Content-Length: 100000")+"begin")
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("answer = %v, %v, want 413", res, err)
	}
	_ = res.Body.Close()
	_ = c.Close()
	if got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader("next"))); got.status != http.StatusOK || got.body != "next" {
		t.Errorf("answer = %d %q, want 200 next", got.status, got.body)
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("there were %d connections, want 2", n)
	}
}

// TestABodyThatBreaksOffHasNoEnd: the application must not take for the whole what its client has not sent to its end.
func TestABodyThatBreaksOffHasNoEnd(t *testing.T) {
	for name, begin := range map[string]string{
		"length": lines("POST / HTTP/1.1", "Host: cart", "Content-Length: 100000") + "begin",
		"chunks": lines("POST / HTTP/1.1", "Host: cart", "Transfer-Encoding: chunked") + "5\r\nbegin\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan error, 1)
			backend, _ := scripted(t, func(_ net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err == nil {
					_, err = io.ReadFull(req.Body, make([]byte, 5))
				}
				if err != nil {
					ended <- err
					return
				}
				close(began)
				_, err = io.ReadAll(req.Body)
				ended <- err
			})
			c, _ := raw(t, newProxy(t).policed(wire.ProtocolHTTP, nil, backend), begin)
			receive(t, began)
			_ = c.Close()
			if err := receive(t, ended); err == nil {
				t.Error("the body ended as if it were whole")
			}
		})
	}
}
