package distribute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/proxy/wire"
)

// maxReason bounds what a client may say about a rejection, in bytes; an Event holds 1024.
const maxReason = 1000

// maxBuild bounds what a client may say about its version, in bytes.
const maxBuild = 128

var (
	errReplaced = errors.New("a newer stream of the same pod took over")
	errProtocol = errors.New("protocol violation")
)

// client is one stream as the hub sees it. Its fields are guarded by the hub's lock unless they never
// change.
type client struct {
	identity  Identity
	build     string
	revision  int
	connected time.Time
	keys      []feedKey
	feeds     []*feed
	// wake holds at most one signal: there is something newer than what was sent.
	wake chan struct{}
	// replaced is closed when another stream has taken the client's place.
	replaced chan struct{}

	// held is what the client said it holds; it is dropped when the first delta is acknowledged, which
	// makes it superfluous.
	held map[wire.Ref]string
	// sent is the sequence number of the last delta, acked that of the last acknowledgement. They
	// differ while a delta is outstanding.
	sent, acked uint64
	// rejected holds versions that were sent and are not in force.
	rejected map[wire.Ref]string
}

// delta is what brings a client to seq.
type delta struct {
	seq      uint64
	upserted []*publication
	removed  []wire.Ref
	// size is the length in bytes, known once it has been encoded.
	size int
}

func (c *client) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// join registers a client. An older stream of the same pod is replaced, so that a pod never counts
// twice.
func (h *Hub) join(identity Identity, hello *wire.Hello) *client {
	c := &client{
		identity:  identity,
		build:     hello.Build[:min(len(hello.Build), maxBuild)],
		revision:  hello.Revision,
		connected: time.Now(),
		keys:      subscriptions(identity),
		wake:      make(chan struct{}, 1),
		replaced:  make(chan struct{}),
		held:      make(map[wire.Ref]string, len(hello.Held)),
		rejected:  map[wire.Ref]string{},
	}
	for _, held := range hello.Held {
		c.held[held.Ref] = held.Version
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.clients[identity.slot()]; old != nil {
		h.remove(old)
		close(old.replaced)
	}
	h.clients[identity.slot()] = c
	for _, key := range c.keys {
		f := h.feed(key)
		f.clients[c] = struct{}{}
		c.feeds = append(c.feeds, f)
	}
	if identity.Kind == ClientNode {
		h.nodeConnected(c)
	}
	h.notify()
	return c
}

// leave ends a client's part in everything. It may be called for one that was replaced.
func (h *Hub) leave(c *client) {
	if h.left(c) && h.observer != nil {
		h.observer.NodeAway(c.identity.Node)
	}
}

// left ends a client's part, and tells whether a node is without its agent now.
func (h *Hub) left(c *client) (away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[c.identity.slot()] != c {
		return false
	}
	h.remove(c)
	if c.identity.Kind == ClientNode {
		away = h.nodeDisconnected(c)
	}
	h.notify()
	return away
}

// remove takes a client out of the hub. The lock is held.
func (h *Hub) remove(c *client) {
	delete(h.clients, c.identity.slot())
	for i, f := range c.feeds {
		delete(f.clients, c)
		f.prune()
		h.drop(c.keys[i], f)
	}
}

// ready waits until every layer that a kind of client needs is complete.
func (h *Hub) ready(ctx context.Context, kind ClientKind) error {
	select {
	case <-h.complete[kind]:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// first waits until every layer that the client needs is complete and returns the difference between
// what the client said it holds and what it is to hold.
func (h *Hub) first(ctx context.Context, c *client) (*delta, error) {
	if err := h.ready(ctx, c.identity.Kind); err != nil {
		return nil, err
	}
	h.mu.Lock()
	if h.clients[c.identity.slot()] != c {
		h.mu.Unlock()
		return nil, c.ended(ctx)
	}
	d := &delta{seq: h.seq}
	var view []*publication
	for _, f := range c.feeds {
		for it := f.newest; it != nil; it = it.older {
			if it.published != nil {
				view = append(view, it.published)
			}
		}
	}
	c.sent = d.seq
	held := c.held
	h.mu.Unlock()

	// Neither held nor view ever changes: the costly part needs no lock.
	kept := make(map[wire.Ref]struct{}, len(held))
	for _, p := range slices.Backward(view) {
		version, ok := held[p.resource.Ref]
		if ok {
			kept[p.resource.Ref] = struct{}{}
		}
		if !ok || version != p.resource.Version {
			d.upserted = append(d.upserted, p)
		}
	}
	for ref := range held {
		if _, ok := kept[ref]; !ok {
			d.removed = append(d.removed, ref)
		}
	}
	slices.SortFunc(d.removed, compareRefs)
	return d, nil
}

// ended tells why a client is no longer in the hub: it was replaced, or it has left because its stream
// ends, for a reason that ctx will tell.
func (c *client) ended(ctx context.Context) error {
	select {
	case <-c.replaced:
		return errReplaced
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// next waits until there is something that the client does not have and returns it. It must not be
// called while a delta is outstanding: that is what bounds the memory for a slow client.
func (h *Hub) next(ctx context.Context, c *client) (*delta, error) {
	for {
		select {
		case <-c.wake:
			if d := h.since(c); d != nil {
				return d, nil
			}
		case <-c.replaced:
			return nil, errReplaced
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// since returns what changed in the client's feeds after the last delta, or nil.
func (h *Hub) since(c *client) *delta {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := &delta{seq: h.seq}
	live := map[wire.Ref]bool{}
	for _, f := range c.feeds {
		for it := f.newest; it != nil && it.seq > c.sent; it = it.older {
			if it.published != nil {
				d.upserted = append(d.upserted, it.published)
				live[it.ref] = true
			}
		}
	}
	for _, f := range c.feeds {
		for it := f.newest; it != nil && it.seq > c.sent; it = it.older {
			// What came and went since the last delta was never sent; what moved from one feed of the
			// client to another is not removed.
			if it.published == nil && it.born <= c.sent && !live[it.ref] {
				d.removed = append(d.removed, it.ref)
			}
		}
	}
	if len(d.upserted) == 0 && len(d.removed) == 0 {
		c.sent, c.acked = h.seq, h.seq
		c.pruneFeeds()
		return nil
	}
	c.sent = d.seq
	for _, p := range d.upserted {
		delete(c.rejected, p.resource.Ref)
	}
	for _, ref := range d.removed {
		delete(c.rejected, ref)
	}
	slices.Reverse(d.upserted)
	slices.SortFunc(d.removed, compareRefs)
	return d
}

func (c *client) pruneFeeds() {
	for _, f := range c.feeds {
		f.prune()
	}
}

// acknowledge takes a client's answer to the outstanding delta.
func (h *Hub) acknowledge(c *client, ack *wire.Ack) error {
	fresh, err := h.takeAck(c, ack)
	if err != nil {
		return err
	}
	if h.observer != nil {
		for _, r := range fresh {
			h.observer.Rejected(r)
		}
	}
	return nil
}

func (h *Hub) takeAck(c *client, ack *wire.Ack) ([]Rejected, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.sent == c.acked || ack.Seq != c.sent {
		return nil, fmt.Errorf("%w: acknowledgement of %d, sent %d, acknowledged %d",
			errProtocol, ack.Seq, c.sent, c.acked)
	}
	c.acked, c.held = c.sent, nil
	var fresh []Rejected
	for _, rejection := range ack.Rejected {
		p := h.current[rejection.Ref]
		// A client can only reject what it may be sent. A version that has been superseded meanwhile is
		// nobody's concern any more.
		if p == nil || p.resource.Version != rejection.Version || !c.receives(p) {
			continue
		}
		c.rejected[rejection.Ref] = rejection.Version
		if _, told := h.rejected[rejection.Ref]; told {
			continue
		}
		r := Rejected{
			Ref:     rejection.Ref,
			Version: rejection.Version,
			Origin:  p.resource.Origin,
			Reason:  strings.ToValidUTF8(rejection.Reason[:min(len(rejection.Reason), maxReason)], ""),
			Client:  c.identity,
		}
		h.rejected[rejection.Ref] = r
		fresh = append(fresh, r)
	}
	c.pruneFeeds()
	h.notify()
	return fresh, nil
}

// receives tells whether a resource is one that the client may see.
func (c *client) receives(p *publication) bool {
	return slices.ContainsFunc(c.keys, func(key feedKey) bool { return slices.Contains(p.feeds, key) })
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}
