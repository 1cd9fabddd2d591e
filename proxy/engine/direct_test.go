package engine

import (
	"bufio"
	"bytes"
	"io"
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

// canned starts a backend that answers every request that has come whole with the same bytes.
func canned(t *testing.T, answer string) string {
	t.Helper()
	l := listenLoopback(t)
	t.Cleanup(func() { _ = l.Close() })
	text := []byte(answer)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				for got := 0; ; {
					n, err := c.Read(buf[got:])
					if err != nil {
						return
					}
					if got += n; !bytes.HasSuffix(buf[:got], []byte("\r\n\r\n")) {
						continue
					}
					got = 0
					if _, err := c.Write(text); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestForwardingMakesNoGarbage: a small request goes through routes, filters, balancing, metrics and the memory of
// exchanges without an allocation. Blocks of strings are allocated for many requests at a time, so that there is less
// than one for each.
func TestForwardingMakesNoGarbage(t *testing.T) {
	if tested != HTTPWeft || raceEnabled {
		return // net/http has many, and so has the race detector
	}
	const answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
	p := newProxy(t, func(o *Options) { o.Exchanges = admin.NewExchanges() })
	p.apply(service("cart", wire.ProtocolHTTP, canned(t, answer), canned(t, answer))...)
	p.apply(route("r", "cart", func(r *wire.Route) {
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/shop"}}}
		r.Backends = to("cart")
		r.Filters = []wire.Filter{{RequestHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-Team", Value: "shop"}}}}}
	}))
	c, _ := raw(t, p.listen(key("cart")), "")
	buf := make([]byte, 4096)
	n := 0
	one := func() {
		n++
		text := strconv.AppendInt(append(buf[:0], "GET /shop/a?n="...), int64(n), 10)
		text = append(text, " HTTP/1.1\r\nHost: cart.shop\r\nUser-Agent: test\r\nAccept: */*\r\nX-Request-Id: 1\r\nConnection: keep-alive\r\n\r\n"...)
		if _, err := c.Write(text); err != nil {
			t.Fatalf("write: %v", err)
		}
		for got := 0; !bytes.HasSuffix(buf[:got], []byte("hello")); {
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
}

// TestDirectExchanges: what begins as a plain exchange and turns out to be more than that.
func TestDirectExchanges(t *testing.T) {
	l := listenLoopback(t)
	t.Cleanup(func() { _ = l.Close() })
	var answers atomic.Pointer[[]string]
	requests := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
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
			}()
		}
	}()
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, l.Addr().String())...)
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
			return metrics(t, p.engine, "weft_exchanges_cut_total")["reason="+string(reason.ResetAfterHeaders)] == 1
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
