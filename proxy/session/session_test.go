package session

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

var (
	now     = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	address = netip.MustParseAddrPort("10.0.0.7:8080")
	pod     = Endpoint("shop/cart:80", address)
	rule    = Backend("HTTPRoute/shop/cart/0", "shop/cart:80")
)

func TestNamesHideAndDistinguish(t *testing.T) {
	if strings.Contains(pod, "10.0.0.7") || !ValidEndpoint(pod) {
		t.Errorf("endpoint is called %q", pod)
	}
	names := map[string]bool{pod: true, rule: true}
	for _, other := range []string{
		Endpoint("shop/cart:81", address), Endpoint("shop/cart:80", netip.MustParseAddrPort("10.0.0.7:8081")),
		Backend("HTTPRoute/shop/cart/1", "shop/cart:80"), Backend("HTTPRoute/shop/cart/0", "shop/cart:81"),
	} {
		if names[other] {
			t.Errorf("%q names two things", other)
		}
		names[other] = true
	}
}

func TestFind(t *testing.T) {
	plain := &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}
	bounded := &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay", AbsoluteTimeout: wire.Duration(time.Hour)}
	header := &wire.SessionPersistence{Type: wire.SessionHeader, Name: "X-Stay"}
	issued := func(ago time.Duration) string { return Token{Endpoint: pod, Issued: now.Add(-ago)}.String() }
	tests := map[string]struct {
		policy  *wire.SessionPersistence
		ofRoute bool
		values  []string
		want    Token
	}{
		"none":                        {policy: plain},
		"alone":                       {policy: plain, values: []string{"stay=" + pod}, want: Token{Endpoint: pod}},
		"among others":                {policy: plain, values: []string{`a=b; stay="` + pod + `"; c=d`}, want: Token{Endpoint: pod}},
		"in the second line":          {policy: plain, values: []string{"a=b", "stay=" + pod}, want: Token{Endpoint: pod}},
		"after one of an application": {policy: plain, values: []string{"stay=1; stay=" + pod}, want: Token{Endpoint: pod}},
		"of another name":             {policy: plain, values: []string{"Stay=" + pod + "; xstay=" + pod}},
		"not a token":                 {policy: plain, values: []string{"stay=" + pod + "!; stay; stay=; =; ;"}},
		"of a route":                  {policy: plain, ofRoute: true, values: []string{"stay=" + rule + "." + pod}, want: Token{Backend: rule, Endpoint: pod}},
		"of a route, for a Service":   {policy: plain, values: []string{"stay=" + rule + "." + pod}},
		"of a Service, for a route":   {policy: plain, ofRoute: true, values: []string{"stay=" + pod}},
		"header":                      {policy: header, values: []string{pod}, want: Token{Endpoint: pod}},
		"header of something else":    {policy: header, values: []string{"hello"}},
		"in time":                     {policy: bounded, values: []string{"stay=" + issued(59*time.Minute)}, want: Token{Endpoint: pod, Issued: now.Add(-59 * time.Minute)}},
		"expired":                     {policy: bounded, values: []string{"stay=" + issued(time.Hour)}},
		"without a time":              {policy: bounded, values: []string{"stay=" + pod}},
		"from a clock that is ahead":  {policy: bounded, values: []string{"stay=" + issued(-time.Minute)}, want: Token{Endpoint: pod, Issued: now.Add(time.Minute)}},
		"from the far future":         {policy: bounded, values: []string{"stay=" + issued(-time.Hour)}},
		"with a time that is none":    {policy: bounded, values: []string{"stay=" + pod + ".-5", "stay=" + pod + ".99999999999999999999"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Find(tc.policy, tc.ofRoute, tc.values, now)); diff != "" {
				t.Errorf("token (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNext(t *testing.T) {
	later := now.Add(time.Minute)
	bounded := &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay", Path: "/a", Permanent: true, AbsoluteTimeout: wire.Duration(time.Hour)}
	tests := map[string]struct {
		policy  *wire.SessionPersistence
		sent    Token
		backend string
		want    string
		tell    bool
	}{
		"a new session": {
			policy: &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}, tell: true,
			want: "Set-Cookie: stay=" + pod + "; HttpOnly; SameSite=Lax",
		},
		"one that stays": {
			policy: &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}, sent: Token{Endpoint: pod},
			want: "Set-Cookie: stay=" + pod + "; HttpOnly; SameSite=Lax",
		},
		"a header that stays": {
			policy: &wire.SessionPersistence{Type: wire.SessionHeader, Name: "X-Stay"}, sent: Token{Endpoint: pod}, tell: true,
			want: "X-Stay: " + pod,
		},
		"a permanent cookie of a route": {
			policy: bounded, backend: rule, tell: true,
			want: "Set-Cookie: stay=" + rule + "." + pod + ".1777636860; Path=/a; Max-Age=3600; HttpOnly; SameSite=Lax",
		},
		"another endpoint begins another session": {
			policy: bounded, sent: Token{Endpoint: Endpoint("gone", address), Issued: now}, tell: true,
			want: "Set-Cookie: stay=" + pod + ".1777636860; Path=/a; Max-Age=3600; HttpOnly; SameSite=Lax",
		},
		"a header keeps the time it began": {
			policy: &wire.SessionPersistence{Type: wire.SessionHeader, Name: "X-Stay", AbsoluteTimeout: wire.Duration(time.Hour)},
			sent:   Token{Endpoint: pod, Issued: now}, tell: true,
			want: "X-Stay: " + pod + ".1777636800",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next, field, tell := Next(tc.policy, tc.sent, tc.backend, pod, later)
			if got := field.Name + ": " + field.Value; got != tc.want || tell != tc.tell {
				t.Errorf("field = %q, %v, want %q, %v", got, tell, tc.want, tc.tell)
			}
			values := []string{field.Value}
			if tc.policy.Type == wire.SessionCookie {
				values[0], _, _ = strings.Cut(field.Value, ";")
			}
			if diff := cmp.Diff(next, Find(tc.policy, tc.backend != "", values, later)); diff != "" {
				t.Errorf("what a client sends back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	cookie := func(edit func(*wire.SessionPersistence)) *wire.SessionPersistence {
		p := &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}
		edit(p)
		return p
	}
	header := func(name string) *wire.SessionPersistence {
		return &wire.SessionPersistence{Type: wire.SessionHeader, Name: name}
	}
	for name, p := range map[string]*wire.SessionPersistence{
		"none": nil, "header": header("X-Stay"), "cookie": cookie(func(*wire.SessionPersistence) {}),
		"permanent": cookie(func(p *wire.SessionPersistence) {
			p.Path, p.Permanent, p.AbsoluteTimeout = "/a b", true, wire.Duration(time.Hour)
		}),
	} {
		if err := Check(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range map[string]*wire.SessionPersistence{
		"type":              {Type: "Query", Name: "a"},
		"no name":           header(""),
		"cookie name":       cookie(func(p *wire.SessionPersistence) { p.Name = "a;b" }),
		"secure cookie":     cookie(func(p *wire.SessionPersistence) { p.Name = "__Host-a" }),
		"relative path":     cookie(func(p *wire.SessionPersistence) { p.Path = "a" }),
		"path with an end":  cookie(func(p *wire.SessionPersistence) { p.Path = "/a; Domain=x" }),
		"path with a break": cookie(func(p *wire.SessionPersistence) { p.Path = "/a\r\nX: y" }),
		"permanent":         cookie(func(p *wire.SessionPersistence) { p.Permanent = true }),
		"negative timeout":  cookie(func(p *wire.SessionPersistence) { p.AbsoluteTimeout = -1 }),
		"cookie header":     header("Set-Cookie"),
		"framing header":    header("Transfer-Encoding"),
		"internal header":   header("weft-session"),
	} {
		if err := Check(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("stay=" + Token{Backend: rule, Endpoint: pod, Issued: now}.String())
	f.Add("stay=" + pod)
	f.Fuzz(func(t *testing.T, line string) {
		p := &wire.SessionPersistence{Type: wire.SessionCookie, Name: "stay"}
		for _, ofRoute := range []bool{false, true} {
			token := Find(p, ofRoute, []string{line}, now)
			if token == (Token{}) {
				continue
			}
			again := Find(p, ofRoute, []string{"stay=" + token.String()}, now)
			if again != token {
				t.Errorf("%q became %+v and then %+v", line, token, again)
			}
		}
	})
}
