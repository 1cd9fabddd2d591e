package http

import (
	"math/rand/v2"
	"strings"
	"testing"

	"weft.dev/weft/proxy/wire"
)

func weighted(weights ...int32) *wire.Route {
	r := httpRule("r", wire.Match{})
	for i, w := range weights {
		r.Backends = append(r.Backends, wire.WeightedBackend{Backend: string(rune('a' + i)), Weight: w})
	}
	return r
}

func TestPickFollowsWeights(t *testing.T) {
	tests := map[string][]int32{
		"one":              {1},
		"seventy, thirty":  {70, 30},
		"zero is never":    {0, 1, 0, 3, 0},
		"large":            {1_000_000, 1_000_000, 500_000},
		"smallest share":   {1, 999},
		"sixteen backends": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	}
	for name, weights := range tests {
		t.Run(name, func(t *testing.T) {
			req := request(t, "/")
			rule := exchange(t, weighted(weights...), req).Rule
			const n = 100_000
			random := rand.New(rand.NewPCG(1, 2))
			counts := make([]int, rule.Backends())
			for range n {
				i, ok := rule.Pick(random.Uint64())
				if !ok {
					t.Fatal("no backend")
				}
				counts[i]++
			}
			sum := 0
			for _, w := range weights {
				sum += int(w)
			}
			for i, w := range weights {
				want := n * int(w) / sum
				if w == 0 && counts[i] != 0 || counts[i] < want-n/100 || counts[i] > want+n/100 {
					t.Errorf("backend %d was picked %d times of %d, want %d within a hundredth", i, counts[i], n, want)
				}
			}
		})
	}
}

func TestPickAtTheEnds(t *testing.T) {
	rule := exchange(t, weighted(0, 1, 1, 0), request(t, "/")).Rule
	for random, want := range map[uint64]int{0: 1, 1<<63 - 1: 1, 1 << 63: 2, 1<<64 - 1: 2} {
		if got, ok := rule.Pick(random); got != want || !ok {
			t.Errorf("%#x picks %d, %v; want %d", random, got, ok, want)
		}
	}
	if got := rule.Backend(2); got != "c" {
		t.Errorf("backend 2 is %q, want c", got)
	}
}

func TestPickNothing(t *testing.T) {
	for name, route := range map[string]*wire.Route{"no backends": weighted(), "all weights zero": weighted(0, 0)} {
		if i, ok := exchange(t, route, request(t, "/")).Rule.Pick(7); ok {
			t.Errorf("%s: picked backend %d", name, i)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	prefix := func(to string) *wire.PathModifier { return &wire.PathModifier{ReplacePrefixMatch: &to} }
	full := func(to string) *wire.PathModifier { return &wire.PathModifier{ReplaceFullPath: &to} }
	with := func(f wire.Filter, matches ...wire.Match) *wire.Route {
		r := httpRule("r", matches...)
		r.Filters = []wire.Filter{f}
		return r
	}
	onBackend := weighted(1)
	onBackend.Backends[0].Filters = []wire.Filter{requestHeaders(set("Content-Length", "1"))}

	tests := map[string]struct {
		route *wire.Route
		want  string
	}{
		"kind":                   {&wire.Route{Kind: "TCPRoute", Matches: []wire.Match{{}}}, `unknown route kind "TCPRoute"`},
		"path type":              {httpRule("r", onPath("Suffix", "/a")), `match 0: path "/a": match type "Suffix"`},
		"exact path":             {httpRule("r", wire.Match{}, onPath(wire.MatchExact, "a")), `match 1: path "a"`},
		"prefix":                 {httpRule("r", onPath(wire.MatchPrefix, "/%")), `path "/%"`},
		"path expression":        {httpRule("r", onPath(wire.MatchRegex, "/[")), `path "/["`},
		"unbalanced expression":  {httpRule("r", onPath(wire.MatchRegex, "a)|(b")), `path "a)|(b"`},
		"empty expression":       {httpRule("r", onPath(wire.MatchRegex, "")), "empty regular expression"},
		"header expression":      {httpRule("r", wire.Match{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "("}}}), `header "a"`},
		"header type":            {httpRule("r", wire.Match{Headers: []wire.NamedMatch{{Name: "a", Type: wire.MatchPrefix, Value: "b"}}}), `match type "Prefix"`},
		"header name":            {httpRule("r", wire.Match{Headers: []wire.NamedMatch{exactly("", "b")}}), "name is empty"},
		"query expression":       {httpRule("r", wire.Match{Query: []wire.NamedMatch{{Name: "a", Type: wire.MatchRegex, Value: "*"}}}), `query parameter "a"`},
		"gRPC in an HTTPRoute":   {httpRule("r", onGRPC(wire.MatchExact, "a", "b")), "do not belong"},
		"path in a GRPCRoute":    {grpcRule("r", onPath(wire.MatchExact, "/a/b")), "do not belong"},
		"gRPC type":              {grpcRule("r", onGRPC(wire.MatchPrefix, "a", "")), `match type "Prefix"`},
		"gRPC names":             {grpcRule("r", onGRPC(wire.MatchExact, "", "")), "neither service nor method"},
		"gRPC service":           {grpcRule("r", onGRPC(wire.MatchRegex, "(", "")), `gRPC service "("`},
		"gRPC method":            {grpcRule("r", onGRPC(wire.MatchRegex, "a", "(")), `gRPC method "("`},
		"empty filter":           {with(wire.Filter{}), "filter 0: not exactly one"},
		"two filters in one":     {with(wire.Filter{CORS: &wire.CORS{}, URLRewrite: &wire.URLRewrite{}}), "not exactly one"},
		"framing header":         {with(requestHeaders(set("transfer-encoding", "x"))), "the proxy owns this header"},
		"connection header":      {with(responseHeaders(set("Connection", "x"))), "the proxy owns this header"},
		"internal header":        {with(requestHeaders(set("Weft-Source", "x"))), "the proxy owns this header"},
		"removed Host":           {with(requestHeaders(wire.HeaderModifier{Remove: []string{"host"}})), "the proxy owns this header"},
		"added Host":             {with(requestHeaders(wire.HeaderModifier{Add: []wire.HeaderField{{Name: "Host", Value: "a"}}})), "the proxy owns this header"},
		"Host of a response":     {with(responseHeaders(set("Host", "a"))), "the proxy owns this header"},
		"value of Host":          {with(requestHeaders(set("Host", "a/b"))), "is no host"},
		"header name of filter":  {with(requestHeaders(set(":path", "/"))), "is no token"},
		"header value of filter": {with(requestHeaders(set("a", "b\r\nc: d"))), "control character"},
		"backend's filter":       {onBackend, "backend 0: filter 0"},
		"negative weight":        {weighted(1, -1), "backend 1: weight -1"},
		"redirect status":        {with(wire.Filter{Redirect: &wire.Redirect{Status: 200}}), "redirect status 200"},
		"redirect scheme":        {with(wire.Filter{Redirect: &wire.Redirect{Scheme: "ftp"}}), `redirect scheme "ftp"`},
		"redirect host":          {with(wire.Filter{Redirect: &wire.Redirect{Hostname: "a b"}}), `redirect hostname "a b"`},
		"rewrite host":           {with(wire.Filter{URLRewrite: &wire.URLRewrite{Hostname: "a\nb"}}), `hostname "a\nb"`},
		"prefix without prefix match": {
			with(wire.Filter{URLRewrite: &wire.URLRewrite{Path: prefix("/a")}}, onPath(wire.MatchPrefix, "/a"), onPath(wire.MatchExact, "/b")),
			"needs prefix matches alone",
		},
		"prefix in a GRPCRoute": {
			&wire.Route{Kind: wire.RouteGRPC, Matches: []wire.Match{{}}, Filters: []wire.Filter{{URLRewrite: &wire.URLRewrite{Path: prefix("/a")}}}},
			"needs prefix matches alone",
		},
		"query in a rewritten path":   {with(wire.Filter{URLRewrite: &wire.URLRewrite{Path: full("/a?b")}}), "invalid path"},
		"escape in a redirected path": {with(wire.Filter{Redirect: &wire.Redirect{Path: full("/%0")}}), "invalid path"},
		"no path modifier":            {with(wire.Filter{Redirect: &wire.Redirect{Path: &wire.PathModifier{}}}), "not exactly one path modifier"},
		"mirror of no fraction":       {with(wire.Filter{Mirror: &wire.Mirror{Backend: "a", Numerator: 1}}), "1/0 is no fraction"},
		"mirror above one":            {with(wire.Filter{Mirror: &wire.Mirror{Backend: "a", Numerator: 3, Denominator: 2}}), "3/2 is no fraction"},
		"CORS origin":                 {with(wire.Filter{CORS: &wire.CORS{AllowOrigins: []string{"example.com"}}}), `"example.com" is no origin`},
		"CORS wildcard":               {with(wire.Filter{CORS: &wire.CORS{AllowOrigins: []string{"https://a.*.com"}}}), "wildcard"},
		"CORS wildcard beside others": {with(wire.Filter{CORS: &wire.CORS{AllowMethods: []string{"GET", "*"}}}), "beside other values"},
		"CORS header name":            {with(wire.Filter{CORS: &wire.CORS{AllowHeaders: []string{"a b"}}}), `"a b" is no token`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := Check(tc.route)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
