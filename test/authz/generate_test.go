package authz_test

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
	reference "weft.dev/weft/test/authz"
)

// generator draws from few values each, so that policies and requests meet.
type generator struct{ *rand.Rand }

var (
	namespaces = []string{"bank", "shop", "stock"}
	accounts   = []string{"teller", "clerk", "t.ller"}
	domains    = []string{"cluster.local", "other.example"}
	services   = []string{"web", "api"}
	ports      = []uint16{80, 81}
	methods    = []string{"GET", "POST", "get"}
	addresses  = []string{"10.1.2.3", "10.1.9.9", "10.2.0.1", "::ffff:10.1.2.3", "fd00::1", "fd00:1::1"}
	networks   = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.3/32", "0.0.0.0/0", "fd00::/16", "fd00::1/128", "::/0"}
	targets    = []string{
		"/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "//a", "/a//b", "/a%2Fb", "/a%2fb/c", "/%61", "/a;v=1/b", "/a;v=1", "/x/..%2Fa", "/x/..;/a",
		"/a%5Cb", "/%2Fa", "/s.T/M", "/s.T/N", "/u.V/M", "/a%25b", "/a%3Bv/b", "/x%2F%2e%2e/a/b", "/a/./b", "/A", "*", "/a%2F", "//", "/b/..%5ca",
	}
	patterns = []wire.PathPattern{
		{Type: wire.PathExact, Value: "/"}, {Type: wire.PathExact, Value: "/a"}, {Type: wire.PathExact, Value: "/a/b"}, {Type: wire.PathExact, Value: "/a%2Fb"},
		{Type: wire.PathExact, Value: "/a;v=1"}, {Type: wire.PathPrefix, Value: "/"}, {Type: wire.PathPrefix, Value: "/a"}, {Type: wire.PathPrefix, Value: "/a/"},
		{Type: wire.PathPrefix, Value: "/a/b"}, {Type: wire.PathPrefix, Value: "/x"}, {Type: wire.PathTemplate, Value: "/{*}"}, {Type: wire.PathTemplate, Value: "/a/{*}"},
		{Type: wire.PathTemplate, Value: "/{*}/b"}, {Type: wire.PathTemplate, Value: "/a/{**}"}, {Type: wire.PathTemplate, Value: "/{**}"}, {Type: wire.PathTemplate, Value: "/{*}/{*}/{**}"},
	}
	conditions  = slices.Sorted(maps.Keys(reference.Conditions))
	headerNames = []string{"X-Role", "x-team", "Host", "x-none", "x_role"}
	values      = []string{"admin", "user", "admin, user", "user,admin-2", "", "web.shop"}
)

func pick[T any](g generator, from []T) T { return from[g.IntN(len(from))] }

// some returns up to three values.
func some[T any](g generator, from []T) []T {
	out := make([]T, 1+g.IntN(3))
	for i := range out {
		out[i] = pick(g, from)
	}
	return out
}

// anyOr returns one of the values or "*".
func anyOr(g generator, values []string) string {
	if g.chance(25) {
		return "*"
	}
	return pick(g, values)
}

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g generator) policies() []*wire.Authorization {
	out := make([]*wire.Authorization, g.IntN(5))
	for i := range out {
		a := &wire.Authorization{Namespace: "shop", Name: strconv.Itoa(i), Action: wire.AuthorizationAllow, Audit: g.chance(25)}
		if g.chance(50) {
			a.Action = wire.AuthorizationDeny
		}
		for g.chance(40) {
			t := wire.AuthorizationTarget{Service: pick(g, services)}
			if g.chance(50) {
				t.Port = pick(g, ports)
			}
			for g.chance(30) {
				t.Requests = append(t.Requests, g.guard())
			}
			a.Targets = append(a.Targets, t)
		}
		if g.chance(30) {
			a.Tokens = g.verification()
		}
		for range g.IntN(4) {
			a.Rules = append(a.Rules, g.rule(a.Tokens != nil))
		}
		out[i] = a
	}
	return out
}

// guard is what a match of a route becomes.
func (g generator) guard() wire.AuthorizationOperation {
	o := g.operation()
	o.Ports = nil
	if o.Methods == nil && o.Paths == nil && o.GRPC == nil && o.Headers == nil {
		o.Paths = some(g, patterns)
	}
	return o
}

func (g generator) rule(tokens bool) wire.AuthorizationRule {
	var r wire.AuthorizationRule
	for range g.IntN(3) {
		r.From = append(r.From, g.source())
		if tokens && g.chance(50) {
			r.From[len(r.From)-1].Token = g.tokenMatch()
		}
	}
	if tokens && g.chance(25) {
		r.From = append(r.From, wire.AuthorizationSource{Token: g.tokenMatch()})
	}
	for g.chance(12) {
		r.Conditions = append(r.Conditions, pick(g, conditions))
	}
	for range g.IntN(3) {
		r.To = append(r.To, g.operation())
	}
	return r
}

func (g generator) source() wire.AuthorizationSource {
	var s wire.AuthorizationSource
	if g.chance(30) {
		for range 1 + g.IntN(2) {
			s.ServiceAccounts = append(s.ServiceAccounts, wire.ServiceAccount{Namespace: pick(g, namespaces), Name: pick(g, accounts)})
		}
	}
	if g.chance(30) {
		s.Namespaces = some(g, namespaces)
	}
	if g.chance(30) {
		for range 1 + g.IntN(2) {
			s.SPIFFE = append(s.SPIFFE, "spiffe://"+anyOr(g, domains)+"/ns/"+anyOr(g, namespaces)+"/sa/"+anyOr(g, accounts))
		}
	}
	if g.chance(30) || s.ServiceAccounts == nil && s.Namespaces == nil && s.SPIFFE == nil {
		for range 1 + g.IntN(2) {
			b := wire.IPBlock{CIDR: pick(g, networks)}
			if g.chance(40) {
				b.Except = some(g, networks)
			}
			s.IPBlocks = append(s.IPBlocks, b)
		}
	}
	return s
}

func (g generator) operation() wire.AuthorizationOperation {
	var o wire.AuthorizationOperation
	if g.chance(25) {
		o.Methods = some(g, methods)
	}
	if g.chance(50) {
		o.Paths = some(g, patterns)
	}
	if g.chance(15) {
		for range 1 + g.IntN(2) {
			m := wire.GRPCMethod{Service: pick(g, []string{"", "s.T", "u.V", "a"}), Method: pick(g, []string{"", "M", "N", "b"})}
			if m.Service == "" && m.Method == "" {
				m.Method = "M"
			}
			o.GRPC = append(o.GRPC, m)
		}
	}
	if g.chance(25) {
		for range 1 + g.IntN(2) {
			h := wire.AuthorizedHeader{Name: pick(g, headerNames), Type: pick(g, []wire.HeaderPatternType{wire.HeaderExact, wire.HeaderPrefix, wire.HeaderPresent})}
			if h.Type != wire.HeaderPresent {
				h.Value = pick(g, []string{"admin", "user", "adm", "admin, user", "web.shop"})
			}
			o.Headers = append(o.Headers, h)
		}
	}
	if g.chance(25) || o.Methods == nil && o.Paths == nil && o.GRPC == nil && o.Headers == nil {
		o.Ports = some(g, ports)
	}
	return o
}

func (g generator) request() reference.Request {
	r := reference.Request{
		TrustDomain: pick(g, domains), Namespace: pick(g, namespaces), ServiceAccount: pick(g, accounts),
		Service: pick(g, services), Port: pick(g, ports), TCP: g.chance(15),
		Method: pick(g, methods), Host: "web.shop",
	}
	if g.chance(90) {
		r.Client = netip.MustParseAddr(pick(g, addresses))
	}
	r.Path = "*"
	if target := pick(g, targets); target != "*" {
		// What reaches a decision is normalised.
		path, err := phttp.NormalizePath(target)
		if err != nil {
			panic(err)
		}
		r.Path = path
	}
	for range g.IntN(4) {
		name := pick(g, headerNames)
		if name != "Host" {
			r.Headers = append(r.Headers, [2]string{name, pick(g, values)})
		}
	}
	g.present(&r)
	return r
}
