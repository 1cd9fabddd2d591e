package distribute

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// allowed restates who may hold what, resource by resource, without the hub's feeds.
func allowed(i Identity, r wire.Resource) bool {
	if r.Kind == wire.KindInbound {
		return i.Kind == ClientNode && r.Scope == wire.ScopeNode(i.Node)
	}
	if i.Kind == ClientNode {
		return (r.Kind == wire.KindMesh || r.Kind == wire.KindCapture) &&
			(r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNodes)
	}
	if r.Kind == wire.KindCapture {
		return false
	}
	if r.Kind == wire.KindSidecar {
		return i.Kind == ClientSidecar && r.Scope == wire.ScopeWorkload(i.Namespace, i.Pod) && r.Sidecar.Namespace == i.Namespace && r.Sidecar.Pod == i.Pod
	}
	if i.Kind == ClientSidecar {
		return allowedBeside(i, r)
	}
	own := r.Scope == wire.ScopeNamespace(i.Namespace)
	if r.Kind == wire.KindCertificate {
		return own && r.Certificate.Namespace == i.Namespace
	}
	return own || r.Scope == wire.ScopeMesh
}

// allowedBeside is allowed for the proxy beside a pod: what is everybody's, its own key, and what its pod needs as a client
// and what says who may call, in its namespace.
func allowedBeside(i Identity, r wire.Resource) bool {
	own := r.Scope == wire.ScopeNamespace(i.Namespace)
	switch r.Kind {
	case wire.KindCertificate:
		return own && r.Certificate.Namespace == i.Namespace && r.Certificate.ServiceAccount == i.ServiceAccount && !r.Certificate.Proxy
	case wire.KindMesh, wire.KindProxies, wire.KindWorkload:
		return r.Scope == wire.ScopeMesh
	case wire.KindEndpoints:
		return r.Scope == wire.ScopeMesh || own && strings.Contains(r.Key, "@")
	default:
		return r.Scope == wire.ScopeMesh || own
	}
}

// everyKind returns one resource of each kind in a scope, certificates being of a namespace.
func everyKind(scope wire.Scope, namespace, key string, version int) []wire.Resource {
	n := strconv.Itoa(version)
	return []wire.Resource{
		wire.New(key, scope, wire.Origin{}, &wire.Mesh{TrustDomain: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Destination{Service: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Route{Name: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Backend{Service: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Endpoints{Endpoints: []wire.Endpoint{{Zone: n}}}),
		wire.New(key, scope, wire.Origin{}, &wire.Proxies{Proxies: []wire.Proxy{{Pod: n}}}),
		wire.New(key, scope, wire.Origin{}, &wire.Workload{Pod: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Certificate{Namespace: namespace, ServiceAccount: "cart", Key: n}),
		wire.New(key+"-till", scope, wire.Origin{}, &wire.Certificate{Namespace: namespace, ServiceAccount: "till", Key: n}),
		wire.New(key+"-proxy", scope, wire.Origin{}, &wire.Certificate{Namespace: namespace, ServiceAccount: "cart", Key: n, Proxy: true}),
		wire.New(key+"@a", scope, wire.Origin{}, &wire.Endpoints{Endpoints: []wire.Endpoint{{Zone: n}}}),
		wire.New(key, scope, wire.Origin{}, &wire.Sidecar{Namespace: namespace, Pod: "pod", Zone: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Capture{Proxies: []wire.Proxy{{Pod: n}}}),
		wire.New(key, scope, wire.Origin{}, &wire.Inbound{Pod: n}),
		wire.New(key, scope, wire.Origin{}, &wire.Authorization{Name: n}),
	}
}

// actor is a client of the property test: what it really holds, and its stream if it has one.
type actor struct {
	identity Identity
	state    map[wire.Ref]string
	client   *client
	// pending is the delta that was sent and not acknowledged.
	pending *delta
	fresh   bool
	// refused are the versions that it rejected last.
	refused map[wire.Ref]string
}

// world drives a hub and a naive model of it side by side.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	hub    *Hub
	layers []Layer
	model  map[Layer]map[wire.Ref]wire.Resource
	actors []*actor
	// unusable are versions that every client rejects.
	unusable map[wire.Held]bool
}

func TestClientsConvergeOnTheUnionOfTheirScopes(t *testing.T) {
	for seed := range uint64(120) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			w := newWorld(t, seed)
			for range 150 {
				w.step()
				w.checkPromises()
			}
			w.settle()
			w.checkConverged()
		})
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), layers: []Layer{LayerCompiled, LayerEndpoints},
		model: map[Layer]map[wire.Ref]wire.Resource{}, unusable: map[wire.Held]bool{},
	}
	w.hub = NewHub(HubOptions{Layers: w.layers})
	for _, layer := range w.layers {
		w.model[layer] = map[wire.Ref]wire.Resource{}
		w.hub.Replace(layer, nil)
	}
	for i, identity := range []Identity{
		{Kind: ClientProxy, Namespace: "a"}, {Kind: ClientProxy, Namespace: "a"},
		{Kind: ClientProxy, Namespace: "b"}, {Kind: ClientNode, Namespace: "weft-system", Node: "n1"},
		{Kind: ClientSidecar, Namespace: "a", ServiceAccount: "cart"},
	} {
		identity.Pod = fmt.Sprint("pod", i)
		w.actors = append(w.actors, &actor{identity: identity, state: map[wire.Ref]string{}, refused: map[wire.Ref]string{}})
	}
	return w
}

// resource returns a random resource out of few enough that everything happens to each.
func (w *world) resource() wire.Resource {
	scopes := []wire.Scope{wire.ScopeMesh, wire.ScopeNodes, wire.ScopeNamespace("a"), wire.ScopeNamespace("b"), wire.ScopeNode("n1"), wire.ScopeNode("n2"), "workload/a/x"}
	namespace := []string{"a", "b"}[w.rng.IntN(2)]
	kinds := everyKind(scopes[w.rng.IntN(len(scopes))], namespace, "key", w.rng.IntN(3))
	r := kinds[w.rng.IntN(len(kinds))]
	r.Origin.Name = strconv.Itoa(w.rng.IntN(2))
	return r
}

func (w *world) step() {
	a := w.actors[w.rng.IntN(len(w.actors))]
	layer := w.layers[w.rng.IntN(len(w.layers))]
	switch n := w.rng.IntN(20); {
	case n < 4:
		w.patch(layer)
	case n < 5:
		w.replace(layer)
	case n < 6:
		r := w.resource()
		w.unusable[wire.Held{Ref: r.Ref, Version: r.Version}] = w.rng.IntN(2) == 0
	case n < 8:
		w.connect(a)
	case n < 9:
		w.disconnect(a)
	case n < 10 && a.client == nil:
		a.state = map[wire.Ref]string{}
	case n < 15:
		w.deliver(a)
	default:
		w.acknowledge(a)
	}
}

func (w *world) patch(layer Layer) {
	var upserts []wire.Resource
	var removals []wire.Ref
	for range w.rng.IntN(4) {
		ref := w.resource().Ref
		removals = append(removals, ref)
		delete(w.model[layer], ref)
	}
	for range w.rng.IntN(4) {
		r := w.resource()
		upserts = append(upserts, r)
		w.model[layer][r.Ref] = r
	}
	w.publish(func() uint64 { return w.hub.Patch(layer, upserts, removals) })
}

func (w *world) replace(layer Layer) {
	clear(w.model[layer])
	for range w.rng.IntN(8) {
		r := w.resource()
		w.model[layer][r.Ref] = r
	}
	var resources []wire.Resource
	for _, r := range w.model[layer] {
		resources = append(resources, r)
	}
	w.publish(func() uint64 { return w.hub.Replace(layer, resources) })
}

// publish checks that the sequence number grows if and only if something changed for clients.
func (w *world) publish(do func() uint64) {
	before, seq := w.versions(), w.hub.Seq()
	got := do()
	after := w.versions()
	changed := !maps.Equal(before, after)
	if changed != (got > seq) {
		w.t.Fatalf("publication went from seq %d to %d; something changed: %v", seq, got, changed)
	}
}

type versioned struct {
	scope   wire.Scope
	version string
}

func (w *world) versions() map[wire.Ref]versioned {
	out := map[wire.Ref]versioned{}
	for _, r := range w.hub.current {
		out[r.resource.Ref] = versioned{r.resource.Scope, r.resource.Version}
	}
	return out
}

// union is what the model says is published: the first layer wins.
func (w *world) union() map[wire.Ref]wire.Resource {
	out := map[wire.Ref]wire.Resource{}
	for i := len(w.layers) - 1; i >= 0; i-- {
		maps.Copy(out, w.model[w.layers[i]])
	}
	return out
}

func (w *world) connect(a *actor) {
	hello := &wire.Hello{}
	for ref, version := range a.state {
		hello.Held = append(hello.Held, wire.Held{Ref: ref, Version: version})
	}
	a.client, a.pending, a.fresh = w.hub.join(a.identity, hello), nil, true
	clear(a.refused)
}

func (w *world) disconnect(a *actor) {
	if a.client != nil {
		w.hub.leave(a.client)
		a.client, a.pending = nil, nil
	}
}

// deliver sends what is next, if the stream is free.
func (w *world) deliver(a *actor) {
	switch {
	case a.client == nil || a.pending != nil:
	case a.fresh:
		d, err := w.hub.first(context.Background(), a.client)
		if err != nil {
			w.t.Fatal(err)
		}
		a.pending, a.fresh = d, false
		for _, p := range d.upserted {
			if a.state[p.resource.Ref] == p.resource.Version {
				w.t.Fatalf("%s was sent %s, which it holds", a.identity, p.resource.Ref)
			}
		}
		for _, ref := range d.removed {
			if _, ok := a.state[ref]; !ok {
				w.t.Fatalf("%s was told to remove %s, which it does not hold", a.identity, ref)
			}
		}
	default:
		select {
		case <-a.client.wake:
			a.pending = w.hub.since(a.client)
		default:
		}
	}
}

// acknowledge applies the pending delta and answers it. The delta may also have been applied without
// its acknowledgement ever arriving.
func (w *world) acknowledge(a *actor) {
	if a.pending == nil {
		return
	}
	ack := &wire.Ack{Seq: a.pending.seq}
	for _, p := range a.pending.upserted {
		r := p.resource
		if !allowed(a.identity, *r) {
			w.t.Fatalf("%s was sent %s of scope %s", a.identity, r.Ref, r.Scope)
		}
		if w.unusable[wire.Held{Ref: r.Ref, Version: r.Version}] {
			ack.Rejected = append(ack.Rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: "test"})
			a.refused[r.Ref] = r.Version
			continue
		}
		a.state[r.Ref] = r.Version
		delete(a.refused, r.Ref)
	}
	for _, ref := range a.pending.removed {
		delete(a.state, ref)
		delete(a.refused, ref)
	}
	a.pending = nil
	if w.rng.IntN(5) == 0 {
		w.disconnect(a)
		return
	}
	if err := w.hub.acknowledge(a.client, ack); err != nil {
		w.t.Fatal(err)
	}
}

// checkPromises compares what the hub says about its clients with what they hold.
func (w *world) checkPromises() {
	published := w.union()
	for _, r := range everyKind("", "", "key", 0) {
		if w.hub.Gone(r.Ref) {
			if _, ok := published[r.Ref]; ok {
				w.t.Fatalf("%s is published and said to be gone", r.Ref)
			}
			for _, a := range w.actors {
				if _, ok := a.state[r.Ref]; ok && a.client != nil {
					w.t.Fatalf("%s still holds %s, which is said to be gone", a.identity, r.Ref)
				}
			}
		}
	}
	for _, r := range published {
		held := []wire.Held{{Ref: r.Ref, Version: r.Version}}
		n, m := w.hub.Holds("a", held)
		w.checkCount(r, n, m, func(i Identity) bool { return i.Kind != ClientNode && i.Namespace == "a" })
		n, m = w.hub.NodesHold(held)
		w.checkCount(r, n, m, func(i Identity) bool { return i.Kind == ClientNode })
		held[0].Version = "superseded"
		if n, _ := w.hub.Holds("a", held); n != 0 {
			w.t.Fatalf("%d proxies hold a version of %s that is not published", n, r.Ref)
		}
	}
}

func (w *world) checkCount(r wire.Resource, n, m int, concerned func(Identity) bool) {
	holding, certain, connected := 0, 0, 0
	for _, a := range w.actors {
		if a.client == nil || !concerned(a.identity) {
			continue
		}
		beside := a.identity.Kind == ClientSidecar
		if beside && a.client.acked == 0 && len(a.client.held) == 0 {
			continue // it has nothing in force, and nobody is waited for who is not ready
		}
		connected++
		if beside && !allowed(a.identity, r) && allowed(Identity{Kind: ClientProxy, Namespace: a.identity.Namespace}, r) {
			holding++ // which is not for it
			if a.client.acked > 0 {
				certain++
			}
			continue
		}
		if a.state[r.Ref] != r.Version {
			continue
		}
		holding++
		idle := !a.fresh && a.pending == nil && !a.client.behind()
		if idle && a.refused[r.Ref] != r.Version && allowed(a.identity, r) {
			certain++
		}
	}
	if n < certain || n > holding || m != connected {
		w.t.Fatalf("%s %s: the hub counts %d of %d, really %d to %d of %d hold it",
			r.Ref, r.Version, n, m, certain, holding, connected)
	}
}

// settle connects everyone and delivers until nothing is left to send. Either all streams are new, or
// all resources are, so that nothing stays rejected.
func (w *world) settle() {
	clear(w.unusable)
	anew := w.rng.IntN(2) == 0
	for _, layer := range w.layers {
		for ref, r := range w.model[layer] {
			if anew {
				r.Version += "'"
				w.model[layer][ref] = r
			}
		}
		w.hub.Replace(layer, slices.Collect(maps.Values(w.model[layer])))
	}
	for _, a := range w.actors {
		if !anew {
			w.disconnect(a)
		}
		if a.client == nil {
			w.connect(a)
		}
	}
	for busy := true; busy; {
		busy = false
		for _, a := range w.actors {
			if a.client == nil {
				w.connect(a)
			}
			w.deliver(a)
			if a.pending != nil {
				busy = true
				w.acknowledge(a)
			}
		}
	}
}

func (w *world) checkConverged() {
	published := w.union()
	for _, a := range w.actors {
		want := map[wire.Ref]string{}
		for ref, r := range published {
			if allowed(a.identity, r) {
				want[ref] = r.Version
			}
		}
		if diff := cmp.Diff(want, a.state); diff != "" {
			w.t.Errorf("%s (-want +got):\n%s", a.identity, diff)
		}
	}
	for _, r := range published {
		held := []wire.Held{{Ref: r.Ref, Version: r.Version}}
		if n, m := w.hub.Holds("a", held); (n == m) != allowed(w.actors[0].identity, r) {
			w.t.Errorf("%s of scope %s: %d of %d proxies hold it", r.Ref, r.Scope, n, m)
		}
	}
	for _, r := range everyKind("", "", "key", 0) {
		if _, ok := published[r.Ref]; w.hub.Gone(r.Ref) == ok {
			w.t.Errorf("%s is published: %v, gone: %v", r.Ref, ok, w.hub.Gone(r.Ref))
		}
	}
	for _, c := range w.hub.Clients() {
		if c.Seq != w.hub.Seq() {
			w.t.Errorf("%s is at %d of %d and has nothing to receive", c.Identity, c.Seq, w.hub.Seq())
		}
	}
	for key, f := range w.hub.feeds {
		for ref, it := range f.items {
			if it.published == nil {
				w.t.Errorf("feed %s still remembers that %s is gone", key, ref)
			}
		}
	}
}

func TestEveryScopeAndKindReachesOnlyWhoMayHoldIt(t *testing.T) {
	scopes := []wire.Scope{
		"", "mesh", "nodes", "Mesh", "mesh/a", "nodes/n1", "node/n1", "node/n2", "node/", "node", "node/n1/", "node/a", "Node/n1", "node/mesh", "namespace", "namespace/", "namespace/a", "namespace/b",
		"namespace/a/", "namespace//a", "Namespace/a", "namespace/a ", "proxies", "namespace/mesh", "namespace/nodes", "workload/a/pod", "workload/a/other", "workload/b/pod", "workload/a/", "workload/a", "workload//pod",
		"account/a/cart", "sidecars/a",
	}
	identities := []Identity{
		{}, {Kind: "other", Namespace: "a", Node: "n1"}, {Kind: ClientProxy}, {Kind: ClientNode},
		{Kind: ClientProxy, Namespace: "a"}, {Kind: ClientProxy, Namespace: "b"}, {Kind: ClientProxy, Namespace: "mesh"},
		{Kind: ClientProxy, Namespace: "nodes"}, {Kind: ClientProxy, Namespace: "a", Node: "n1"},
		{Kind: ClientNode, Node: "n1"}, {Kind: ClientNode, Namespace: "a", Node: "n1"},
		{Kind: ClientNode, Node: "n2"}, {Kind: ClientNode, Node: "mesh"}, {Kind: ClientProxy, Namespace: "n1"},
		{Kind: ClientSidecar}, {Kind: ClientSidecar, Namespace: "a"}, {Kind: ClientSidecar, Namespace: "a", Pod: "pod"},
		{Kind: ClientSidecar, Namespace: "a", ServiceAccount: "cart"},
		{Kind: ClientSidecar, Namespace: "a", Pod: "pod", ServiceAccount: "cart"}, {Kind: ClientSidecar, Namespace: "a", Pod: "other", ServiceAccount: "cart"},
		{Kind: ClientSidecar, Namespace: "a", Pod: "pod", ServiceAccount: "till"}, {Kind: ClientSidecar, Namespace: "b", Pod: "pod", ServiceAccount: "cart", Node: "n1"},
	}
	hub := NewHub(HubOptions{Layers: []Layer{LayerCompiled}})
	var all []wire.Resource
	for _, scope := range scopes {
		for _, namespace := range []string{"", "a", "b"} {
			all = append(all, everyKind(scope, namespace, fmt.Sprintf("%q of %q", scope, namespace), 0)...)
		}
	}
	hub.Replace(LayerCompiled, all)
	for _, identity := range identities {
		got := map[wire.Ref]bool{}
		if identity.Kind != ClientProxy && identity.Kind != ClientNode && identity.Kind != ClientSidecar {
			if keys := subscriptions(identity); len(keys) != 0 {
				t.Errorf("%+v subscribes to %v, want nothing", identity, keys)
			}
			continue
		}
		d, err := hub.first(context.Background(), hub.join(identity, &wire.Hello{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d.upserted {
			got[p.resource.Ref] = true
		}
		nobody := len(subscriptions(identity)) == 0
		for _, r := range all {
			if want := !nobody && allowed(identity, r); got[r.Ref] != want {
				t.Errorf("%+v receives %s of scope %q: %v, want %v", identity, r.Ref, r.Scope, got[r.Ref], want)
			}
		}
	}
}
