// Package held owns what a client of the configuration stream has in force: each resource once, in little room, for all
// that need to know. It must not judge resources, nor put them into force.
package held

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	"weft.dev/weft/proxy/wire"
)

// Set is what is in force. Its zero value is empty. Its methods may be called at any time; it must not be copied.
type Set struct {
	mu sync.Mutex
	// kinds are sorted by key: a map would take half as much again.
	kinds map[wire.Kind][]entry
	froms map[from]*from
	// odd are versions that are no hashes.
	odd map[wire.Ref]string
}

// entry is a resource.
type entry struct {
	// name is that of its origin.
	key, name string
	version   [versionBytes]byte
	from      *from
	content   any
}

// versionBytes is the length of the hashes that wire.New makes.
const versionBytes = 8

// from is where resources come from, and who may have them: it is the same for many.
type from struct {
	scope  wire.Scope
	origin wire.Origin // without a name
}

// Apply takes in a delta that is in force except for what was rejected, of which the previous version stays. It keeps
// the contents, which nobody may change.
func (s *Set) Apply(d wire.Delta, rejected []wire.Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds == nil {
		s.kinds, s.froms, s.odd = map[wire.Kind][]entry{}, map[from]*from{}, map[wire.Ref]string{}
	}
	refused := make(map[wire.Ref]bool, len(rejected))
	for _, r := range rejected {
		refused[r.Ref] = true
	}
	for _, ref := range d.Removed {
		if at, known := s.find(ref); known {
			s.kinds[ref.Kind] = slices.Delete(s.kinds[ref.Kind], at, at+1)
			delete(s.odd, ref)
		}
	}
	fresh := map[wire.Kind][]entry{}
	for i := range d.Upserted {
		r := &d.Upserted[i]
		if refused[r.Ref] {
			continue
		}
		if at, known := s.find(r.Ref); known {
			s.kinds[r.Kind][at] = s.entry(r)
		} else {
			fresh[r.Kind] = append(fresh[r.Kind], s.entry(r))
		}
	}
	for kind, more := range fresh {
		s.kinds[kind] = merge(s.kinds[kind], more)
	}
}

// find returns where a resource is, or should be.
func (s *Set) find(ref wire.Ref) (at int, known bool) {
	return slices.BinarySearchFunc(s.kinds[ref.Kind], ref.Key, func(e entry, key string) int { return strings.Compare(e.key, key) })
}

func (s *Set) entry(r *wire.Resource) entry {
	e := entry{key: r.Key, name: r.Origin.Name, content: r.Content()}
	at := from{r.Scope, r.Origin}
	at.origin.Name = ""
	if e.from = s.froms[at]; e.from == nil {
		e.from = &at
		s.froms[at] = e.from
	}
	delete(s.odd, r.Ref)
	if n, err := hex.Decode(e.version[:], []byte(r.Version)[:min(len(r.Version), 2*versionBytes)]); err != nil || n < versionBytes || hex.EncodeToString(e.version[:]) != r.Version {
		s.odd[r.Ref] = r.Version
	}
	return e
}

// merge returns entries with further ones, of which the last of a key counts.
func merge(entries, more []entry) []entry {
	all := append(append(make([]entry, 0, len(entries)+len(more)), entries...), more...)
	slices.SortStableFunc(all, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	kept := all[:0]
	for i := range all {
		if i+1 == len(all) || all[i].key != all[i+1].key {
			kept = append(kept, all[i])
		}
	}
	clear(all[len(kept):])
	return kept
}

// version is the one that a resource was received with.
func (s *Set) version(kind wire.Kind, e *entry) string {
	if odd, ok := s.odd[wire.Ref{Kind: kind, Key: e.key}]; ok {
		return odd
	}
	return hex.EncodeToString(e.version[:])
}

// Len is how many resources there are.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.len()
}

func (s *Set) len() int {
	n := 0
	for _, entries := range s.kinds {
		n += len(entries)
	}
	return n
}

// Versions are those in force, sorted.
func (s *Set) Versions() []wire.Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]wire.Held, 0, s.len())
	for kind, entries := range s.kinds {
		for i := range entries {
			out = append(out, wire.Held{Ref: wire.Ref{Kind: kind, Key: entries[i].key}, Version: s.version(kind, &entries[i])})
		}
	}
	slices.SortFunc(out, func(a, b wire.Held) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key)) })
	return out
}

// Get returns the resource of a Ref, and whether there is one.
func (s *Set) Get(ref wire.Ref) (wire.Resource, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.find(ref)
	if !known {
		return wire.Resource{}, false
	}
	e := &s.kinds[ref.Kind][at]
	r := wire.Resource{Ref: ref, Scope: e.from.scope, Origin: e.from.origin, Version: s.version(ref.Kind, e)}
	r.Origin.Name = e.name
	r.SetContent(e.content)
	return r, true
}
