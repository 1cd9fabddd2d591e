package http

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// reference is the Gateway API's text written down literally: walk over every match of every rule, keep
// those that a request satisfies, take the first by precedence. It shares nothing with Table.
type reference []*wire.Route

type found struct {
	route  *wire.Route
	match  int
	prefix string
}

func (routes reference) match(req *Request) found {
	var all []found
	for _, route := range routes {
		for i := range route.Matches {
			if prefix, ok := satisfies(&route.Matches[i], req); ok {
				if route.Kind == wire.RouteGRPC {
					prefix = ""
				}
				all = append(all, found{route, i, prefix})
			}
		}
	}
	if len(all) == 0 {
		return found{}
	}
	return slices.MinFunc(all, func(a, b found) int {
		ma, mb := &a.route.Matches[a.match], &b.route.Matches[b.match]
		return cmp.Or(
			comparePaths(ma, mb),
			-cmp.Compare(min(len(ma.Method), 1), min(len(mb.Method), 1)),
			-cmp.Compare(distinct(ma.Headers, strings.ToLower), distinct(mb.Headers, strings.ToLower)),
			-cmp.Compare(distinct(ma.Query, strings.Clone), distinct(mb.Query, strings.Clone)),
			a.route.Created.Compare(b.route.Created),
			cmp.Compare(a.route.Namespace+"/"+a.route.Name, b.route.Namespace+"/"+b.route.Name),
			cmp.Compare(a.route.Rule, b.route.Rule),
			cmp.Compare(a.match, b.match),
		)
	})
}

// comparePaths: exact, expression, longest prefix; for gRPC the longest service and method, expression,
// nothing.
func comparePaths(a, b *wire.Match) int {
	rank := func(m *wire.Match) (kind, service, method int) {
		switch {
		case m.GRPC != nil && m.GRPC.Type == wire.MatchExact:
			return 0, len(m.GRPC.Service), len(m.GRPC.Method)
		case m.GRPC != nil, m.Path != nil && m.Path.Type == wire.MatchRegex:
			return 1, 0, 0
		case m.Path == nil:
			return 2, 0, 0
		case m.Path.Type == wire.MatchExact:
			return 0, 0, 0
		default:
			return 2, len(strings.TrimSuffix(m.Path.Value, "/")), 0
		}
	}
	ak, as, am := rank(a)
	bk, bs, bm := rank(b)
	return cmp.Or(cmp.Compare(ak, bk), cmp.Compare(bs, as), cmp.Compare(bm, am))
}

func distinct(matches []wire.NamedMatch, key func(string) string) int {
	names := map[string]bool{}
	for _, m := range matches {
		names[key(m.Name)] = true
	}
	return len(names)
}

func satisfies(m *wire.Match, req *Request) (prefix string, ok bool) {
	if prefix, ok = satisfiesPath(m, req.Path); !ok || m.Method != "" && m.Method != req.Method {
		return "", false
	}
	headers := map[string]string{"host": req.Authority}
	for _, f := range req.Header {
		name := strings.ToLower(f.Name)
		if value, ok := headers[name]; ok {
			headers[name] = value + "," + f.Value
		} else {
			headers[name] = f.Value
		}
	}
	seen := map[string]bool{}
	for _, h := range m.Headers {
		name := strings.ToLower(h.Name)
		if value, ok := headers[name]; !seen[name] && (!ok || !compares(h.Type, h.Value, value)) {
			return "", false
		}
		seen[name] = true
	}
	query, err := url.ParseQuery(req.RawQuery)
	if err != nil {
		panic(err)
	}
	clear(seen)
	for _, q := range m.Query {
		if !seen[q.Name] && (!query.Has(q.Name) || !compares(q.Type, q.Value, query.Get(q.Name))) {
			return "", false
		}
		seen[q.Name] = true
	}
	return prefix, true
}

func satisfiesPath(m *wire.Match, path string) (prefix string, ok bool) {
	if path == "*" && (m.Path == nil || m.Path.Type == wire.MatchPrefix) {
		// The asterisk of OPTIONS is below the root and below nothing else.
		path = "/"
	}
	switch {
	case m.GRPC != nil:
		parts := strings.Split(path, "/")
		ok := len(parts) == 3 && parts[1] != "" && parts[2] != "" &&
			(m.GRPC.Service == "" || compares(m.GRPC.Type, m.GRPC.Service, parts[1])) &&
			(m.GRPC.Method == "" || compares(m.GRPC.Type, m.GRPC.Method, parts[2]))
		return "", ok
	case m.Path == nil:
		return "/", true
	case m.Path.Type == wire.MatchPrefix:
		trimmed := strings.TrimSuffix(m.Path.Value, "/")
		if path == trimmed || strings.HasPrefix(path, trimmed+"/") {
			return cmp.Or(trimmed, "/"), true
		}
		return "", false
	default:
		return "", compares(m.Path.Type, m.Path.Value, path)
	}
}

func compares(t wire.MatchType, want, value string) bool {
	if t == wire.MatchRegex {
		re := regexp.MustCompile(want)
		re.Longest()
		loc := re.FindStringIndex(value)
		return loc != nil && loc[0] == 0 && loc[1] == len(value)
	}
	return want == value
}

// world draws routes and requests from so few words that they meet often.
type world struct{ *rand.Rand }

func oneOf[T any](w world, of ...T) T { return of[w.IntN(len(of))] }

func (w world) path(depth int) string {
	var b strings.Builder
	for range w.IntN(depth + 1) {
		b.WriteString("/" + oneOf(w, "a", "b", "ab", "~"))
	}
	return b.String() + oneOf(w, "", "/")
}

func (w world) named(names ...string) []wire.NamedMatch {
	var ms []wire.NamedMatch
	for range w.IntN(4) {
		m := wire.NamedMatch{Name: oneOf(w, names...), Type: wire.MatchExact, Value: oneOf(w, "1", "2", "1,2")}
		if w.IntN(5) == 0 {
			m.Type, m.Value = wire.MatchRegex, oneOf(w, "1|2", "[12],?.*")
		}
		ms = append(ms, m)
	}
	return ms
}

func (w world) httpMatch() wire.Match {
	m := wire.Match{Method: oneOf(w, "", "", "GET", "PUT"), Headers: w.named("x", "X", "y", "z", "Host"), Query: w.named("q", "Q", "r")}
	switch w.IntN(6) {
	case 0:
		m.Path = &wire.ValueMatch{Type: wire.MatchExact, Value: cmp.Or(w.path(3), "/")}
	case 1:
		m.Path = &wire.ValueMatch{Type: wire.MatchRegex, Value: oneOf(w, "/a/.*", ".*b", "/[ab]+", "/a|/b/a")}
	case 2, 3, 4:
		m.Path = &wire.ValueMatch{Type: wire.MatchPrefix, Value: cmp.Or(w.path(3), "/")}
	}
	return m
}

func (w world) grpcMatch() wire.Match {
	m := wire.Match{Headers: w.named("x", "X", "y", "z")}
	switch w.IntN(4) {
	case 0, 1:
		m.GRPC = &wire.GRPCMatch{Type: wire.MatchExact, Service: oneOf(w, "", "a", "ab"), Method: oneOf(w, "b", "a")}
	case 2:
		m.GRPC = &wire.GRPCMatch{Type: wire.MatchRegex, Service: oneOf(w, "a.*", "b|ab"), Method: oneOf(w, "", "[ab]+")}
	}
	return m
}

func (w world) routes(kind wire.RouteKind) []*wire.Route {
	routes := make([]*wire.Route, w.IntN(60))
	for i := range routes {
		r := &wire.Route{
			Kind: kind, Namespace: oneOf(w, "a", "a-b", "c"), Name: oneOf(w, "a", "b-c", "b"), Rule: i,
			Created: time.Unix(int64(w.IntN(3)), 0),
		}
		for range w.IntN(4) {
			if kind == wire.RouteGRPC {
				r.Matches = append(r.Matches, w.grpcMatch())
			} else {
				r.Matches = append(r.Matches, w.httpMatch())
			}
		}
		routes[i] = r
	}
	w.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
	return routes
}

func (w world) request() *Request {
	req := &Request{Method: oneOf(w, "GET", "PUT"), Authority: oneOf(w, "1", "2"), Path: cmp.Or(w.path(4), "/")}
	for range w.IntN(4) {
		req.Header.Add(oneOf(w, "x", "X", "y", "z"), oneOf(w, "1", "2"))
	}
	for range w.IntN(4) {
		req.RawQuery += oneOf(w, "q=1&", "q=2&", "Q=1&", "%72=1&", "r=%32&", "s&")
	}
	return req
}

// TestMatchAgreesWithReference compares the compiled table with the reference over random tables and
// requests, for both kinds of routes.
func TestMatchAgreesWithReference(t *testing.T) {
	for _, kind := range []wire.RouteKind{wire.RouteHTTP, wire.RouteGRPC} {
		t.Run(string(kind), func(t *testing.T) {
			matched, requests := 0, 0
			for seed := range uint64(250) {
				w := world{rand.New(rand.NewPCG(seed, 1))}
				routes := w.routes(kind)
				table := mustTable(t, routes...)
				for range 40 {
					req := w.request()
					want := reference(routes).match(req)
					got := found{}
					if rule, m := table.Match(req); rule != nil {
						got = found{rule.Route(), m.Match, m.Prefix}
						matched++
					}
					if want != got {
						t.Fatalf("seed %d: %+v takes %s, want %s", seed, *req, got, want)
					}
					requests++
				}
			}
			if matched < requests/4 {
				t.Errorf("%d of %d requests matched; the comparison says too little", matched, requests)
			}
		})
	}
}

func (f found) String() string {
	if f.route == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s match %d %+v, prefix %q", f.route.Key(), f.match, f.route.Matches[f.match], f.prefix)
}
