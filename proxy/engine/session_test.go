package engine

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/session"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// pods starts as many backends, which answer with their name and the cookies they see.
func pods(t *testing.T, name string, n int) []string {
	t.Helper()
	var addresses []string
	for i := range n {
		addresses = append(addresses, server(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s-%d", name, i)
			if r.Header.Get("Weft-Session") != "" {
				_, _ = io.WriteString(w, " sees what the proxies tell each other")
			}
		}))
	}
	return addresses
}

// jar is a client that keeps cookies and a header of the answers it gets.
type jar struct {
	t       *testing.T
	address string
	cookies map[string]string
	header  http.Header
}

func newJar(t *testing.T, address string) *jar {
	return &jar{t: t, address: address, cookies: map[string]string{}, header: http.Header{}}
}

// get sends a request with what the jar holds and returns the answer's body and its Set-Cookie.
func (j *jar) get(target string) (body, setCookie string) {
	j.t.Helper()
	req := request(j.t, http.MethodGet, j.address, target, nil)
	req.Header = j.header.Clone()
	for name, value := range j.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	a := do(j.t, client(j.t), req)
	if a.status != http.StatusOK {
		j.t.Fatalf("answer = %v", a)
	}
	for name := range a.header {
		if strings.HasPrefix(name, "Weft-") {
			j.t.Errorf("the client is told %s", name)
		}
	}
	for _, line := range a.header.Values("Set-Cookie") {
		cookie, err := http.ParseSetCookie(line)
		if err != nil {
			j.t.Fatalf("Set-Cookie %q: %v", line, err)
		}
		j.cookies[cookie.Name] = cookie.Value
	}
	if value := a.header.Get("X-Session"); value != "" {
		j.header.Set("X-Session", value)
	}
	return a.body, a.header.Get("Set-Cookie")
}

// stays tells whether many requests end at one pod, and returns it.
func (j *jar) stays(target string) string {
	j.t.Helper()
	first, _ := j.get(target)
	for range 20 {
		if body, setCookie := j.get(target); body != first || setCookie != "" {
			j.t.Fatalf("answered by %s after %s, with cookie %q", body, first, setCookie)
		}
	}
	return first
}

// answering returns how many pods answer clients that are new.
func answering(t *testing.T, address, target string) int {
	t.Helper()
	seen := map[string]bool{}
	for range 60 {
		body, _ := newJar(t, address).get(target)
		seen[body] = true
	}
	return len(seen)
}

var cookieSession = &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}

func persistent(p *wire.SessionPersistence) *wire.Policy { return &wire.Policy{SessionPersistence: p} }

func TestSessionOfAService(t *testing.T) {
	for name, policy := range map[string]*wire.SessionPersistence{
		"cookie": cookieSession,
		"header": {Type: wire.SessionHeader, Name: "X-Session", AbsoluteTimeout: wire.Duration(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			addresses := pods(t, "cart", 5)
			p.apply(service("cart", wire.ProtocolHTTP, addresses...)...)
			p.apply(limitedBackend("cart", persistent(policy)))
			address := p.listen(key("cart"))
			if got := answering(t, address, "/"); got < 3 {
				t.Errorf("%d of 5 pods answer new clients", got)
			}
			j := newJar(t, address)
			pod := j.stays("/")
			// Routes do not part what belongs to the Service.
			p.apply(route("r", "cart", func(r *wire.Route) { r.Backends = to("cart") }))
			if got := j.stays("/"); got != pod {
				t.Errorf("answered by %s after %s, because of a route", got, pod)
			}
			// The pod goes, and another one takes its place.
			left := addresses[:0:0]
			for i, a := range addresses {
				if fmt.Sprintf("cart-%d", i) != pod {
					left = append(left, a)
				}
			}
			p.apply(backend("cart", wire.ProtocolHTTP, left...)[1])
			if body, setCookie := j.get("/"); body == pod || policy.Type == wire.SessionCookie && setCookie == "" {
				t.Errorf("answered by %s with cookie %q, want another pod and a session with it", body, setCookie)
			}
			j.stays("/")
		})
	}
}

func TestSessionOfAPodThatRefuses(t *testing.T) {
	p := newProxy(t)
	dead := ports.Refusing(t).String()
	p.apply(service("cart", wire.ProtocolHTTP, append(pods(t, "cart", 2), dead)...)...)
	p.apply(limitedBackend("cart", persistent(cookieSession)))
	j := newJar(t, p.listen(key("cart")))
	j.cookies["stay"] = session.Endpoint(key("cart"), addrPort(t, dead))
	if body, setCookie := j.get("/"); body == "" || !strings.HasPrefix(setCookie, "stay=") {
		t.Errorf("answered by %q with cookie %q, want a living pod and a session with it", body, setCookie)
	}
	j.stays("/")
}

func TestSessionOfARoute(t *testing.T) {
	p := newProxy(t)
	for _, name := range []string{"v1", "v2"} {
		p.apply(backend(name, wire.ProtocolHTTP, pods(t, name, 3)...)...)
	}
	p.apply(service("cart", wire.ProtocolHTTP)...)
	split := func(name, path string, weights ...int32) wire.Resource {
		return route(name, "cart", func(r *wire.Route) {
			r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: path}}}
			r.Backends = to("v1", "v2")
			for i, weight := range weights {
				r.Backends[i].Weight = weight
			}
			policy := *cookieSession
			policy.Path = path
			r.Policy = persistent(&policy)
		})
	}
	p.apply(split("a", "/a", 1, 1), split("b", "/b", 0, 1))
	address := p.listen(key("cart"))
	j := newJar(t, address)
	for pod := ""; !strings.HasPrefix(pod, "v1"); {
		j = newJar(t, address)
		pod, _ = j.get("/a")
	}
	pod := j.stays("/a")
	p.apply(split("a", "/a", 0, 1))
	if got := j.stays("/a"); got != pod {
		t.Errorf("answered by %s after %s, because a weight has become zero", got, pod)
	}
	if body, _ := newJar(t, address).get("/a"); !strings.HasPrefix(body, "v2") {
		t.Errorf("a new client is answered by %s", body)
	}
	// Another rule does not know the session.
	if body, setCookie := j.get("/b"); !strings.HasPrefix(body, "v2") || !strings.Contains(setCookie, "Path=/b") {
		t.Errorf("answered by %s with cookie %q, want a session of its own", body, setCookie)
	}
}

func TestSessionsOverTheHop(t *testing.T) {
	policy := persistent(cookieSession)
	meshed := resource(stockKey, &wire.Backend{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Policy: policy,
	})
	for name, configure := range map[string]func(h *hop){
		"of a Service": func(h *hop) { h.apply(meshed) },
		"of a route": func(h *hop) {
			r := &wire.Route{
				Kind: wire.RouteHTTP, Namespace: namespace, Name: "r", Consumer: true, Destinations: []string{stockKey},
				Matches: []wire.Match{{}}, Backends: []wire.WeightedBackend{{Backend: stockKey, Weight: 1}}, Policy: policy,
			}
			h.apply(resource(r.Key(), r))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, 2, wire.ProtocolHTTP)
			addresses := pods(t, "api", 5)
			for _, peer := range h.peers {
				stocked(peer, wire.ProtocolHTTP, addresses...)
			}
			configure(h)
			address := h.listen(stockKey)
			if got := answering(t, address, "/"); got < 3 {
				t.Errorf("%d of 5 pods answer new clients", got)
			}
			j := newJar(t, address)
			j.stays("/")
			for _, peer := range h.peers {
				peer.apply(resource(stockKey, &wire.Endpoints{Endpoints: []wire.Endpoint{{Address: addrPort(t, addresses[0])}}}))
			}
			if got := j.cookies["stay"]; got == "" {
				t.Errorf("there was no session")
			}
			if body, _ := j.get("/"); body != "api-0" {
				t.Errorf("answered by %s, want the pod that is left", body)
			}
			j.stays("/")
		})
	}
}

// TestUpgradesFollowTheirSession lets a page's WebSocket reach the pod that has served the page.
func TestUpgradesFollowTheirSession(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	var addresses []string
	for i := range 5 {
		addresses = append(addresses, server(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Pod", strconv.Itoa(i))
			if r.Header.Get("Upgrade") != "" {
				w.WriteHeader(http.StatusTeapot)
			}
		}))
	}
	stocked(h.peers[0], wire.ProtocolHTTP, addresses...)
	h.apply(resource(stockKey, &wire.Backend{
		Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Policy: persistent(cookieSession),
	}))
	address := h.listen(stockKey)
	page := get(t, address, "/")
	cookie, _, _ := strings.Cut(page.header.Get("Set-Cookie"), ";")
	for range 10 {
		req := request(t, http.MethodGet, address, "/", nil)
		req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Cookie": {cookie}}
		if got := do(t, client(t), req); got.status != http.StatusTeapot || got.header.Get("X-Pod") != page.header.Get("X-Pod") {
			t.Fatalf("upgrade = %v of pod %s, want pod %s", got, got.header.Get("X-Pod"), page.header.Get("X-Pod"))
		}
	}
}

func addrPort(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
