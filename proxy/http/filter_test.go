package http

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// exchange returns an exchange for a request that the one rule matches, on Service port 80.
func exchange(t testing.TB, route *wire.Route, req *Request) *Exchange {
	t.Helper()
	if len(route.Matches) == 0 {
		route.Matches = []wire.Match{{}}
	}
	rule, matched := mustTable(t, route).Match(req)
	if rule == nil {
		t.Fatal("the rule does not match the request")
	}
	return &Exchange{Rule: rule, Matched: matched, Port: 80, Random: 1}
}

func withFilters(filters ...wire.Filter) *wire.Route {
	r := httpRule("r")
	r.Filters = filters
	return r
}

func requestHeaders(m wire.HeaderModifier) wire.Filter { return wire.Filter{RequestHeaders: &m} }

func responseHeaders(m wire.HeaderModifier) wire.Filter { return wire.Filter{ResponseHeaders: &m} }

func set(name, value string) wire.HeaderModifier {
	return wire.HeaderModifier{Set: []wire.HeaderField{{Name: name, Value: value}}}
}

func TestRequestHeaderModifier(t *testing.T) {
	received := Header{{"my-header", "foo"}, {"Other", "1"}, {"MY-HEADER", "foo2"}}
	tests := map[string]struct {
		modifier      wire.HeaderModifier
		want          Header
		wantAuthority string
	}{
		"set overwrites": {
			modifier: set("My-Header", "bar"),
			want:     Header{{"My-Header", "bar"}, {"Other", "1"}},
		},
		"add appends": {
			modifier: wire.HeaderModifier{Add: []wire.HeaderField{{Name: "my-header", Value: "bar,baz"}}},
			want:     Header{{"my-header", "foo"}, {"Other", "1"}, {"MY-HEADER", "foo2"}, {"my-header", "bar,baz"}},
		},
		"remove removes": {
			modifier: wire.HeaderModifier{Remove: []string{"My-header", "absent"}},
			want:     Header{{"Other", "1"}},
		},
		"set, add and remove": {
			modifier: wire.HeaderModifier{
				Set: []wire.HeaderField{{Name: "a", Value: "1"}}, Add: []wire.HeaderField{{Name: "b", Value: "2"}}, Remove: []string{"my-header"},
			},
			want: Header{{"Other", "1"}, {"a", "1"}, {"b", "2"}},
		},
		"of entries with one name the first counts": {
			modifier: wire.HeaderModifier{
				Set: []wire.HeaderField{{Name: "Other", Value: "2"}, {Name: "other", Value: "3"}},
				Add: []wire.HeaderField{{Name: "b", Value: "2"}, {Name: "B", Value: "3"}},
			},
			want: Header{{"my-header", "foo"}, {"Other", "2"}, {"MY-HEADER", "foo2"}, {"b", "2"}},
		},
		"set of Host changes the authority": {
			modifier:      wire.HeaderModifier{Set: []wire.HeaderField{{Name: "host", Value: "v2:81"}, {Name: "Host", Value: "v3"}}},
			want:          received,
			wantAuthority: "v2:81",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := request(t, "/", received.Clone()...)
			if answer := exchange(t, withFilters(requestHeaders(tc.modifier)), req).Request(req); answer != nil {
				t.Fatalf("answered with %+v", answer)
			}
			if diff := cmp.Diff(tc.want, req.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if tc.wantAuthority == "" {
				tc.wantAuthority = "echo"
			}
			if req.Authority != tc.wantAuthority {
				t.Errorf("authority %q, want %q", req.Authority, tc.wantAuthority)
			}
		})
	}
}

func TestFiltersApplyInOrder(t *testing.T) {
	req := request(t, "/", Field{"a", "0"})
	x := exchange(t, withFilters(
		requestHeaders(set("a", "1")),
		wire.Filter{Mirror: &wire.Mirror{Backend: "m", Numerator: 1, Denominator: 1}},
		requestHeaders(set("a", "2")),
	), req)
	x.Request(req)
	if got := req.Header.Get("a"); got != "2" {
		t.Errorf("the request goes on with %q, want the last filter's", got)
	}
	if got := x.Mirrors()[0].Request.Header.Get("a"); got != "1" {
		t.Errorf("the mirror gets %q, want what the request was when it came there", got)
	}
}

func TestResponseHeaderModifiersOfRuleAndBackend(t *testing.T) {
	route := withFilters(responseHeaders(wire.HeaderModifier{
		Set: []wire.HeaderField{{Name: "who", Value: "rule"}, {Name: "rule", Value: "1"}}, Remove: []string{"server"},
	}))
	route.Backends = []wire.WeightedBackend{
		{Backend: "a", Weight: 1},
		{Backend: "b", Weight: 1, Filters: []wire.Filter{responseHeaders(set("Who", "backend"))}},
	}
	req := request(t, "/")
	x := exchange(t, route, req)
	x.Request(req)
	for name, tc := range map[string]struct {
		backend int
		want    Header
	}{
		"no backend answered":           {NoBackend, Header{{"a", "b"}, {"who", "rule"}, {"rule", "1"}}},
		"backend without filters":       {0, Header{{"a", "b"}, {"who", "rule"}, {"rule", "1"}}},
		"the backend has the last word": {1, Header{{"a", "b"}, {"Who", "backend"}, {"rule", "1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			res := &Response{Status: 503, Header: Header{{"Server", "x"}, {"a", "b"}}}
			x.Response(tc.backend, res)
			if diff := cmp.Diff(&Response{Status: 503, Header: tc.want}, res); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	tests := map[string]struct {
		redirect wire.Redirect
		prefix   string
		// scheme, authority and port default to those of http://echo at port 80.
		scheme, authority string
		port              uint16
		target            string
		wantStatus        int
		want              string
	}{
		"default status": {target: "/a", wantStatus: 302, want: "http://echo/a"},
		"host and status": {
			redirect: wire.Redirect{Hostname: "example.org", Status: 301}, target: "/host",
			wantStatus: 301, want: "http://example.org/host",
		},
		"303": {redirect: wire.Redirect{Status: 303}, target: "/", wantStatus: 303, want: "http://echo/"},
		"307": {redirect: wire.Redirect{Status: 307}, target: "/", wantStatus: 307, want: "http://echo/"},
		"308": {redirect: wire.Redirect{Status: 308}, target: "/", wantStatus: 308, want: "http://echo/"},
		"query is kept": {
			redirect: wire.Redirect{Path: &wire.PathModifier{ReplaceFullPath: new("/new")}}, target: "/a?b=c&d",
			wantStatus: 302, want: "http://echo/new?b=c&d",
		},
		"empty query is kept": {target: "/a?", wantStatus: 302, want: "http://echo/a?"},
		"path prefix": {
			redirect: wire.Redirect{Path: &wire.PathModifier{ReplacePrefixMatch: new("/xyz")}}, prefix: "/foo", target: "/foo/bar",
			wantStatus: 302, want: "http://echo/xyz/bar",
		},

		// HTTPRequestRedirectFilter.port.
		"the port's own":                          {redirect: wire.Redirect{Port: 8083}, target: "/", wantStatus: 302, want: "http://echo:8083/"},
		"the port's own, other than the called":   {redirect: wire.Redirect{Port: 8083}, authority: "echo:81", port: 81, target: "/", wantStatus: 302, want: "http://echo:8083/"},
		"well-known port of the scheme":           {redirect: wire.Redirect{Scheme: "https"}, authority: "echo:8080", port: 8080, target: "/", wantStatus: 302, want: "https://echo/"},
		"well-known port to http":                 {redirect: wire.Redirect{Scheme: "http"}, scheme: "https", port: 443, target: "/", wantStatus: 302, want: "http://echo/"},
		"scheme and its well-known port":          {redirect: wire.Redirect{Scheme: "https", Port: 443}, target: "/", wantStatus: 302, want: "https://echo/"},
		"scheme and another's port":               {redirect: wire.Redirect{Scheme: "https", Port: 80}, target: "/", wantStatus: 302, want: "https://echo:80/"},
		"own port that is http's":                 {redirect: wire.Redirect{Port: 80}, authority: "echo:8080", port: 8080, target: "/", wantStatus: 302, want: "http://echo/"},
		"called port":                             {redirect: wire.Redirect{Hostname: "example.org"}, port: 8080, target: "/", wantStatus: 302, want: "http://example.org:8080/"},
		"called port that is http's":              {authority: "echo:80", target: "/", wantStatus: 302, want: "http://echo/"},
		"called port 443 by http":                 {port: 443, target: "/", wantStatus: 302, want: "http://echo:443/"},
		"called port is unknown: the client's":    {authority: "echo:8080", port: noPort, target: "/", wantStatus: 302, want: "http://echo:8080/"},
		"IPv6 address":                            {authority: "[fd00::1]:8080", port: 8080, target: "/", wantStatus: 302, want: "http://[fd00::1]:8080/"},
		"IPv6 address without port":               {authority: "[fd00::1]", target: "/", wantStatus: 302, want: "http://[fd00::1]/"},
		"no host at all":                          {authority: noHost, target: "/a?b", wantStatus: 302, want: "/a?b"},
		"no host, and a path that looks like one": {authority: noHost, target: "//evil.example/a", wantStatus: 302, want: "/.//evil.example/a"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := request(t, tc.target)
			req.Scheme = orDefault(tc.scheme, "", "http")
			req.Authority = strings.TrimPrefix(orDefault(tc.authority, "", "echo"), noHost)
			route := withFilters(wire.Filter{Redirect: &tc.redirect}, requestHeaders(set("after", "1")))
			if tc.prefix != "" {
				route.Matches = []wire.Match{onPath(wire.MatchPrefix, tc.prefix)}
			}
			x := exchange(t, route, req)
			x.Port = orDefault(orDefault(tc.port, 0, 80), noPort, 0)
			want := &Response{Status: tc.wantStatus, Header: Header{{"Location", tc.want}}}
			if diff := cmp.Diff(want, x.Request(req)); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

// Values of a test case that ask for nothing where the zero value asks for the usual.
const (
	noHost = "none"
	noPort = 1
)

func orDefault[T comparable](value, unset, then T) T {
	if value == unset {
		return then
	}
	return value
}

func TestRedirectPassesResponseFilters(t *testing.T) {
	req := request(t, "/")
	route := withFilters(wire.Filter{Redirect: &wire.Redirect{Hostname: "x"}}, responseHeaders(set("Strict-Transport-Security", "max-age=1")))
	got := exchange(t, route, req).Request(req)
	want := &Response{Status: 302, Header: Header{{"Location", "http://x/"}, {"Strict-Transport-Security", "max-age=1"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

// TestReplacePrefixMatch holds the table of HTTPPathModifier.replacePrefixMatch and the cases it leaves out.
func TestReplacePrefixMatch(t *testing.T) {
	tests := []struct{ path, prefix, replacement, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},

		{"/bar", "/", "/xyz", "/xyz/bar"},
		{"/bar", "/", "/xyz/", "/xyz/bar"},
		{"/", "/", "/xyz", "/xyz"},
		{"/bar", "/", "/", "/bar"},
		{"/", "/", "", "/"},
		{"/foo/bar", "/foo", "xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/a/../%7exyz", "/~xyz/bar"},
		{"/foo//bar", "/foo", "/", "//bar"},
		{"/foo/foo", "/foo", "/a/b", "/a/b/foo"},
	}
	for _, tc := range tests {
		req := request(t, tc.path+"?q")
		route := withFilters(wire.Filter{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplacePrefixMatch: &tc.replacement}}})
		route.Matches = []wire.Match{onPath(wire.MatchPrefix, tc.prefix)}
		exchange(t, route, req).Request(req)
		if got := req.Target(); got != tc.want+"?q" {
			t.Errorf("%s with %s replaced by %q became %s, want %s?q", tc.path, tc.prefix, tc.replacement, got, tc.want)
		}
	}
}

func TestURLRewrite(t *testing.T) {
	tests := map[string]struct {
		rewrite       wire.URLRewrite
		target        string
		wantAuthority string
		want          string
	}{
		"host":                {wire.URLRewrite{Hostname: "one.example.org"}, "/a", "one.example.org", "/a"},
		"full path":           {wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: new("/one")}}, "/a/b?c", "echo:81", "/one?c"},
		"full path, no slash": {wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: new("one")}}, "/a", "echo:81", "/one"},
		"full path, empty":    {wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: new("")}}, "/a", "echo:81", "/"},
		"both":                {wire.URLRewrite{Hostname: "x", Path: &wire.PathModifier{ReplaceFullPath: new("/one/")}}, "/a", "x", "/one/"},
		"nothing":             {wire.URLRewrite{}, "/a?", "echo:81", "/a?"},
		"prefix of *":         {wire.URLRewrite{Path: &wire.PathModifier{ReplacePrefixMatch: new("/one")}}, "*", "echo:81", "*"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := &Request{Method: "OPTIONS", Authority: "echo:81"}
			if err := req.SetTarget(tc.target); err != nil {
				t.Fatal(err)
			}
			if answer := exchange(t, withFilters(wire.Filter{URLRewrite: &tc.rewrite}), req).Request(req); answer != nil {
				t.Fatalf("answered with %+v", answer)
			}
			if req.Authority != tc.wantAuthority || req.Target() != tc.want {
				t.Errorf("goes to %s%s, want %s%s", req.Authority, req.Target(), tc.wantAuthority, tc.want)
			}
		})
	}
}

// TestTriesAreIndependent: every try starts from the request that the rule made, whatever earlier
// backends did to theirs.
func TestTriesAreIndependent(t *testing.T) {
	rewritePrefix := func(to string) wire.Filter {
		return wire.Filter{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplacePrefixMatch: &to}}}
	}
	route := withFilters(requestHeaders(set("who", "rule")), rewritePrefix("/rule"))
	route.Matches = []wire.Match{onPath(wire.MatchPrefix, "/foo")}
	route.Backends = []wire.WeightedBackend{
		{Backend: "a", Weight: 1, Filters: []wire.Filter{
			requestHeaders(wire.HeaderModifier{Add: []wire.HeaderField{{Name: "only-a", Value: "1"}}, Remove: []string{"who"}}),
			{URLRewrite: &wire.URLRewrite{Hostname: "a"}}, rewritePrefix("/a"),
		}},
		{Backend: "b", Weight: 1, Filters: []wire.Filter{requestHeaders(set("who", "b"))}},
	}
	req := request(t, "/foo/bar", Field{"x", "y"})
	x := exchange(t, route, req)
	x.Request(req)

	wantRule := Request{Method: "GET", Scheme: "http", Authority: "echo", Path: "/rule/bar", Header: Header{{"x", "y"}, {"who", "rule"}}}
	wantA := Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/a/bar", Header: Header{{"x", "y"}, {"only-a", "1"}}}
	wantB := Request{Method: "GET", Scheme: "http", Authority: "echo", Path: "/rule/bar", Header: Header{{"x", "y"}, {"who", "b"}}}
	var try Request
	for i, want := range []Request{wantA, wantA, wantB, wantA} {
		backend := 0
		if want.Authority == "echo" {
			backend = 1
		}
		if answer := x.BackendRequest(backend, req, &try); answer != nil {
			t.Fatalf("try %d is answered with %+v", i, answer)
		}
		if diff := cmp.Diff(want, try); diff != "" {
			t.Errorf("try %d (-want +got):\n%s", i, diff)
		}
		try.Header.Set("x", "the engine writes here")
	}
	if diff := cmp.Diff(wantRule, *req); diff != "" {
		t.Errorf("request after the tries (-want +got):\n%s", diff)
	}
}

func TestBackendRedirects(t *testing.T) {
	route := withFilters(responseHeaders(set("rule", "1")))
	route.Backends = []wire.WeightedBackend{{Backend: "a", Weight: 1, Filters: []wire.Filter{
		{Redirect: &wire.Redirect{Hostname: "example.org"}}, responseHeaders(set("backend", "1")),
	}}}
	req, try := request(t, "/a"), Request{}
	x := exchange(t, route, req)
	x.Request(req)
	want := &Response{Status: 302, Header: Header{{"Location", "http://example.org/a"}, {"rule", "1"}, {"backend", "1"}}}
	if diff := cmp.Diff(want, x.BackendRequest(0, req, &try)); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestMirrors(t *testing.T) {
	mirror := func(backend string, numerator, denominator int32) wire.Filter {
		return wire.Filter{Mirror: &wire.Mirror{Backend: backend, Numerator: numerator, Denominator: denominator}}
	}
	backendsOf := func(ms []Mirror) (names []string) {
		for _, m := range ms {
			names = append(names, m.Backend)
		}
		return names
	}
	route := withFilters(mirror("all", 100, 100), mirror("none", 0, 100), mirror("", 1, 1), mirror("all too", 1, 1))
	route.Backends = []wire.WeightedBackend{
		{Backend: "a", Weight: 1, Filters: []wire.Filter{mirror("backend's", 1, 1)}},
		{Backend: "b", Weight: 1, Filters: []wire.Filter{mirror("other's", 1, 1)}},
	}
	req := request(t, "/a?b", Field{"x", "y"})
	x := exchange(t, route, req)
	x.Request(req)
	if diff := cmp.Diff([]string{"all", "all too"}, backendsOf(x.Mirrors())); diff != "" {
		t.Errorf("mirrors of the rule (-want +got):\n%s", diff)
	}

	var try Request
	x.BackendRequest(0, req, &try)
	try.Header.Set("x", "changed")
	req.Header.Set("x", "changed")
	x.BackendRequest(1, req, &try)
	if diff := cmp.Diff([]string{"all", "all too", "backend's"}, backendsOf(x.Mirrors())); diff != "" {
		t.Errorf("mirrors after two tries (-want +got):\n%s", diff)
	}
	for _, m := range x.Mirrors() {
		if diff := cmp.Diff(*request(t, "/a?b", Field{"x", "y"}), m.Request); diff != "" {
			t.Errorf("mirror to %s (-want +got):\n%s", m.Backend, diff)
		}
	}
}

func TestMirrorFraction(t *testing.T) {
	quarter := wire.Filter{Mirror: &wire.Mirror{Backend: "m", Numerator: 1, Denominator: 4}}
	route := withFilters(quarter, quarter)
	req := request(t, "/")
	x := exchange(t, route, req)
	const n = 40_000
	var count [3]int
	for i := range uint64(n) {
		// Evenly spread: a fraction taken from the number itself would come in runs.
		y := Exchange{Rule: x.Rule, Matched: x.Matched, Random: i * (1 << 63 / n * 2)}
		y.Request(req)
		count[len(y.Mirrors())]++
	}
	// Two independent mirrors of 1/4: none 9/16, one 6/16, both 1/16.
	for taken, want := range [3]int{n * 9 / 16, n * 6 / 16, n / 16} {
		if got := count[taken]; got < want-n/100 || got > want+n/100 {
			t.Errorf("%d of %d requests have %d mirrors, want %d within a hundredth", got, n, taken, want)
		}
	}
}

func TestExchangeDoesNotAllocate(t *testing.T) {
	route := withFilters(requestHeaders(set("a", "1")), wire.Filter{URLRewrite: &wire.URLRewrite{Hostname: "x"}}, responseHeaders(set("b", "2")))
	route.Backends = []wire.WeightedBackend{{Backend: "a", Weight: 1, Filters: []wire.Filter{requestHeaders(set("c", "3"))}}}
	req := request(t, "/")
	table := mustTable(t, route)
	if table == nil {
		t.Fatal("no table")
	}
	rule := exchange(t, route, req).Rule
	req.Header = make(Header, 0, 8)
	res, try := &Response{Header: make(Header, 0, 8)}, Request{Header: make(Header, 0, 8)}
	if n := testing.AllocsPerRun(100, func() {
		req.Header, res.Header = req.Header[:0], res.Header[:0]
		x := Exchange{Rule: rule}
		if x.Request(req) != nil || x.BackendRequest(0, req, &try) != nil {
			t.Fatal("answered")
		}
		x.Response(0, res)
	}); n != 0 {
		t.Errorf("an exchange costs %v allocations, want none", n)
	}
}
