package distribute

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Layer names one publisher's part of what is published. Layers are independent: replacing one leaves
// the others alone. That is how endpoints and identities reach proxies without a compile pass.
type Layer string

// The layers of the operator.
const (
	LayerCompiled     Layer = "compiled"
	LayerEndpoints    Layer = "endpoints"
	LayerWorkloads    Layer = "workloads"
	LayerCertificates Layer = "certificates"
	LayerProxies      Layer = "proxies"
	LayerCapture      Layer = "capture"
	LayerInbound      Layer = "inbound"
)

// HubOptions configure a Hub.
type HubOptions struct {
	// Layers are all layers that will be published. No client receives anything before each of them has
	// been replaced once, so that a new leader never takes away what it has not read yet. If two layers
	// publish the same Ref, the one named first here wins.
	Layers []Layer
	// NodeLayers are further layers, which node agents wait for as well and proxies do not: what nodes
	// capture can only be known once proxies have their configuration.
	NodeLayers []Layer
	// NodeGrace is how long the last report of a node outlives its stream, so that an agent's restart
	// takes no pod's identity away. Zero means two minutes.
	NodeGrace time.Duration
	// Observer is told of rejections and node reports; nil means nobody is.
	Observer Observer
}

// Observer is told what clients report. Calls come from the clients' streams and delay them; they may
// call the hub's other methods, but not publish while they hold a lock that a publisher needs.
type Observer interface {
	// Rejected is called once for each version of a resource that some client cannot use.
	Rejected(Rejected)
	// NodeReported is called with every report, in the order in which the hub took it.
	NodeReported(node string, report wire.NodeReport)
	// NodeAway is called when the last stream of a node has ended, and nobody knows any more what happens there.
	NodeAway(node string)
	// NodeLost is called when the grace period of a node without a stream has ended and its last
	// report is forgotten.
	NodeLost(node string)
}

// Rejected is a version of a resource that a client cannot use, and the object it was made from.
type Rejected struct {
	wire.Ref
	Version string
	Origin  wire.Origin
	Reason  string
	// Client is the first that said so.
	Client Identity
}

// Hub holds the latest published resources and what each connected client has acknowledged. All its
// methods may be called at any time from any goroutine.
type Hub struct {
	observer Observer
	grace    time.Duration
	order    []Layer
	// complete is closed for each kind of client when every layer it waits for has been replaced.
	complete map[ClientKind]chan struct{}

	// reports is held while a node report is taken and told to the observer; it comes before mu.
	reports sync.Mutex

	mu      sync.RWMutex
	seq     uint64
	layers  map[Layer]*layer
	current map[wire.Ref]*publication
	feeds   map[feedKey]*feed
	clients map[slot]*client
	nodes   map[string]*node
	// rejected holds the rejection of a current version that the observer has been told of.
	rejected map[wire.Ref]Rejected
	changed  chan struct{}
}

type layer struct {
	resources map[wire.Ref]*wire.Resource
	replaced  bool
	// nodesOnly tells that proxies do not wait for the layer.
	nodesOnly bool
}

// NewHub returns an empty hub.
func NewHub(opts HubOptions) *Hub {
	h := &Hub{
		observer: opts.Observer,
		grace:    opts.NodeGrace,
		order:    slices.Concat(opts.Layers, opts.NodeLayers),
		complete: map[ClientKind]chan struct{}{ClientProxy: make(chan struct{}), ClientSidecar: make(chan struct{}), ClientNode: make(chan struct{})},
		// The first delta of a stream has a sequence number even if nothing was ever published.
		seq:      1,
		layers:   map[Layer]*layer{},
		current:  map[wire.Ref]*publication{},
		feeds:    map[feedKey]*feed{},
		clients:  map[slot]*client{},
		nodes:    map[string]*node{},
		rejected: map[wire.Ref]Rejected{},
		changed:  make(chan struct{}),
	}
	if h.grace == 0 {
		h.grace = 2 * time.Minute
	}
	for _, name := range opts.Layers {
		h.layers[name] = &layer{resources: map[wire.Ref]*wire.Resource{}}
	}
	for _, name := range opts.NodeLayers {
		h.layers[name] = &layer{resources: map[wire.Ref]*wire.Resource{}, nodesOnly: true}
	}
	h.completed()
	return h
}

// completed lets the clients in whose layers have all been replaced. The lock is held, or nobody else
// has the hub yet.
func (h *Hub) completed() {
	waiting := map[ClientKind]bool{}
	for _, l := range h.layers {
		if !l.replaced {
			waiting[ClientNode] = true
			waiting[ClientProxy] = waiting[ClientProxy] || !l.nodesOnly
			waiting[ClientSidecar] = waiting[ClientProxy]
		}
	}
	for kind, complete := range h.complete {
		if waiting[kind] {
			continue
		}
		select {
		case <-complete:
		default:
			close(complete)
		}
	}
}

// Patch says what becomes of a layer: Removals are taken away, then Upserts replace or add resources. Whole makes
// Upserts all there is. The resources are not copied, and must not be changed afterwards.
type Patch struct {
	Whole    bool
	Upserts  []*wire.Resource
	Removals []wire.Ref
}

// Replace makes resources the whole content of a layer and returns the sequence number of the
// publication, which grows only if something changed. Clients are woken at once. The resources must not
// be changed afterwards. A layer that was not named in HubOptions is a programmer's mistake and panics.
func (h *Hub) Replace(name Layer, resources []wire.Resource) uint64 {
	return h.ReplaceShared(name, each(resources))
}

// ReplaceShared is Replace without a copy of resources that others hold as well.
func (h *Hub) ReplaceShared(name Layer, resources []*wire.Resource) uint64 {
	return h.PatchAll(map[Layer]Patch{name: {Whole: true, Upserts: resources}})
}

// each returns a copy of each resource, which is kept for as long as it is needed, and not for as long as others are.
func each(resources []wire.Resource) []*wire.Resource {
	out := make([]*wire.Resource, len(resources))
	for i := range resources {
		out[i] = new(resources[i])
	}
	return out
}

// Patch changes part of a layer: removals are taken away, then upserts replace or add resources. It
// costs the size of the change. It returns what Replace returns. A layer that was only patched does not
// count as replaced.
func (h *Hub) Patch(name Layer, upserts []wire.Resource, removals []wire.Ref) uint64 {
	return h.PatchShared(name, each(upserts), removals)
}

// PatchShared is Patch without a copy of resources that others hold as well.
func (h *Hub) PatchShared(name Layer, upserts []*wire.Resource, removals []wire.Ref) uint64 {
	return h.PatchAll(map[Layer]Patch{name: {Upserts: upserts, Removals: removals}})
}

// PatchAll changes several layers in one publication: no client is sent a part of it.
func (h *Hub) PatchAll(patches map[Layer]Patch) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var changed []wire.Ref
	for name, patch := range patches {
		changed = h.layer(name).patch(patch, changed)
	}
	change := h.begin()
	for _, ref := range changed {
		change.settle(ref)
	}
	change.end()
	for name, patch := range patches {
		l := h.layer(name)
		l.replaced = l.replaced || patch.Whole
	}
	h.completed()
	return h.seq
}

// patch changes the layer, and appends what may have changed to a list.
func (l *layer) patch(patch Patch, changed []wire.Ref) []wire.Ref {
	if patch.Whole {
		before := l.resources
		l.resources = make(map[wire.Ref]*wire.Resource, len(patch.Upserts))
		for _, r := range patch.Upserts {
			l.resources[r.Ref] = r
		}
		for ref := range before {
			if _, stays := l.resources[ref]; !stays {
				changed = append(changed, ref)
			}
		}
		for ref, r := range l.resources {
			if was, known := before[ref]; !known || !same(was, r) {
				changed = append(changed, ref)
			}
		}
		return changed
	}
	for _, ref := range patch.Removals {
		delete(l.resources, ref)
		changed = append(changed, ref)
	}
	for _, r := range patch.Upserts {
		l.resources[r.Ref] = r
		changed = append(changed, r.Ref)
	}
	return changed
}

func (h *Hub) layer(name Layer) *layer {
	l := h.layers[name]
	if l == nil {
		panic(fmt.Sprintf("distribute: layer %q was not declared", name))
	}
	return l
}

// same tells that clients need not be told of b when they have a.
func same(a, b *wire.Resource) bool {
	return a.Version == b.Version && a.Scope == b.Scope && a.Origin == b.Origin
}

// change is one publication in progress; the hub's lock is held until its end.
type change struct {
	hub     *Hub
	seq     uint64
	touched map[feedKey]*feed
}

func (h *Hub) begin() change {
	return change{hub: h, seq: h.seq + 1, touched: map[feedKey]*feed{}}
}

// settle publishes what the layers now say about ref, if that differs from what is published.
func (c *change) settle(ref wire.Ref) {
	h := c.hub
	was := h.current[ref]
	var next *wire.Resource
	for _, name := range h.order {
		if r, ok := h.layers[name].resources[ref]; ok {
			next = r
			break
		}
	}
	switch {
	case next == nil && was == nil:
		return
	case next == nil:
		delete(h.current, ref)
		delete(h.rejected, ref)
		c.put(ref, was.feeds, nil, nil)
	case was == nil:
		p := newPublication(next, c.seq, nil)
		h.current[ref] = p
		c.put(ref, nil, p.feeds, p)
	case same(was.resource, next):
		return
	case was.resource.Version == next.Version && was.resource.Scope == next.Scope:
		// Only the origin differs, which says nothing to clients: they are not told.
		p := newPublication(next, was.seq, was)
		h.current[ref] = p
		for _, key := range p.feeds {
			h.feeds[key].items[ref].published = p
		}
	default:
		p := newPublication(next, c.seq, was)
		h.current[ref] = p
		delete(h.rejected, ref)
		c.put(ref, was.feeds, p.feeds, p)
	}
}

// put makes p the content of ref in the feeds of next and removes it from the other feeds of was.
func (c *change) put(ref wire.Ref, was, next []feedKey, p *publication) {
	for _, key := range was {
		if !slices.Contains(next, key) {
			c.feed(key).put(ref, nil, c.seq)
		}
	}
	for _, key := range next {
		c.feed(key).put(ref, p, c.seq)
	}
	c.hub.seq = c.seq
}

func (c *change) feed(key feedKey) *feed {
	f := c.hub.feed(key)
	c.touched[key] = f
	return f
}

func (c *change) end() {
	for key, f := range c.touched {
		f.prune()
		c.hub.drop(key, f)
	}
}

// feed returns the feed of a key and makes it if there is none. The lock is held.
func (h *Hub) feed(key feedKey) *feed {
	f := h.feeds[key]
	if f == nil {
		f = newFeed()
		h.feeds[key] = f
	}
	return f
}

// drop forgets a feed that nobody needs. The lock is held.
func (h *Hub) drop(key feedKey, f *feed) {
	if f.idle() {
		delete(h.feeds, key)
	}
}

// Changed returns a channel that is closed when something happens that may change the answers of Holds,
// NodesHold, Gone, Clients or Nodes. To miss nothing, call it first, then ask, then wait. It may have
// any number of users.
func (h *Hub) Changed() <-chan struct{} {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.changed
}

// notify wakes those who wait for Changed. The lock is held.
func (h *Hub) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Seq returns the sequence number of the last publication.
func (h *Hub) Seq() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.seq
}
