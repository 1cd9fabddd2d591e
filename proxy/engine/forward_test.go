package engine

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// echo answers with what arrived: request line, authority and header.
func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s host=%s\n", r.Method, r.RequestURI, r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			fmt.Fprintf(w, "%s: %s\n", name, value)
		}
	}
}

func TestServiceWithoutRoutesIsForwarded(t *testing.T) {
	for name, protocol := range map[string]wire.Protocol{"HTTP/1.1": wire.ProtocolHTTP, "HTTP/2": wire.ProtocolH2C} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(service("cart", protocol, server(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Proto)
			}))...)
			address := p.listen(key("cart"))
			want := map[wire.Protocol]string{wire.ProtocolHTTP: "HTTP/1.1", wire.ProtocolH2C: "HTTP/2.0"}[protocol]
			for _, c := range []*http.Client{client(t), client(t, h2c)} {
				got := do(t, c, request(t, http.MethodGet, address, "/", nil))
				if got.status != http.StatusOK || got.body != want {
					t.Errorf("answer = %v, want 200 over %s", got, want)
				}
			}
		})
	}
}

func TestRequestArrivesAsItWasSent(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, echo))...)
	address := p.listen(key("cart"))
	tests := map[string]struct {
		request string
		want    []string
		absent  []string
	}{
		"target": {
			request: lines("GET /a%2Fb/c%20d//e;x=1?q=%zz&r=a+b HTTP/1.1", "Host: cart.example:8080"),
			want:    []string{"GET /a%2Fb/c%20d//e;x=1?q=%zz&r=a+b host=cart.example:8080"},
		},
		"empty query": {
			request: lines("GET /a? HTTP/1.1", "Host: cart"),
			want:    []string{"GET /a? host=cart"},
		},
		"two slashes at the beginning": {
			request: lines("GET //a HTTP/1.1", "Host: cart"),
			want:    []string{"GET //a host=cart"},
		},
		"asterisk": {
			request: lines("OPTIONS * HTTP/1.1", "Host: cart"),
			want:    []string{"OPTIONS * host=cart"},
		},
		"absolute form": {
			request: lines("GET http://real.example/a?b HTTP/1.1", "Host: real.example"),
			want:    []string{"GET /a?b host=real.example"},
		},
		"absolute form without a path": {
			request: lines("GET http://real.example HTTP/1.1", "Host: Real.example"),
			want:    []string{"GET / host=real.example"},
		},
		"dot segments are resolved before anybody sees them": {
			request: lines("GET /public/%2e%2e/secret HTTP/1.1", "Host: cart"),
			want:    []string{"GET /secret host=cart"},
		},
		"HTTP/1.0 without Host": {
			request: lines("GET / HTTP/1.0"),
			want:    []string{"GET / host=cart.shop"},
		},
		"header": {
			request: lines("GET / HTTP/1.1", "Host: cart", "X-A: 1", "x-a: 2", "Traceparent: 00-1-2-01",
				"X-Forwarded-For: 192.0.2.1", "Cookie: a=b; c=d"),
			want: []string{"X-A: 1\nX-A: 2\n", "Traceparent: 00-1-2-01", "X-Forwarded-For: 192.0.2.1", "Cookie: a=b; c=d"},
			// Nothing is made up.
			absent: []string{"User-Agent", "Accept-Encoding", "Via", "Forwarded: "},
		},
		"what concerns one connection": {
			request: lines("GET / HTTP/1.1", "Host: cart", "Connection: x-hop", "X-Hop: 1", "Keep-Alive: 5", "TE: gzip, trailers"),
			want:    []string{"Te: trailers"},
			absent:  []string{"X-Hop", "Keep-Alive", "gzip"},
		},
		"what only proxies may say": {
			request: lines("GET / HTTP/1.1", "Host: cart", "Weft-Backend: shop/other:80", "weft-anything: 1", "X-A: 1"),
			want:    []string{"X-A: 1"},
			absent:  []string{"Weft-"},
		},
		"an upgrade to h2c is not forwarded": {
			request: lines("GET / HTTP/1.1", "Host: cart", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
			want:    []string{"GET / host=cart"},
			absent:  []string{"Upgrade", "Http2-Settings"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, r := raw(t, address, tc.request)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("read answer: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("answer = %d %q, %v", res.StatusCode, body, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(string(body), want) {
					t.Errorf("arrived %q, want %q in it", body, want)
				}
			}
			for _, absent := range tc.absent {
				if strings.Contains(string(body), absent) {
					t.Errorf("arrived %q, want no %q in it", body, absent)
				}
			}
		})
	}
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the backend", r.Method, r.RequestURI)
	}))...)
	address := p.listen(key("cart"))
	many := "GET / HTTP/1.1\r\nHost: cart\r\n" + strings.Repeat("X-A: 1\r\n", maxHeaderFields+1) + "\r\n"
	large := "GET / HTTP/1.1\r\nHost: cart\r\nX-A: " + strings.Repeat("a", maxHeaderBytes+8<<10) + "\r\n\r\n"
	tests := map[string]struct {
		request    string
		wantStatus int
	}{
		"CONNECT":                      {lines("CONNECT cart:80 HTTP/1.1", "Host: cart:80"), http.StatusNotImplemented},
		"two hosts":                    {lines("GET / HTTP/1.1", "Host: a", "Host: b"), http.StatusBadRequest},
		"no host":                      {lines("GET / HTTP/1.1"), http.StatusBadRequest},
		"invalid host":                 {lines("GET / HTTP/1.1", "Host: a b"), http.StatusBadRequest},
		"broken escape":                {lines("GET /%zz HTTP/1.1", "Host: a"), http.StatusBadRequest},
		"NUL in the path":              {lines("GET /%00 HTTP/1.1", "Host: a"), http.StatusBadRequest},
		"absolute form of another URI": {lines("GET ftp://a/ HTTP/1.1", "Host: a"), http.StatusBadRequest},
		"user in the target":           {lines("GET http://u@a/ HTTP/1.1", "Host: a"), http.StatusBadRequest},
		"asterisk with GET":            {lines("GET * HTTP/1.1", "Host: a"), http.StatusBadRequest},
		"unknown transfer coding":      {lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"), http.StatusNotImplemented},
		"unequal lengths":              {lines("POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 2"), http.StatusBadRequest},
		"space before the colon":       {lines("GET / HTTP/1.1", "Host: a", "X-A : 1"), http.StatusBadRequest},
		"too many fields":              {many, http.StatusRequestHeaderFieldsTooLarge},
		"too large a header":           {large, http.StatusRequestHeaderFieldsTooLarge},
		"upgrade with a body": {
			lines("POST / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"),
			http.StatusBadRequest,
		},
	}
	if tested == HTTPWeft {
		// net/http takes these: it goes by the target, by the first length, and by the coding.
		for name, request := range map[string]string{
			"Host and target differ":         lines("GET http://real.example/ HTTP/1.1", "Host: lie"),
			"two equal lengths":              lines("POST / HTTP/1.1", "Host: a", "Content-Length: 0", "Content-Length: 0"),
			"length and coding":              lines("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n",
			"a coding in HTTP/1.0":           lines("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked") + "0\r\n\r\n",
			"a line that ends with LF alone": "GET / HTTP/1.1\nHost: a\r\n\r\n",
		} {
			tests[name] = struct {
				request    string
				wantStatus int
			}{request, http.StatusBadRequest}
		}
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, r := raw(t, address, tc.request)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("read answer: %v", err)
			}
			_ = res.Body.Close()
			if res.StatusCode != tc.wantStatus || !res.Close {
				t.Errorf("answer = %d, close %t, want %d and the end of the connection", res.StatusCode, res.Close, tc.wantStatus)
			}
		})
	}
}

func TestResponseArrivesAsItWasSent(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Type"] = nil
		h.Set("Weft-Reason", "forged")
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			h.Set("ETag", `"a"`)
			w.WriteHeader(http.StatusNotModified)
		case "/html":
			_, _ = io.WriteString(w, "<html>")
		case "/cookies":
			h["Set-Cookie"] = []string{"a=1", "b=2"}
			h.Set("Keep-Alive", "5")
			w.WriteHeader(http.StatusTeapot)
		}
	}))...)
	address := p.listen(key("cart"))
	tests := map[string]struct {
		method     string
		wantStatus int
		wantBody   string
		wantHeader http.Header
	}{
		"/204":     {wantStatus: 204, wantHeader: http.Header{}},
		"/304":     {wantStatus: 304, wantHeader: http.Header{"Etag": {`"a"`}}},
		"/html":    {wantStatus: 200, wantBody: "<html>", wantHeader: http.Header{"Content-Length": {"6"}}},
		"/cookies": {wantStatus: 418, wantHeader: http.Header{"Content-Length": {"0"}, "Set-Cookie": {"a=1", "b=2"}}},
	}
	for path, tc := range tests {
		t.Run(path, func(t *testing.T) {
			got := get(t, address, path)
			got.header.Del("Date")
			if got.status != tc.wantStatus || got.body != tc.wantBody {
				t.Errorf("answer = %v, want %d %q", got, tc.wantStatus, tc.wantBody)
			}
			if diff := cmp.Diff(tc.wantHeader, got.header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		got := do(t, client(t), request(t, http.MethodHead, address, "/html", nil))
		if got.status != 200 || got.header.Get("Content-Length") != "6" || got.body != "" {
			t.Errorf("answer = %v with length %q, want 200 without a body and length 6", got, got.header.Get("Content-Length"))
		}
	})
}

func TestBackendFailuresAreNamed(t *testing.T) {
	closed := ports.Refusing(t).String()
	tests := map[string]struct {
		resources  []wire.Resource
		wantStatus int
		wantReason reason.Reason
	}{
		"no endpoints":              {service("cart", wire.ProtocolHTTP), 503, reason.NoEndpoints},
		"unknown backend":           {service("cart", wire.ProtocolHTTP)[2:], 500, reason.UnknownBackend},
		"connection refused":        {service("cart", wire.ProtocolHTTP, closed), 503, reason.Connect},
		"a backend of another kind": {append(service("cart", wire.ProtocolHTTP), backend("cart", wire.ProtocolTCP, closed)...), 502, reason.Unsendable},
		"no HTTP":                   {service("cart", wire.ProtocolHTTP, speaks(t, "SSH-2.0-x\r\n")), 502, reason.Protocol},
		"no answer":                 {service("cart", wire.ProtocolHTTP, speaks(t, "")), 502, reason.ResetBeforeHeaders},
		"unexpected protocol":       {service("cart", wire.ProtocolHTTP, speaks(t, lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"))), 502, reason.Protocol},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.apply(tc.resources...)
			got := do(t, client(t), request(t, http.MethodPost, p.listen(key("cart")), "/", strings.NewReader("body")))
			if got.status != tc.wantStatus || got.reason() != string(tc.wantReason) || !strings.HasPrefix(got.body, "weft: ") {
				t.Errorf("answer = %v, want %d %s", got, tc.wantStatus, tc.wantReason)
			}
		})
	}
}

// speaks starts a backend that reads a request, sends text and closes. It returns its address.
func speaks(t *testing.T, text string) string {
	t.Helper()
	l := listenLoopback(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveText(c, text)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func serveText(c net.Conn, text string) {
	defer func() { _ = c.Close() }()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	_, _ = io.WriteString(c, text)
}
