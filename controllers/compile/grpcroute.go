package compile

import (
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// fromGRPCRoute reads a GRPCRoute. One without rules stays without: it is attached and nothing that is
// sent to its parents matches it.
func fromGRPCRoute(r *gwv1.GRPCRoute) *route {
	out := &route{
		kind:      wire.RouteGRPC,
		meta:      &r.ObjectMeta,
		refs:      r.Spec.ParentRefs,
		hostnames: r.Spec.Hostnames,
		rules:     make([]rule, len(r.Spec.Rules)),
	}
	for i := range r.Spec.Rules {
		out.rules[i] = fromGRPCRule(&r.Spec.Rules[i])
	}
	return out
}

func fromGRPCRule(r *gwv1.GRPCRouteRule) rule {
	out := rule{
		name:    string(valueOr(r.Name, "")),
		filters: fromGRPCFilters(r.Filters),
		session: r.SessionPersistence, //nolint:staticcheck // deprecated in favour of policies, and in force where it is installed
	}
	for i := range r.Matches {
		out.matches = append(out.matches, grpcMatch(&r.Matches[i]))
	}
	if len(out.matches) == 0 {
		out.matches = []match{{}}
	}
	for i := range r.BackendRefs {
		ref := &r.BackendRefs[i]
		out.backends = append(out.backends, backendRef{ref.BackendRef, fromGRPCFilters(ref.Filters)})
	}
	return out
}

func fromGRPCFilters(filters []gwv1.GRPCRouteFilter) []gwv1.HTTPRouteFilter {
	var out []gwv1.HTTPRouteFilter
	for _, f := range filters {
		out = append(out, gwv1.HTTPRouteFilter{
			Type:                   gwv1.HTTPRouteFilterType(f.Type),
			RequestHeaderModifier:  f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror:          f.RequestMirror,
			ExtensionRef:           f.ExtensionRef,
		})
	}
	return out
}

func grpcMatch(m *gwv1.GRPCRouteMatch) match {
	var out match
	if m.Method != nil {
		var f *fault
		out.wire.GRPC, f = methodMatch(m.Method)
		out.faults = f.under("method").appendTo(out.faults)
	}
	for i, h := range m.Headers {
		out.header(i, string(valueOr(h.Type, gwv1.GRPCHeaderMatchExact)), string(h.Name), h.Value)
	}
	return out
}

// methodMatch reads the names of service and method. One that names neither matches every request, as
// no method match does.
func methodMatch(m *gwv1.GRPCMethodMatch) (*wire.GRPCMatch, *fault) {
	out := &wire.GRPCMatch{Service: valueOr(m.Service, ""), Method: valueOr(m.Method, "")}
	var bad func(field, value string) *fault
	switch kind := valueOr(m.Type, gwv1.GRPCMethodMatchExact); kind {
	case gwv1.GRPCMethodMatchExact:
		out.Type, bad = wire.MatchExact, badMethodName
	case gwv1.GRPCMethodMatchRegularExpression:
		out.Type, bad = wire.MatchRegex, badRegex
	default:
		return nil, unsupported("type", "%q is not supported", kind)
	}
	if out.Service == "" && out.Method == "" {
		return nil, nil
	}
	if out.Service != "" {
		if f := bad("service", out.Service); f != nil {
			return nil, f
		}
	}
	if out.Method != "" {
		return out, bad("method", out.Method)
	}
	return out, nil
}

func badMethodName(field, value string) *fault {
	if strings.ContainsAny(value, "/ ") {
		return unsupported(field, "%q is not the name of a gRPC %s", value, field)
	}
	return nil
}
