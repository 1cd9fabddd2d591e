package http

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// Table chooses the rule that a request to one destination takes, in the order of precedence that the
// Gateway API sets for HTTPRouteRule.matches and GRPCRouteRule.matches:
//
//   - an HTTP path that is equal, then one that a regular expression matches, then the longest prefix.
//     Where regular expressions stand is left to implementations; a prefix is how a route says
//     "everything else", so it comes last;
//   - a gRPC match with the longest service, then the longest method, then regular expressions, then a
//     match that names neither;
//   - then a match on the HTTP method, then the most header matches, then the most query matches;
//   - then the oldest route, the first by "namespace/name", the first rule, the first match.
//
// A Table is immutable and safe for concurrent use. Finding an equal path, a prefix, a service or a
// method costs the same however many rules there are; regular expressions are tried one by one.
type Table struct {
	exact   map[string]*candidates
	regexes candidates
	root    *prefixNode
	grpc    methodIndex
	// compiled has the matches of each route.
	compiled map[*wire.Route][]*candidate
}

// Matched tells how a request came to its rule.
type Matched struct {
	// Match is the index in the rule's Matches.
	Match int
	// Prefix is the part of the path that a prefix match covers, without a trailing slash unless it is
	// "/"; empty if the path was matched in another way. It is what ReplacePrefixMatch replaces.
	Prefix string
}

// RouteError says why a route is not in a Table.
type RouteError struct {
	Ref wire.Ref
	Err error
}

func (e RouteError) Error() string { return fmt.Sprintf("%s: %v", e.Ref, e.Err) }

// Unwrap returns the reason alone.
func (e RouteError) Unwrap() error { return e.Err }

// NewTable compiles the rules attached to one destination: the consumer routes of one namespace or the
// producer routes, which never compete with each other (GEP-1294). The order of routes is of no
// consequence. A rule that does not compile is reported and left out; the others work. The table keeps
// references to routes, which must not change any more.
func NewTable(routes []*wire.Route) (*Table, []RouteError) { return new(Table).Next(routes) }

// Next is NewTable for the routes that come after those of t. What of them is in t already, by its address, is not
// compiled again, but filed alone.
func (t *Table) Next(routes []*wire.Route) (*Table, []RouteError) {
	before := t.compiled
	t = &Table{exact: map[string]*candidates{}, root: &prefixNode{}, compiled: make(map[*wire.Route][]*candidate, len(routes))}
	var failed []RouteError
	for _, route := range routes {
		cs, known := before[route]
		if !known {
			rule, compiled, err := compileRoute(route)
			if err != nil {
				ref := wire.Ref{Kind: wire.KindRoute, Key: route.Key()}
				failed = append(failed, RouteError{Ref: ref, Err: err})
				continue
			}
			for _, c := range compiled {
				c.rule = rule
			}
			cs = compiled
		}
		t.compiled[route] = cs
		for _, c := range cs {
			t.add(c)
		}
	}
	for _, cs := range t.exact {
		cs.finish()
	}
	t.regexes.finish()
	t.root.finish()
	t.grpc.finish()
	return t, failed
}

// Attached returns those of the routes attached to a destination that compete for its requests: consumer
// routes hide all producer routes (GEP-1294), and opaque bytes have none. The argument is not changed.
func Attached(protocol wire.Protocol, routes []*wire.Route) []*wire.Route {
	if protocol == wire.ProtocolTCP {
		return nil
	}
	if slices.ContainsFunc(routes, func(r *wire.Route) bool { return r.Consumer }) {
		return slices.DeleteFunc(slices.Clone(routes), func(r *wire.Route) bool { return !r.Consumer })
	}
	return routes
}

// Check returns why a rule does not compile, or nil. What passes is never reported by NewTable.
func Check(route *wire.Route) error {
	_, _, err := compileRoute(route)
	return err
}

// Match returns the rule for a request whose path is normalised, nil if no rule matches. A destination
// with routes answers such a request itself, with 404 or gRPC's UNIMPLEMENTED (GEP-1294).
//
// Should routes of both kinds be attached, which the control plane prevents, GRPCRoutes come first.
func (t *Table) Match(req *Request) (*Rule, Matched) {
	if c := t.grpc.find(req); c != nil {
		return c.rule, Matched{Match: c.match}
	}
	if c := t.exact[req.Path].find(req); c != nil {
		return c.rule, Matched{Match: c.match}
	}
	if c := t.regexes.find(req); c != nil {
		return c.rule, Matched{Match: c.match}
	}
	if c := t.root.find(req); c != nil {
		return c.rule, Matched{Match: c.match, Prefix: cmp.Or(c.prefix, "/")}
	}
	return nil, Matched{}
}

// add files a candidate under what it says about the path.
func (t *Table) add(c *candidate) {
	switch {
	case c.rule.route.Kind == wire.RouteGRPC:
		t.grpc.add(c)
	case c.path != nil:
		t.regexes.add(c)
	case c.exact != "":
		cs := t.exact[c.exact]
		if cs == nil {
			cs = &candidates{}
			t.exact[c.exact] = cs
		}
		cs.add(c)
	default:
		t.root.insert(c.prefix).add(c)
	}
}

// compileRoute returns a rule and one candidate per match, or why it cannot be used.
func compileRoute(route *wire.Route) (*Rule, []*candidate, error) {
	rule, err := newRule(route)
	if err != nil {
		return nil, nil, err
	}
	cs := make([]*candidate, 0, len(route.Matches))
	for i := range route.Matches {
		c, err := newCandidate(route.Kind, &route.Matches[i])
		if err != nil {
			return nil, nil, fmt.Errorf("match %d: %w", i, err)
		}
		c.match = i
		cs = append(cs, c)
	}
	return rule, cs, nil
}

// newCandidate compiles the conditions of a match.
func newCandidate(kind wire.RouteKind, m *wire.Match) (*candidate, error) {
	c := &candidate{method: m.Method}
	var err error
	switch {
	case kind == wire.RouteGRPC && m.Path != nil, kind == wire.RouteHTTP && m.GRPC != nil:
		err = fmt.Errorf("path and gRPC matches do not belong to a rule of kind %s", kind)
	case kind == wire.RouteGRPC:
		err = c.setGRPC(m.GRPC)
	case kind == wire.RouteHTTP:
		err = c.setPath(m.Path)
	default:
		err = fmt.Errorf("unknown route kind %q", kind)
	}
	if err != nil {
		return nil, err
	}
	if c.headers, err = newConditions(fromHeader, m.Headers); err != nil {
		return nil, fmt.Errorf("header %w", err)
	}
	if c.queries, err = newConditions(fromQuery, m.Query); err != nil {
		return nil, fmt.Errorf("query parameter %w", err)
	}
	return c, nil
}

// setPath compiles a path match; none stands for the prefix "/". Values are normalised like the paths
// of requests, or "/%7Ea" would never match.
func (c *candidate) setPath(m *wire.ValueMatch) error {
	if m == nil {
		return nil
	}
	var err error
	switch m.Type {
	case wire.MatchRegex:
		c.path, err = compileRegex(m.Value)
	case wire.MatchExact:
		c.exact, err = NormalizePath(m.Value)
	case wire.MatchPrefix:
		c.prefix, err = NormalizePath(m.Value)
		c.prefix = strings.TrimSuffix(c.prefix, "/")
	default:
		err = errMatchType(m.Type)
	}
	if err != nil {
		return fmt.Errorf("path %q: %w", m.Value, err)
	}
	return nil
}

func errMatchType(t wire.MatchType) error { return fmt.Errorf("match type %q is not supported", t) }

var errEmptyRegex = errors.New("empty regular expression")

// compileRegex returns an expression that matches whole values only.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, errEmptyRegex
	}
	// Compiled alone first, or "a)|(b" would pass once it stands in a group.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}
