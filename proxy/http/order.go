package http

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Ordered is one match of a rule in the order in which a Table prefers them.
type Ordered struct {
	Rule  *Rule
	Match int
}

// Order lists all matches for people to read. Of two that a request satisfies both, the first takes it; what no
// request can satisfy both of is in order of its text. It walks everything, and is not for serving requests.
func (t *Table) Order() []Ordered {
	var lists []*candidates
	for _, key := range slices.SortedFunc(maps.Keys(t.grpc.exact), compareMethods) {
		lists = append(lists, t.grpc.exact[key])
	}
	lists = append(lists, &t.grpc.regexes, &t.grpc.any)
	for _, path := range slices.Sorted(maps.Keys(t.exact)) {
		lists = append(lists, t.exact[path])
	}
	lists = append(lists, &t.regexes)
	lists = append(lists, t.root.longestFirst()...)
	var ordered []Ordered
	for _, list := range lists {
		for _, c := range list.list {
			ordered = append(ordered, Ordered{Rule: c.rule, Match: c.match})
		}
	}
	return ordered
}

// compareMethods puts what names both before a service, and that before a method.
func compareMethods(a, b grpcMethod) int {
	rank := func(m grpcMethod) int {
		switch {
		case m.service != "" && m.method != "":
			return 0
		case m.service != "":
			return 1
		default:
			return 2
		}
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.service, b.service), strings.Compare(a.method, b.method))
}

// longestFirst returns the lists of a prefix and of all below it, which are longer.
func (n *prefixNode) longestFirst() []*candidates {
	var lists []*candidates
	for _, segment := range slices.Sorted(maps.Keys(n.children)) {
		lists = append(lists, n.children[segment].longestFirst()...)
	}
	if len(n.list) > 0 {
		lists = append(lists, &n.candidates)
	}
	return lists
}
