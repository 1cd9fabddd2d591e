package distribute

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"weak"

	"weft.dev/weft/proxy/wire"
)

// publication is one resource as it is published now. It never changes, so deltas share it.
type publication struct {
	resource *wire.Resource
	// seq is the publication in which clients were told of this version and scope.
	seq   uint64
	feeds []feedKey
	// needs is the lowest revision of a client that puts all of it into force.
	needs int

	// encoded is the resource as it travels, while somebody needs it.
	encoded atomic.Pointer[weak.Pointer[[]byte]]
}

// newPublication returns one that comes after was, which may be nil.
func newPublication(r *wire.Resource, seq uint64, was *publication) *publication {
	p := &publication{resource: r, seq: seq, needs: r.Needs()}
	if p.feeds = audience(r); was != nil && slices.Equal(p.feeds, was.feeds) {
		p.feeds = was.feeds
	}
	return p
}

// json returns the resource as it travels, which must not be changed. Clients that receive it at the same time share
// it; it is not kept for the next one to come.
func (p *publication) json() []byte {
	if held := p.encoded.Load(); held != nil {
		if data := held.Value(); data != nil {
			return *data
		}
	}
	data, err := json.Marshal(p.resource)
	if err != nil {
		panic(fmt.Sprintf("distribute: %s does not marshal: %v", p.resource.Ref, err))
	}
	held := weak.Make(&data)
	p.encoded.Store(&held)
	return data
}

// feed holds what one set of clients receives, linked in the order of the last change. Everything in
// it is guarded by the hub's lock.
type feed struct {
	items map[wire.Ref]*item
	// newest is the end of the list at which changes appear.
	newest *item
	// removed lists tombstones in the order of their sequence numbers. An entry is void when its item
	// has changed since.
	removed []tombstone
	clients map[*client]struct{}
}

// item is one resource of a feed, or the memory that it is gone.
type item struct {
	ref wire.Ref
	// published is nil after removal.
	published *publication
	// seq is the last change, born the first that any present client can have seen.
	seq, born    uint64
	older, newer *item
}

type tombstone struct {
	item *item
	seq  uint64
}

func newFeed() *feed {
	return &feed{items: map[wire.Ref]*item{}, clients: map[*client]struct{}{}}
}

// put makes p the content of ref, or removes it if p is nil, as a change of seq.
func (f *feed) put(ref wire.Ref, p *publication, seq uint64) {
	it := f.items[ref]
	if it == nil {
		if p == nil {
			return
		}
		it = &item{ref: ref, born: seq}
		f.items[ref] = it
	} else {
		f.unlink(it)
	}
	it.published, it.seq = p, seq
	it.older, it.newer = f.newest, nil
	if f.newest != nil {
		f.newest.newer = it
	}
	f.newest = it
	if p == nil {
		f.removed = append(f.removed, tombstone{it, seq})
	}
	for c := range f.clients {
		c.wakeUp()
	}
}

func (f *feed) unlink(it *item) {
	if it.older != nil {
		it.older.newer = it.newer
	}
	if it.newer != nil {
		it.newer.older = it.older
	}
	if f.newest == it {
		f.newest = it.older
	}
	it.older, it.newer = nil, nil
}

// prune forgets removals that every client has acknowledged.
func (f *feed) prune() {
	if len(f.removed) == 0 {
		return
	}
	acked := ^uint64(0)
	for c := range f.clients {
		acked = min(acked, c.acked)
	}
	done := 0
	for _, t := range f.removed {
		if t.seq > acked {
			break
		}
		if t.item.published == nil && t.item.seq == t.seq {
			f.unlink(t.item)
			delete(f.items, t.item.ref)
		}
		done++
	}
	f.removed = slices.Delete(f.removed, 0, done)
}

// idle tells that nothing would be lost by forgetting the feed.
func (f *feed) idle() bool { return len(f.items) == 0 && len(f.clients) == 0 }
