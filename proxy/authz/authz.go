// Package authz decides who may call what: it compiles the authorizations of a namespace once per
// configuration and judges requests and connections by them. It is pure, knows no expressions, and never
// looks at where a request comes from or goes to beyond what it is told.
//
// The order of a decision:
//
//   - a Deny policy of which a rule matches denies;
//   - if there are Allow policies, a rule of any of them must match, or the request is denied;
//   - everything else is allowed.
//
// All policies count that are for the namespace, the Service or the port; none takes precedence over another.
// Policies in audit mode are left out; if the verdict would be another with them, that is said.
//
// Where a request can be understood in several ways, Deny rules match if one of them does and Allow rules
// only if all of them do: the values of a header that comes several times, the readings of a path
// (http.ReadPath), an address that is not known, and what a TCP connection carries.
package authz

import (
	"net/netip"
	"slices"
	"strings"

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
	// HTTP is the request as the application will see it, nil for opaque bytes. It is not changed.
	HTTP *phttp.Request
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
}

// Policy is one compiled authorization. It is immutable.
type Policy struct {
	name    string
	deny    bool
	audit   bool
	targets []wire.AuthorizationTarget
	rules   []rule
	// stopgap tells that it stands for one that cannot be used.
	stopgap bool
}

// Compile returns an authorization as Policies take it, or why it cannot be used.
func Compile(a *wire.Authorization) (*Policy, error) {
	p := &Policy{name: a.Key(), deny: a.Action == wire.AuthorizationDeny, audit: a.Audit, targets: a.Targets}
	var err error
	if p.rules, err = newRules(a); err != nil {
		return nil, err
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
		p.targets = a.Targets
	}
	return p
}

// Stopgap tells whether Closed has made the policy.
func (p *Policy) Stopgap() bool { return p.stopgap }

// concerns tells whether a policy is for what is called.
func (p *Policy) concerns(r *Request) bool {
	if len(p.targets) == 0 {
		return true
	}
	return slices.ContainsFunc(p.targets, func(t wire.AuthorizationTarget) bool {
		return t.Service == r.Service && (t.Port == 0 || t.Port == r.Port)
	})
}

// match returns the first rule that matches, or NoRule.
func (p *Policy) match(r *request) int {
	return slices.IndexFunc(p.rules, func(rule rule) bool { return rule.matches(r, p.deny) })
}

// Policies are all authorizations of one namespace. They are immutable and safe for concurrent use; the zero
// value is concerned with nothing.
type Policies struct {
	// deny and allow are in the order of names.
	deny, allow []*Policy
	// audited tells that some of them only audit.
	audited bool
}

// NewPolicies takes policies in any order.
func NewPolicies(all []*Policy) Policies {
	var ps Policies
	for _, p := range slices.SortedFunc(slices.Values(all), func(a, b *Policy) int { return strings.Compare(a.name, b.name) }) {
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
	if len(ps.deny) == 0 && len(ps.allow) == 0 {
		return Decision{Rule: NoRule}
	}
	r := newRequest(in)
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
	concerned := false
	for _, p := range ps.deny {
		if !counts(p) || !p.concerns(r.Request) {
			continue
		}
		concerned = true
		if rule := p.match(r); rule != NoRule {
			return Decision{Verdict: Denied, Policy: p.name, Rule: rule}
		}
	}
	var first *Policy
	for _, p := range ps.allow {
		if !counts(p) || !p.concerns(r.Request) {
			continue
		}
		if first == nil {
			first = p
		}
		if rule := p.match(r); rule != NoRule {
			return Decision{Verdict: Allowed, Policy: p.name, Rule: rule}
		}
	}
	switch {
	case first != nil:
		return Decision{Verdict: Denied, Policy: first.name, Rule: NoRule}
	case concerned:
		return Decision{Verdict: Allowed, Rule: NoRule}
	default:
		return Decision{Rule: NoRule}
	}
}
