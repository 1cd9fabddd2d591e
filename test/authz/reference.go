// Package authz holds the proxy's authorization engine against an evaluator that was written from the
// description alone, as plainly as possible and without regard to cost. It must not import anything of the
// engine.
package authz

import (
	"net/netip"
	"net/url"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// Request is what the reference decides about.
type Request struct {
	TrustDomain, Namespace, ServiceAccount string
	// Client is invalid if it is not known.
	Client  netip.Addr
	Service string
	Port    uint16
	// TCP tells that the fields below mean nothing.
	TCP     bool
	Method  string
	Host    string
	Path    string
	Headers [][2]string

	// claims are those of the token that has been verified for the policy that is looked at, nil without one.
	claims map[string]any
}

// Outcome is what becomes of a request.
type Outcome struct {
	// Verdict is "unconcerned", "allowed", "would_deny" or "denied".
	Verdict string
	// Challenge is "missing" or "invalid" if a token has to do with a denial.
	Challenge string
	// Headers are those that the application gets.
	Headers [][2]string
}

// Reference tells what becomes of a request to the namespace of the policies.
func Reference(policies []*wire.Authorization, r Request, facts Facts) Outcome {
	var enforced []*wire.Authorization
	for _, p := range policies {
		if !p.Audit {
			enforced = append(enforced, p)
		}
	}
	seen := r
	if !r.TCP {
		seen.Headers = withClaims(enforced, r, facts)
	}
	out := Outcome{Headers: seen.Headers}
	now, challenge := judge(enforced, r, seen, facts)
	if now == "denied" {
		out.Verdict, out.Challenge = "denied", challenge
		return out
	}
	switch then, challenge := judge(policies, r, seen, facts); then {
	case "denied":
		out.Verdict, out.Challenge = "would_deny", challenge
	case "unconcerned":
		out.Verdict = "unconcerned"
	default:
		out.Verdict = "allowed"
	}
	return out
}

// judge takes every policy for one that is enforced. received is the request as it came, seen as the application
// gets it.
func judge(policies []*wire.Authorization, received, seen Request, facts Facts) (verdict, challenge string) {
	verdict = "unconcerned"
	denied, allows, allowed, asked := false, false, false, false
	for _, p := range policies {
		if !isFor(p, seen, true) {
			continue
		}
		verdict = "allowed"
		r := seen
		presented := false
		if p.Tokens != nil && !received.TCP {
			var valid bool
			presented, valid, _, r.claims = token(p, received, facts)
			if presented && !valid {
				return "denied", "invalid"
			}
		}
		for _, rule := range p.Rules {
			if p.Action == wire.AuthorizationDeny && holds(rule, r, p, true) {
				denied = true
			}
			if p.Action == wire.AuthorizationAllow && isFor(p, r, false) && holds(rule, r, p, false) {
				allowed = true
			}
		}
		if p.Action == wire.AuthorizationAllow {
			allows = true
			for _, rule := range p.Rules {
				for _, s := range rule.From {
					asked = asked || s.Token != nil && !presented && !received.TCP
				}
			}
		}
	}
	switch {
	case denied:
		return "denied", ""
	case allows && !allowed && asked:
		return "denied", "missing"
	case allows && !allowed:
		return "denied", ""
	}
	return verdict, ""
}

// isFor tells whether a policy is for a request in some way to understand it, or in all.
func isFor(p *wire.Authorization, r Request, some bool) bool {
	if len(p.Targets) == 0 {
		return true
	}
	for _, t := range p.Targets {
		if t.Service != r.Service || t.Port != 0 && t.Port != r.Port {
			continue
		}
		if len(t.Requests) == 0 {
			return true
		}
		for _, o := range t.Requests {
			if toHolds(o, r, some) {
				return true
			}
		}
	}
	return false
}

func holds(rule wire.AuthorizationRule, r Request, p *wire.Authorization, deny bool) bool {
	from := len(rule.From) == 0
	for _, s := range rule.From {
		from = from || fromHolds(s, r, deny)
	}
	to := len(rule.To) == 0
	for _, o := range rule.To {
		to = to || toHolds(o, r, deny)
	}
	when := true
	for _, text := range rule.Conditions {
		when = when && conditionHolds(text, r, p, deny)
	}
	return from && to && when
}

func fromHolds(s wire.AuthorizationSource, r Request, deny bool) bool {
	if s.Token != nil {
		if r.TCP && !deny || !r.TCP && !claimsHold(s.Token, r.claims) {
			return false
		}
	}
	if s.ServiceAccounts != nil {
		found := false
		for _, sa := range s.ServiceAccounts {
			found = found || sa.Namespace+"/"+sa.Name == r.Namespace+"/"+r.ServiceAccount
		}
		if !found {
			return false
		}
	}
	if s.Namespaces != nil {
		found := false
		for _, n := range s.Namespaces {
			found = found || n == r.Namespace
		}
		if !found {
			return false
		}
	}
	if s.SPIFFE != nil {
		found := false
		for _, pattern := range s.SPIFFE {
			found = found || sameSegments(pattern, "spiffe://"+r.TrustDomain+"/ns/"+r.Namespace+"/sa/"+r.ServiceAccount)
		}
		if !found {
			return false
		}
	}
	if s.IPBlocks != nil && !r.Client.IsValid() {
		return deny
	}
	if s.IPBlocks != nil {
		found := false
		for _, b := range s.IPBlocks {
			in := within(b.CIDR, r.Client)
			for _, e := range b.Except {
				in = in && !within(e, r.Client)
			}
			found = found || in
		}
		return found
	}
	return true
}

// sameSegments compares two texts between their slashes.
func sameSegments(pattern, text string) bool {
	p, t := strings.Split(pattern, "/"), strings.Split(text, "/")
	if len(p) != len(t) {
		return false
	}
	for i := range p {
		if p[i] != "*" && p[i] != t[i] {
			return false
		}
	}
	return true
}

// within compares bit by bit.
func within(cidr string, a netip.Addr) bool {
	network := netip.MustParsePrefix(cidr)
	if network.Addr().Is4() != a.Unmap().Is4() {
		return false
	}
	n, b := network.Addr().AsSlice(), a.Unmap().AsSlice()
	for i := range network.Bits() {
		mask := byte(0x80) >> (i % 8)
		if n[i/8]&mask != b[i/8]&mask {
			return false
		}
	}
	return true
}

func toHolds(o wire.AuthorizationOperation, r Request, deny bool) bool {
	if o.Ports != nil {
		found := false
		for _, p := range o.Ports {
			found = found || p == r.Port
		}
		if !found {
			return false
		}
	}
	if r.TCP {
		return deny || o.Methods == nil && o.Paths == nil && o.GRPC == nil && o.Headers == nil
	}
	if o.Methods != nil {
		found := false
		for _, m := range o.Methods {
			found = found || m == r.Method
		}
		if !found {
			return false
		}
	}
	if o.Paths != nil && !inReadings(r.Path, deny, func(read func(string) string, path string) bool {
		for _, p := range o.Paths {
			if pathHolds(p, read, path) {
				return true
			}
		}
		return false
	}) {
		return false
	}
	if o.GRPC != nil && !inReadings(r.Path, deny, func(_ func(string) string, path string) bool {
		parts := strings.Split(path, "/")
		if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
			return false
		}
		for _, m := range o.GRPC {
			if (m.Service == "" || m.Service == parts[1]) && (m.Method == "" || m.Method == parts[2]) {
				return true
			}
		}
		return false
	}) {
		return false
	}
	for _, h := range o.Headers {
		if !headerHolds(h, r, deny) {
			return false
		}
	}
	return true
}

// readings are the ways in which applications read a path.
func readings() []func(string) string {
	decode := func(p string) string {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			panic(err) // it is not normalised
		}
		return decoded
	}
	slashes := func(p string) string {
		p = strings.ReplaceAll(p, `\`, "/")
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		return p
	}
	parameters := func(p string) string {
		segments := strings.Split(strings.ReplaceAll(p, `\`, "/"), "/")
		for i := range segments {
			segments[i], _, _ = strings.Cut(segments[i], ";")
		}
		return strings.Join(segments, "/")
	}
	return []func(string) string{
		func(p string) string { return p },
		func(p string) string { return dots(decode(p)) },
		func(p string) string { return dots(slashes(decode(p))) },
		func(p string) string { return dots(slashes(parameters(decode(p)))) },
	}
}

// inReadings tells whether something holds of some reading of a path, or of all.
func inReadings(path string, some bool, holds func(read func(string) string, path string) bool) bool {
	count := 0
	for _, read := range readings() {
		if path == "*" && holds(func(p string) string { return p }, path) || path != "*" && holds(read, read(path)) {
			count++
		}
	}
	return some && count > 0 || count == len(readings())
}

// dots resolves "." and "..".
func dots(path string) string {
	segments := strings.Split(path, "/")[1:]
	var out []string
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		case ".":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

func pathHolds(p wire.PathPattern, read func(string) string, path string) bool {
	switch p.Type {
	case wire.PathExact:
		return read(p.Value) == path
	case wire.PathPrefix:
		prefix := strings.TrimSuffix(read(p.Value), "/")
		return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	if path == "*" {
		return p.Value == "/{**}"
	}
	want, have := strings.Split(p.Value, "/")[1:], strings.Split(path, "/")[1:]
	for i, w := range want {
		if w == "{**}" {
			return true
		}
		if i >= len(have) || have[i] == "" || w != "{*}" && w != have[i] {
			return false
		}
	}
	return len(want) == len(have)
}

func headerHolds(h wire.AuthorizedHeader, r Request, deny bool) bool {
	var values []string
	for _, pair := range r.Headers {
		if strings.EqualFold(pair[0], h.Name) {
			values = append(values, pair[1])
		}
	}
	if strings.EqualFold(h.Name, "host") {
		values = []string{r.Host}
	}
	if deny {
		for _, pair := range r.Headers {
			if !strings.EqualFold(pair[0], h.Name) && strings.EqualFold(strings.ReplaceAll(pair[0], "_", "-"), strings.ReplaceAll(h.Name, "_", "-")) {
				values = append(values, pair[1])
			}
		}
	}
	matches := func(value string) bool {
		return h.Type == wire.HeaderPresent || h.Type == wire.HeaderExact && value == h.Value ||
			h.Type == wire.HeaderPrefix && strings.HasPrefix(value, h.Value)
	}
	if !deny {
		for _, v := range values {
			if !matches(v) {
				return false
			}
		}
		return len(values) > 0
	}
	for _, v := range values {
		if matches(v) {
			return true
		}
		for _, member := range strings.Split(v, ",") {
			if matches(strings.Trim(member, " \t")) {
				return true
			}
		}
	}
	return false
}
