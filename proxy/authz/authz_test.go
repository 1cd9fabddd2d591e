package authz_test

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// policy is an authorization of namespace shop.
func policy(name string, action wire.AuthorizationAction, rules ...wire.AuthorizationRule) *wire.Authorization {
	return &wire.Authorization{Namespace: "shop", Name: name, Action: action, Rules: rules}
}

func allow(name string, rules ...wire.AuthorizationRule) *wire.Authorization {
	return policy(name, wire.AuthorizationAllow, rules...)
}

func deny(name string, rules ...wire.AuthorizationRule) *wire.Authorization {
	return policy(name, wire.AuthorizationDeny, rules...)
}

func audit(a *wire.Authorization) *wire.Authorization {
	a.Audit = true
	return a
}

func forService(a *wire.Authorization, service string, port uint16) *wire.Authorization {
	a.Targets = append(a.Targets, wire.AuthorizationTarget{Service: service, Port: port})
	return a
}

func from(sources ...wire.AuthorizationSource) wire.AuthorizationRule {
	return wire.AuthorizationRule{From: sources}
}

func to(operations ...wire.AuthorizationOperation) wire.AuthorizationRule {
	return wire.AuthorizationRule{To: operations}
}

func account(namespace, name string) wire.AuthorizationSource {
	return wire.AuthorizationSource{ServiceAccounts: []wire.ServiceAccount{{Namespace: namespace, Name: name}}}
}

func paths(kind wire.PathPatternType, values ...string) wire.AuthorizationOperation {
	var o wire.AuthorizationOperation
	for _, v := range values {
		o.Paths = append(o.Paths, wire.PathPattern{Type: kind, Value: v})
	}
	return o
}

func header(name string, kind wire.HeaderPatternType, value string) wire.AuthorizationOperation {
	return wire.AuthorizationOperation{Headers: []wire.AuthorizedHeader{{Name: name, Type: kind, Value: value}}}
}

func policies(t *testing.T, all ...*wire.Authorization) authz.Policies {
	t.Helper()
	var compiled []*authz.Policy
	for _, a := range all {
		p, err := authz.Compile(a)
		if err != nil {
			t.Fatalf("%s: %v", a.Name, err)
		}
		compiled = append(compiled, p)
	}
	return authz.NewPolicies(compiled)
}

// request is GET / of bank/teller to port 80 of Service web.
func request(edit ...func(*authz.Request)) *authz.Request {
	r := &authz.Request{
		TrustDomain: "cluster.local", Namespace: "bank", ServiceAccount: "teller",
		Client: netip.MustParseAddr("10.1.2.3"), Service: "web", Port: 80,
		HTTP: &phttp.Request{Method: "GET", Scheme: "http", Authority: "web.shop", Path: "/"},
	}
	for _, f := range edit {
		f(r)
	}
	return r
}

func at(target string) func(*authz.Request) {
	return func(r *authz.Request) {
		if err := r.HTTP.SetTarget(target); err != nil {
			panic(err)
		}
	}
}

func with(name string, values ...string) func(*authz.Request) {
	return func(r *authz.Request) {
		for _, v := range values {
			r.HTTP.Header.Add(name, v)
		}
	}
}

func bytes(r *authz.Request) { r.HTTP = nil }

func TestDecide(t *testing.T) {
	anything := wire.AuthorizationRule{}
	block := func(cidr string, except ...string) wire.AuthorizationSource {
		return wire.AuthorizationSource{IPBlocks: []wire.IPBlock{{CIDR: cidr, Except: except}}}
	}
	client := func(address string) func(*authz.Request) {
		return func(r *authz.Request) { r.Client = netip.MustParseAddr(address) }
	}
	unknown := func(r *authz.Request) { r.Client = netip.Addr{} }
	get := to(wire.AuthorizationOperation{Methods: []string{"GET", "HEAD"}})
	for name, tc := range map[string]struct {
		policies []*wire.Authorization
		request  *authz.Request
		want     string
	}{
		"without policies": {nil, request(), "unconcerned"},
		"a policy for another Service is of no concern": {
			[]*wire.Authorization{forService(deny("d", anything), "other", 0)}, request(), "unconcerned",
		},
		"a policy for another port is of no concern": {
			[]*wire.Authorization{forService(deny("d", anything), "web", 81)}, request(), "unconcerned",
		},
		"a policy for the port": {[]*wire.Authorization{forService(deny("d", anything), "web", 80)}, request(), "denied shop/d 0"},
		"what no Deny rule matches is allowed while there is no Allow policy": {
			[]*wire.Authorization{deny("d", from(account("bank", "other")))}, request(), "allowed  -1",
		},
		"an Allow policy denies the rest": {
			[]*wire.Authorization{allow("b", from(account("bank", "other"))), allow("a")}, request(), "denied shop/a -1",
		},
		"an Allow policy of any level is enough": {
			[]*wire.Authorization{allow("a"), forService(allow("b", from(account("bank", "other")), from(account("bank", "teller"))), "web", 80)},
			request(), "allowed shop/b 1",
		},
		"a Deny policy of any level denies": {
			[]*wire.Authorization{deny("z", from(account("bank", "teller"))), forService(allow("a", anything), "web", 80)}, request(), "denied shop/z 0",
		},
		"audit only tells": {[]*wire.Authorization{audit(deny("d", anything))}, request(), "would_deny shop/d 0"},
		"audit of an Allow policy tells what it would not allow": {
			[]*wire.Authorization{audit(allow("a", from(account("bank", "other"))))}, request(), "would_deny shop/a -1",
		},
		"audit of an Allow policy counts with those that are enforced": {
			[]*wire.Authorization{audit(allow("a")), allow("b", anything)}, request(), "allowed shop/b 0",
		},
		"audit opens nothing": {[]*wire.Authorization{audit(allow("a", anything)), allow("b")}, request(), "denied shop/b -1"},

		"the account of another namespace": {[]*wire.Authorization{allow("a", from(account("shop", "teller")))}, request(), "denied shop/a -1"},
		"all fields of a source must match": {
			[]*wire.Authorization{allow("a", from(wire.AuthorizationSource{
				Namespaces: []string{"bank"}, IPBlocks: []wire.IPBlock{{CIDR: "10.2.0.0/16"}},
			}))}, request(), "denied shop/a -1",
		},
		"one of the sources must match": {
			[]*wire.Authorization{allow("a", from(block("10.2.0.0/16"), wire.AuthorizationSource{Namespaces: []string{"bank"}}))}, request(), "allowed shop/a 0",
		},
		"a SPIFFE pattern": {
			[]*wire.Authorization{allow("a", from(wire.AuthorizationSource{SPIFFE: []string{"spiffe://*/ns/bank/sa/*"}}))}, request(), "allowed shop/a 0",
		},
		"a SPIFFE pattern of another trust domain": {
			[]*wire.Authorization{allow("a", from(wire.AuthorizationSource{SPIFFE: []string{"spiffe://other/ns/*/sa/*"}}))}, request(), "denied shop/a -1",
		},
		"a dot of a SPIFFE pattern is a dot": {
			[]*wire.Authorization{allow("a", from(wire.AuthorizationSource{SPIFFE: []string{"spiffe://*/ns/bank/sa/t.ller"}}))}, request(), "denied shop/a -1",
		},
		"an address":                                  {[]*wire.Authorization{allow("a", from(block("10.1.0.0/16")))}, request(), "allowed shop/a 0"},
		"an address that is excepted":                 {[]*wire.Authorization{allow("a", from(block("10.1.0.0/16", "10.1.2.0/24")))}, request(), "denied shop/a -1"},
		"an address in its mapped form":               {[]*wire.Authorization{deny("d", from(block("10.1.0.0/16")))}, request(client("::ffff:10.1.2.3")), "denied shop/d 0"},
		"a network in its mapped form":                {[]*wire.Authorization{deny("d", from(block("::ffff:10.1.0.0/112")))}, request(), "denied shop/d 0"},
		"an IPv6 address":                             {[]*wire.Authorization{deny("d", from(block("fd00::/8")))}, request(client("fd00::1")), "denied shop/d 0"},
		"an address that is not known is not allowed": {[]*wire.Authorization{allow("a", from(block("0.0.0.0/0")))}, request(unknown), "denied shop/a -1"},
		"an address that is not known is denied":      {[]*wire.Authorization{deny("d", from(block("10.9.0.0/16")))}, request(unknown), "denied shop/d 0"},

		"a method": {[]*wire.Authorization{allow("a", get)}, request(), "allowed shop/a 0"},
		"methods are case-sensitive": {
			[]*wire.Authorization{allow("a", get)}, request(func(r *authz.Request) { r.HTTP.Method = "get" }), "denied shop/a -1",
		},
		"a port":                      {[]*wire.Authorization{deny("d", to(wire.AuthorizationOperation{Ports: []uint16{81, 80}}))}, request(), "denied shop/d 0"},
		"an exact path is no prefix":  {[]*wire.Authorization{allow("a", to(paths(wire.PathExact, "/a")))}, request(at("/a/b")), "denied shop/a -1"},
		"a prefix is one of segments": {[]*wire.Authorization{allow("a", to(paths(wire.PathPrefix, "/a/")))}, request(at("/ab")), "denied shop/a -1"},
		"a prefix":                    {[]*wire.Authorization{allow("a", to(paths(wire.PathPrefix, "/b", "/a/")))}, request(at("/a/b?c")), "allowed shop/a 0"},
		"the prefix / holds the asterisk": {
			[]*wire.Authorization{deny("d", to(paths(wire.PathPrefix, "/")))},
			request(func(r *authz.Request) { r.HTTP.Method, r.HTTP.Path = "OPTIONS", "*" }), "denied shop/d 0",
		},
		"a template": {[]*wire.Authorization{allow("a", to(paths(wire.PathTemplate, "/users/{*}/cart")))}, request(at("/users/ann/cart")), "allowed shop/a 0"},
		"a segment of a template is not empty": {
			[]*wire.Authorization{allow("a", to(paths(wire.PathTemplate, "/users/{*}/cart")))}, request(at("/users//cart")), "denied shop/a -1",
		},
		"a segment of a template is one": {
			[]*wire.Authorization{allow("a", to(paths(wire.PathTemplate, "/users/{*}")))}, request(at("/users/ann%2Fcart")), "denied shop/a -1",
		},
		"the rest of a template":                  {[]*wire.Authorization{allow("a", to(paths(wire.PathTemplate, "/a/{*}/{**}")))}, request(at("/a/b/c/d")), "allowed shop/a 0"},
		"the rest of a template may be nothing":   {[]*wire.Authorization{allow("a", to(paths(wire.PathTemplate, "/a/{**}")))}, request(at("/a")), "allowed shop/a 0"},
		"a path is allowed however it is written": {[]*wire.Authorization{allow("a", to(paths(wire.PathExact, "/%41;v=1")))}, request(at("/%41;v=1")), "allowed shop/a 0"},
		"a path that leads out is not allowed": {
			[]*wire.Authorization{allow("a", to(paths(wire.PathPrefix, "/public")))}, request(at("/public/..%2Fadmin")), "denied shop/a -1",
		},
		"a path that leads out with parameters is not allowed": {
			[]*wire.Authorization{allow("a", to(paths(wire.PathPrefix, "/public")))}, request(at("/public/..;/admin")), "denied shop/a -1",
		},
		"empty segments hide nothing": {[]*wire.Authorization{deny("d", to(paths(wire.PathPrefix, "/admin")))}, request(at("//admin")), "denied shop/d 0"},
		"parameters hide nothing":     {[]*wire.Authorization{deny("d", to(paths(wire.PathExact, "/admin")))}, request(at("/admin;a=b")), "denied shop/d 0"},
		"a gRPC method": {
			[]*wire.Authorization{allow("a", to(wire.AuthorizationOperation{GRPC: []wire.GRPCMethod{{Service: "a.B", Method: "C"}}}))}, request(at("/a.B/C")), "allowed shop/a 0",
		},
		"another gRPC method": {
			[]*wire.Authorization{allow("a", to(wire.AuthorizationOperation{GRPC: []wire.GRPCMethod{{Service: "a.B", Method: "C"}}}))}, request(at("/a.B/D")), "denied shop/a -1",
		},
		"any method of a gRPC service": {
			[]*wire.Authorization{deny("d", to(wire.AuthorizationOperation{GRPC: []wire.GRPCMethod{{Service: "a.B"}}}))}, request(at("/a.B/D")), "denied shop/d 0",
		},
		"a gRPC method of any service": {
			[]*wire.Authorization{deny("d", to(wire.AuthorizationOperation{GRPC: []wire.GRPCMethod{{Method: "D"}}}))}, request(at("/x/D")), "denied shop/d 0",
		},

		"a header": {[]*wire.Authorization{allow("a", to(header("X-Role", wire.HeaderExact, "admin")))}, request(with("x-role", "admin")), "allowed shop/a 0"},
		"all values of a header must be allowed": {
			[]*wire.Authorization{allow("a", to(header("x-role", wire.HeaderExact, "user")))}, request(with("X-Role", "user", "admin")), "denied shop/a -1",
		},
		"a list is not one of its members to allow": {
			[]*wire.Authorization{allow("a", to(header("x-role", wire.HeaderExact, "user")))}, request(with("X-Role", "user, admin")), "denied shop/a -1",
		},
		"any value of a header is denied": {
			[]*wire.Authorization{deny("d", to(header("x-role", wire.HeaderExact, "admin")))}, request(with("X-Role", "user", "admin")), "denied shop/d 0",
		},
		"any member of a list is denied": {
			[]*wire.Authorization{deny("d", to(header("x-role", wire.HeaderPrefix, "adm")))}, request(with("X-Role", "user, admin")), "denied shop/d 0",
		},
		"an underscore hides no header": {
			[]*wire.Authorization{deny("d", to(header("x-role", wire.HeaderExact, "admin")))}, request(with("X_Role", "admin")), "denied shop/d 0",
		},
		"an underscore makes no header": {
			[]*wire.Authorization{allow("a", to(header("x-role", wire.HeaderExact, "admin")))}, request(with("X_Role", "admin")), "denied shop/a -1",
		},
		"a header that is absent":   {[]*wire.Authorization{allow("a", to(header("x-role", wire.HeaderPresent, "")))}, request(), "denied shop/a -1"},
		"a header that is empty":    {[]*wire.Authorization{deny("d", to(header("x-role", wire.HeaderPresent, "")))}, request(with("X-Role", "")), "denied shop/d 0"},
		"the host is the authority": {[]*wire.Authorization{deny("d", to(header("Host", wire.HeaderExact, "web.shop")))}, request(), "denied shop/d 0"},

		"bytes are allowed by identity":      {[]*wire.Authorization{allow("a", from(account("bank", "teller")))}, request(bytes), "allowed shop/a 0"},
		"bytes are not allowed as a request": {[]*wire.Authorization{allow("a", get)}, request(bytes), "denied shop/a -1"},
		"bytes are denied as what might be a request": {
			[]*wire.Authorization{deny("d", to(header("x-role", wire.HeaderExact, "admin")))}, request(bytes), "denied shop/d 0",
		},
		"bytes of another caller are not denied": {
			[]*wire.Authorization{deny("d", wire.AuthorizationRule{From: []wire.AuthorizationSource{account("bank", "other")}, To: get.To})}, request(bytes), "allowed  -1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(policies(t, tc.policies...).Decide(tc.request)); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func show(d authz.Decision) string {
	if d.Verdict == authz.Unconcerned {
		return d.Verdict.String()
	}
	return fmt.Sprintf("%s %s %d", d.Verdict, d.Policy, d.Rule)
}

// TestClosed: what cannot be used opens nothing.
func TestClosed(t *testing.T) {
	bad := forService(allow("a", from(wire.AuthorizationSource{IPBlocks: []wire.IPBlock{{CIDR: "10.0.0.0/33"}}})), "web", 0)
	if _, err := authz.Compile(bad); err == nil || !strings.HasPrefix(err.Error(), "rules[0].from[0].ipBlocks[0].cidr: ") {
		t.Errorf("compiled with %v", err)
	}
	closed := authz.NewPolicies([]*authz.Policy{authz.Closed("shop/a", bad)})
	if got := show(closed.Decide(request())); got != "denied shop/a 0" {
		t.Error(got)
	}
	other := request(func(r *authz.Request) { r.Service = "other" })
	if got := show(closed.Decide(other)); got != "unconcerned" {
		t.Error(got)
	}
	bad.Targets = append(bad.Targets, wire.AuthorizationTarget{})
	for name, of := range map[string]*wire.Authorization{"no content": nil, "a target that is none": bad} {
		if got := show(authz.NewPolicies([]*authz.Policy{authz.Closed("shop/a", of)}).Decide(other)); got != "denied shop/a 0" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if authz.Closed("shop/a", audit(bad)) != nil {
		t.Error("an audit closes")
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, rule := range map[string]wire.AuthorizationRule{
		"an empty source":                      from(wire.AuthorizationSource{}),
		"an empty operation":                   to(wire.AuthorizationOperation{}),
		"a SPIFFE pattern with part of a name": from(wire.AuthorizationSource{SPIFFE: []string{"spiffe://a/ns/b/sa/c*"}}),
		"an expression for a pattern":          from(wire.AuthorizationSource{SPIFFE: []string{"spiffe://a/ns/(b|c)/sa/.*"}}),
		"a network without bits":               from(wire.AuthorizationSource{IPBlocks: []wire.IPBlock{{CIDR: "10.0.0.1"}}}),
		"an exception that is no network":      from(wire.AuthorizationSource{IPBlocks: []wire.IPBlock{{CIDR: "10.0.0.0/8", Except: []string{"x"}}}}),
		"port 0":                               to(wire.AuthorizationOperation{Ports: []uint16{0}}),
		"a path without a slash":               to(paths(wire.PathExact, "a")),
		"a path with a broken escape":          to(paths(wire.PathPrefix, "/%zz")),
		"a type of path":                       to(paths("Regex", "/.*")),
		"a template with part of a name":       to(paths(wire.PathTemplate, "/a{*}")),
		"a template with the rest inside":      to(paths(wire.PathTemplate, "/{**}/a")),
		"a template with an escape":            to(paths(wire.PathTemplate, "/a%2Fb/{*}")),
		"a template with a dot segment":        to(paths(wire.PathTemplate, "/a/../{*}")),
		"a gRPC method without a name":         to(wire.AuthorizationOperation{GRPC: []wire.GRPCMethod{{}}}),
		"a header without a name":              to(header("", wire.HeaderPresent, "")),
		"a header without a value":             to(header("a", wire.HeaderExact, "")),
		"a header with a value too many":       to(header("a", wire.HeaderPresent, "b")),
		"a type of header":                     to(header("a", "Regex", ".*")),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := authz.Compile(allow("a", rule)); err == nil {
				t.Error("compiled")
			}
		})
	}
	if _, err := authz.Compile(policy("a", "Audit")); err == nil {
		t.Error("an action that does not exist is compiled")
	}
}

// TestEncodingsOfDeniedPaths: however one byte of a path is written, what an application would find below a
// denied prefix does not pass, and what the prefix does not hold is not denied for being written as it is.
func TestEncodingsOfDeniedPaths(t *testing.T) {
	denied := policies(t, deny("d", to(paths(wire.PathPrefix, "/admin"))))
	var refused, passed, stopped int
	for b := 1; b < 256; b++ {
		for _, form := range []string{
			"/%sadmin/x", "/admin%sx", "/admin%s", "/a%smin/x", "%s/admin", "/%s/admin", "/admin/%s", "/public%sadmin",
			"/public/..%sadmin", "/public%s..%sadmin", "/public/%s%s/admin", "/./%sadmin", "/public%s/../admin",
		} {
			for _, digits := range []string{"%%%02x", "%%%02X"} {
				target := strings.ReplaceAll(form, "%s", fmt.Sprintf(digits, b))
				r := request()
				if r.HTTP.SetTarget(target) != nil {
					refused++ // a 400: nothing is forwarded
					continue
				}
				verdict := denied.Decide(r).Verdict
				if below(r.HTTP.Path) {
					stopped++
					if verdict != authz.Denied {
						t.Errorf("%s is forwarded as %s: %s", target, r.HTTP.Path, verdict)
					}
					continue
				}
				passed++
				if verdict != authz.Allowed {
					t.Errorf("%s is forwarded as %s, which is not below: %s", target, r.HTTP.Path, verdict)
				}
			}
		}
	}
	if refused == 0 || passed == 0 || stopped == 0 {
		t.Errorf("%d refused, %d passed, %d stopped: the forms show nothing", refused, passed, stopped)
	}
	t.Logf("%d refused, %d passed, %d stopped", refused, passed, stopped)
}

// below tells whether an application can take a forwarded path for one below /admin: as it is, decoded as
// net/url does, cleaned as package path does, or cut at parameters.
func below(forwarded string) bool {
	decoded, err := url.PathUnescape(forwarded)
	if err != nil {
		return true
	}
	slashed := strings.ReplaceAll(decoded, `\`, "/")
	var cut []string
	for segment := range strings.SplitSeq(slashed, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		cut = append(cut, segment)
	}
	for _, p := range []string{forwarded, decoded, path.Clean(decoded), path.Clean(slashed), path.Clean(strings.Join(cut, "/"))} {
		if p == "/admin" || strings.HasPrefix(p, "/admin/") {
			return true
		}
	}
	return false
}
