package authz

import (
	"strings"
	"testing"

	phttp "weft.dev/weft/proxy/http"
)

// TestConditionsCostLittle: what is too expensive is refused, and what turns out to be so when it is evaluated closes.
func TestConditionsCostLittle(t *testing.T) {
	for _, text := range []string{
		`request.headers.exists(a, request.headers.exists(b, a == b && request.headers[a].matches('^(a+)+$')))`,
		`request.headers.all(a, request.headers.all(b, request.headers.all(c, a == b)))`,
		strings.Repeat(`request.url_path.contains('a') && `, 100) + `true`,
		strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), `'` + strings.Repeat("a", 3000) + `' == ''`,
	} {
		if _, err := newCondition(text, "shop"); err == nil {
			t.Errorf("it is accepted: %.60s", text)
		}
	}
	c, err := newCondition(`request.headers['x'].matches('^(a|b)*c$')`, "shop")
	if err != nil {
		t.Fatal(err)
	}
	long := &phttp.Request{Method: "GET", Path: "/", Header: phttp.Header{{Name: "X", Value: strings.Repeat("ab", 500_000) + "c"}}}
	r := Policies{}.newRequest(&Request{HTTP: long})
	if !c.holds(r, true) || c.holds(r, false) {
		t.Error("what costs more than it may is let through")
	}
}

// FuzzCondition: whatever somebody writes is refused or evaluated, within its bounds.
func FuzzCondition(f *testing.F) {
	f.Add(`request.method == 'GET' && request.headers['x'] == 'y'`)
	f.Add(`has(request.auth.claims.a.b) || request.auth.claims.list.exists(x, x == source.principal)`)
	f.Add(`request.url_path.matches('^/a(b|c)+$') ? destination.port > 80 : size(request.query) == 0`)
	f.Fuzz(func(_ *testing.T, text string) {
		c, err := newCondition(text, "shop")
		if err != nil {
			return
		}
		for _, in := range []*Request{{}, {HTTP: &phttp.Request{Method: "GET", Path: "/a%2Fb", Header: phttp.Header{{Name: "X", Value: "y"}}}}} {
			r := Policies{}.newRequest(in)
			c.holds(r, true)
			c.holds(r, false)
		}
	})
}
