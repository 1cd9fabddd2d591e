package engine

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// way is one that a request may go: from the client to the proxy, to the backend or to the proxy of its namespace.
type way struct {
	client  *http.Client
	address string
	// version is that of HTTP which the client speaks.
	version string
	// near is the proxy that the client is next to, and far the one that picks the pod, which may be the same.
	near, far *proxy
	// key is the Service's, and protocol what its pods speak.
	key      string
	protocol wire.Protocol
}

// filter gives the requests of the way filters.
func (w *way) filter(filters ...wire.Filter) {
	r := &wire.Route{
		Kind: wire.RouteHTTP, Namespace: namespace, Name: "policed", Destinations: []string{w.key}, Consumer: w.near != w.far,
		Matches: []wire.Match{{}}, Filters: filters, Backends: []wire.WeightedBackend{{Backend: w.key, Weight: 1}},
	}
	w.near.apply(resource(r.Key(), r))
}

// limit bounds the load of the Service.
func (w *way) limit(limits *wire.CircuitBreaking) {
	namespace, name, port, _ := wire.ParseServicePortKey(w.key)
	w.far.apply(resource(w.key, &wire.Backend{
		Namespace: namespace, Service: name, Port: port, Protocol: w.protocol, Meshed: true, Policy: &wire.Policy{CircuitBreaking: limits},
	}))
}

// eachWay runs a test for each way that a request may go, by the versions of HTTP of its client and of its backend, and
// over the hop. All connections have been made, so that what follows goes directly.
func eachWay(t *testing.T, policy *wire.Policy, handler http.HandlerFunc, run func(t *testing.T, w way)) {
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/first" {
			handler(w, r)
		}
	})
	for to, protocol := range map[string]wire.Protocol{"HTTP/1.1": wire.ProtocolHTTP, "HTTP/2": wire.ProtocolH2C} {
		eachWayTo(t, to, protocol, policy, backend, run)
	}
}

// eachWayTo is eachWay to one backend, which answers a request for /first.
func eachWayTo(t *testing.T, to string, protocol wire.Protocol, policy *wire.Policy, backend string, run func(t *testing.T, w way)) {
	for from, speaks := range map[string]func(*http.Protocols){"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) }, "HTTP/2": h2c} {
		for over, start := range map[string]func(t *testing.T, w *way){
			"directly": func(t *testing.T, w *way) {
				p := newProxy(t)
				w.near, w.far, w.key, w.address = p, p, key("cart"), p.policed(protocol, policy, backend)
			},
			"over the hop": func(t *testing.T, w *way) {
				h := newHop(t, 1, protocol)
				w.near, w.far, w.key, w.address = h.proxy, h.peers[0], stockKey, h.policed(policy, protocol, backend)
			},
		} {
			t.Run(from+" to "+to+" "+over, func(t *testing.T) {
				w := way{client: client(t, speaks), version: from, protocol: protocol}
				start(t, &w)
				w.first(t)
				w.first(t)
				run(t, w)
			})
		}
	}
}

// first sends the request that makes connections.
func (w *way) first(t *testing.T) {
	t.Helper()
	if got := do(t, w.client, request(t, http.MethodGet, w.address, "/first", nil)); got.status != http.StatusOK {
		t.Fatalf("answer = %v", got)
	}
}

func TestDirectExchangesOfAllVersions(t *testing.T) {
	var tries atomic.Int32
	long := strings.Repeat("0123456789", 30_000)
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "abc")
			_ = http.NewResponseController(w).Flush() // there is no length, so that HTTP/1.1 has a trailer
			w.Header().Set("X-Sum", "3")
			w.Header().Set(http.TrailerPrefix+"Weft-Forged", "1")
		case "/hint":
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "fine")
		case "/long":
			_, _ = io.WriteString(w, long)
		case "/echo":
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		case "/busy":
			if tries.Add(1)%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.Copy(w, r.Body)
		default:
			w.Header().Set("X-Path", r.URL.RequestURI())
			_, _ = io.WriteString(w, "fine")
		}
	}
	eachWay(t, retries(1, time.Millisecond, 503), handler, func(t *testing.T, w way) {
		c, address := w.client, w.address
		hints := 0
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && header.Get("Link") == "</a>" {
				hints++
			}
			return nil
		}}
		for _, tc := range []struct {
			method, target, body string
			status               int
			want                 string
		}{
			{"GET", "/a%2Fb?c=%20d", "", 200, "fine"},
			{"HEAD", "/a", "", 200, ""},
			{"GET", "/none", "", 204, ""},
			{"GET", "/trailer", "", 200, "abc"},
			{"GET", "/hint", "", 200, "fine"},
			{"GET", "/long", "", 200, long},
			{"POST", "/echo", "short", 200, "short"},
			{"PUT", "/echo", long, 200, long},
			{"POST", "/busy", "again", 200, "again"},
		} {
			req := request(t, tc.method, address, tc.target, strings.NewReader(tc.body))
			got := do(t, c, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
			if got.status != tc.status || got.body != tc.want {
				t.Errorf("%s %s: answer = %d with %d bytes, want %d with %d", tc.method, tc.target, got.status, len(got.body), tc.status, len(tc.want))
			}
			if path := got.header.Get("X-Path"); path != "" && path != tc.target {
				t.Errorf("the target has become %s", path)
			}
			if tc.target == "/trailer" && (got.trailer.Get("X-Sum") != "3" || got.trailer.Get("Weft-Forged") != "") {
				t.Errorf("trailer = %v", got.trailer)
			}
			if leaked := weftFields(got.header); len(leaked) > 0 {
				t.Errorf("the client sees %v", leaked)
			}
		}
		if hints != 1 {
			t.Errorf("%d hints have come", hints)
		}
	})
}

// TestDirectExchangesOfAllVersionsEnd: with their client, and with their backend.
func TestDirectExchangesOfAllVersionsEnd(t *testing.T) {
	arrived, gone := make(chan struct{}), make(chan struct{})
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	}
	eachWay(t, nil, handler, func(t *testing.T, w way) {
		c, address := w.client, w.address
		res, err := c.Do(request(t, http.MethodGet, address, "/cut", nil))
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil || string(body) != "part" {
			t.Errorf("body = %q, %v, want that it breaks off", body, err)
		}
		req := request(t, http.MethodGet, address, "/waits", nil)
		ctx, leave := context.WithCancel(req.Context())
		defer leave()
		if res, err = c.Do(req.WithContext(ctx)); err != nil {
			t.Fatalf("get: %v", err)
		}
		receive(t, arrived)
		leave()
		receive(t, gone)
		_ = res.Body.Close()
		if got := do(t, c, request(t, http.MethodGet, address, "/first", nil)); got.status != http.StatusOK {
			t.Errorf("the next answer = %v", got)
		}
	})
}
