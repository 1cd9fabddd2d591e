package compile

import (
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// fromHTTPRoute reads an HTTPRoute. A route without rules, or a rule without matches, means what the
// API server would have filled in: everything.
func fromHTTPRoute(r *gwv1.HTTPRoute) *route {
	rules := r.Spec.Rules
	if len(rules) == 0 {
		rules = []gwv1.HTTPRouteRule{{}}
	}
	out := &route{
		kind:      wire.RouteHTTP,
		meta:      &r.ObjectMeta,
		refs:      r.Spec.ParentRefs,
		hostnames: r.Spec.Hostnames,
		rules:     make([]rule, len(rules)),
	}
	for i := range rules {
		out.rules[i] = fromHTTPRule(&rules[i])
	}
	return out
}

func fromHTTPRule(r *gwv1.HTTPRouteRule) rule {
	out := rule{
		name:     string(valueOr(r.Name, "")),
		filters:  r.Filters,
		timeouts: r.Timeouts,
		retry:    r.Retry,
		session:  r.SessionPersistence, //nolint:staticcheck // deprecated in favour of policies, and in force where it is installed
	}
	for i := range r.Matches {
		out.matches = append(out.matches, httpMatch(&r.Matches[i]))
	}
	if len(out.matches) == 0 {
		out.matches = []match{httpMatch(&gwv1.HTTPRouteMatch{})}
	}
	for i := range r.BackendRefs {
		out.backends = append(out.backends, backendRef{r.BackendRefs[i].BackendRef, r.BackendRefs[i].Filters})
	}
	return out
}

var httpMethods = []gwv1.HTTPMethod{
	gwv1.HTTPMethodGet, gwv1.HTTPMethodHead, gwv1.HTTPMethodPost, gwv1.HTTPMethodPut, gwv1.HTTPMethodDelete,
	gwv1.HTTPMethodConnect, gwv1.HTTPMethodOptions, gwv1.HTTPMethodTrace, gwv1.HTTPMethodPatch,
}

func httpMatch(m *gwv1.HTTPRouteMatch) match {
	var out match
	path, f := pathMatch(m.Path)
	out.wire.Path = path
	out.faults = f.under("path").appendTo(out.faults)
	if m.Method != nil {
		out.wire.Method = string(*m.Method)
		if !slices.Contains(httpMethods, *m.Method) {
			out.faults = unsupported("method", "%q is not supported", *m.Method).appendTo(out.faults)
		}
	}
	for i, h := range m.Headers {
		out.header(i, string(valueOr(h.Type, gwv1.HeaderMatchExact)), string(h.Name), h.Value)
	}
	for i, q := range m.QueryParams {
		out.query(i, string(valueOr(q.Type, gwv1.QueryParamMatchExact)), string(q.Name), q.Value)
	}
	return out
}

func pathMatch(m *gwv1.HTTPPathMatch) (*wire.ValueMatch, *fault) {
	if m == nil {
		m = &gwv1.HTTPPathMatch{}
	}
	value := valueOr(m.Value, "/")
	switch kind := valueOr(m.Type, gwv1.PathMatchPathPrefix); kind {
	case gwv1.PathMatchExact:
		return &wire.ValueMatch{Type: wire.MatchExact, Value: value}, badPath("value", value)
	case gwv1.PathMatchPathPrefix:
		// A trailing slash of a prefix is ignored, so two spellings are one match.
		trimmed := strings.TrimRight(value, "/")
		if trimmed == "" {
			trimmed = "/"
		}
		return &wire.ValueMatch{Type: wire.MatchPrefix, Value: trimmed}, badPath("value", value)
	case gwv1.PathMatchRegularExpression:
		return &wire.ValueMatch{Type: wire.MatchRegex, Value: value}, badRegex("value", value)
	default:
		return nil, unsupported("type", "%q is not supported", kind)
	}
}
