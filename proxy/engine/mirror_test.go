package engine

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// recording starts a backend that reports every request with its body. Its answers come only when
// released.
func recording(t *testing.T, release <-chan struct{}) (address string, requests <-chan string) {
	seen := make(chan string, 1000)
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		seen <- r.Method + " " + r.RequestURI + " " + r.Host + " " + string(body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusInternalServerError)
	}), seen
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func mirrorTo(services ...string) []wire.Filter {
	var filters []wire.Filter
	for _, s := range services {
		filters = append(filters, wire.Filter{Mirror: &wire.Mirror{Backend: key(s), Numerator: 1, Denominator: 1}})
	}
	return filters
}

func TestMirrorsGetACopyAndNeverDelay(t *testing.T) {
	release := make(chan struct{})
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	one, seenByOne := recording(t, release)
	two, seenByTwo := recording(t, release)
	p.apply(backend("one", wire.ProtocolHTTP, one)...)
	p.apply(backend("two", wire.ProtocolHTTP, two)...)
	p.apply(route("mirrors", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Filters = mirrorTo("one", "two", "nobody")
	}))
	address := p.listen(key("cart"))
	for body, want := range map[string]string{"": "POST /a?b cart.example ", "order": "POST /a?b cart.example order"} {
		req := request(t, http.MethodPost, address, "/a?b", strings.NewReader(body))
		req.Host = "cart.example"
		if got := do(t, client(t), req); got.body != "cart" {
			t.Errorf("answer = %v, want the backend's while the mirrors do not answer", got)
		}
		for _, seen := range []<-chan string{seenByOne, seenByTwo} {
			if got := receive(t, seen); got != want {
				t.Errorf("mirror got %q, want %q", got, want)
			}
		}
	}
	close(release)
}

func TestMirrorsAreBounded(t *testing.T) {
	release := make(chan struct{})
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	address, _ := recording(t, release)
	p.apply(backend("slow", wire.ProtocolHTTP, address)...)
	p.apply(route("mirrors", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Filters = mirrorTo("slow")
	}))
	listener := p.listen(key("cart"))
	c := client(t)
	for range maxMirrors + 10 {
		do(t, c, request(t, http.MethodGet, listener, "/", nil))
	}
	// A body that is not kept is not mirrored.
	do(t, c, request(t, http.MethodPost, listener, "/", strings.NewReader(strings.Repeat("a", 2*maxReplay))))
	got := metrics(t, p.engine, "weft_mirror_requests_total")
	if diff := cmp.Diff(map[string]float64{"outcome=dropped": 11}, got); diff != "" {
		t.Errorf("mirrors (-want +got):\n%s", diff)
	}
	close(release)
}
