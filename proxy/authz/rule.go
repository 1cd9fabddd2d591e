package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/jwt"
	"weft.dev/weft/proxy/wire"
)

// request is a Request with what rules look at more than once.
type request struct {
	*Request
	// HTTP is the request with headers from claims, original the one without.
	HTTP, original *phttp.Request
	client         netip.Addr
	// paths are the readings of the path, set where there is HTTP.
	paths [phttp.Readings]string
	// tokens are what has been presented to policies so far, token what has been to the one that is looked at.
	tokens []presented
	token  *jwt.Token
	// fields are the headers by name, once a condition has asked for them.
	fields map[string]string
}

func (ps Policies) newRequest(in *Request) *request {
	r := &request{Request: in, HTTP: in.HTTP, original: in.HTTP, client: in.Client.Unmap().WithZone("")}
	if in.HTTP != nil {
		r.paths = phttp.ReadPath(in.HTTP.Path)
		r.HTTP = ps.claim(r)
	}
	return r
}

// rule is a compiled wire.AuthorizationRule. The zero value matches everything.
type rule struct {
	from []source
	to   []operation
	when []*condition
}

// source and operation match if every part of them does.
type (
	source    struct{ parts []sourcePart }
	operation struct {
		ports []uint16
		// http looks into a request.
		http []httpPart
	}
)

// sourcePart and httpPart tell whether a request matches; deny whether the rule denies, which matters where
// there are several ways to see it.
type (
	sourcePart func(r *request, deny bool) bool
	httpPart   func(r *request, deny bool) bool
)

func (x *rule) matches(r *request, deny bool) bool {
	from := func(s source) bool {
		return !slices.ContainsFunc(s.parts, func(part sourcePart) bool { return !part(r, deny) })
	}
	to := func(o operation) bool { return o.matches(r, deny) }
	return (len(x.from) == 0 || slices.ContainsFunc(x.from, from)) && (len(x.to) == 0 || slices.ContainsFunc(x.to, to)) &&
		!slices.ContainsFunc(x.when, func(c *condition) bool { return !c.holds(r, deny) })
}

func (o *operation) matches(r *request, deny bool) bool {
	if len(o.ports) > 0 && !slices.Contains(o.ports, r.Port) {
		return false
	}
	if r.HTTP == nil {
		// What the bytes are cannot be known: nothing is allowed for being a certain request, and what might
		// be one that is denied is denied.
		return len(o.http) == 0 || deny
	}
	return !slices.ContainsFunc(o.http, func(part httpPart) bool { return !part(r, deny) })
}

// FieldError says what is wrong with a field of an authorization, such as "rules[0].from[1].spiffe[0]".
type FieldError struct{ Field, Why string }

func (e FieldError) Error() string { return e.Field + ": " + e.Why }

// below puts the field of an error below another one.
func below(field string, err error) error {
	if inner, ok := errors.AsType[FieldError](err); ok {
		return FieldError{field + "." + inner.Field, inner.Why}
	}
	return FieldError{field, err.Error()}
}

func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

var errEmpty = errors.New("it says nothing")

func newRules(a *wire.Authorization) ([]rule, error) {
	if a.Action != wire.AuthorizationAllow && a.Action != wire.AuthorizationDeny {
		return nil, FieldError{"action", fmt.Sprintf("%q is neither Allow nor Deny", a.Action)}
	}
	rules := make([]rule, len(a.Rules))
	for i := range a.Rules {
		for j := range a.Rules[i].From {
			s, err := newSource(&a.Rules[i].From[j])
			if err != nil {
				return nil, below(item("rules", i), below(item("from", j), err))
			}
			rules[i].from = append(rules[i].from, s)
		}
		for j := range a.Rules[i].To {
			o, err := newOperation(&a.Rules[i].To[j])
			if err != nil {
				return nil, below(item("rules", i), below(item("to", j), err))
			}
			rules[i].to = append(rules[i].to, o)
		}
		if err := unseen(a.Action, &a.Rules[i]); err != nil {
			return nil, below(item("rules", i), err)
		}
		for j, text := range a.Rules[i].Conditions {
			c, err := newCondition(text, a.Namespace)
			if err != nil {
				return nil, FieldError{item("rules", i) + "." + item("conditions", j), err.Error()}
			}
			rules[i].when = append(rules[i].when, c)
		}
	}
	return rules, nil
}

// unseen refuses to allow callers whom the mesh does not know something that only a proxy could tell: they come
// to none.
func unseen(action wire.AuthorizationAction, rule *wire.AuthorizationRule) error {
	at := slices.IndexFunc(rule.From, func(s wire.AuthorizationSource) bool { return s.Unauthenticated })
	looks := func(o wire.AuthorizationOperation) bool {
		return len(o.Methods) > 0 || len(o.Paths) > 0 || len(o.GRPC) > 0 || len(o.Headers) > 0
	}
	if action == wire.AuthorizationAllow && at >= 0 && (len(rule.Conditions) > 0 || slices.ContainsFunc(rule.To, looks)) {
		return FieldError{item("from", at) + ".unauthenticated", "such callers pass by every proxy, so that nothing but ports can be asked of what they call: " +
			"put them into a rule of their own"}
	}
	return nil
}

// oneOf returns a part that matches if one of its values does.
func oneOf[T any](values []T, matches func(r *request, value T) bool) sourcePart {
	return func(r *request, _ bool) bool {
		return slices.ContainsFunc(values, func(value T) bool { return matches(r, value) })
	}
}

func newSource(in *wire.AuthorizationSource) (source, error) {
	var s source
	if in.Unauthenticated {
		if len(in.ServiceAccounts) > 0 || len(in.Namespaces) > 0 || len(in.SPIFFE) > 0 || in.Token != nil {
			return s, FieldError{"unauthenticated", "such callers have no identity: it goes with ipBlocks alone"}
		}
		// Whoever comes to a proxy has an identity.
		s.parts = append(s.parts, func(*request, bool) bool { return false })
	}
	if len(in.ServiceAccounts) > 0 {
		s.parts = append(s.parts, oneOf(in.ServiceAccounts, func(r *request, sa wire.ServiceAccount) bool {
			return sa.Namespace == r.Namespace && sa.Name == r.ServiceAccount
		}))
	}
	if len(in.Namespaces) > 0 {
		s.parts = append(s.parts, oneOf(in.Namespaces, func(r *request, namespace string) bool { return namespace == r.Namespace }))
	}
	if len(in.SPIFFE) > 0 {
		patterns := make([]spiffePattern, len(in.SPIFFE))
		for i, text := range in.SPIFFE {
			var ok bool
			if patterns[i], ok = parseSPIFFE(text); !ok {
				return s, FieldError{item("spiffe", i), fmt.Sprintf("%q is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>", text)}
			}
		}
		s.parts = append(s.parts, oneOf(patterns, func(r *request, p spiffePattern) bool { return p.matches(r) }))
	}
	if len(in.IPBlocks) > 0 {
		blocks := make([]ipBlock, len(in.IPBlocks))
		for i := range in.IPBlocks {
			var err error
			if blocks[i], err = newIPBlock(&in.IPBlocks[i]); err != nil {
				return s, below(item("ipBlocks", i), err)
			}
		}
		s.parts = append(s.parts, func(r *request, deny bool) bool {
			if !r.client.IsValid() {
				return deny
			}
			return slices.ContainsFunc(blocks, func(b ipBlock) bool { return b.contains(r.client) })
		})
	}
	if in.Token != nil {
		part, err := newTokenPart(in.Token)
		if err != nil {
			return s, below("token", err)
		}
		s.parts = append(s.parts, part)
	}
	if len(s.parts) == 0 {
		return s, errEmpty
	}
	return s, nil
}

// spiffePattern is a SPIFFE ID of which any part may be "*".
type spiffePattern struct{ trustDomain, namespace, serviceAccount string }

func parseSPIFFE(text string) (spiffePattern, bool) {
	rest, ok := strings.CutPrefix(text, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return spiffePattern{}, false
	}
	p := spiffePattern{parts[0], parts[2], parts[4]}
	for _, part := range []string{p.trustDomain, p.namespace, p.serviceAccount} {
		if part == "" || part != "*" && strings.ContainsFunc(part, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_'
		}) {
			return spiffePattern{}, false
		}
	}
	return p, true
}

func (p spiffePattern) matches(r *request) bool {
	return (p.trustDomain == "*" || p.trustDomain == r.TrustDomain) &&
		(p.namespace == "*" || p.namespace == r.Namespace) &&
		(p.serviceAccount == "*" || p.serviceAccount == r.ServiceAccount)
}

// ipBlock is a network without parts of it.
type ipBlock struct {
	network netip.Prefix
	except  []netip.Prefix
}

func newIPBlock(in *wire.IPBlock) (ipBlock, error) {
	var b ipBlock
	var ok bool
	if b.network, ok = parseCIDR(in.CIDR); !ok {
		return b, FieldError{"cidr", fmt.Sprintf("%q is no network", in.CIDR)}
	}
	for i, text := range in.Except {
		network, ok := parseCIDR(text)
		if !ok {
			return b, FieldError{item("except", i), fmt.Sprintf("%q is no network", text)}
		}
		b.except = append(b.except, network)
	}
	return b, nil
}

// parseCIDR brings networks of mapped addresses into the form of the addresses that they are compared with.
func parseCIDR(text string) (netip.Prefix, bool) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return network, false
	}
	if network.Addr().Is4In6() {
		if network.Bits() < 96 {
			return network, false
		}
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network.Masked(), true
}

func (b *ipBlock) contains(a netip.Addr) bool {
	return b.network.Contains(a) && !slices.ContainsFunc(b.except, func(n netip.Prefix) bool { return n.Contains(a) })
}
