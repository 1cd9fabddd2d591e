package http

import (
	"cmp"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"weft.dev/weft/proxy/wire"
)

func FuzzNormalizePath(f *testing.F) {
	for _, seed := range []string{
		"", "/", "/a/b", "/a/../b", "/%2e%2E/a", "/a%2Fb", "/a%2", "/%00", "/\\..\\a", "//a//./../b", "/\xff", "/..;/a", "/%252e", "/a?b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := NormalizePath(path)
		if err != nil {
			return
		}
		if again, err := NormalizePath(got); err != nil || again != got {
			t.Errorf("%q became %q, which became %q (%v)", path, got, again, err)
		}
		if got[0] != '/' {
			t.Errorf("%q became %q", path, got)
		}
		for segment := range strings.SplitSeq(got, "/") {
			// What any server behind us may make of it: decoded once, it must not climb.
			decoded, err := url.PathUnescape(segment)
			if err != nil || decoded == "." || decoded == ".." || strings.Contains(decoded, "\x00") {
				t.Errorf("%q became %q with segment %q (%v)", path, got, decoded, err)
			}
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`?#\"<>`, r) }); i >= 0 {
			t.Errorf("%q became %q with byte %#x", path, got, got[i])
		}
		if !strings.Contains(path, "/.") && !strings.Contains(strings.ToLower(path), "%2e") {
			// Nothing to resolve: what the path means when it is decoded stays the same.
			before, err1 := url.PathUnescape(path)
			after, err2 := url.PathUnescape(got)
			if err1 != nil || err2 != nil || cmp.Or(before, "/") != after {
				t.Errorf("%q became %q: %q (%v) was %q (%v)", path, got, after, err2, before, err1)
			}
		}
	})
}

func FuzzMatch(f *testing.F) {
	for _, seed := range []struct {
		table                       uint64
		grpc                        bool
		method, target, name, value string
	}{
		{1, false, "GET", "/a/b?q=1&r=2", "X", "1"},
		{2, false, "PUT", "//a/~/?q=%31", "host", "2"},
		{3, false, "OPTIONS", "*", "y", "1,2"},
		{4, true, "POST", "/a/b", "x", "1"},
		{5, true, "POST", "/ab/", "z", ""},
	} {
		f.Add(seed.table, seed.grpc, seed.method, seed.target, seed.name, seed.value)
	}
	f.Fuzz(func(t *testing.T, table uint64, grpc bool, method, target, name, value string) {
		req := &Request{Method: method, Header: Header{{"x", "1"}, {name, value}}}
		if req.SetTarget(target) != nil || equalFold(name, "cookie") || equalFold(name, "host") {
			// The reference joins every header alike and finds Host in the header.
			return
		}
		if _, err := url.ParseQuery(req.RawQuery); err != nil || !IsToken(name) {
			return
		}
		kind := wire.RouteHTTP
		if grpc {
			kind = wire.RouteGRPC
		}
		routes := world{rand.New(rand.NewPCG(table, 2))}.routes(kind)
		want := reference(routes).match(req)
		var got found
		if rule, m := mustTable(t, routes...).Match(req); rule != nil {
			got = found{rule.Route(), m.Match, m.Prefix}
		}
		if want != got {
			t.Errorf("%+v takes %s, want %s", *req, got, want)
		}
	})
}

func FuzzCORSOrigin(f *testing.F) {
	for _, seed := range [][2]string{
		{"*", "https://a.com"}, {"https://*.a.com", "https://b.a.com"}, {"https://a.com:443", "https://A.com"}, {"http://*", "null"},
		{"http://*:81", "http://[::1]:81"}, {"https://*.a.com", "https://.a.com"}, {"https://a.*.com", "https://a.b.com"}, {"://", "http://"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, allowed, origin string) {
		c, err := newCORS(&wire.CORS{AllowOrigins: []string{allowed}, AllowCredentials: true})
		if err != nil {
			return
		}
		given := corsOrigin(Header{{"Origin", origin}})
		if given != "" && given != origin {
			t.Fatalf("origin %q was read as %q", origin, given)
		}
		if !c.allows(given) {
			return
		}
		if strings.ContainsAny(given, "\r\n ,") || given == "" {
			t.Errorf("%q would be echoed", given)
		}
		if allowed == "*" {
			return
		}
		// Who may read is the host that a URL parser finds, never one that hides behind a name or a path.
		want, err1 := url.Parse(strings.Replace(allowed, "*", "wildcard", 1))
		got, err2 := url.Parse(given)
		if err1 != nil || err2 != nil {
			return
		}
		suffix, isSuffix := strings.CutPrefix(strings.ToLower(want.Hostname()), "wildcard")
		isSuffix = isSuffix && strings.Contains(allowed, "*")
		host := strings.ToLower(got.Hostname())
		if !strings.EqualFold(want.Scheme, got.Scheme) || got.User != nil || got.Path != "" ||
			isSuffix && (!strings.HasSuffix(host, suffix) || host == suffix) || !isSuffix && !strings.EqualFold(want.Hostname(), host) {
			t.Errorf("%q allows %q", allowed, given)
		}
	})
}
