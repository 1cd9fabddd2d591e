package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// guard finds out what targets that are routes come to: the Services of the namespace that they send or mirror
// requests to, and the requests that their matches accept. The callee decides on a request as the application gets
// it, so a rule whose filters change what its matches look at cannot be guarded; nor can matches that operations
// have no words for. Whether the route applies anywhere does not matter, nor whether the Services exist: what the
// route would accept is subject to the policy, whichever way it comes.
func (a *authorization) guard(routes routeObjects, claimed []string) {
	a.guarded = make(map[*policyTarget][]wire.AuthorizationTarget)
	var elsewhere []string
	for _, t := range a.targets {
		object := routes[t.key.whole()]
		if !t.key.isRoute() || !object.exists() {
			continue
		}
		r := object.read()
		for i := range r.rules {
			rule := &r.rules[i]
			if t.key.Section != "" && rule.name != t.key.Section {
				continue
			}
			backends, far := guardedBackends(r.meta.Namespace, rule)
			elsewhere = append(elsewhere, far...)
			if len(backends) == 0 {
				continue
			}
			requests, fault := guardOf(rule, claimed)
			if fault != nil {
				a.faults = append(a.faults, *unsupported(t.field, "%s: rules[%d].%s", t.key, i, fault))
			}
			for _, b := range backends {
				b.Requests = requests
				a.guarded[t] = append(a.guarded[t], b)
			}
		}
	}
	if len(a.guarded) > 0 && a.object.Spec.Action == meshv1alpha1.AuthorizationAllow {
		for i := range a.object.Spec.Rules {
			for j := range a.object.Spec.Rules[i].From {
				if valueOr(a.object.Spec.Rules[i].From[j].Unauthenticated, false) {
					a.faults = append(a.faults, *unsupported(fmt.Sprintf("rules[%d].from[%d].unauthenticated", i, j),
						"such callers pass by every proxy, so that it cannot be known whether their requests are the route's: let them in with a policy for the Service"))
				}
			}
		}
	}
	if len(a.faults) > 0 {
		// What is closed is closed for every request.
		for _, targets := range a.guarded {
			for i := range targets {
				targets[i].Requests = nil
			}
		}
	}
	if len(elsewhere) > 0 {
		a.notes = append(a.notes, "it does not hold for "+some(elsewhere)+", where routes send such requests: authorization there is for that namespace")
	}
}

// headersFromClaims returns the headers that the authorizations of a namespace set from claims.
func headersFromClaims(in map[string]*meshv1alpha1.MeshAuthorization) []string {
	var claimed []string
	for _, object := range in {
		if object.Spec.JWT == nil {
			continue
		}
		for i := range object.Spec.JWT.Issuers {
			for _, h := range object.Spec.JWT.Issuers[i].ClaimsToHeaders {
				claimed = append(claimed, h.Header)
			}
		}
	}
	return claimed
}

// guardedBackends returns the Services of a namespace that a rule sends or mirrors requests to, and names those of
// others.
func guardedBackends(namespace string, r *rule) (backends []wire.AuthorizationTarget, elsewhere []string) {
	r.eachBackend(func(ref *gwv1.BackendObjectReference) {
		if !isService(valueOr(ref.Group, ""), valueOr(ref.Kind, kindService)) || ref.Name == "" {
			return
		}
		port := valueOr(ref.Port, 0)
		if in := string(valueOr(ref.Namespace, gwv1.Namespace(namespace))); in != namespace {
			elsewhere = append(elsewhere, fmt.Sprintf("%s/%s:%d", in, ref.Name, port))
			return
		}
		backends = append(backends, wire.AuthorizationTarget{Service: string(ref.Name), Port: uint16(port)}) //nolint:gosec // the schema bounds it
	})
	return backends, elsewhere
}

const sayInRules = "target the Service instead, and say in rules what the route would"

// guardOf returns what the matches of a rule accept, nothing for everything, or why that cannot be decided again
// where the pod is picked. claimed are the headers that are set from claims there.
func guardOf(r *rule, claimed []string) ([]wire.AuthorizationOperation, *fault) {
	var requests []wire.AuthorizationOperation
	var headers []string
	path, everything := false, false
	for i := range r.matches {
		m := &r.matches[i]
		at := fmt.Sprintf("matches[%d]", i)
		if len(m.faults) > 0 {
			return nil, m.faults[0].under(at)
		}
		o, fault := guardOfMatch(&m.wire)
		if fault != nil {
			return nil, fault.under(at)
		}
		for _, h := range o.Headers {
			headers = append(headers, h.Name)
		}
		path = path || len(o.Paths) > 0 || len(o.GRPC) > 0
		everything = everything || len(o.Methods)+len(o.Paths)+len(o.GRPC)+len(o.Headers) == 0
		requests = append(requests, o)
	}
	filters := slices.Clone(r.filters)
	for i := range r.backends {
		filters = append(filters, r.backends[i].filters...)
	}
	if fault := unguardable(filters, path, headers); fault != nil {
		return nil, fault
	}
	for _, name := range headers {
		if slices.ContainsFunc(claimed, func(c string) bool { return strings.EqualFold(c, name) }) {
			return nil, unsupported("matches", "claimsToHeaders of a MeshAuthorization of the namespace replaces the header %s, so that it cannot be matched again at the pod: %s", name, sayInRules)
		}
	}
	if everything {
		return nil, nil
	}
	return requests, nil
}

func guardOfMatch(m *wire.Match) (wire.AuthorizationOperation, *fault) {
	var o wire.AuthorizationOperation
	if m.Method != "" {
		o.Methods = []string{m.Method}
	}
	switch {
	case m.Path == nil, m.Path.Type == wire.MatchPrefix && m.Path.Value == "/":
	case m.Path.Type == wire.MatchExact:
		o.Paths = []wire.PathPattern{{Type: wire.PathExact, Value: m.Path.Value}}
	case m.Path.Type == wire.MatchPrefix:
		o.Paths = []wire.PathPattern{{Type: wire.PathPrefix, Value: m.Path.Value}}
	default:
		return o, unsupported("path", "a regular expression is not decided again at the pod: %s", sayInRules)
	}
	if m.GRPC != nil {
		if m.GRPC.Type != wire.MatchExact {
			return o, unsupported("method", "a regular expression is not decided again at the pod: %s", sayInRules)
		}
		o.GRPC = []wire.GRPCMethod{{Service: m.GRPC.Service, Method: m.GRPC.Method}}
	}
	for i, h := range m.Headers {
		if h.Type != wire.MatchExact {
			return o, unsupported(fmt.Sprintf("headers[%d]", i), "a regular expression is not decided again at the pod: %s", sayInRules)
		}
		if h.Value == "" {
			return o, unsupported(fmt.Sprintf("headers[%d]", i), "an empty value is not decided again at the pod: %s", sayInRules)
		}
		o.Headers = append(o.Headers, wire.AuthorizedHeader{Name: h.Name, Type: wire.HeaderExact, Value: h.Value})
	}
	if len(m.Query) > 0 {
		return o, unsupported("queryParams", "they are not decided again at the pod: %s", sayInRules)
	}
	return o, nil
}

// unguardable says which filter changes what matches look at: the path, if they do, or one of the headers.
func unguardable(filters []gwv1.HTTPRouteFilter, path bool, headers []string) *fault {
	matched := func(name string) bool {
		return slices.ContainsFunc(headers, func(h string) bool { return strings.EqualFold(h, name) })
	}
	for i := range filters {
		if rewrite := filters[i].URLRewrite; rewrite != nil {
			if rewrite.Path != nil && path {
				return unsupported("filters", "URLRewrite changes the path that the rule matches, so that it cannot be matched again at the pod: %s", sayInRules)
			}
			if rewrite.Hostname != nil && matched("host") {
				return unsupported("filters", "URLRewrite changes the host that the rule matches, so that it cannot be matched again at the pod: %s", sayInRules)
			}
		}
		if modifier := filters[i].RequestHeaderModifier; modifier != nil {
			names := slices.Clone(modifier.Remove)
			for _, h := range slices.Concat(modifier.Set, modifier.Add) {
				names = append(names, string(h.Name))
			}
			if at := slices.IndexFunc(names, matched); at >= 0 {
				return unsupported("filters", "RequestHeaderModifier changes the header %s that the rule matches, so that it cannot be matched again at the pod: %s", names[at], sayInRules)
			}
		}
	}
	return nil
}

// merged makes one of several targets that are the same Service or port. One that is for all requests covers those
// that are for some.
func merged(targets []wire.AuthorizationTarget) []wire.AuthorizationTarget {
	slices.SortStableFunc(targets, func(x, y wire.AuthorizationTarget) int {
		return cmp.Or(strings.Compare(x.Service, y.Service), cmp.Compare(x.Port, y.Port))
	})
	var out []wire.AuthorizationTarget
	for _, t := range targets {
		last := len(out) - 1
		switch {
		case last < 0 || out[last].Service != t.Service || out[last].Port != t.Port:
			out = append(out, t)
		case len(out[last].Requests) == 0 || len(t.Requests) == 0:
			out[last].Requests = nil
		default:
			out[last].Requests = slices.Concat(out[last].Requests, t.Requests)
		}
	}
	return out
}
