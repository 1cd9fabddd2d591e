// Package authz decides who may call what: it compiles the authorizations of a namespace once per
// configuration and judges requests and connections by them. It is pure and never looks at where a request
// comes from or goes to beyond what it is told.
//
// The order of a decision:
//
//   - a token that a policy cannot verify, although it says which ones it believes, denies;
//   - a Deny policy of which a rule matches denies;
//   - if there are Allow policies, a rule of any of them must match, or the request is denied;
//   - everything else is allowed.
//
// All policies count that are for the namespace, the Service or the port; none takes precedence over another.
// Policies in audit mode are left out; if the verdict would be another with them, that is said.
//
// Where a request can be understood in several ways, Deny rules match if one of them does and Allow rules
// only if all of them do: the values of a header that comes several times, the readings of a path
// (http.ReadPath), an address that is not known, and what a TCP connection carries. A policy for certain requests
// is for what may be one of them, and allows only what certainly is.
package authz

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// Request is what is decided about.
type Request struct {
	// TrustDomain, Namespace and ServiceAccount are the caller's, which has been proven.
	TrustDomain, Namespace, ServiceAccount string
	// Client is the address of the caller's pod; invalid if it is not known.
	Client netip.Addr
	// Service and Port are what is called, in the namespace of the policies.
	Service string
	Port    uint16
	// HTTP is the request as the application will see it but for headers from claims, nil for opaque bytes. It
	// is not changed.
	HTTP *phttp.Request
	// Now is what tokens are judged by.
	Now time.Time
}

// Verdict is the outcome of a decision.
type Verdict int

// The verdicts. Unconcerned allows, because no policy is for the target; WouldDeny allows as well.
const (
	Unconcerned Verdict = iota
	Allowed
	WouldDeny
	Denied
)

// String returns the verdict as metrics have it.
func (v Verdict) String() string {
	return [...]string{"unconcerned", "allowed", "would_deny", "denied"}[v]
}

// NoRule is Decision.Rule where no rule has matched.
const NoRule = -1

// Decision is a verdict and what it rests on.
type Decision struct {
	Verdict Verdict
	// Policy is the name of the policy that has decided, "namespace/name". If a request is denied because no
	// Allow policy has a rule for it, it is the first of these; if it is allowed because only Deny policies
	// are there, it is empty.
	Policy string
	// Rule is the index of the rule that has matched, or NoRule.
	Rule int
	// Token tells of a request that is denied, or would be, what a token has to do with it.
	Token TokenProblem
	// Why says what is wrong with a token that is invalid, for logs.
	Why error
	// HTTP is the request as the application is to get it: without headers that only claims may set, and with
	// those that they do. Where there are none it is that of the Request.
	HTTP *phttp.Request
}

// TokenProblem is what a token has to do with a denial.
type TokenProblem int

// The problems. TokenMissing: there is no token, and a policy that has no rule for the request has some for tokens.
// TokenInvalid: one was presented that cannot be verified.
const (
	TokenNone TokenProblem = iota
	TokenMissing
	TokenInvalid
)

// Policy is one compiled authorization. It is immutable.
type Policy struct {
	name    string
	deny    bool
	audit   bool
	targets []target
	rules   []rule
	// tokens is nil if the policy believes none; asks tells that rules look at them.
	tokens *tokens
	asks   bool
	// stopgap tells that it stands for one that cannot be used.
	stopgap bool
}

// target is a Service, or one of its ports, and the requests to it that the policy is for: all without any.
type target struct {
	service  string
	port     uint16
	requests []operation
}

// Compile returns an authorization as Policies take it, or why it cannot be used.
func Compile(a *wire.Authorization) (*Policy, error) {
	p := &Policy{name: a.Key(), deny: a.Action == wire.AuthorizationDeny, audit: a.Audit}
	var err error
	if p.targets, err = newTargets(a.Targets); err != nil {
		return nil, err
	}
	if p.tokens, err = newTokens(a.Tokens); err != nil {
		return nil, err
	}
	if p.rules, err = newRules(a); err != nil {
		return nil, err
	}
	for i := range a.Rules {
		p.asks = p.asks || slices.ContainsFunc(a.Rules[i].From, func(s wire.AuthorizationSource) bool { return s.Token != nil })
	}
	return p, nil
}

// Closed stands for an authorization that cannot be used and that has no predecessor: nothing is let through
// to its targets, or to the whole namespace if these are not known either. a may be nil. The result is nil if
// it would only have been audited.
func Closed(name string, a *wire.Authorization) *Policy {
	p := &Policy{name: name, deny: true, rules: []rule{{}}, stopgap: true}
	if a == nil {
		return p
	}
	if a.Audit {
		return nil
	}
	if !slices.ContainsFunc(a.Targets, func(t wire.AuthorizationTarget) bool { return t.Service == "" }) {
		for _, t := range a.Targets {
			p.targets = append(p.targets, target{service: t.Service, port: t.Port})
		}
	}
	return p
}

// Stopgap tells whether Closed has made the policy.
func (p *Policy) Stopgap() bool { return p.stopgap }

func newTargets(in []wire.AuthorizationTarget) ([]target, error) {
	var targets []target
	for i := range in {
		t := target{service: in[i].Service, port: in[i].Port}
		if t.service == "" {
			return nil, FieldError{"targets", "one has no Service"}
		}
		for j := range in[i].Requests {
			o, err := newOperation(&in[i].Requests[j])
			if err != nil {
				return nil, below(item("targets", i), below(item("requests", j), err))
			}
			t.requests = append(t.requests, o)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// reaches tells whether a policy is for requests to what is called, if perhaps not for all.
func (p *Policy) reaches(r *Request) bool {
	return len(p.targets) == 0 || slices.ContainsFunc(p.targets, func(t target) bool { return t.is(r) })
}

func (t *target) is(r *Request) bool {
	return t.service == r.Service && (t.port == 0 || t.port == r.Port)
}

// concerns tells whether a policy may be for a request, or with certain, whether it is in every way to understand
// the request.
func (p *Policy) concerns(r *request, certain bool) bool {
	if len(p.targets) == 0 {
		return true
	}
	return slices.ContainsFunc(p.targets, func(t target) bool {
		return t.is(r.Request) && (len(t.requests) == 0 ||
			slices.ContainsFunc(t.requests, func(o operation) bool { return o.matches(r, !certain) }))
	})
}

// match returns the first rule that matches, or NoRule.
func (p *Policy) match(r *request) int {
	r.token, _ = r.presented(p)
	return slices.IndexFunc(p.rules, func(rule rule) bool { return rule.matches(r, p.deny) })
}

// Policies are all authorizations of one namespace. They are immutable and safe for concurrent use; the zero
// value is concerned with nothing.
type Policies struct {
	// deny and allow are in the order of names, and so is all, which holds both.
	deny, allow, all []*Policy
	// audited tells that some of them only audit.
	audited bool
}

// NewPolicies takes policies in any order.
func NewPolicies(all []*Policy) Policies {
	var ps Policies
	ps.all = slices.SortedFunc(slices.Values(all), func(a, b *Policy) int { return strings.Compare(a.name, b.name) })
	for _, p := range ps.all {
		ps.audited = ps.audited || p.audit
		if p.deny {
			ps.deny = append(ps.deny, p)
		} else {
			ps.allow = append(ps.allow, p)
		}
	}
	return ps
}

// Decide returns the verdict on a request.
func (ps Policies) Decide(in *Request) Decision {
	if ps.Empty() {
		return Decision{Rule: NoRule, HTTP: in.HTTP}
	}
	r := ps.newRequest(in)
	decision := ps.judge(r)
	decision.HTTP = r.HTTP
	return decision
}

// Empty tells whether there are none: then everything is Unconcerned.
func (ps Policies) Empty() bool { return len(ps.all) == 0 }

func (ps Policies) judge(r *request) Decision {
	enforced := ps.decide(r, func(p *Policy) bool { return !p.audit })
	if enforced.Verdict == Denied || !ps.audited {
		return enforced
	}
	audited := ps.decide(r, func(*Policy) bool { return true })
	switch {
	case audited.Verdict == Denied:
		audited.Verdict = WouldDeny
		return audited
	case enforced.Verdict == Unconcerned:
		return audited
	default:
		return enforced
	}
}

// decide judges by the policies that count.
func (ps Policies) decide(r *request, counts func(*Policy) bool) Decision {
	concerned := func(p *Policy) bool { return counts(p) && p.concerns(r, false) }
	concerns := false
	for _, p := range ps.all {
		if !concerned(p) {
			continue
		}
		concerns = true
		if _, err := r.presented(p); err != nil {
			return Decision{Verdict: Denied, Policy: p.name, Rule: NoRule, Token: TokenInvalid, Why: err}
		}
	}
	if !concerns {
		return Decision{Rule: NoRule}
	}
	for _, p := range ps.deny {
		if !concerned(p) {
			continue
		}
		if rule := p.match(r); rule != NoRule {
			return Decision{Verdict: Denied, Policy: p.name, Rule: rule}
		}
	}
	denied := Decision{Verdict: Denied, Rule: NoRule}
	for _, p := range ps.allow {
		if !concerned(p) {
			continue
		}
		if rule := p.match(r); rule != NoRule && p.concerns(r, true) {
			return Decision{Verdict: Allowed, Policy: p.name, Rule: rule}
		}
		if denied.Policy == "" {
			denied.Policy = p.name
		}
		if p.asks && r.token == nil && r.HTTP != nil {
			denied.Token = TokenMissing
		}
	}
	if denied.Policy == "" {
		return Decision{Verdict: Allowed, Rule: NoRule}
	}
	return denied
}
