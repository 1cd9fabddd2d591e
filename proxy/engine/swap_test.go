package engine

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// TestSwapsFailNoRequest changes everything about a route while clients send requests. An answer must be
// one that a configuration in force between the request's beginning and its end would have given.
func TestSwapsFailNoRequest(t *testing.T) {
	const swaps = 500
	p := newProxy(t)
	generation := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Header.Get("X-Backend"), r.Header.Get("X-Generation"), body)
	}
	// Two addresses, so that every generation can have endpoints of its own.
	addresses := [2]string{server(t, generation), server(t, generation)}
	p.apply(service("cart", wire.ProtocolHTTP, addresses[0])...)

	// configuration returns the resources of a generation, whose number the backend gets to see.
	configuration := func(g int) []wire.Resource {
		name := fmt.Sprintf("v%d", g%3)
		header := func(name, value string) wire.Filter {
			return wire.Filter{RequestHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: name, Value: value}}}}
		}
		protocol := []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolH2C}[g/2%2]
		return append(backend(name, protocol, addresses[g%2]), route("r", "cart", func(r *wire.Route) {
			r.Backends = to(name, "cart")
			r.Backends[1].Weight = 0
			r.Filters = []wire.Filter{header("X-Generation", strconv.Itoa(g))}
			r.Backends[0].Filters = []wire.Filter{header("X-Backend", name)}
			r.Policy = timeouts(patience, 0)
		}))
	}
	var begun, inForce atomic.Int64
	p.apply(configuration(0)...)

	stop := make(chan struct{})
	served := make(chan struct{}, 1)
	var requests atomic.Int64
	var clients sync.WaitGroup
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
		address := p.listen(key("cart"))
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := inForce.Load()
				got := do(t, c, request(t, http.MethodPost, address, "/", strings.NewReader("body")))
				most := begun.Load()
				requests.Add(1)
				select {
				case served <- struct{}{}:
				default:
				}
				var backend, body string
				var g int64
				if _, err := fmt.Sscan(got.body, &backend, &g, &body); err != nil || got.status != http.StatusOK || body != "body" {
					t.Errorf("%s: answer = %v, want 200", name, got)
					return
				}
				if g < least || g > most || backend != fmt.Sprintf("v%d", g%3) {
					t.Errorf("%s: answered by %s for generation %d, while %d to %d were in force", name, backend, g, least, most)
				}
			}
		})
	}
	for g := 1; g <= swaps; g++ {
		begun.Store(int64(g))
		delta := wire.Delta{Upserted: configuration(g)}
		if g%50 == 0 {
			// The backend of the generation before disappears with its last mention.
			old := key(fmt.Sprintf("v%d", (g-1)%3))
			delta.Removed = []wire.Ref{{Kind: wire.KindBackend, Key: old}, {Kind: wire.KindEndpoints, Key: old}}
		}
		if rejected := p.delta(delta); len(rejected) > 0 {
			t.Errorf("rejected: %v", rejected)
		}
		inForce.Store(int64(g))
		receive(t, served)
	}
	close(stop)
	clients.Wait()
	t.Logf("%d requests", requests.Load())
}
