package upstream

import (
	"net/netip"
)

// tableSize is the number of slots of every Maglev table, a prime. It does not depend on the number of
// endpoints: a table of another size would move nearly every key. With a hundred slots or more for each
// endpoint (up to 655 of them) their shares differ by about one percent.
const tableSize = 65537

// consistentHash keeps requests of one hash on one member, the same in every proxy, and moves few of them
// when members come and go (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
// NSDI 2016, section 3.4). A member that will not do keeps its slots; meanwhile each of its hashes has
// another member by rendezvous hashing, so that no other hash moves and all come back afterwards.
//
// Slow start does not apply: it would send one hash to different members. A request without a hash is
// balanced by peakEWMA.
type consistentHash struct{}

func (consistentHash) pick(r *ring, c choice) *member {
	if !c.wish.Hashed {
		return peakEWMA{}.pick(r, c)
	}
	if m := r.slot(c.wish.Hash); c.usable(m) {
		return m
	}
	var chosen *member
	var highest uint64
	for _, m := range r.members {
		if !c.usable(m) {
			continue
		}
		if score := mix(c.wish.Hash ^ m.id); chosen == nil || score > highest {
			chosen, highest = m, score
		}
	}
	return chosen
}

// slot returns the member that a hash belongs to.
func (r *ring) slot(hash uint64) *member {
	if len(r.members) == 1 {
		return r.members[0]
	}
	r.tabulate()
	return r.members[r.table[hash%tableSize]]
}

// tabulate makes the ring's table, which takes about two milliseconds and 256 KiB. That of all endpoints is
// made with them, so that no request waits for it; those of zones and nodes, of which there may be many,
// when a request from there comes.
func (r *ring) tabulate() {
	if len(r.members) > 1 {
		r.tabled.Do(func() { r.table = maglev(r.members) })
	}
}

// maglev returns the index of a member for each slot. Members take turns in claiming the slot that is next
// in their own permutation of all slots and not taken yet.
func maglev(members []*member) []uint32 {
	const free = ^uint32(0)
	table := make([]uint32, tableSize)
	for i := range table {
		table[i] = free
	}
	type permutation struct{ index, at, skip uint32 }
	order := make([]permutation, len(members))
	for i, m := range members {
		order[i] = permutation{
			index: uint32(i), at: uint32(mix(m.id) % tableSize), skip: uint32(mix(m.id+1)%(tableSize-1)) + 1,
		}
	}
	for taken := 0; ; {
		for i := range order {
			o := &order[i]
			for table[o.at] != free {
				o.at = (o.at + o.skip) % tableSize
			}
			table[o.at] = o.index
			if taken++; taken == tableSize {
				return table
			}
		}
	}
}

// Hash returns the hash of what a client is known by, for Wish.Hash. It is the same in every proxy.
func Hash(value string) uint64 {
	// FNV-1a. Its last bytes reach only the lower half of the result, hence mix.
	hash := uint64(14695981039346656037)
	for i := range len(value) {
		hash = (hash ^ uint64(value[i])) * 1099511628211
	}
	return mix(hash)
}

// HashAddress is Hash of an address.
func HashAddress(address netip.Addr) uint64 {
	bytes := address.Unmap().As16()
	return Hash(string(bytes[:]))
}

// addressID returns the number that stands for an endpoint in hashes.
func addressID(address netip.AddrPort) uint64 {
	return mix(HashAddress(address.Addr()) + uint64(address.Port()))
}

// mix spreads a number over all 64 bits: the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
