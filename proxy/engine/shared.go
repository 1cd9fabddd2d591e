package engine

import (
	"fmt"
	"maps"
	"slices"
)

// shared is a map whose published states never change: the first change after a publication copies it.
// The zero value is empty.
type shared[K comparable, V any] struct {
	m   map[K]V
	own bool
}

func (s *shared[K, V]) get(key K) V { return s.m[key] }

func (s *shared[K, V]) set(key K, value V) {
	s.copy()
	s.m[key] = value
}

func (s *shared[K, V]) remove(key K) {
	if _, ok := s.m[key]; ok {
		s.copy()
		delete(s.m, key)
	}
}

func (s *shared[K, V]) copy() {
	if s.own {
		return
	}
	s.own = true
	s.m = maps.Clone(s.m)
	if s.m == nil {
		s.m = map[K]V{}
	}
}

// changed tells whether s differs from what was published last.
func (s *shared[K, V]) changed() bool { return s.own }

// publish returns the present state.
func (s *shared[K, V]) publish() map[K]V {
	s.own = false
	return s.m
}

// queue holds keys in the order of their arrival, at most maxDeparted.
type queue struct{ keys []string }

// push appends key. If the queue was full the oldest key makes room and is returned.
func (q *queue) push(key string) (oldest string, full bool) {
	q.remove(key)
	q.keys = append(q.keys, key)
	if len(q.keys) <= maxDeparted {
		return "", false
	}
	oldest = q.keys[0]
	q.keys = slices.Delete(q.keys, 0, 1)
	return oldest, true
}

func (q *queue) remove(key string) {
	if i := slices.Index(q.keys, key); i >= 0 {
		q.keys = slices.Delete(q.keys, i, i+1)
	}
}

// numberTakenError says that two destinations claim one number.
type numberTakenError struct {
	number uint16
	holder string
}

func (e numberTakenError) Error() string {
	return fmt.Sprintf("number %d belongs to %s", e.number, e.holder)
}
