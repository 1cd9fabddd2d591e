package authz_test

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
	reference "weft.dev/weft/test/authz"
)

var pairs = flag.Int("pairs", 100_000, "how many pairs of policies and request are compared")

// perPolicies is how many requests meet the same policies.
const perPolicies = 10

// decide returns what becomes of a request by the engine.
func decide(t *testing.T, policies []*wire.Authorization, r reference.Request) reference.Outcome {
	t.Helper()
	return outcome(authz.NewPolicies(compiled(t, policies)), r)
}

func compiled(t *testing.T, policies []*wire.Authorization) []*authz.Policy {
	t.Helper()
	var out []*authz.Policy
	for _, a := range policies {
		p, err := authz.Compile(a)
		if err != nil {
			t.Fatalf("%s: %v", text(a), err)
		}
		out = append(out, p)
	}
	return out
}

func outcome(policies authz.Policies, r reference.Request) reference.Outcome {
	decision := policies.Decide(requestOf(r))
	out := reference.Outcome{Verdict: decision.Verdict.String(), Challenge: [...]string{"", "missing", "invalid"}[decision.Token]}
	if decision.HTTP == nil {
		out.Headers = r.Headers
		return out
	}
	for _, f := range decision.HTTP.Header {
		out.Headers = append(out.Headers, [2]string{f.Name, f.Value})
	}
	return out
}

func requestOf(r reference.Request) *authz.Request {
	out := &authz.Request{
		TrustDomain: r.TrustDomain, Namespace: r.Namespace, ServiceAccount: r.ServiceAccount,
		Client: r.Client, Service: r.Service, Port: r.Port, Now: at(),
	}
	if !r.TCP {
		out.HTTP = &phttp.Request{Method: r.Method, Scheme: "http", Authority: r.Host, Path: r.Path}
		for _, h := range r.Headers {
			out.HTTP.Header.Add(h[0], h[1])
		}
	}
	return out
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// TestAgainstReference compares verdicts for random policies and requests.
func TestAgainstReference(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	verdicts := map[string]int{}
	differences := 0
	for range *pairs / perPolicies {
		policies := g.policies()
		engine := authz.NewPolicies(compiled(t, policies))
		for range perPolicies {
			r := g.request()
			want := reference.Reference(policies, r, tokens.facts)
			verdicts[want.Verdict]++
			verdicts["token "+want.Challenge]++
			if got := outcome(engine, r); !reflect.DeepEqual(got, want) {
				differences++
				t.Errorf("%v, want %v, for\n%s\nby\n%s", got, want, text(r), text(policies))
				if differences == 5 {
					t.FailNow()
				}
			}
		}
	}
	// Verdicts that hardly come up would compare nothing.
	for _, verdict := range []string{"unconcerned", "allowed", "would_deny", "denied", "token missing", "token invalid"} {
		if verdicts[verdict] < *pairs/60 {
			t.Errorf("%d of %d verdicts are %s", verdicts[verdict], *pairs, verdict)
		}
	}
	t.Logf("%d pairs: %v, %d differences", *pairs, verdicts, differences)
}

// bug is an engine that does something wrong: it changes what the engine is given, or what it says.
type bug struct {
	policies func(a *wire.Authorization)
	request  func(r *reference.Request)
	verdict  func(verdict string) string
}

// ruled makes a bug of what happens to each rule.
func ruled(change func(r *wire.AuthorizationRule, action wire.AuthorizationAction)) bug {
	return bug{policies: func(a *wire.Authorization) {
		for i := range a.Rules {
			change(&a.Rules[i], a.Action)
		}
	}}
}

func sourced(change func(s *wire.AuthorizationSource)) bug {
	return ruled(func(r *wire.AuthorizationRule, _ wire.AuthorizationAction) {
		for i := range r.From {
			change(&r.From[i])
		}
	})
}

func operated(change func(o *wire.AuthorizationOperation)) bug {
	return ruled(func(r *wire.AuthorizationRule, _ wire.AuthorizationAction) {
		for i := range r.To {
			change(&r.To[i])
		}
	})
}

// bugs are mistakes that an engine could make.
var bugs = map[string]bug{
	"audit is enforced":  {policies: func(a *wire.Authorization) { a.Audit = false }},
	"audit says nothing": {verdict: func(v string) string { return strings.Replace(v, "would_deny", "allowed", 1) }},
	"a policy for a port is for the Service": {policies: func(a *wire.Authorization) {
		for i := range a.Targets {
			a.Targets[i].Port = 0
		}
	}},
	"a policy for a Service is for the namespace": {policies: func(a *wire.Authorization) { a.Targets = nil }},
	"an Allow policy without rules allows": {policies: func(a *wire.Authorization) {
		if a.Action == wire.AuthorizationAllow && len(a.Rules) == 0 {
			a.Rules = []wire.AuthorizationRule{{}}
		}
	}},
	"only the first rule counts":   {policies: func(a *wire.Authorization) { a.Rules = a.Rules[:min(1, len(a.Rules))] }},
	"only the first source counts": ruled(func(r *wire.AuthorizationRule, _ wire.AuthorizationAction) { r.From = r.From[:min(1, len(r.From))] }),
	"the namespace of a ServiceAccount does not count": sourced(func(s *wire.AuthorizationSource) {
		for _, sa := range s.ServiceAccounts {
			for _, namespace := range namespaces {
				s.ServiceAccounts = append(s.ServiceAccounts, wire.ServiceAccount{Namespace: namespace, Name: sa.Name})
			}
		}
	}),
	"exceptions of networks are forgotten": sourced(func(s *wire.AuthorizationSource) {
		for i := range s.IPBlocks {
			s.IPBlocks[i].Except = nil
		}
	}),
	"the trust domain does not count": sourced(func(s *wire.AuthorizationSource) {
		for i, pattern := range s.SPIFFE {
			s.SPIFFE[i] = "spiffe://*/ns/" + strings.SplitN(pattern, "/ns/", 2)[1]
		}
	}),
	"mapped addresses are others": {request: func(r *reference.Request) {
		if r.Client.Is4In6() {
			r.Client = netip.MustParseAddr("2001:db8::1")
		}
	}},
	"an address that is not known is some address": {request: func(r *reference.Request) {
		if !r.Client.IsValid() {
			r.Client = netip.MustParseAddr("192.0.2.1")
		}
	}},
	"only the first value of a header counts": {request: func(r *reference.Request) {
		seen := map[string]bool{}
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h [2]string) bool {
			again := seen[strings.ToLower(h[0])]
			seen[strings.ToLower(h[0])] = true
			return again
		})
	}},
	"underscores are no dashes": {request: func(r *reference.Request) {
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h [2]string) bool { return strings.Contains(h[0], "_") })
	}},
	"methods are compared without regard to case": {request: func(r *reference.Request) { r.Method = strings.ToUpper(r.Method) }},
	"the path is looked at decoded alone": {request: func(r *reference.Request) {
		if decoded, err := url.PathUnescape(r.Path); err == nil && !strings.Contains(decoded, "%") {
			r.Path = decoded
		}
	}},
	"a prefix is exact": operated(func(o *wire.AuthorizationOperation) {
		for i := range o.Paths {
			if o.Paths[i].Type == wire.PathPrefix {
				o.Paths[i].Type = wire.PathExact
			}
		}
	}),
	"the rest of a template is one segment": operated(func(o *wire.AuthorizationOperation) {
		for i := range o.Paths {
			o.Paths[i].Value = strings.ReplaceAll(o.Paths[i].Value, "{**}", "{*}")
		}
	}),
	"the port of an operation does not count": operated(func(o *wire.AuthorizationOperation) {
		if o.Ports != nil {
			o.Ports = ports
		}
	}),
	"bytes are a request for nothing": {request: func(r *reference.Request) {
		if r.TCP {
			r.TCP, r.Method, r.Path, r.Host, r.Headers = false, "NONE", "/none", "none", nil
		}
	}},
}

// TestFindsSeededBugs: the comparison finds each of the bugs.
func TestFindsSeededBugs(t *testing.T) {
	for name, b := range bugs {
		t.Run(name, func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(3, 4))}
			for n := 1; n <= 50_000; n++ {
				policies, r := g.policies(), g.request()
				want := reference.Reference(policies, r, tokens.facts)
				if got := b.decide(t, policies, r); !reflect.DeepEqual(got, want) {
					t.Logf("found in pair %d: %s, want %s", n, got.Verdict, want.Verdict)
					return
				}
			}
			t.Error("not found")
		})
	}
}

func (b bug) decide(t *testing.T, policies []*wire.Authorization, r reference.Request) reference.Outcome {
	t.Helper()
	var changed []*wire.Authorization
	if err := json.Unmarshal([]byte(text(policies)), &changed); err != nil {
		t.Fatal(err)
	}
	for _, a := range changed {
		if b.policies != nil {
			b.policies(a)
		}
	}
	if b.request != nil {
		b.request(&r)
	}
	out := decide(t, changed, r)
	if b.verdict != nil {
		out.Verdict = b.verdict(out.Verdict)
	}
	return out
}
