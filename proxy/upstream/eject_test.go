package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/upstream/outlier"
	"weft.dev/weft/proxy/wire"
)

// ledger keeps what a Set tells about Backends.
type ledger struct {
	endpoints map[string]string
	ejections map[string]int
	forgotten []string
	open      map[string]int
	pending   int
}

func newLedger() *ledger {
	return &ledger{endpoints: map[string]string{}, ejections: map[string]int{}, open: map[string]int{}}
}

func (l *ledger) Endpoints(backend string, usable, ejected, unhealthy int) {
	l.endpoints[backend] = fmt.Sprintf("%d usable, %d ejected, %d unhealthy", usable, ejected, unhealthy)
}

func (l *ledger) Ejected(backend, cause string) { l.ejections[backend+" "+cause]++ }

func (l *ledger) Forget(backend string) { l.forgotten = append(l.forgotten, backend) }

func (l *ledger) CircuitOpen(backend, limit string) { l.open[backend+" "+limit]++ }

func (l *ledger) Pending(_ string, n int) { l.pending = n }

// ejecting is a Set with one Backend, in virtual time.
type ejecting struct {
	*testing.T
	clock
	*ledger
	set    *Set
	policy *wire.OutlierEjection
}

// newEjecting returns one with n endpoints, and a policy that edit has changed.
func newEjecting(t *testing.T, n int, edit func(*wire.OutlierEjection)) *ejecting {
	x := &ejecting{T: t, ledger: newLedger(), policy: &wire.OutlierEjection{}}
	if edit != nil {
		edit(x.policy)
	}
	options := x.options("shop")
	options.Measures = x.ledger
	x.set = newTestSet(t, options)
	x.use(n)
	return x
}

// use makes the first n endpoints those of the Backend.
func (x *ejecting) use(n int) {
	var addresses []netip.AddrPort
	for i := range n {
		addresses = append(addresses, at(i+1))
	}
	resources := direct(addresses...)
	backend := *resources.Backends[webKey]
	backend.Policy = &wire.Policy{OutlierEjection: x.policy}
	x.set.Update(Resources{
		Backends:  map[string]*wire.Backend{webKey: &backend},
		Endpoints: map[string]*wire.Endpoints{webKey: resources.Endpoints[webKey]},
	})
}

func (x *ejecting) pass(d time.Duration) { x.now = x.now.Add(d) }

// answer takes in n verdicts on requests that were sent to an endpoint.
func (x *ejecting) answer(i, n int, v outlier.Verdict, took time.Duration) {
	for range n {
		x.set.judged(x.set.endpoints[at(i)], v, took, false)
	}
}

// used returns which endpoints get requests, and the probe among them as a negative number.
func (x *ejecting) used() map[int]bool {
	x.Helper()
	used := map[int]bool{}
	for range 200 {
		e := choose(x, x.set, webKey)
		i := int(e.Address().Addr().As4()[3])
		if e.probe {
			i = -i
		}
		used[i] = true
	}
	return used
}

func (x *ejecting) wantUsed(want ...int) {
	x.Helper()
	set := map[int]bool{}
	for _, i := range want {
		set[i] = true
	}
	if diff := cmp.Diff(set, x.used()); diff != "" {
		x.Errorf("used endpoints, negative the probe (-want +got):\n%s", diff)
	}
}

func (x *ejecting) wantState(want string) {
	x.Helper()
	if got := x.endpoints[webKey]; got != want {
		x.Errorf("endpoints: %s, want %s", got, want)
	}
}

// concludeProbe gives the next request, which must be a probe, its verdict.
func (x *ejecting) concludeProbe(v outlier.Verdict) {
	x.Helper()
	e := choose(x, x.set, webKey)
	if !e.probe {
		x.Fatal("the request is no probe")
	}
	x.set.judged(e.state, v, 0, true)
}

func TestEjectionAfterFailuresInARow(t *testing.T) {
	x := newEjecting(t, 4, nil)
	x.answer(1, 4, outlier.Failure, 0)
	x.answer(1, 1, outlier.Success, 0)
	x.answer(1, 4, outlier.Failure, 0)
	x.wantUsed(1, 2, 3, 4)
	x.answer(1, 1, outlier.Failure, 0)
	x.wantUsed(2, 3, 4)
	x.wantState("3 usable, 1 ejected, 0 unhealthy")
	// What was under way when it was ejected says nothing about it later.
	x.answer(1, 10, outlier.Success, 0)
	x.pass(5*time.Second - 1)
	x.wantUsed(2, 3, 4)
	x.pass(1)
	x.wantUsed(-1, 2, 3, 4)
	x.wantUsed(2, 3, 4)

	e := x.set.endpoints[at(1)]
	x.set.judged(e, outlier.Failure, 0, true)
	x.pass(10*time.Second - 1)
	x.wantUsed(2, 3, 4)
	x.pass(1)
	x.concludeProbe(outlier.Neutral)
	x.concludeProbe(outlier.Success)
	x.wantUsed(1, 2, 3, 4)
	x.wantState("4 usable, 0 ejected, 0 unhealthy")
	want := map[string]int{webKey + " consecutive_failures": 1, webKey + " probe": 1}
	if diff := cmp.Diff(want, x.ejections); diff != "" {
		t.Errorf("ejections (-want +got):\n%s", diff)
	}
}

func TestEjectionBySuccessRate(t *testing.T) {
	x := newEjecting(t, 4, func(p *wire.OutlierEjection) {
		p.ConsecutiveFailures, p.SuccessRatePercent = new(0), new(80)
	})
	for i := 2; i <= 4; i++ {
		x.answer(i, 100, outlier.Success, 0)
	}
	x.answer(1, 15, outlier.Success, 0)
	x.answer(1, 5, outlier.Failure, 0)
	x.wantUsed(1, 2, 3, 4)
	x.pass(10 * time.Second)
	x.answer(2, 1, outlier.Success, 0)
	x.wantUsed(2, 3, 4)
	// The interval that follows begins with nothing.
	x.answer(2, 19, outlier.Failure, 0)
	x.pass(10 * time.Second)
	x.answer(3, 1, outlier.Success, 0)
	x.wantUsed(-1, 2, 3, 4)
}

func TestEjectedShareIsCapped(t *testing.T) {
	for name, tc := range map[string]struct {
		endpoints, percent int
		want               string
	}{
		"the only one":            {1, 100, "1 usable, 0 ejected, 0 unhealthy"},
		"one of two":              {2, 10, "1 usable, 1 ejected, 0 unhealthy"},
		"half of five":            {5, 50, "3 usable, 2 ejected, 0 unhealthy"},
		"all of five but one":     {5, 100, "1 usable, 4 ejected, 0 unhealthy"},
		"one even if none may be": {3, 0, "2 usable, 1 ejected, 0 unhealthy"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newEjecting(t, tc.endpoints, func(p *wire.OutlierEjection) { p.MaxEjectedPercent = new(tc.percent) })
			for i := range tc.endpoints {
				x.answer(i+1, 20, outlier.Failure, 0)
			}
			x.wantState(tc.want)
		})
	}
}

// TestOverloadEjectsNobody: endpoints of which each refuses half of its requests, in whatever order, keep all
// of the load that they can do. One that always fails is told from them all the same.
func TestOverloadEjectsNobody(t *testing.T) {
	x := newEjecting(t, 4, nil)
	random := rand.New(rand.NewPCG(1, 1))
	overload := func(endpoints ...int) {
		for range 2000 {
			v := outlier.Success
			if random.IntN(2) == 0 {
				v = outlier.Failure
			}
			x.answer(endpoints[random.IntN(len(endpoints))], 1, v, 0)
		}
	}
	overload(1, 2, 3, 4)
	x.wantState("4 usable, 0 ejected, 0 unhealthy")
	x.answer(1, 30, outlier.Failure, 0)
	x.wantUsed(2, 3, 4)
	overload(2, 3, 4)
	x.wantState("3 usable, 1 ejected, 0 unhealthy")
}

// TestFailuresBeforeAnEjectionDoNotExcuseOthers: what an endpoint did before it was ejected says nothing about
// it once it is back.
func TestFailuresBeforeAnEjectionDoNotExcuseOthers(t *testing.T) {
	x := newEjecting(t, 2, nil)
	x.answer(1, 100, outlier.Failure, 0)
	x.pass(5 * time.Second)
	x.concludeProbe(outlier.Success)
	x.answer(2, 5, outlier.Failure, 0)
	x.wantUsed(1)
}

func TestEndpointWaitsForRoomToBeEjected(t *testing.T) {
	x := newEjecting(t, 2, nil)
	x.answer(1, 5, outlier.Failure, 0)
	x.answer(2, 5, outlier.Failure, 0)
	x.wantUsed(2)
	x.pass(5 * time.Second)
	x.concludeProbe(outlier.Success)
	x.answer(2, 1, outlier.Failure, 0)
	x.wantUsed(1)
}

func TestPanic(t *testing.T) {
	x := newEjecting(t, 4, func(p *wire.OutlierEjection) {
		p.MaxEjectedPercent, p.PanicPercent = new(100), new(50)
	})
	x.answer(1, 5, outlier.Failure, 0)
	x.answer(2, 5, outlier.Failure, 0)
	x.wantUsed(3, 4)
	x.answer(3, 5, outlier.Failure, 0)
	x.wantUsed(1, 2, 3, 4)
	x.wantState("1 usable, 3 ejected, 0 unhealthy")
	x.pass(5 * time.Second)
	x.concludeProbe(outlier.Success)
	x.concludeProbe(outlier.Neutral)
	x.answer(4, 5, outlier.Success, 0)
	if got := x.used(); !got[4] {
		t.Errorf("used %v", got)
	}
}

func TestNoHealthyEndpoints(t *testing.T) {
	x := newEjecting(t, 2, func(p *wire.OutlierEjection) { p.PanicPercent = new(0) })
	x.answer(1, 5, outlier.Failure, 0)
	x.set.setHealthy(t.Context(), x.set.endpoints[at(2)], false)
	x.wantState("0 usable, 1 ejected, 1 unhealthy")
	if _, err := x.set.Choose(t.Context(), webKey, Wish{}); !errors.Is(err, ErrNoHealthyEndpoints) || errors.Is(err, ErrNoEndpoints) {
		t.Errorf("error %v", err)
	}
	x.pass(5 * time.Second)
	x.concludeProbe(outlier.Success)
	x.wantUsed(1)
	x.set.setHealthy(t.Context(), x.set.endpoints[at(2)], true)
	x.wantUsed(1, 2)
}

func TestEjectionOutlivesChanges(t *testing.T) {
	x := newEjecting(t, 4, nil)
	x.answer(1, 5, outlier.Failure, 0)
	x.use(5)
	x.wantState("4 usable, 1 ejected, 0 unhealthy")
	x.policy = &wire.OutlierEjection{ConsecutiveFailures: new(2)}
	x.use(5)
	x.wantUsed(2, 3, 4, 5)
	x.answer(2, 2, outlier.Failure, 0)
	x.wantUsed(3, 4, 5)
	// With fewer endpoints fewer may be ejected: the ejection that is over first ends.
	x.use(2)
	x.wantState("1 usable, 1 ejected, 0 unhealthy")
	x.use(1)
	x.wantState("1 usable, 0 ejected, 0 unhealthy")
	x.set.Update(Resources{})
	if diff := cmp.Diff([]string{webKey}, x.forgotten); diff != "" {
		t.Errorf("forgotten (-want +got):\n%s", diff)
	}
	if len(x.set.services) != 0 {
		t.Errorf("%d services are left", len(x.set.services))
	}
}

func TestSharedEndpointFollowsTheFirstBackend(t *testing.T) {
	x := newEjecting(t, 0, nil)
	strict := &wire.Policy{OutlierEjection: &wire.OutlierEjection{ConsecutiveFailures: new(1)}}
	lax := &wire.Policy{OutlierEjection: &wire.OutlierEjection{ConsecutiveFailures: new(0)}}
	use := func(policies map[string]*wire.Policy, lists map[string]*wire.Endpoints) {
		r := Resources{Backends: map[string]*wire.Backend{}, Endpoints: lists}
		for key, policy := range policies {
			r.Backends[key] = &wire.Backend{Namespace: "shop", Protocol: wire.ProtocolHTTP, Meshed: true, Policy: policy}
		}
		x.set.Update(r)
	}
	both := direct(at(1), at(2)).Endpoints[webKey]
	three := direct(at(1), at(2), at(3)).Endpoints[webKey]
	use(map[string]*wire.Policy{"shop/b:80": strict, "shop/a:80": lax}, map[string]*wire.Endpoints{"shop/b:80": three, "shop/a:80": both})
	x.answer(1, 9, outlier.Failure, 0)
	x.answer(3, 1, outlier.Failure, 0)
	want := map[string]string{"shop/a:80": "2 usable, 0 ejected, 0 unhealthy", "shop/b:80": "2 usable, 1 ejected, 0 unhealthy"}
	if diff := cmp.Diff(want, without(x.endpoints, webKey)); diff != "" {
		t.Errorf("the first one does not eject (-want +got):\n%s", diff)
	}
	use(map[string]*wire.Policy{"shop/b:80": lax, "shop/a:80": strict}, map[string]*wire.Endpoints{"shop/b:80": three, "shop/a:80": both})
	x.pass(5 * time.Second)
	x.answer(1, 1, outlier.Failure, 0)
	x.answer(2, 1, outlier.Failure, 0)
	want = map[string]string{"shop/a:80": "1 usable, 1 ejected, 0 unhealthy", "shop/b:80": "1 usable, 2 ejected, 0 unhealthy"}
	if diff := cmp.Diff(want, without(x.endpoints, webKey)); diff != "" {
		t.Errorf("the first one ejects (-want +got):\n%s", diff)
	}
	// Whoever shares an endpoint keeps its last one.
	one := direct(at(2)).Endpoints[webKey]
	use(map[string]*wire.Policy{"shop/a:80": strict, "shop/c:80": lax}, map[string]*wire.Endpoints{"shop/c:80": one, "shop/a:80": both})
	x.answer(2, 1, outlier.Failure, 0)
	if got := x.endpoints["shop/c:80"]; got != "1 usable, 0 ejected, 0 unhealthy" {
		t.Errorf("a Backend has lost its only endpoint: %s", got)
	}
}

func without(m map[string]string, key string) map[string]string {
	delete(m, key)
	return m
}

func TestProbeGoesWhereARequestWants(t *testing.T) {
	x := newEjecting(t, 3, nil)
	x.answer(1, 5, outlier.Failure, 0)
	x.pass(5 * time.Second)
	for name, wish := range map[string]Wish{
		"it has failed there":  {Avoid: []netip.AddrPort{at(1)}},
		"it belongs elsewhere": {Prefer: at(2)},
	} {
		e, err := x.set.Choose(t.Context(), webKey, wish)
		if err != nil || e.Address() == at(1) {
			t.Errorf("%s: sent to %s, %v", name, e.Address(), err)
		}
	}
	if e, err := x.set.Choose(t.Context(), webKey, Wish{Prefer: at(1)}); err != nil || !e.probe {
		t.Errorf("a request that belongs there: %+v, %v", e, err)
	}
	// An endpoint out of use is not preferred either.
	if e, err := x.set.Choose(t.Context(), webKey, Wish{Prefer: at(1)}); err != nil || e.Address() == at(1) {
		t.Errorf("the next one: %+v, %v", e, err)
	}
}

func TestProbeThatStreamsIsASuccess(t *testing.T) {
	x := newEjecting(t, 3, nil)
	x.answer(1, 5, outlier.Failure, 0)
	x.pass(5 * time.Second)
	e := choose(t, x.set, webKey)
	x.set.answered(e.state, time.Millisecond)
	x.pass(time.Second - 1)
	x.wantUsed(2, 3)
	x.pass(1)
	x.wantUsed(1, 2, 3)
}

func TestProxiesOfTheHopAreEjected(t *testing.T) {
	var c clock
	s := newTestSet(t, c.options("shop"))
	s.Update(Resources{
		Backends: map[string]*wire.Backend{"bank/ledger:80": {Namespace: "bank", Meshed: true}},
		Proxies:  map[string]*wire.Proxies{"bank": {Proxies: []wire.Proxy{proxy(1, ""), proxy(2, ""), proxy(3, "")}}},
	})
	hop := netip.AddrPortFrom(at(1).Addr(), wire.PortHop)
	for range 5 {
		s.judged(s.endpoints[hop], outlier.Failure, 0, false)
	}
	if got := picks(t, s, "bank/ledger:80"); got["hop "+hop.String()] > 0 || len(got) != 2 {
		t.Errorf("picked %v", got)
	}
	s.Update(Resources{})
	if len(s.services) != 0 || len(s.endpoints) != 0 {
		t.Errorf("%d services and %d endpoints are left", len(s.services), len(s.endpoints))
	}
}

// TestEjectionsInAnyOrder lets endpoints come, go, fail and recover at random, and holds what must be true.
func TestEjectionsInAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	x := newEjecting(t, 5, func(p *wire.OutlierEjection) {
		p.ConsecutiveFailures, p.SuccessRatePercent, p.LatencyFactor, p.PanicPercent = new(2), new(90), new(3), new(0)
	})
	n := 5
	for range 20_000 {
		x.pass(time.Duration(random.Int64N(int64(2 * time.Second))))
		if random.IntN(200) == 0 {
			n = 1 + random.IntN(9)
			x.policy = &wire.OutlierEjection{
				ConsecutiveFailures: new(1 + random.IntN(3)), LatencyFactor: new(random.IntN(4)), MinRequests: new(3),
				MaxEjectedPercent: new(random.IntN(101)), PanicPercent: new(0),
			}
			x.use(n)
		}
		e, err := x.set.Choose(t.Context(), webKey, Wish{})
		if err != nil {
			t.Fatal(err)
		}
		if e.state.out.Load() != e.probe {
			t.Fatalf("ejected: %v, probe: %v", e.state.out.Load(), e.probe)
		}
		x.set.judged(e.state, outlier.Verdict(random.IntN(3)), time.Duration(random.IntN(100))*time.Millisecond, e.probe)
		percent := 50
		if x.policy.MaxEjectedPercent != nil {
			percent = *x.policy.MaxEjectedPercent
		}
		if got, allowed := x.set.services[webKey].ejected(), outlier.Allowed(n, percent); got > allowed {
			t.Fatalf("%d of %d endpoints are ejected, %d may be", got, n, allowed)
		}
	}
	if x.ejections[webKey+" consecutive_failures"] == 0 || x.ejections[webKey+" probe"] == 0 {
		t.Errorf("ejections: %v", x.ejections)
	}
}
