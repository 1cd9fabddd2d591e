package distribute_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func newHub(layers ...distribute.Layer) *distribute.Hub {
	return distribute.NewHub(distribute.HubOptions{Layers: layers})
}

// backends returns n resources of one scope.
func backends(scope wire.Scope, n int) []wire.Resource {
	resources := make([]wire.Resource, n)
	for i := range resources {
		resources[i] = backend(scope, fmt.Sprintf("b/%s-%d:80", scope, i), 1)
	}
	return resources
}

func versions(resources []wire.Resource) map[wire.Ref]string {
	out := map[wire.Ref]string{}
	for _, r := range resources {
		out[r.Ref] = r.Version
	}
	return out
}

// awaitHeld waits until all proxies of a namespace have acknowledged resources.
func (m *mesh) awaitHeld(namespace string, resources ...wire.Resource) {
	m.t.Helper()
	m.await("acknowledgements", func() bool {
		n, of := m.hub.Holds(namespace, heldOf(resources...))
		return of > 0 && n == of
	})
}

func TestPublicationIsAppliedAndAcknowledged(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	m := newMesh(t, hub, nil)
	r := backend(wire.ScopeMesh, "b/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{r})

	p := m.connect("proxy/a/p1")
	m.awaitHeld("a", r)

	want := map[wire.Ref]string{r.Ref: r.Version}
	if diff := cmp.Diff(want, p.held()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestFirstDeltaComesEvenIfEmpty(t *testing.T) {
	hub := newHub()
	m := newMesh(t, hub, nil)

	p := m.connect("proxy/a/p1")
	m.awaitHeld("a")

	deltas := p.received()
	if len(deltas) != 1 || deltas[0].Seq == 0 || len(deltas[0].Upserted)+len(deltas[0].Removed) != 0 {
		t.Errorf("received %+v, want one empty delta with a sequence number", deltas)
	}
}

func TestNothingIsSentBeforeEveryLayerIsComplete(t *testing.T) {
	hub := newHub(distribute.LayerCompiled, distribute.LayerEndpoints)
	asked := make(chan string, 10)
	m := newMesh(t, hub, func(s *distribute.Server) { s.Authenticator = asking{asked: asked} })
	first, second := backend(wire.ScopeMesh, "b/one:80", 1), backend(wire.ScopeMesh, "b/two:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{first})
	// A patch is not the whole of a layer.
	hub.Patch(distribute.LayerEndpoints, []wire.Resource{second}, nil)

	p, agent := m.newPeer("proxy/a/p1"), m.newPeer("node/n1/agent")
	p.start()
	agent.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("1", "10.0.0.1")}})
	agent.start()
	<-asked
	<-asked
	// Agents are heard meanwhile: what they report is part of what will be published.
	m.await("the report", func() bool { return hub.Nodes()["n1"].Complete })
	if n, of := hub.NodesHold(nil); n != 0 || of != 1 {
		t.Errorf("%d of %d nodes have acknowledged something, want 0 of 1", n, of)
	}
	hub.Replace(distribute.LayerEndpoints, []wire.Resource{second})
	m.awaitHeld("a", first, second)

	if deltas := p.received(); len(deltas) != 1 || len(deltas[0].Upserted) != 2 {
		t.Errorf("received %+v, want everything in one delta", deltas)
	}
}

func TestReconnectBringsOnlyDifferences(t *testing.T) {
	tests := map[string]struct {
		change       func([]wire.Resource) []wire.Resource
		wantUpserted int
		wantRemoved  int
	}{
		"nothing changed": {change: func(r []wire.Resource) []wire.Resource { return r }},
		"one of each": {
			change: func(r []wire.Resource) []wire.Resource {
				changed := backend(wire.ScopeMesh, r[1].Key, 2)
				return append([]wire.Resource{changed, backend(wire.ScopeMesh, "b/new:80", 1)}, r[2:]...)
			},
			wantUpserted: 2,
			wantRemoved:  1,
		},
		"all gone": {change: func([]wire.Resource) []wire.Resource { return nil }, wantRemoved: 100},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			resources := backends(wire.ScopeMesh, 100)
			hub := newHub(distribute.LayerCompiled)
			hub.Replace(distribute.LayerCompiled, resources)
			m := newMesh(t, hub, nil)
			p := m.connect("proxy/a/p1")
			m.awaitHeld("a", resources...)
			before := len(p.received())

			next := newHub(distribute.LayerCompiled)
			changed := tc.change(resources)
			next.Replace(distribute.LayerCompiled, changed)
			m.failOver(next)
			m.awaitHeld("a", changed...)

			deltas := p.received()[before:]
			if len(deltas) != 1 || len(deltas[0].Upserted) != tc.wantUpserted || len(deltas[0].Removed) != tc.wantRemoved {
				t.Errorf("received %+v, want one delta with %d upserted and %d removed", deltas, tc.wantUpserted, tc.wantRemoved)
			}
			if diff := cmp.Diff(versions(changed), p.held()); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOneDeltaSpansKindsAndWhatChangedMeanwhile(t *testing.T) {
	layers := []distribute.Layer{distribute.LayerCompiled, distribute.LayerEndpoints, distribute.LayerCertificates}
	hub := newHub(layers...)
	for _, layer := range layers {
		hub.Replace(layer, nil)
	}
	m := newMesh(t, hub, nil)
	p := m.newPeer("proxy/a/p1")
	applying, release := make(chan struct{}), make(chan struct{})
	p.hold = func(wire.Delta) {
		applying <- struct{}{}
		<-release
	}
	p.start()
	<-applying

	// While the first delta is not acknowledged, nothing else is sent, however much is published.
	var last []wire.Resource
	for i := range 50 {
		last = []wire.Resource{
			backend(wire.ScopeMesh, "b/one:80", uint16(i)),
			wire.New("b/one:80", wire.ScopeNamespace("a"), wire.Origin{}, &wire.Endpoints{Endpoints: []wire.Endpoint{{Zone: strconv.Itoa(i)}}}),
			wire.New("a/app", wire.ScopeNamespace("a"), wire.Origin{}, &wire.Certificate{Namespace: "a", ServiceAccount: "app", Key: strconv.Itoa(i)}),
		}
		for n, layer := range layers {
			hub.Patch(layer, last[n:n+1], nil)
		}
		passing := backend(wire.ScopeMesh, "b/passing:80", uint16(i))
		hub.Patch(distribute.LayerCompiled, []wire.Resource{passing}, nil)
		hub.Patch(distribute.LayerCompiled, nil, []wire.Ref{passing.Ref})
	}
	release <- struct{}{}
	<-applying
	release <- struct{}{}
	m.awaitHeld("a", last...)

	deltas := p.received()
	if len(deltas) != 2 {
		t.Fatalf("received %d deltas, want 2", len(deltas))
	}
	if got := deltas[1]; got.Seq != hub.Seq() || len(got.Removed) != 0 {
		t.Errorf("second delta has seq %d and removes %v, want seq %d and nothing", got.Seq, got.Removed, hub.Seq())
	}
	if diff := cmp.Diff(versions(last), versions(deltas[1].Upserted)); diff != "" {
		t.Errorf("second delta (-want +got):\n%s", diff)
	}
}

func TestLayersThatAreReplacedTogetherComeTogether(t *testing.T) {
	layers := []distribute.Layer{distribute.LayerCompiled, distribute.LayerEndpoints}
	hub := newHub(layers...)
	if first := hub.PatchAll(map[distribute.Layer]distribute.Patch{distribute.LayerCompiled: {Whole: true}, distribute.LayerEndpoints: {Whole: true}}); first != hub.Seq() {
		t.Errorf("sequence number %d, the hub is at %d", first, hub.Seq())
	}
	m := newMesh(t, hub, nil)
	p := m.newPeer("proxy/a/p1")
	p.start()
	m.awaitHeld("a")

	one, other := backend(wire.ScopeMesh, "b/one:80", 1), backend(wire.ScopeMesh, "b/other:80", 1)
	before := hub.Seq()
	hub.PatchAll(map[distribute.Layer]distribute.Patch{
		distribute.LayerCompiled: {Whole: true, Upserts: []*wire.Resource{&one}}, distribute.LayerEndpoints: {Whole: true, Upserts: []*wire.Resource{&other}},
	})
	m.awaitHeld("a", one, other)
	if hub.Seq() != before+1 {
		t.Errorf("it took publications %d to %d, want one", before+1, hub.Seq())
	}
	deltas := p.received()
	if got := len(deltas[len(deltas)-1].Upserted); got != 2 {
		t.Errorf("the last delta brings %d resources, want both", got)
	}
}

func TestChangeOfAnotherScopeSendsNothing(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	hub.Replace(distribute.LayerCompiled, nil)
	m := newMesh(t, hub, nil)
	p := m.connect("proxy/a/p1")
	m.awaitHeld("a")

	other := backend(wire.ScopeNamespace("b"), "b/one:80", 1)
	seq := hub.Patch(distribute.LayerCompiled, []wire.Resource{other}, nil)
	if got := hub.Clients()[0].Seq; got != seq {
		t.Errorf("the client is at %d, want %d: the publication does not concern it", got, seq)
	}
	if n, of := hub.Holds("a", heldOf(other)); n != 0 || of != 1 {
		t.Errorf("%d of %d proxies hold what they may not see, want 0 of 1", n, of)
	}
	// The next delta shows that none came between.
	own := backend(wire.ScopeNamespace("a"), "a/one:80", 1)
	hub.Patch(distribute.LayerCompiled, []wire.Resource{own}, nil)
	m.awaitHeld("a", own)
	if deltas := p.received(); len(deltas) != 2 || len(deltas[1].Upserted) != 1 {
		t.Errorf("received %+v, want the first delta and one with the proxy's own change", deltas)
	}
}

func TestChangeOfScopeMovesResource(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	before := backend(wire.ScopeNamespace("a"), "a/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{before})
	m := newMesh(t, hub, nil)
	a, b := m.connect("proxy/a/p1"), m.connect("proxy/b/p1")

	after := backend(wire.ScopeNamespace("b"), "a/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{after})
	m.awaitHeld("b", after)
	m.await("the removal", func() bool { return len(a.held()) == 0 })
	if diff := cmp.Diff(map[wire.Ref]string{after.Ref: after.Version}, b.held()); diff != "" {
		t.Errorf("state of b (-want +got):\n%s", diff)
	}
}

func TestGoneWaitsForEveryHolder(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	r := backend(wire.ScopeMesh, "b/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{r})
	m := newMesh(t, hub, nil)
	quick, slow := m.connect("proxy/a/p1"), m.newPeer("proxy/b/p1")
	removing, release := make(chan struct{}), make(chan struct{})
	slow.hold = func(d wire.Delta) {
		if len(d.Removed) > 0 {
			close(removing)
			<-release
		}
	}
	slow.start()
	m.awaitHeld("a", r)
	m.awaitHeld("b", r)

	if hub.Gone(r.Ref) {
		t.Error("gone while it is published")
	}
	hub.Replace(distribute.LayerCompiled, nil)
	<-removing
	quick.await("the removal", func() bool { return len(quick.held()) == 0 })
	if hub.Gone(r.Ref) {
		t.Error("gone before the slow client has acknowledged the removal")
	}
	close(release)
	m.await("the end of the resource", func() bool { return hub.Gone(r.Ref) })
}

func TestDisconnectedClientNoLongerCounts(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	r := backend(wire.ScopeMesh, "b/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{r})
	m := newMesh(t, hub, nil)
	m.connect("proxy/a/p1")
	p := m.connect("proxy/a/p2")
	m.await("two holders", func() bool { n, of := hub.Holds("a", heldOf(r)); return n == 2 && of == 2 })

	p.stop()
	m.await("one holder", func() bool { n, of := hub.Holds("a", heldOf(r)); return n == 1 && of == 1 })
	if clients := hub.Clients(); len(clients) != 1 || clients[0].Pod != "p1" || clients[0].Build != "test" {
		t.Errorf("clients are %+v, want p1 alone", clients)
	}
}

// The proxies beside pods are waited for like those of their namespace, for what they receive. One that has nothing yet
// keeps nobody waiting.
func TestProxiesBesidePodsCount(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	r := backend(wire.ScopeNamespace("a"), "a/one:80", 1)
	address := wire.New("10.0.0.1", wire.ScopeNamespace("a"), wire.Origin{}, &wire.Workload{Namespace: "a", Pod: "one"})
	hub.Replace(distribute.LayerCompiled, []wire.Resource{r, address})
	m := newMesh(t, hub, nil)
	m.connect("proxy/a/p1")
	m.awaitHeld("a", r, address)

	beside := m.newPeer("sidecar/a/one")
	first, release := make(chan struct{}), make(chan struct{})
	var waits atomic.Bool
	waits.Store(true)
	beside.hold = func(wire.Delta) {
		if waits.Load() {
			first <- struct{}{}
			<-release
		}
	}
	beside.start()
	<-first
	if n, of := hub.Holds("a", heldOf(r)); n != 1 || of != 1 {
		t.Errorf("%d of %d hold it while the proxy of a pod starts, want 1 of 1", n, of)
	}
	release <- struct{}{}
	m.await("two holders", func() bool { n, of := hub.Holds("a", heldOf(r, address)); return n == 2 && of == 2 })

	changed := backend(wire.ScopeNamespace("a"), "a/one:80", 2)
	hub.Patch(distribute.LayerCompiled, []wire.Resource{changed}, nil)
	<-first
	m.await("the proxy of the namespace", func() bool { n, of := hub.Holds("a", heldOf(changed)); return n == 1 && of == 2 })
	waits.Store(false)
	release <- struct{}{}
	m.awaitHeld("a", changed)
	if n, of := hub.Holds("b", heldOf(changed)); n != 0 || of != 0 {
		t.Errorf("%d of %d proxies of another namespace hold it", n, of)
	}
}

// observer remembers what it is told.
type observer struct {
	mu       sync.Mutex
	rejected []distribute.Rejected
	reports  []wire.NodeReport
	// away and lost have room for what a test wants to see.
	away, lost chan string
}

func (o *observer) Rejected(r distribute.Rejected) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rejected = append(o.rejected, r)
}

func (o *observer) NodeReported(_ string, report wire.NodeReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reports = append(o.reports, report)
}

// NodeAway remembers the node if the test asks for that.
func (o *observer) NodeAway(node string) {
	select {
	case o.away <- node:
	default:
	}
}

// NodeLost remembers the node if the test asks for that.
func (o *observer) NodeLost(node string) {
	select {
	case o.lost <- node:
	default:
	}
}

func TestRejectedResourceIsReportedOnceWithItsOrigin(t *testing.T) {
	seen := &observer{}
	hub := distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{distribute.LayerCompiled}, Observer: seen})
	good, bad := backend(wire.ScopeMesh, "b/good:80", 1), backend(wire.ScopeMesh, "b/bad:80", 666)
	before := backend(wire.ScopeMesh, "b/bad:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{good, before})
	m := newMesh(t, hub, nil)
	var peers []*peer
	var taken atomic.Bool
	taken.Store(true)
	for i := range 3 {
		p := m.newPeer(fmt.Sprintf("proxy/a/p%d", i))
		p.reject = func(r wire.Resource) string {
			if r.Backend.Port == 666 && i > 0 && taken.Load() {
				return "port 666 is taken"
			}
			return ""
		}
		p.start()
		peers = append(peers, p)
	}
	m.await("three holders", func() bool { n, _ := hub.Holds("a", heldOf(good, before)); return n == 3 })

	hub.Patch(distribute.LayerCompiled, []wire.Resource{bad}, nil)
	m.await("all answers", func() bool {
		for _, c := range hub.Clients() {
			if c.Seq != hub.Seq() {
				return false
			}
		}
		return true
	})
	if n, of := hub.Holds("a", heldOf(good, bad)); n != 1 || of != 3 {
		t.Errorf("%d of %d hold the bad resource, want 1 of 3", n, of)
	}
	if n, of := hub.Holds("a", heldOf(good)); n != 3 || of != 3 {
		t.Errorf("%d of %d hold the good resource, want 3 of 3", n, of)
	}
	if got := peers[2].held()[before.Ref]; got != before.Version {
		t.Errorf("the rejecting proxy holds version %s, want the previous %s", got, before.Version)
	}
	want := []distribute.Rejected{{Ref: bad.Ref, Version: bad.Version, Origin: bad.Origin, Reason: "port 666 is taken"}}
	ignoreClient := cmpopts.IgnoreFields(distribute.Rejected{}, "Client")
	if diff := cmp.Diff(want, hub.Rejections(), ignoreClient); diff != "" {
		t.Errorf("rejections (-want +got):\n%s", diff)
	}
	// A client that comes back is sent the resource again and rejects it again.
	peers[2].stop()
	again := m.newPeer("proxy/a/p2")
	again.reject = peers[2].reject
	again.start()
	again.await("the stream", again.stream.Connected)
	seen.mu.Lock()
	if diff := cmp.Diff(want, seen.rejected, ignoreClient); diff != "" {
		t.Errorf("told the observer (-want +got):\n%s", diff)
	}
	seen.mu.Unlock()

	fixed := backend(wire.ScopeMesh, "b/bad:80", 2)
	hub.Patch(distribute.LayerCompiled, []wire.Resource{fixed}, nil)
	m.awaitHeld("a", good, fixed)
	if got := hub.Rejections(); len(got) != 0 {
		t.Errorf("rejections are %+v after the correction, want none", got)
	}
	// A version may become usable, for example when a port is free again.
	taken.Store(false)
	hub.Patch(distribute.LayerCompiled, []wire.Resource{bad}, nil)
	m.awaitHeld("a", good, bad)
}

func TestTokenExpiryEndsTheStreamAndTheClientComesBack(t *testing.T) {
	hub := newHub()
	m := newMesh(t, hub, func(s *distribute.Server) { s.Authenticator = &expiring{} })
	p := m.connect("proxy/a/p1")
	p.await("a second stream", func() bool { return len(p.received()) >= 2 && p.stream.Connected() })
}

func TestFiveHundredClientsResync(t *testing.T) {
	const clients, resources = 500, 100
	published := backends(wire.ScopeMesh, resources)
	hub := newHub(distribute.LayerCompiled)
	hub.Replace(distribute.LayerCompiled, published)
	m := newMesh(t, hub, nil)
	peers := make([]*peer, clients)
	for i := range peers {
		peers[i] = m.newPeer(fmt.Sprintf("proxy/a/p%d", i))
		peers[i].start()
	}
	m.await("all clients", func() bool { n, _ := hub.Holds("a", heldOf(published...)); return n == clients })

	before := make([]int, clients)
	for i, p := range peers {
		before[i] = len(p.received())
	}
	start := time.Now()
	published[0] = backend(wire.ScopeMesh, published[0].Key, 2)
	next := newHub(distribute.LayerCompiled)
	next.Replace(distribute.LayerCompiled, published)
	m.failOver(next)
	m.await("all clients again", func() bool { n, of := next.Holds("a", heldOf(published...)); return n == clients && of == clients })
	t.Logf("%d clients with %d resources resynced in %v", clients, resources, time.Since(start))

	for _, p := range peers {
		p.cancel()
	}
	for i, p := range peers {
		upserted, removed := 0, 0
		for _, d := range p.received()[before[i]:] {
			upserted, removed = upserted+len(d.Upserted), removed+len(d.Removed)
		}
		if upserted != 1 || removed != 0 {
			t.Fatalf("a client received %d upserted and %d removed, want the one difference", upserted, removed)
		}
	}
}
