package http

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// candidate is one match of a rule, compiled.
type candidate struct {
	rule  *Rule
	match int

	// One of the following says what the path must be: exact, path or prefix for HTTP; grpc, or
	// serviceRE and rpcRE, for gRPC. prefix has no trailing slash and is empty for "/".
	exact, prefix    string
	path             *regexp.Regexp
	grpc             grpcMethod
	serviceRE, rpcRE *regexp.Regexp

	// method is an HTTP method, empty for all.
	method           string
	headers, queries []condition
}

// holds tells whether a request that came to the list of c satisfies all that the list does not.
func (c *candidate) holds(req *Request) bool {
	if c.method != "" && c.method != req.Method && !c.answersPreflight(req) {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].holds(req) {
			return false
		}
	}
	for i := range c.queries {
		if !c.queries[i].holds(req) {
			return false
		}
	}
	return (c.path == nil || c.path.MatchString(req.Path)) && c.matchesGRPC(req.Path)
}

// answersPreflight tells whether the request asks leave for the method of c, of a rule that answers
// such questions. Otherwise a rule for one method could never answer its own preflight requests.
func (c *candidate) answersPreflight(req *Request) bool {
	return c.rule.cors && isPreflight(req) && c.method == req.Header.Get(headerRequestMethod)
}

// compareCandidates orders matches that say the same about the path by precedence.
func compareCandidates(a, b *candidate) int {
	byMethod := 0
	switch {
	case a.method != "" && b.method == "":
		byMethod = -1
	case a.method == "" && b.method != "":
		byMethod = 1
	}
	return cmp.Or(
		byMethod,
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.queries), len(a.queries)),
		a.rule.route.Created.Compare(b.rule.route.Created),
		strings.Compare(a.rule.fullName, b.rule.fullName),
		cmp.Compare(a.rule.route.Rule, b.rule.route.Rule),
		cmp.Compare(a.match, b.match),
	)
}

// candidates are matches that say the same about the path. The zero value is empty; add and finish
// fill it, find works afterwards. A nil pointer finds nothing.
type candidates struct {
	// list is in order of precedence.
	list []*candidate
	// groups and rest hold positions in list, ascending; they are used for long lists alone.
	groups []group
	rest   []int
}

// group holds the candidates that want an exact value of one header or query parameter.
type group struct {
	key     conditionKey
	byValue map[string][]int
}

// groupFrom is the length from which on a list is grouped: walking a short one costs less.
const groupFrom = 9

func (cs *candidates) add(c *candidate) { cs.list = append(cs.list, c) }

// finish sorts the list and groups a long one, so that many rules that share a path and differ in one
// header (a tenant, a version) do not cost a walk over all of them.
func (cs *candidates) finish() {
	slices.SortFunc(cs.list, compareCandidates)
	if len(cs.list) < groupFrom {
		return
	}
	uses := map[conditionKey]int{}
	for _, c := range cs.list {
		for _, cond := range c.exactConditions() {
			uses[cond.key]++
		}
	}
	positions := map[conditionKey]int{}
	for i, c := range cs.list {
		// The key that most candidates share keeps the number of groups small.
		var best condition
		for _, cond := range c.exactConditions() {
			if uses[cond.key] > uses[best.key] {
				best = cond
			}
		}
		if best.key.name == "" {
			cs.rest = append(cs.rest, i)
			continue
		}
		g, ok := positions[best.key]
		if !ok {
			g = len(cs.groups)
			positions[best.key] = g
			cs.groups = append(cs.groups, group{key: best.key, byValue: map[string][]int{}})
		}
		byValue := cs.groups[g].byValue
		byValue[best.exact] = append(byValue[best.exact], i)
	}
}

// exactConditions returns the conditions that ask for one value.
func (c *candidate) exactConditions() []condition {
	conds := slices.Concat(c.headers, c.queries)
	return slices.DeleteFunc(conds, func(c condition) bool { return c.regex != nil })
}

// find returns the first candidate that holds.
func (cs *candidates) find(req *Request) *candidate {
	if cs == nil {
		return nil
	}
	if cs.groups == nil {
		for _, c := range cs.list {
			if c.holds(req) {
				return c
			}
		}
		return nil
	}
	return cs.findGrouped(req)
}

// findGrouped merges the lists of positions that can hold, lowest position first.
func (cs *candidates) findGrouped(req *Request) *candidate {
	var few [4][]int
	lists := append(few[:0], cs.rest)
	for i := range cs.groups {
		g := &cs.groups[i]
		if value, ok := g.key.lookup(req); ok {
			if list := g.byValue[value]; list != nil {
				lists = append(lists, list)
			}
		}
	}
	for {
		next := -1
		for i, list := range lists {
			if len(list) > 0 && (next < 0 || list[0] < lists[next][0]) {
				next = i
			}
		}
		if next < 0 {
			return nil
		}
		if c := cs.list[lists[next][0]]; c.holds(req) {
			return c
		}
		lists[next] = lists[next][1:]
	}
}

// prefixNode is a node of a trie by path segment: the prefixes that end here and those that go on.
type prefixNode struct {
	candidates
	parent   *prefixNode
	children map[string]*prefixNode
}

// insert returns the node of a prefix without trailing slash.
func (n *prefixNode) insert(prefix string) *prefixNode {
	for rest := prefix; rest != ""; {
		var segment string
		segment, rest = cutSegment(rest)
		child := n.children[segment]
		if child == nil {
			if n.children == nil {
				n.children = map[string]*prefixNode{}
			}
			child = &prefixNode{parent: n}
			n.children[segment] = child
		}
		n = child
	}
	return n
}

// find returns the first candidate of the longest prefix that has one. All prefixes of one path lie on
// one branch, so the deepest node is the one with the most characters.
func (n *prefixNode) find(req *Request) *candidate {
	rest := req.Path
	if rest == "*" {
		rest = ""
	}
	for rest != "" && n.children != nil {
		var segment string
		segment, rest = cutSegment(rest)
		child := n.children[segment]
		if child == nil {
			break
		}
		n = child
	}
	for ; n != nil; n = n.parent {
		if c := n.candidates.find(req); c != nil {
			return c
		}
	}
	return nil
}

func (n *prefixNode) finish() {
	n.candidates.finish()
	for _, child := range n.children {
		child.finish()
	}
}

// cutSegment takes the first segment off a path that begins with a slash: "/a/b" gives "a" and "/b".
func cutSegment(path string) (segment, rest string) {
	path = path[1:]
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}
