package compile

import "slices"

// index leads from what others depend on to those that do, each once.
type index[K, V comparable] map[K][]V

func (x index[K, V]) add(k K, v V) { x[k] = append(x[k], v) }

func (x index[K, V]) drop(k K, v V) {
	list := x[k]
	at := slices.Index(list, v)
	switch {
	case at < 0:
	case len(list) == 1:
		delete(x, k)
	default:
		last := len(list) - 1
		list[at] = list[last]
		clear(list[last:])
		x[k] = list[:last]
	}
}

// move lets v depend on after instead of before and returns what it depends on, or has depended on, and not both.
// Neither list has anything twice.
func (x index[K, V]) move(v V, before, after []K) (changed []K) {
	gone, come := differences(before, after)
	for _, k := range gone {
		x.drop(k, v)
	}
	for _, k := range come {
		x.add(k, v)
	}
	return append(gone, come...)
}

// tally counts.
type tally[K comparable] map[K]int

// move counts after instead of before and returns what is there now and was not, or the other way round. Neither list
// has anything twice.
func (t tally[K]) move(before, after []K) (changed []K) {
	gone, come := differences(before, after)
	for _, k := range gone {
		if t[k]--; t[k] == 0 {
			delete(t, k)
			changed = append(changed, k)
		}
	}
	for _, k := range come {
		if t[k]++; t[k] == 1 {
			changed = append(changed, k)
		}
	}
	return changed
}

// few is how many of a list are looked through quicker than a map is made.
const few = 16

// differences returns what is in before alone and what is in after alone.
func differences[K comparable](before, after []K) (gone, come []K) {
	return except(before, after), except(after, before)
}

// except returns what of all is not among others.
func except[K comparable](all, others []K) []K {
	var out []K
	if len(others) <= few {
		for _, k := range all {
			if !slices.Contains(others, k) {
				out = append(out, k)
			}
		}
		return out
	}
	in := make(map[K]bool, len(others))
	for _, k := range others {
		in[k] = true
	}
	for _, k := range all {
		if !in[k] {
			out = append(out, k)
		}
	}
	return out
}

// distinct is a list that has nothing twice.
type distinct[K comparable] struct {
	list []K
	in   map[K]bool
}

func (d *distinct[K]) add(k K) {
	if len(d.list) < few {
		if !slices.Contains(d.list, k) {
			d.list = append(d.list, k)
		}
		return
	}
	if d.in == nil {
		d.in = make(map[K]bool, 2*few)
		for _, k := range d.list {
			d.in[k] = true
		}
	}
	if !d.in[k] {
		d.in[k] = true
		d.list = append(d.list, k)
	}
}
