package engine

import (
	"hash/maphash"
	"maps"
)

// shards is how many maps an index is spread over.
const shards = 128

var seed = maphash.MakeSeed()

// index is an immutable map from keys to values. An edit copies only the shards it touches, so a small
// change to a large configuration stays small. The zero value is empty.
type index[K comparable, V any] struct {
	shards [shards]map[K]V
}

func shardOf[K comparable](key K) int { return int(maphash.Comparable(seed, key) % shards) }

// get returns the value of key, the zero value if there is none.
func (x *index[K, V]) get(key K) V { return x.shards[shardOf(key)][key] }

// has tells whether key has a value.
func (x *index[K, V]) has(key K) bool {
	_, ok := x.shards[shardOf(key)][key]
	return ok
}

// edit returns a draft that starts equal to x. x itself never changes.
func (x *index[K, V]) edit() *draft[K, V] { return &draft[K, V]{index: *x} }

// draft is an index that is being changed by one goroutine. Once it has been shared as an index it
// must not be changed any more.
type draft[K comparable, V any] struct {
	index[K, V]
	own [shards]bool
}

func (d *draft[K, V]) writable(key K) map[K]V {
	i := shardOf(key)
	if !d.own[i] {
		d.own[i] = true
		d.shards[i] = maps.Clone(d.shards[i])
		if d.shards[i] == nil {
			d.shards[i] = map[K]V{}
		}
	}
	return d.shards[i]
}

func (d *draft[K, V]) set(key K, value V) { d.writable(key)[key] = value }

func (d *draft[K, V]) remove(key K) {
	if d.has(key) {
		delete(d.writable(key), key)
	}
}
