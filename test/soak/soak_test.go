// Package soak holds a proxy under mixed load while its configuration changes all the time: no request may fail or
// reach a backend that is not meant, and nothing may grow. Short by default; `make soak-proxy` gives it time.
package soak

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

var (
	duration = flag.Duration("duration", 3*time.Second, "how long each engine is under load")
	least    = flag.Int64("requests", 0, "how many requests there are at least, however long that takes")
)

const (
	namespace = "shop"
	// clients send one request after the other, each of another kind.
	clients = 16
	// changeEvery is the pause between two changes of the configuration.
	changeEvery = 10 * time.Millisecond
)

func TestSoak(t *testing.T) {
	for _, of := range []engine.HTTPEngine{engine.HTTPStd, engine.HTTPWeft} {
		t.Run(string(of), func(t *testing.T) { soak(t, of) })
	}
}

func soak(t *testing.T, of engine.HTTPEngine) {
	e := engine.New(engine.Options{
		Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"}, HTTP: of,
		LeaveGrace: time.Millisecond, Exchanges: admin.NewExchanges(), Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	c := &churn{engine: e, backends: []string{backend(t, "v1"), backend(t, "v1"), backend(t, "v2")}}
	c.apply(t, c.first()...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.ServeCaptured(engine.Direct(l, key("web"))) }()

	// What is made once has been made after a while; from then on nothing grows.
	warm := load(t, c, l.Addr().String(), *duration/4, 0)
	before := measure(t)
	requests := load(t, c, l.Addr().String(), *duration, *least-warm)
	after := measure(t)
	t.Logf("%d requests, %d changes; before %s, after %s", warm+requests, c.seq, before, after)
	if after.goroutines > before.goroutines+clients {
		t.Errorf("goroutines grew from %d to %d", before.goroutines, after.goroutines)
	}
	if after.descriptors > before.descriptors+clients {
		t.Errorf("descriptors grew from %d to %d", before.descriptors, after.descriptors)
	}
	if after.heap > before.heap+before.heap/4+8<<20 {
		t.Errorf("memory grew from %d to %d bytes", before.heap, after.heap)
	}
}

// load has clients send requests until the time is over and there were enough, and returns how many there were.
func load(t *testing.T, c *churn, address string, d time.Duration, least int64) int64 {
	t.Helper()
	var count atomic.Int64
	stop := make(chan struct{})
	var others, senders sync.WaitGroup
	others.Go(func() { c.run(t, stop) })
	end := time.Now().Add(d)
	for i := range clients {
		senders.Go(func() {
			s := newSender(address, i%4 == 3)
			defer s.client.CloseIdleConnections()
			for n := 0; !t.Failed() && (time.Now().Before(end) || count.Load() < least); n++ {
				if err := s.send(n); err != nil {
					t.Errorf("request %d of client %d: %v", n, i, err)
				}
				count.Add(1)
			}
		})
	}
	senders.Wait()
	close(stop)
	others.Wait()
	return count.Load()
}

// sender sends requests of all kinds.
type sender struct {
	client  *http.Client
	address string
}

func newSender(address string, http2 bool) *sender {
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	if http2 {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	return &sender{client: &http.Client{Transport: transport}, address: address}
}

var bulk = bytes.Repeat([]byte("0123456789abcdef"), 4<<10)

// send sends the request of a number and holds the answer to what was asked.
func (s *sender) send(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	method, path, want := http.MethodGet, "/v1/small", "v1"
	var body io.Reader
	switch n % 8 {
	case 0:
		path, want = "/v2/small", "v2"
	case 1:
		method, path, body, want = http.MethodPost, "/v1/echo", bytes.NewReader(bulk), string(bulk)
	case 2: // without a length
		method, path, body, want = http.MethodPost, "/v1/echo", io.MultiReader(strings.NewReader("a"), strings.NewReader("b")), "ab"
	case 3:
		path, want = "/v1/chunks", strings.Repeat("chunk", 10)
	case 4: // that is given up
		var giveUp context.CancelFunc
		ctx, giveUp = context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
		defer giveUp()
		path = "/v1/bulk"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, body)
	if err != nil {
		return err
	}
	res, err := s.client.Do(req)
	if err == nil {
		var got []byte
		got, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil && n%8 != 4 && (res.StatusCode != http.StatusOK || string(got) != want) {
			return fmt.Errorf("%s %s answered %d %.40q (%s), want %.40q", method, path, res.StatusCode, got, res.Header.Get("Weft-Reason"), want)
		}
	}
	if n%8 == 4 {
		return nil
	}
	return err
}

// backend answers with its name, and with what it is asked for.
func backend(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/echo"):
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(body)
		case strings.HasSuffix(r.URL.Path, "/chunks"):
			for range 10 {
				_, _ = io.WriteString(w, "chunk")
				_ = http.NewResponseController(w).Flush()
			}
		case strings.HasSuffix(r.URL.Path, "/bulk"):
			_, _ = w.Write(bulk)
		default:
			_, _ = io.WriteString(w, name)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// churn changes the configuration in ways that no request may notice.
type churn struct {
	engine   *engine.Engine
	backends []string
	seq      uint64
}

func key(service string) string { return wire.ServicePortKey(namespace, service, 80) }

func resource(key string, content any) wire.Resource {
	return wire.New(key, wire.ScopeNamespace(namespace), wire.Origin{}, content)
}

func (c *churn) first() []wire.Resource {
	resources := []wire.Resource{
		resource(key("web"), &wire.Destination{Namespace: namespace, Service: "web", Port: 80, Protocol: wire.ProtocolHTTP}),
		c.route("/v1", "v1"), c.route("/v2", "v2"), endpoints("v1", c.backends[:2]...), endpoints("v2", c.backends[2]),
	}
	for _, service := range []string{"v1", "v2"} {
		resources = append(resources, resource(key(service), &wire.Backend{Namespace: namespace, Service: service, Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true}))
	}
	return resources
}

func endpoints(service string, addresses ...string) wire.Resource {
	e := &wire.Endpoints{}
	for _, a := range addresses {
		e.Endpoints = append(e.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(a)})
	}
	return resource(key(service), e)
}

// route sends a prefix to a Service; every time another header is set on the way.
func (c *churn) route(prefix, service string) wire.Resource {
	r := &wire.Route{
		Kind: wire.RouteHTTP, Namespace: namespace, Name: service, Destinations: []string{key("web")},
		Matches:  []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: prefix}}},
		Backends: []wire.WeightedBackend{{Backend: key(service), Weight: 1}},
		Filters: []wire.Filter{{RequestHeaders: &wire.HeaderModifier{
			Set: []wire.HeaderField{{Name: "X-Change", Value: strconv.FormatUint(c.seq, 10)}},
		}}},
	}
	return resource(r.Key(), r)
}

func (c *churn) apply(t *testing.T, upserted ...wire.Resource) {
	c.seq++
	if rejected := c.engine.Apply(wire.Delta{Seq: c.seq, Upserted: upserted}); len(rejected) > 0 {
		t.Errorf("rejected: %v", rejected)
	}
}

func (c *churn) run(t *testing.T, stop <-chan struct{}) {
	ticker := time.NewTicker(changeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		switch c.seq % 4 {
		case 0:
			c.apply(t, c.route("/v1", "v1"))
		case 1:
			c.apply(t, endpoints("v1", c.backends[0]))
		case 2:
			c.apply(t, endpoints("v1", c.backends[1], c.backends[0]))
		case 3:
			c.apply(t, c.route("/v2", "v2"), c.route("/v1", "v1"))
		}
	}
}

// size is what must not grow.
type size struct {
	goroutines, descriptors int
	heap                    uint64
}

func (s size) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB", s.goroutines, s.descriptors, s.heap>>10)
}

// measure waits until what has ended is gone.
func measure(t *testing.T) size {
	t.Helper()
	var s size
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for range 40 { // the least of two seconds: what has ended may still be going
		<-ticker.C
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := size{runtime.NumGoroutine(), len(files), m.HeapAlloc}
		if s == (size{}) {
			s = now
		}
		s = size{min(s.goroutines, now.goroutines), min(s.descriptors, now.descriptors), min(s.heap, now.heap)}
	}
	return s
}
