package compile

import (
	"cmp"
	"maps"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// numbering gives out the lowest free numbers.
type numbering struct {
	given Numbers
	// holders has whom each number was given to.
	holders map[uint16]NumberKey
	// next is where to look for a free number: there is none below.
	next int
}

// newNumbering returns a numbering in which the given numbers are taken.
//
// A number that is out of range or given twice would send connections to the wrong Service, so such an
// entry is dropped and its destination is numbered anew.
func newNumbering(given Numbers) numbering {
	n := numbering{given: make(Numbers, len(given)), holders: make(map[uint16]NumberKey, len(given)), next: wire.MinNumber}
	for _, key := range slices.SortedFunc(maps.Keys(given), compareNumberKeys) {
		number := given[key]
		if number < wire.MinNumber || n.taken(number) {
			continue
		}
		n.give(key, number)
	}
	return n
}

func (n *numbering) clone() numbering {
	out := *n
	out.given, out.holders = maps.Clone(n.given), maps.Clone(n.holders)
	return out
}

func (n *numbering) taken(number uint16) bool {
	_, taken := n.holders[number]
	return taken
}

func (n *numbering) give(key NumberKey, number uint16) { n.given[key], n.holders[number] = number, key }

// want returns the number of a destination, which may be a new one; 0 if no number is left.
func (n *numbering) want(key NumberKey) (number uint16, fresh bool) {
	if number, ok := n.given[key]; ok {
		return number, false
	}
	for n.next <= wire.MaxNumber && n.taken(uint16(n.next)) {
		n.next++
	}
	if n.next > wire.MaxNumber {
		return 0, false
	}
	n.give(key, uint16(n.next))
	return n.given[key], true
}

// forget lets a number be given out again.
func (n *numbering) forget(key NumberKey) bool {
	number, ok := n.given[key]
	if ok {
		delete(n.given, key)
		delete(n.holders, number)
		n.next = min(n.next, int(number))
	}
	return ok
}

func compareNumberKeys(a, b NumberKey) int {
	return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Port, b.Port))
}
