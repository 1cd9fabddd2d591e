package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// limited is a Set with one Backend that has limits.
type limited struct {
	*testing.T
	*ledger
	set       *Set
	endpoints []netip.AddrPort
	proxies   int
	protocol  wire.Protocol
}

func newLimited(t *testing.T, endpoints int, c *wire.CircuitBreaking) *limited {
	x := &limited{T: t, ledger: newLedger(), proxies: 1, protocol: wire.ProtocolHTTP}
	for i := range endpoints {
		x.endpoints = append(x.endpoints, at(i+1))
	}
	x.set = newTestSet(t, Options{Measures: x.ledger})
	x.use(c)
	return x
}

// use puts limits into force.
func (x *limited) use(c *wire.CircuitBreaking) {
	r := direct(x.endpoints...)
	backend := *r.Backends[webKey]
	backend.Protocol = x.protocol
	backend.Policy = &wire.Policy{CircuitBreaking: c}
	x.set.Update(Resources{
		Backends:  map[string]*wire.Backend{webKey: &backend},
		Endpoints: map[string]*wire.Endpoints{webKey: r.Endpoints[webKey]},
		Proxies:   map[string]*wire.Proxies{"shop": {Proxies: make([]wire.Proxy, x.proxies)}},
	})
}

// admitted is a request that has been chosen an endpoint, or not.
type admitted struct {
	Endpoint
	err error
}

// begin chooses an endpoint, which must not wait.
func (x *limited) begin() admitted {
	x.Helper()
	ctx, cancel := context.WithCancel(x.Context())
	cancel()
	to, err := x.set.Choose(ctx, webKey, Wish{})
	return admitted{to, err}
}

// wait chooses an endpoint in the background.
func (x *limited) wait(ctx context.Context) <-chan admitted {
	done := make(chan admitted, 1)
	go func() {
		to, err := x.set.Choose(ctx, webKey, Wish{})
		done <- admitted{to, err}
	}()
	synctest.Wait()
	return done
}

func (x *limited) wantFull(a admitted) {
	x.Helper()
	failure, ok := errors.AsType[*Error](a.err)
	if !ok || failure.Reason != ReasonFull || !failure.NotSent || !failure.BodyIntact {
		x.Errorf("error %v, want the limit", a.err)
	}
}

// fill begins n requests.
func (x *limited) fill(n int) []admitted {
	x.Helper()
	var begun []admitted
	for range n {
		a := x.begin()
		if a.err != nil {
			x.Fatalf("request %d: %v", len(begun), a.err)
		}
		begun = append(begun, a)
	}
	return begun
}

func TestLimitsAreDivided(t *testing.T) {
	for name, tc := range map[string]struct {
		limits            *wire.CircuitBreaking
		proxies, requests int
	}{
		"one proxy":                {&wire.CircuitBreaking{MaxRequests: new(6)}, 1, 6},
		"among three":              {&wire.CircuitBreaking{MaxRequests: new(7)}, 3, 2},
		"at least one":             {&wire.CircuitBreaking{MaxRequests: new(2)}, 5, 1},
		"not those of an endpoint": {&wire.CircuitBreaking{PerEndpoint: &wire.EndpointBreaking{MaxRequests: new(3)}}, 5, 6},
		"connections":              {&wire.CircuitBreaking{MaxConnections: new(6)}, 2, 3},
		"the least counts":         {&wire.CircuitBreaking{MaxConnections: new(6), MaxRequests: new(4)}, 1, 4},
		"connections of endpoints": {&wire.CircuitBreaking{PerEndpoint: &wire.EndpointBreaking{MaxConnections: new(2)}}, 1, 4},
	} {
		t.Run(name, func(t *testing.T) {
			x := newLimited(t, 2, nil)
			x.proxies = tc.proxies
			x.use(tc.limits)
			begun := x.fill(tc.requests)
			x.wantFull(x.begin())
			begun[0].Release()
			begun[0].Release() // does nothing
			x.fill(1)
			x.wantFull(x.begin())
		})
	}
}

func TestLimitsFollowTheNumberOfProxies(t *testing.T) {
	x := newLimited(t, 2, &wire.CircuitBreaking{MaxRequests: new(6)})
	r := x.set.Pin().resources
	for proxies, requests := range map[int]int{2: 3, 3: 2, 1: 6} {
		r.Proxies = map[string]*wire.Proxies{"shop": {Proxies: make([]wire.Proxy, proxies)}}
		x.set.Update(r)
		begun := x.fill(requests)
		x.wantFull(x.begin())
		for _, a := range begun {
			a.Release()
		}
	}
}

func TestRequestsWaitInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLimited(t, 1, &wire.CircuitBreaking{MaxRequests: new(1), MaxPendingRequests: new(2)})
		first := x.fill(1)[0]
		second, third := x.wait(t.Context()), x.wait(t.Context())
		if x.pending != 2 {
			t.Errorf("%d wait", x.pending)
		}
		x.wantFull(x.begin())
		first.Release()
		synctest.Wait()
		if len(third) > 0 {
			t.Error("the later request is served first")
		}
		(<-second).Release()
		synctest.Wait()
		a := <-third
		if a.err != nil || x.pending != 0 {
			t.Errorf("the last: %v, %d wait", a.err, x.pending)
		}
		a.Release()
		if n := x.set.services[webKey].requests.Load(); n != 0 {
			t.Errorf("%d requests are under way", n)
		}
		if diff := cmp.Diff(map[string]int{webKey + " requests": 1}, x.open); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLimited(t, 1, &wire.CircuitBreaking{
			MaxRequests: new(1), MaxPendingRequests: new(10), PendingTimeout: new(wire.Duration(3 * time.Second)),
		})
		first := x.fill(1)[0]
		start := time.Now()
		x.wantFull(<-x.wait(t.Context()))
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("waited %v", took)
		}
		// Never beyond the request's own end.
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a := <-x.wait(ctx)
		failure, ok := errors.AsType[*Error](a.err)
		if took := time.Since(start); !ok || failure.Reason != ReasonTimeout || took != time.Second {
			t.Errorf("waited %v: %v", took, a.err)
		}
		// Those who have given up do not get a turn.
		last := x.wait(t.Context())
		first.Release()
		if a := <-last; a.err != nil {
			t.Error(a.err)
		}
		if x.pending != 0 {
			t.Errorf("%d wait", x.pending)
		}
	})
}

func TestChangedLimitsHoldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLimited(t, 1, nil)
		var begun []slot
		for range 3 { // counted without limits, too
			begun = append(begun, choose(t, x.set, webKey).claim(true))
		}
		x.use(&wire.CircuitBreaking{MaxRequests: new(3), MaxPendingRequests: new(5)})
		waiting := []<-chan admitted{x.wait(t.Context()), x.wait(t.Context()), x.wait(t.Context())}
		x.use(&wire.CircuitBreaking{MaxRequests: new(2), MaxPendingRequests: new(5)})
		begun[0].release()
		synctest.Wait()
		if len(waiting[0]) > 0 {
			t.Error("a request was let through above the lowered limit")
		}
		x.use(&wire.CircuitBreaking{MaxRequests: new(4), MaxPendingRequests: new(5)})
		synctest.Wait()
		if len(waiting[0]) == 0 || len(waiting[1]) == 0 || len(waiting[2]) > 0 {
			t.Errorf("served with the raised limit: %d, %d, %d", len(waiting[0]), len(waiting[1]), len(waiting[2]))
		}
		x.use(nil)
		synctest.Wait()
		if len(waiting[2]) == 0 {
			t.Error("without limits a request still waits")
		}
	})
}

func TestFullEndpointsAreNotChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLimited(t, 3, &wire.CircuitBreaking{
			MaxPendingRequests: new(1), PerEndpoint: &wire.EndpointBreaking{MaxRequests: new(2)},
		})
		count := map[netip.AddrPort]int{}
		begun := x.fill(6)
		for _, a := range begun {
			count[a.Address()]++
		}
		for _, address := range x.endpoints {
			if count[address] != 2 {
				t.Errorf("%s has %d requests", address, count[address])
			}
		}
		waiting := x.wait(t.Context())
		if len(waiting) > 0 {
			t.Fatal("a request does not wait for a free endpoint")
		}
		begun[3].Release()
		if a := <-waiting; a.err != nil || a.Address() != begun[3].Address() {
			t.Errorf("sent to %v, %v instead of the one with room", a.Address(), a.err)
		}
		if diff := cmp.Diff(map[string]int{}, x.open); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
	})
}

func TestSharedEndpointLetsOthersWaitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSet(t, Options{})
		list := direct(at(1)).Endpoints[webKey]
		policy := &wire.Policy{CircuitBreaking: &wire.CircuitBreaking{
			MaxPendingRequests: new(1), PerEndpoint: &wire.EndpointBreaking{MaxRequests: new(1)},
		}}
		r := Resources{Backends: map[string]*wire.Backend{}, Endpoints: map[string]*wire.Endpoints{}}
		for _, key := range []string{"shop/a:80", "shop/b:80"} {
			r.Backends[key] = &wire.Backend{Namespace: "shop", Protocol: wire.ProtocolHTTP, Policy: policy}
			r.Endpoints[key] = list
		}
		s.Update(r)
		a := choose(t, s, "shop/a:80")
		done := make(chan error)
		go func() {
			b, err := s.Choose(t.Context(), "shop/b:80", Wish{})
			if err == nil {
				b.Release()
			}
			done <- err
		}()
		synctest.Wait()
		a.Release()
		if err := <-done; err != nil {
			t.Errorf("the other Backend's request: %v", err)
		}
	})
}

// TestLimitsUnderAnyLoad lets many requests come, wait, give up and end at random while the limits change,
// and holds that no limit is ever exceeded and that nobody waits for nothing.
func TestLimitsUnderAnyLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		x := newLimited(t, 3, nil)
		x.open = nil
		x.set.options.Measures = unmeasured{}
		svc := x.set.services[webKey]
		for range 20 {
			limits := &wire.CircuitBreaking{
				MaxRequests: new(random.IntN(6)), MaxConnections: new(random.IntN(6)), MaxPendingRequests: new(random.IntN(20)),
				PendingTimeout: new(wire.Duration(random.IntN(50)) * wire.Duration(time.Millisecond)),
				PerEndpoint:    &wire.EndpointBreaking{MaxRequests: new(1 + random.IntN(3)), MaxConnections: new(random.IntN(3))},
			}
			x.use(limits)
			l := svc.limits.Load()
			var done sync.WaitGroup
			var served atomic.Int32
			for range 100 {
				arrives, gives, takes := random.IntN(100), 1+random.IntN(100), random.IntN(20)
				done.Go(func() {
					<-time.After(time.Duration(arrives) * time.Millisecond)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(gives)*time.Millisecond)
					defer cancel()
					to, err := x.set.Choose(ctx, webKey, Wish{})
					if err != nil {
						return
					}
					served.Add(1)
					if n := int(svc.requests.Load()); l.requests > 0 && n > l.requests || l.connections > 0 && svc.connections() > l.connections {
						t.Errorf("%d requests and %d connections with %+v", n, svc.connections(), *l)
					}
					if n := int(to.state.inFlight.Load()); n > l.endpointRequests || l.endpointConnections > 0 && to.state.connections() > l.endpointConnections {
						t.Errorf("%d requests and %d connections of an endpoint with %+v", n, to.state.connections(), *l)
					}
					<-time.After(time.Duration(takes) * time.Millisecond)
					if takes%2 == 0 {
						to.Release()
					} else {
						to.claim(true).release()
					}
				})
			}
			done.Wait()
			if svc.requests.Load() != 0 || svc.connections() != 0 || svc.queue.Len() != 0 || served.Load() == 0 {
				t.Errorf("left %d requests, %d connections, %d waiting; served %d", svc.requests.Load(), svc.connections(), svc.queue.Len(), served.Load())
			}
		}
	})
}

// BenchmarkChooseWithLimits shows what limits cost beside BenchmarkChoose.
func BenchmarkChooseWithLimits(b *testing.B) {
	s := newTestSet(b, Options{})
	var addresses []netip.AddrPort
	for i := range 100 {
		addresses = append(addresses, at(i))
	}
	r := direct(addresses...)
	r.Backends[webKey].Policy = &wire.Policy{CircuitBreaking: &wire.CircuitBreaking{
		MaxRequests: new(100), MaxConnections: new(100), PerEndpoint: &wire.EndpointBreaking{MaxRequests: new(10)},
	}}
	s.Update(r)
	b.ReportAllocs()
	for b.Loop() {
		e, err := s.Choose(b.Context(), webKey, Wish{})
		if err != nil {
			b.Fatal(fmt.Errorf("choose: %w", err))
		}
		e.Release()
	}
}
