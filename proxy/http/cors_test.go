package http

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// preflight returns what a browser asks before a PUT with two headers.
func preflight(t testing.TB, origin string) *Request {
	t.Helper()
	req := request(t, "/", Field{"origin", origin}, Field{"access-control-request-method", "PUT"},
		Field{"access-control-request-headers", "x-header-1,x-header-2"})
	req.Method = "OPTIONS"
	return req
}

func TestCORSPreflight(t *testing.T) {
	everything := wire.CORS{
		AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"},
	}
	everythingWithCredentials := everything
	everythingWithCredentials.AllowCredentials = true
	listed := wire.CORS{
		AllowOrigins: []string{"https://www.foo.com", "https://*.bar.com"}, AllowCredentials: true,
		AllowMethods: []string{"GET", "OPTIONS"}, AllowHeaders: []string{"x-header-1", "x-header-2"},
		ExposeHeaders: []string{"x-header-3", "x-header-4"}, MaxAge: 3600,
	}
	allowed := func(origin string) Header {
		return Header{
			{"Access-Control-Allow-Methods", "GET, OPTIONS"}, {"Access-Control-Allow-Headers", "x-header-1, x-header-2"},
			{"Access-Control-Max-Age", "3600"}, {"Vary", "Origin"}, {"Access-Control-Allow-Origin", origin},
			{"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Expose-Headers", "x-header-3, x-header-4"},
		}
	}
	tests := map[string]struct {
		cors   wire.CORS
		origin string
		change func(*Request)
		want   Header
	}{
		"listed origin":            {cors: listed, origin: "https://www.foo.com", want: allowed("https://www.foo.com")},
		"wildcard origin":          {cors: listed, origin: "https://www.bar.com", want: allowed("https://www.bar.com")},
		"wildcard of two labels":   {cors: listed, origin: "https://xpto.www.bar.com", want: allowed("https://xpto.www.bar.com")},
		"origin not listed":        {cors: listed, origin: "https://foobar.com", want: Header{{"Vary", "Origin"}}},
		"no origin can be allowed": {cors: wire.CORS{AllowMethods: []string{"*"}}, origin: "https://a.com", want: Header{{"Vary", "Origin"}}},
		"everything": {cors: everything, origin: "https://a.com:12345", want: Header{
			{"Access-Control-Allow-Methods", "*"}, {"Access-Control-Allow-Headers", "*"}, {"Access-Control-Max-Age", "5"},
			{"Access-Control-Allow-Origin", "*"}, {"Access-Control-Expose-Headers", "*"},
		}},
		"everything with credentials says no wildcard": {cors: everythingWithCredentials, origin: "https://a.com", want: Header{
			{"Access-Control-Allow-Methods", "PUT"}, {"Access-Control-Allow-Headers", "x-header-1, x-header-2"}, {"Access-Control-Max-Age", "5"},
			{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "https://a.com"}, {"Access-Control-Allow-Credentials", "true"},
		}},
		"everything with credentials, no headers asked for": {
			cors: everythingWithCredentials, origin: "https://a.com",
			change: func(r *Request) { r.Header.Del("access-control-request-headers") },
			want: Header{
				{"Access-Control-Allow-Methods", "PUT"}, {"Access-Control-Max-Age", "5"},
				{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "https://a.com"}, {"Access-Control-Allow-Credentials", "true"},
			},
		},
		"what is no list of names is not echoed": {
			cors: everythingWithCredentials, origin: "https://a.com",
			change: func(r *Request) {
				r.Header.Set("access-control-request-method", "P UT")
				r.Header.Set("access-control-request-headers", "a,b;c")
			},
			want: Header{
				{"Access-Control-Max-Age", "5"},
				{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "https://a.com"}, {"Access-Control-Allow-Credentials", "true"},
			},
		},
		"origins alone": {cors: wire.CORS{AllowOrigins: []string{"http://a.com"}}, origin: "http://a.com", want: Header{
			{"Access-Control-Max-Age", "5"}, {"Vary", "Origin"}, {"Access-Control-Allow-Origin", "http://a.com"},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := preflight(t, tc.origin)
			if tc.change != nil {
				tc.change(req)
			}
			got := exchange(t, withFilters(wire.Filter{CORS: &tc.cors}), req).Request(req)
			if diff := cmp.Diff(&Response{Status: 204, Header: tc.want}, got); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCORSResponse(t *testing.T) {
	ours := Header{{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "https://a.com"}}
	tests := map[string]struct {
		cors    wire.CORS
		request Header
		from    Header
		want    Header
	}{
		"allowed origin": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, request: Header{{"Origin", "https://a.com"}}, want: ours,
		},
		"other origin": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, request: Header{{"Origin", "https://b.com"}}, want: Header{{"Vary", "Origin"}},
		},
		"no origin, but caches must know": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, want: Header{{"Vary", "Origin"}},
		},
		"any origin does not vary": {
			cors: wire.CORS{AllowOrigins: []string{"*"}}, want: Header{{"Access-Control-Allow-Origin", "*"}},
		},
		"any origin with credentials": {
			cors: wire.CORS{AllowOrigins: []string{"*"}, AllowCredentials: true}, request: Header{{"Origin", "null"}},
			want: Header{{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "null"}, {"Access-Control-Allow-Credentials", "true"}},
		},
		"any origin with credentials, none given": {
			cors: wire.CORS{AllowOrigins: []string{"*"}, AllowCredentials: true}, want: Header{{"Vary", "Origin"}},
		},
		"any origin with credentials, two given": {
			cors:    wire.CORS{AllowOrigins: []string{"*"}, AllowCredentials: true},
			request: Header{{"Origin", "https://a.com"}, {"Origin", "https://b.com"}}, want: Header{{"Vary", "Origin"}},
		},
		"methods and headers belong to preflights": {
			cors:    wire.CORS{AllowOrigins: []string{"https://a.com"}, AllowMethods: []string{"PUT"}, AllowHeaders: []string{"a"}, MaxAge: 9},
			request: Header{{"Origin", "https://a.com"}}, want: ours,
		},
		"the route's word replaces the application's": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, request: Header{{"Origin", "https://a.com"}},
			from: Header{{"access-control-allow-origin", "*"}, {"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Expose-Headers", "x"}},
			want: ours,
		},
		"the application cannot allow what the route does not": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, request: Header{{"Origin", "https://b.com"}},
			from: Header{{"access-control-allow-origin", "*"}, {"x", "y"}}, want: Header{{"x", "y"}, {"Vary", "Origin"}},
		},
		"Vary is said once": {
			cors: wire.CORS{AllowOrigins: []string{"https://a.com"}}, request: Header{{"Origin", "https://a.com"}},
			from: Header{{"vary", "Accept, origin"}}, want: Header{{"vary", "Accept, origin"}, {"Access-Control-Allow-Origin", "https://a.com"}},
		},
		"exposed headers": {
			cors:    wire.CORS{AllowOrigins: []string{"https://a.com"}, ExposeHeaders: []string{"x", "y"}},
			request: Header{{"Origin", "https://a.com"}}, want: append(ours.Clone(), Field{"Access-Control-Expose-Headers", "x, y"}),
		},
		"all headers exposed with credentials are named": {
			cors:    wire.CORS{AllowOrigins: []string{"https://a.com"}, AllowCredentials: true, ExposeHeaders: []string{"*"}},
			request: Header{{"Origin", "https://a.com"}}, from: Header{{"x-1", ""}, {"Set-Cookie", "a"}, {"ETag", "b"}, {"X-1", ""}},
			want: Header{
				{"x-1", ""}, {"Set-Cookie", "a"}, {"ETag", "b"}, {"X-1", ""},
				{"Vary", "Origin"}, {"Access-Control-Allow-Origin", "https://a.com"},
				{"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Expose-Headers", "x-1, ETag"},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := request(t, "/", slices.Clone(tc.request)...)
			// A filter that hides Origin from the application hides it from nobody else.
			x := exchange(t, withFilters(requestHeaders(wire.HeaderModifier{Remove: []string{"origin"}}), wire.Filter{CORS: &tc.cors}), req)
			if answer := x.Request(req); answer != nil {
				t.Fatalf("answered with %+v", answer)
			}
			res := &Response{Status: 200, Header: tc.from}
			x.Response(NoBackend, res)
			if diff := cmp.Diff(&Response{Status: 200, Header: tc.want}, res); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCORSOrigins(t *testing.T) {
	tests := map[string]struct {
		allowed string
		want    []string
		refused []string
	}{
		"exact": {
			allowed: "https://Foo.example.com",
			want:    []string{"https://foo.example.com", "HTTPS://FOO.example.com", "https://foo.example.com:443"},
			refused: []string{
				"http://foo.example.com", "https://foo.example.com:8443", "https://a.foo.example.com", "https://foo.example.com.evil.com",
				"https://foo.example.com/", "foo.example.com", "null", "https://foo.example.com:", "https://user@foo.example.com",
			},
		},
		"port": {
			allowed: "http://a.com:8080",
			want:    []string{"http://a.com:8080", "http://a.com:08080"},
			refused: []string{"http://a.com", "https://a.com:8080", "http://a.com:80800", "http://a.com:-1"},
		},
		"well-known port": {
			allowed: "http://a.com:80",
			want:    []string{"http://a.com"},
			refused: []string{"https://a.com"},
		},
		"wildcard": {
			allowed: "https://*.example.com",
			want:    []string{"https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"},
			refused: []string{
				"https://example.com", "https://.example.com", "https://evilexample.com", "https://a.example.com.evil.com",
				"http://a.example.com", "https://a.example.com:8443", "https://evil.com/.example.com", "https://evil.com#.example.com",
			},
		},
		"wildcard with port": {
			allowed: "http://*.example.com:81",
			want:    []string{"http://a.example.com:81"},
			refused: []string{"http://a.example.com"},
		},
		"every host of a scheme": {
			allowed: "https://*",
			want:    []string{"https://a", "https://a.b.com", "https://[fd00::1]"},
			refused: []string{"http://a", "https://a:81", "null", "https://"},
		},
		"everything": {
			allowed: "*",
			want:    []string{"https://a", "http://b:1", "null", "moz-extension://x"},
			refused: []string{"", "https://a, https://b", "https://a\tb"},
		},
		"IPv6": {
			allowed: "http://[fd00::1]:8080",
			want:    []string{"http://[FD00::1]:8080"},
			refused: []string{"http://fd00::1:8080", "http://[fd00::2]:8080"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			// With credentials an allowed origin is echoed, never "*".
			route := withFilters(wire.Filter{CORS: &wire.CORS{AllowOrigins: []string{tc.allowed}, AllowCredentials: true}})
			allows := func(origin string) bool {
				req := preflight(t, origin)
				got := exchange(t, route, req).Request(req).Header.Get("Access-Control-Allow-Origin")
				if got != "" && got != origin {
					t.Errorf("origin %q is told %q", origin, got)
				}
				return got != ""
			}
			for _, origin := range tc.want {
				if !allows(origin) {
					t.Errorf("%q is refused", origin)
				}
			}
			for _, origin := range tc.refused {
				if allows(origin) {
					t.Errorf("%q is allowed", origin)
				}
			}
		})
	}
}

// TestPreflightOfARuleForOneMethod: the browser asks with OPTIONS for leave to PUT, which the rule for
// PUT answers if it has a CORS filter.
func TestPreflightOfARuleForOneMethod(t *testing.T) {
	forMethod := func(name, method string, filters ...wire.Filter) *wire.Route {
		r := httpRule(name, wire.Match{Method: method})
		r.Filters = filters
		return r
	}
	filter := wire.Filter{CORS: &wire.CORS{AllowOrigins: []string{"*"}}}
	onBackends := forMethod("put", "PUT")
	onBackends.Backends = []wire.WeightedBackend{{Backend: "a", Weight: 1, Filters: []wire.Filter{filter}}}
	options := request(t, "/", Field{"Origin", "http://a"})
	options.Method = "OPTIONS"
	tests := map[string]struct {
		routes []*wire.Route
		req    *Request
		want   string
	}{
		"the rule for the method":    {[]*wire.Route{forMethod("get", "GET", filter), forMethod("put", "PUT", filter)}, preflight(t, "http://a"), "put"},
		"a rule without CORS":        {[]*wire.Route{forMethod("put", "PUT")}, preflight(t, "http://a"), ""},
		"a rule for OPTIONS":         {[]*wire.Route{forMethod("options", "OPTIONS")}, preflight(t, "http://a"), "options"},
		"an OPTIONS that asks not":   {[]*wire.Route{forMethod("put", "PUT", filter)}, options, ""},
		"CORS filters of a backend":  {[]*wire.Route{onBackends}, preflight(t, "http://a"), "put"},
		"a rule for another method":  {[]*wire.Route{forMethod("get", "GET", filter)}, preflight(t, "http://a"), ""},
		"a rule for all the methods": {[]*wire.Route{forMethod("all", "", filter)}, preflight(t, "http://a"), "all"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := chosen(mustTable(t, tc.routes...), tc.req); got != tc.want {
				t.Errorf("taken by %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPreflightOfABackend(t *testing.T) {
	route := withFilters(responseHeaders(set("rule", "1")))
	route.Backends = []wire.WeightedBackend{
		{Backend: "a", Weight: 1, Filters: []wire.Filter{{CORS: &wire.CORS{AllowOrigins: []string{"*"}}}}},
		{Backend: "b", Weight: 1},
	}
	req, try := preflight(t, "http://a"), Request{}
	x := exchange(t, route, req)
	if answer := x.Request(req); answer != nil {
		t.Fatalf("the rule answers with %+v", answer)
	}
	want := &Response{Status: 204, Header: Header{{"Access-Control-Max-Age", "5"}, {"rule", "1"}, {"Access-Control-Allow-Origin", "*"}}}
	if diff := cmp.Diff(want, x.BackendRequest(0, req, &try)); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	if answer := x.BackendRequest(1, req, &try); answer != nil {
		t.Errorf("the backend without CORS answers with %+v", answer)
	}
}
