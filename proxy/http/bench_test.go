package http

import (
	"fmt"
	"strconv"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// BenchmarkMatch matches one request against tables of growing size; the time must not grow with them.
func BenchmarkMatch(b *testing.B) {
	tables := map[string]func(i int) wire.Match{
		"exact":  func(i int) wire.Match { return onPath(wire.MatchExact, fmt.Sprintf("/api/v1/items/%d", i)) },
		"prefix": func(i int) wire.Match { return onPath(wire.MatchPrefix, fmt.Sprintf("/api/v1/items/%d", i)) },
		"header": func(i int) wire.Match {
			return wire.Match{Headers: []wire.NamedMatch{exactly("x-tenant", strconv.Itoa(i))}}
		},
	}
	for _, kind := range []string{"exact", "prefix", "header"} {
		for _, n := range []int{1, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				routes := make([]*wire.Route, n)
				for i := range routes {
					routes[i] = httpRule("r", tables[kind](i))
					routes[i].Rule = i
				}
				table := mustTable(b, routes...)
				req := request(b, fmt.Sprintf("/api/v1/items/%d", n-1), browserHeader(strconv.Itoa(n-1))...)
				b.ReportAllocs()
				for b.Loop() {
					if rule, _ := table.Match(req); rule == nil {
						b.Fatal("no match")
					}
				}
			})
		}
	}
}

// browserHeader has as many lines as requests usually have.
func browserHeader(tenant string) Header {
	return Header{
		{"User-Agent", "Mozilla/5.0"}, {"Accept", "*/*"}, {"Accept-Encoding", "gzip"}, {"Accept-Language", "en"},
		{"Cookie", "a=b"}, {"Referer", "http://echo/"}, {"X-Request-Id", "1"}, {"Cache-Control", "no-cache"}, {"X-Tenant", tenant},
	}
}

// BenchmarkNewTable compiles 10,000 routes of one destination.
func BenchmarkNewTable(b *testing.B) {
	routes := make([]*wire.Route, 10_000)
	for i := range routes {
		routes[i] = httpRule(fmt.Sprintf("r%d", i), onPath(wire.MatchPrefix, fmt.Sprintf("/api/v1/items/%d", i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		mustTable(b, routes...)
	}
}

// BenchmarkExchange runs the usual filters of a request with one try.
func BenchmarkExchange(b *testing.B) {
	route := withFilters(requestHeaders(set("a", "1")), wire.Filter{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplacePrefixMatch: new("/v2")}}}, responseHeaders(set("b", "2")))
	route.Matches = []wire.Match{onPath(wire.MatchPrefix, "/v1")}
	route.Backends = []wire.WeightedBackend{{Backend: "a", Weight: 1}}
	received := request(b, "/v1/items", browserHeader("1")...)
	x := exchange(b, route, received)
	var req, try Request
	res := &Response{Header: make(Header, 0, 8)}
	b.ReportAllocs()
	for b.Loop() {
		received.copyTo(&req)
		y := Exchange{Rule: x.Rule, Matched: x.Matched}
		if y.Request(&req) != nil || y.BackendRequest(0, &req, &try) != nil {
			b.Fatal("answered")
		}
		res.Header = res.Header[:0]
		y.Response(0, res)
	}
}

func BenchmarkNormalizePath(b *testing.B) {
	for name, path := range map[string]string{"normal": "/api/v1/items/4711", "escapes": "/api/./v1/%69tems/%2f"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NormalizePath(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNextTable replaces one of 10,000 routes of one destination.
func BenchmarkNextTable(b *testing.B) {
	routes := make([]*wire.Route, 10_000)
	for i := range routes {
		routes[i] = httpRule(fmt.Sprintf("r%d", i), onPath(wire.MatchPrefix, fmt.Sprintf("/api/v1/items/%d", i)))
	}
	table := mustTable(b, routes...)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		routes[i%len(routes)] = httpRule(routes[i%len(routes)].Name, onPath(wire.MatchPrefix, fmt.Sprintf("/api/v2/items/%d", i)))
		table, _ = table.Next(routes)
	}
}
