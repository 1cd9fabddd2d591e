package http

import (
	"errors"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// httpRule returns the first rule of an HTTPRoute shop/name with the given matches.
func httpRule(name string, matches ...wire.Match) *wire.Route {
	return &wire.Route{Kind: wire.RouteHTTP, Namespace: "shop", Name: name, Matches: matches}
}

func grpcRule(name string, matches ...wire.Match) *wire.Route {
	return &wire.Route{Kind: wire.RouteGRPC, Namespace: "shop", Name: name, Matches: matches}
}

func onPath(t wire.MatchType, value string) wire.Match {
	return wire.Match{Path: &wire.ValueMatch{Type: t, Value: value}}
}

func onGRPC(t wire.MatchType, service, method string) wire.Match {
	return wire.Match{GRPC: &wire.GRPCMatch{Type: t, Service: service, Method: method}}
}

func exactly(name, value string) wire.NamedMatch {
	return wire.NamedMatch{Name: name, Type: wire.MatchExact, Value: value}
}

// mustTable compiles routes that all compile.
func mustTable(t testing.TB, routes ...*wire.Route) *Table {
	t.Helper()
	table, failed := NewTable(routes)
	for _, err := range failed {
		t.Fatal(err)
	}
	return table
}

// request returns a GET request with a target that is valid.
func request(t testing.TB, target string, header ...Field) *Request {
	t.Helper()
	req := &Request{Method: "GET", Scheme: "http", Authority: "echo", Header: header}
	if err := req.SetTarget(target); err != nil {
		t.Fatal(err)
	}
	return req
}

// chosen returns the name of the matching route, "" if there is none.
func chosen(table *Table, req *Request) string {
	rule, _ := table.Match(req)
	if rule == nil {
		return ""
	}
	return rule.Route().Name
}

func TestMatchPath(t *testing.T) {
	tests := map[string]struct {
		match     wire.Match
		matches   []string
		unmatched []string
	}{
		"exact": {
			match:     onPath(wire.MatchExact, "/abc"),
			matches:   []string{"/abc", "/abc?q", "/x/../abc", "/%61bc"},
			unmatched: []string{"/abc/", "/Abc", "/abcd", "/ab", "/", "//abc", "/abc%2F"},
		},
		"exact with a trailing slash": {
			match:     onPath(wire.MatchExact, "/abc/"),
			matches:   []string{"/abc/"},
			unmatched: []string{"/abc", "/abc//"},
		},
		"exact value with escapes": {
			match:     onPath(wire.MatchExact, "/%7Ea%3ab"),
			matches:   []string{"/~a%3Ab", "/%7ea%3ab"},
			unmatched: []string{"/~a:b"},
		},
		"prefix": {
			match:     onPath(wire.MatchPrefix, "/abc"),
			matches:   []string{"/abc", "/abc/", "/abc/def", "/abc//d"},
			unmatched: []string{"/abcd", "/Abc", "/", "/ab", "//abc", "/abc%2Fdef"},
		},
		"prefix with a trailing slash": {
			match:     onPath(wire.MatchPrefix, "/abc/"),
			matches:   []string{"/abc", "/abc/", "/abc/def"},
			unmatched: []string{"/abcd"},
		},
		"prefix of several segments": {
			match:     onPath(wire.MatchPrefix, "/a/b"),
			matches:   []string{"/a/b", "/a/b/c"},
			unmatched: []string{"/a", "/a/", "/a/bc", "/a//b"},
		},
		"prefix of everything": {
			match:   onPath(wire.MatchPrefix, "/"),
			matches: []string{"/", "/a", "//", "*"},
		},
		"no path stands for the prefix of everything": {
			matches: []string{"/", "/a/b", "*"},
		},
		"expression matches the whole path without the query": {
			match:     onPath(wire.MatchRegex, `/user/[0-9]+|/me`),
			matches:   []string{"/user/12", "/me", "/me?a=/b"},
			unmatched: []string{"/user/12/", "/user/x", "/a/me", "/user/", "/me/1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			table := mustTable(t, httpRule("r", tc.match))
			for _, target := range tc.matches {
				req := &Request{Method: "OPTIONS"}
				if err := req.SetTarget(target); err != nil {
					t.Fatal(err)
				}
				if chosen(table, req) == "" {
					t.Errorf("%q does not match", target)
				}
			}
			for _, target := range tc.unmatched {
				if chosen(table, request(t, target)) != "" {
					t.Errorf("%q matches", target)
				}
			}
		})
	}
}

func TestMatchedPrefix(t *testing.T) {
	tests := map[string]struct {
		match  wire.Match
		target string
		want   string
	}{
		"prefix":               {onPath(wire.MatchPrefix, "/foo"), "/foo/bar", "/foo"},
		"trailing slash":       {onPath(wire.MatchPrefix, "/foo/"), "/foo/bar", "/foo"},
		"the whole path":       {onPath(wire.MatchPrefix, "/foo"), "/foo", "/foo"},
		"everything":           {onPath(wire.MatchPrefix, "/"), "/foo", "/"},
		"escapes":              {onPath(wire.MatchPrefix, "/%7efoo"), "/%7Efoo/bar", "/~foo"},
		"not matched by one":   {onPath(wire.MatchExact, "/foo"), "/foo", ""},
		"nor by an expression": {onPath(wire.MatchRegex, "/.*"), "/foo", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rule, matched := mustTable(t, httpRule("r", tc.match)).Match(request(t, tc.target))
			if rule == nil || matched.Prefix != tc.want {
				t.Errorf("rule %v, prefix %q; want a rule and %q", rule, matched.Prefix, tc.want)
			}
		})
	}
}

func TestMatchConditions(t *testing.T) {
	tests := map[string]struct {
		match wire.Match
		req   Request
		want  bool
	}{
		"method":                     {wire.Match{Method: "GET"}, Request{Method: "GET"}, true},
		"other method":               {wire.Match{Method: "GET"}, Request{Method: "HEAD"}, false},
		"methods are case-sensitive": {wire.Match{Method: "GET"}, Request{Method: "get"}, false},

		"header":         {wire.Match{Headers: []wire.NamedMatch{exactly("Version", "two")}}, Request{Header: Header{{"vERSION", "two"}}}, true},
		"header's value": {wire.Match{Headers: []wire.NamedMatch{exactly("version", "two")}}, Request{Header: Header{{"version", "Two"}}}, false},
		"absent header":  {wire.Match{Headers: []wire.NamedMatch{exactly("version", "two")}}, Request{}, false},
		"both headers": {
			wire.Match{Headers: []wire.NamedMatch{exactly("a", "1"), exactly("b", "2")}},
			Request{Header: Header{{"b", "2"}, {"a", "1"}}}, true,
		},
		"one header of two": {
			wire.Match{Headers: []wire.NamedMatch{exactly("a", "1"), exactly("b", "2")}},
			Request{Header: Header{{"a", "1"}}}, false,
		},
		"repeated header is joined": {
			wire.Match{Headers: []wire.NamedMatch{exactly("a", "1,2")}},
			Request{Header: Header{{"a", "1"}, {"A", "2"}}}, true,
		},
		"repeated header is not its first value": {
			wire.Match{Headers: []wire.NamedMatch{exactly("a", "1")}},
			Request{Header: Header{{"a", "1"}, {"A", "2"}}}, false,
		},
		"split cookies are joined as cookies": {
			wire.Match{Headers: []wire.NamedMatch{exactly("Cookie", "a=1; b=2")}},
			Request{Header: Header{{"cookie", "a=1"}, {"cookie", "b=2"}}}, true,
		},
		"header expression matches the whole value": {
			wire.Match{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "b+"}}},
			Request{Header: Header{{"a", "bbc"}}}, false,
		},
		"header expression": {
			wire.Match{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "b+|c"}}},
			Request{Header: Header{{"a", "bbb"}}}, true,
		},
		"Host is the authority": {
			wire.Match{Headers: []wire.NamedMatch{exactly("Host", "echo:8080")}},
			Request{Authority: "echo:8080"}, true,
		},
		"of headers with one name the first counts": {
			wire.Match{Headers: []wire.NamedMatch{exactly("a", "1"), exactly("A", "2")}},
			Request{Header: Header{{"a", "1"}}}, true,
		},

		"query":                          {wire.Match{Query: []wire.NamedMatch{exactly("animal", "whale")}}, Request{RawQuery: "x=y&animal=whale"}, true},
		"query names are case-sensitive": {wire.Match{Query: []wire.NamedMatch{exactly("animal", "whale")}}, Request{RawQuery: "Animal=whale"}, false},
		"absent query":                   {wire.Match{Query: []wire.NamedMatch{exactly("animal", "whale")}}, Request{RawQuery: "animals=whale"}, false},
		"query is decoded":               {wire.Match{Query: []wire.NamedMatch{exactly("a b", "c&d e")}}, Request{RawQuery: "a+b=c%26d%20e"}, true},
		"broken escapes stand for themselves": {
			wire.Match{Query: []wire.NamedMatch{exactly("a", "%zz")}}, Request{RawQuery: "a=%zz"}, true,
		},
		"repeated query counts once, first": {
			wire.Match{Query: []wire.NamedMatch{exactly("a", "1")}}, Request{RawQuery: "a=1&a=2"}, true,
		},
		"repeated query does not count later": {
			wire.Match{Query: []wire.NamedMatch{exactly("a", "2")}}, Request{RawQuery: "a=1&a=2"}, false,
		},
		"query expression": {
			wire.Match{Query: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "b*"}}}, Request{RawQuery: "a"}, true,
		},
		"of queries with one name the first counts": {
			wire.Match{Query: []wire.NamedMatch{exactly("a", "1"), exactly("a", "2")}}, Request{RawQuery: "a=1"}, true,
		},
		"names of queries that differ in case are two": {
			wire.Match{Query: []wire.NamedMatch{exactly("a", "1"), exactly("A", "2")}}, Request{RawQuery: "a=1"}, false,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.req.Path = "/"
			if got := chosen(mustTable(t, httpRule("r", tc.match)), &tc.req) != ""; got != tc.want {
				t.Errorf("matches: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestMatchPrecedence holds one table per criterion: every route matches the request, "want" must win.
func TestMatchPrecedence(t *testing.T) {
	var (
		early = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		late  = early.Add(time.Second)
		a     = []wire.NamedMatch{exactly("a", "1")}
		ab    = []wire.NamedMatch{exactly("a", "1"), exactly("b", "2")}
		aa    = []wire.NamedMatch{exactly("a", "1"), exactly("A", "1"), exactly("a", "3")}
	)
	with := func(r *wire.Route, change func(*wire.Route)) *wire.Route {
		change(r)
		return r
	}
	created := func(r *wire.Route, at time.Time) *wire.Route {
		return with(r, func(r *wire.Route) { r.Created = at })
	}
	tests := map[string][]*wire.Route{
		"exact before expression": {
			httpRule("want", onPath(wire.MatchExact, "/x/y")),
			httpRule("a", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchRegex, Value: "/x/.*"}, Method: "GET", Headers: ab}),
		},
		"exact before prefix": {
			httpRule("want", onPath(wire.MatchExact, "/x/y")),
			httpRule("a", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/x/y"}, Method: "GET", Headers: ab}),
		},
		"expression before prefix": {
			httpRule("want", onPath(wire.MatchRegex, "/.*")),
			httpRule("a", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/x/y"}, Method: "GET"}),
		},
		"length of an expression says nothing": {
			httpRule("want", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchRegex, Value: "/.*"}, Headers: a}),
			httpRule("a", onPath(wire.MatchRegex, "/[x]/[y]|/long")),
		},
		"longer prefix": {
			httpRule("want", onPath(wire.MatchPrefix, "/x")),
			httpRule("a", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/"}, Method: "GET", Headers: ab, Query: ab}),
		},
		"trailing slash is no character": {
			httpRule("want", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/x"}, Headers: a}),
			httpRule("a", onPath(wire.MatchPrefix, "/x/")),
		},
		"method before headers": {
			httpRule("want", wire.Match{Method: "GET"}),
			httpRule("a", wire.Match{Headers: ab, Query: ab}),
		},
		"more headers": {
			httpRule("want", wire.Match{Headers: ab}),
			httpRule("a", wire.Match{Headers: a, Query: ab}),
		},
		"repeated header matches are one": {
			httpRule("want", wire.Match{Headers: ab}),
			httpRule("a", wire.Match{Headers: aa}),
		},
		"more queries": {
			created(httpRule("want", wire.Match{Query: ab}), late),
			created(httpRule("a", wire.Match{Query: a}), early),
		},
		"older route": {
			created(httpRule("want", wire.Match{}), early),
			created(httpRule("a", wire.Match{}), late),
		},
		"namespace and name": {
			with(httpRule("want", wire.Match{}), func(r *wire.Route) { r.Namespace = "a-b" }),
			with(httpRule("b", wire.Match{}), func(r *wire.Route) { r.Namespace = "a-c" }),
		},
		"namespace and name are one string": {
			// "a-b/z" sorts before "a/b", as '-' sorts before '/'.
			with(httpRule("want", wire.Match{}), func(r *wire.Route) { r.Namespace = "a-b" }),
			with(httpRule("b", wire.Match{}), func(r *wire.Route) { r.Namespace = "a" }),
		},
		"gRPC service and method before service": {
			grpcRule("want", onGRPC(wire.MatchExact, "p.S", "M")),
			grpcRule("a", wire.Match{GRPC: &wire.GRPCMatch{Type: wire.MatchExact, Service: "p.S"}, Headers: ab}),
		},
		"gRPC service before method": {
			grpcRule("want", onGRPC(wire.MatchExact, "p.S", "")),
			grpcRule("a", wire.Match{GRPC: &wire.GRPCMatch{Type: wire.MatchExact, Method: "M"}, Headers: ab}),
		},
		"gRPC method before expression": {
			grpcRule("want", onGRPC(wire.MatchExact, "", "M")),
			grpcRule("a", wire.Match{GRPC: &wire.GRPCMatch{Type: wire.MatchRegex, Service: "p.S", Method: "M"}, Headers: ab}),
		},
		"gRPC expression before everything": {
			grpcRule("want", onGRPC(wire.MatchRegex, ".*", "")),
			grpcRule("a", wire.Match{Headers: ab}),
		},
		"gRPC headers": {
			grpcRule("want", wire.Match{Headers: ab}),
			grpcRule("a", wire.Match{Headers: a}),
		},
		"gRPC route before HTTP route": {
			grpcRule("want", wire.Match{}),
			httpRule("a", onPath(wire.MatchExact, "/p.S/M")),
		},
	}
	for name, routes := range tests {
		t.Run(name, func(t *testing.T) {
			target := "/x/y?a=1&b=2"
			if routes[0].Kind == wire.RouteGRPC {
				target = "/p.S/M"
			}
			req := request(t, target, Field{"a", "1"}, Field{"b", "2"})
			for _, r := range routes {
				if chosen(mustTable(t, r), req) == "" {
					t.Fatalf("route %s alone does not match, so the case says nothing", r.Name)
				}
			}
			for range 2 {
				if got := chosen(mustTable(t, routes...), req); got != "want" {
					t.Errorf("%q wins", got)
				}
				slices.Reverse(routes)
			}
		})
	}
}

func TestMatchPrecedenceWithinARoute(t *testing.T) {
	second := httpRule("r", wire.Match{}, wire.Match{})
	second.Rule = 1
	table := mustTable(t, second, httpRule("r", onPath(wire.MatchExact, "/other"), wire.Match{}, wire.Match{}))
	rule, matched := table.Match(request(t, "/x"))
	if rule == nil || rule.Route().Rule != 0 || matched.Match != 1 {
		t.Fatalf("%v, match %d; want the first rule's second match, the first that holds", rule, matched.Match)
	}
}

// TestMatchFallsBack: a better path whose other conditions fail does not hide a worse one.
func TestMatchFallsBack(t *testing.T) {
	header := []wire.NamedMatch{exactly("v", "2")}
	table := mustTable(t,
		httpRule("exact", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchExact, Value: "/a/b"}, Headers: header}),
		httpRule("long", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/a/b"}, Method: "POST"}),
		httpRule("short", wire.Match{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/a"}, Query: header}),
		httpRule("all", wire.Match{}),
	)
	post := request(t, "/a/b")
	post.Method = "POST"
	for want, req := range map[string]*Request{
		"exact": request(t, "/a/b", Field{"v", "2"}),
		"long":  post,
		"short": request(t, "/a/b/c?v=2"),
		"all":   request(t, "/a/b"),
	} {
		if got := chosen(table, req); got != want {
			t.Errorf("%s %s takes %q, want %q", req.Method, req.Target(), got, want)
		}
	}
}

func TestMatchGRPCNeedsTwoSegments(t *testing.T) {
	table := mustTable(t, grpcRule("service", onGRPC(wire.MatchExact, "p.S", "")), grpcRule("re", onGRPC(wire.MatchRegex, "q.*", "")))
	for target, want := range map[string]string{
		"/p.S/M": "service", "/p.S": "", "/p.S/": "", "/p.S/M/x": "", "//M": "", "/": "",
		"/q.S/M": "re", "/q.S": "", "/xq.S/M": "",
	} {
		if got := chosen(table, request(t, target)); got != want {
			t.Errorf("%s takes %q, want %q", target, got, want)
		}
	}
}

func TestNothingMatches(t *testing.T) {
	for name, table := range map[string]*Table{
		"no routes":              mustTable(t),
		"a rule without matches": mustTable(t, grpcRule("r"), httpRule("s")),
	} {
		if got := chosen(table, request(t, "/a")); got != "" {
			t.Errorf("%s: a request takes %q", name, got)
		}
	}
}

func TestNewTableReportsWhatDoesNotCompile(t *testing.T) {
	bad := httpRule("bad", wire.Match{}, onPath(wire.MatchRegex, "/("))
	bad.Rule, bad.Consumer = 2, true
	good := httpRule("good", onPath(wire.MatchPrefix, "/"))

	table, failed := NewTable([]*wire.Route{bad, good})

	if len(failed) != 1 {
		t.Fatalf("%d routes reported, want one: %v", len(failed), failed)
	}
	wantRef := wire.Ref{Kind: wire.KindRoute, Key: "HTTPRoute/shop/bad/2@consumer"}
	if diff := cmp.Diff(wantRef, failed[0].Ref); diff != "" {
		t.Errorf("ref (-want +got):\n%s", diff)
	}
	const wantError = "Route/HTTPRoute/shop/bad/2@consumer: match 1: "
	if got := failed[0].Error(); !strings.HasPrefix(got, wantError) {
		t.Errorf("error %q, want it to begin with %q", got, wantError)
	}
	if cause := (*syntax.Error)(nil); !errors.As(failed[0], &cause) {
		t.Errorf("%v does not lead to the expression's error", failed[0])
	}
	if got := chosen(table, request(t, "/")); got != "good" {
		t.Errorf("a request takes %q, want the route that compiles", got)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	var routes []*wire.Route
	for i := range 20 {
		r := httpRule("r", wire.Match{Headers: []wire.NamedMatch{exactly("tenant", string(rune('a'+i)))}}, onPath(wire.MatchExact, "/e"))
		r.Rule = i
		routes = append(routes, r)
	}
	table := mustTable(t, routes...)
	req := request(t, "/a/b?c=d", Field{"accept", "*/*"}, Field{"Tenant", "t"})
	if n := testing.AllocsPerRun(100, func() {
		if rule, _ := table.Match(req); rule == nil {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("a match costs %v allocations, want none", n)
	}
}

// TestNextTable: a table that follows another is the one that is made from its routes alone.
func TestNextTable(t *testing.T) {
	on := func(name, prefix string) *wire.Route { return httpRule(name, onPath(wire.MatchPrefix, prefix)) }
	a, b, changed := on("a", "/a"), on("b", "/b"), on("b", "/c")
	first := mustTable(t, a, b)
	next, failed := first.Next([]*wire.Route{a, changed})
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	for _, tc := range []struct {
		table *Table
		path  string
		want  *wire.Route
	}{
		{first, "/a", a}, {first, "/b", b}, {first, "/c", nil},
		{next, "/a", a}, {next, "/b", nil}, {next, "/c", changed},
	} {
		var got *wire.Route
		if rule, _ := tc.table.Match(request(t, tc.path)); rule != nil {
			got = rule.Route()
		}
		if got != tc.want {
			t.Errorf("%s takes %v, want %v", tc.path, got, tc.want)
		}
	}
}
