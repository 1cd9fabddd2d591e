package distribute

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Holds tells how many of a namespace's connected proxies, m, have acknowledged all the given versions
// without rejecting one: n. A version that is not, or no longer, the published one is held by nobody,
// and so is one that the namespace may not see. A proxy counts from its Hello to the end of its stream. Proxies beside
// pods count as well; of what they are not sent nothing is asked of them, and one that comes with nothing counts from its
// first acknowledgement: its pod's containers do not run before.
func (h *Hub) Holds(namespace string, held []wire.Held) (n, m int) {
	own := feedNamespace(namespace)
	return h.holds(held, own, own, feedSidecars(namespace))
}

// NodesHold is Holds for all connected node agents. What concerns one node is held by no other.
func (h *Hub) NodesHold(held []wire.Held) (n, m int) {
	return h.holds(held, feedNodes, feedNodes)
}

// holds counts the clients of feeds; the resources may come through others of theirs. What comes through within concerns
// the clients of that feed alone.
func (h *Hub) holds(held []wire.Held, within feedKey, of ...feedKey) (n, m int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	published := true
	wanted := make([]*publication, len(held))
	for i, want := range held {
		wanted[i] = h.current[want.Ref]
		published = published && wanted[i] != nil && wanted[i].resource.Version == want.Version
	}
	for _, key := range of {
		f := h.feeds[key]
		if f == nil {
			continue
		}
		for c := range f.clients {
			if c.newcomer() {
				continue
			}
			m++
			if published && c.holds(wanted, within) && !c.rejects(held) {
				n++
			}
		}
	}
	return n, m
}

// newcomer tells that a client beside a pod has nothing in force yet.
func (c *client) newcomer() bool {
	return c.identity.Kind == ClientSidecar && c.acked == 0 && len(c.held) == 0
}

// holds tells that the client has acknowledged what it is to have of publications.
func (c *client) holds(wanted []*publication, within feedKey) bool {
	needed := uint64(1)
	for _, p := range wanted {
		switch {
		case c.receives(p):
			needed = max(needed, p.seq)
		case slices.Contains(c.keys, within) || !slices.Contains(p.feeds, within):
			return false
		}
	}
	return c.acked >= needed
}

// Outdated tells how many of a namespace's connected proxies are of a revision that does not put all of the given
// resources, as they are published, into force, whatever they acknowledge.
func (h *Hub) Outdated(namespace string, held []wire.Held) int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	needed := 0
	for _, want := range held {
		if p := h.current[want.Ref]; p != nil {
			needed = max(needed, p.needs)
		}
	}
	outdated := 0
	for _, key := range []feedKey{feedNamespace(namespace), feedSidecars(namespace)} {
		f := h.feeds[key]
		if f == nil {
			continue
		}
		for c := range f.clients {
			if c.revision < needed {
				outdated++
			}
		}
	}
	return outdated
}

func (c *client) rejects(held []wire.Held) bool {
	if len(c.rejected) == 0 {
		return false
	}
	return slices.ContainsFunc(held, func(want wire.Held) bool {
		version, ok := c.rejected[want.Ref]
		return ok && version == want.Version
	})
}

// Gone tells that a resource is not published and that no connected client may still hold it. It says
// nothing about clients that are not connected.
func (h *Hub) Gone(ref wire.Ref) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.current[ref] != nil {
		return false
	}
	for _, f := range h.feeds {
		it := f.items[ref]
		if it == nil {
			continue
		}
		for c := range f.clients {
			// A first delta made after the removal brings nothing: before it is acknowledged, such a
			// client can only hold what it said it brought along.
			if c.acked < it.seq && (c.acked > 0 || c.sent > 0 && c.sent < it.seq) {
				return false
			}
		}
	}
	for _, c := range h.clients {
		if _, ok := c.held[ref]; ok {
			return false
		}
	}
	return true
}

// Client is a connected proxy or node agent.
type Client struct {
	Identity
	Build string
	// Revision is that of the client (wire.Revision); zero for releases before there was one.
	Revision  int
	Connected time.Time
	// Seq is the publication that the client's configuration corresponds to: the hub's own when
	// nothing is outstanding for it, zero before its first acknowledgement.
	Seq uint64
	// Rejected counts the resources that it was sent in a version it cannot use.
	Rejected int
}

// Pod is a proxy's.
type Pod struct{ Namespace, Name string }

// Older returns the connected proxies of an earlier revision than this operator's, with theirs; nil if there are
// none.
func (h *Hub) Older() map[Pod]int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var older map[Pod]int
	for _, c := range h.clients {
		if c.identity.Kind == ClientProxy && c.revision < wire.Revision {
			if older == nil {
				older = map[Pod]int{}
			}
			older[Pod{c.identity.Namespace, c.identity.Pod}] = c.revision
		}
	}
	return older
}

// Clients returns all connected clients, sorted by kind, namespace, node and pod.
func (h *Hub) Clients() []Client {
	h.mu.RLock()
	defer h.mu.RUnlock()
	clients := make([]Client, 0, len(h.clients))
	for _, c := range h.clients {
		seq := c.acked
		if seq > 0 && seq == c.sent && !c.behind() {
			seq = h.seq
		}
		clients = append(clients, Client{
			Identity: c.identity, Build: c.build, Revision: c.revision, Connected: c.connected, Seq: seq, Rejected: len(c.rejected),
		})
	}
	slices.SortFunc(clients, func(a, b Client) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.PodUID, b.PodUID))
	})
	return clients
}

// behind tells that something was published that the client has not been sent.
func (c *client) behind() bool {
	return slices.ContainsFunc(c.feeds, func(f *feed) bool { return f.newest != nil && f.newest.seq > c.sent })
}

// Rejections returns the published versions that some client could not use, sorted by Ref. One stays
// until its resource changes, even when the client that rejected it has gone.
func (h *Hub) Rejections() []Rejected {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.SortedFunc(maps.Values(h.rejected), func(a, b Rejected) int { return compareRefs(a.Ref, b.Ref) })
}
