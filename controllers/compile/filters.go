package compile

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// filterSet compiles the filters of one rule or of one of its backends.
type filterSet struct {
	resolve func(ref *gwv1.BackendObjectReference) (place, *fault)
	// prefixOnly tells that every match of the rule is a PathPrefix, which ReplacePrefixMatch needs.
	prefixOnly bool

	filters []wire.Filter
	// mirrors are the backends of mirrors that could be resolved. The others are dropped, as
	// HTTPRequestMirrorFilter wants, and go to unresolved.
	mirrors    []place
	unresolved []fault
	// invalid is what makes the rule invalid.
	invalid []fault
}

// compile reads filters and keeps their order. Of the kinds that the API does not allow to be repeated
// only one may be there, and a redirect excludes a rewrite.
func (s *filterSet) compile(filters []gwv1.HTTPRouteFilter) {
	first := make(map[gwv1.HTTPRouteFilterType]int)
	for i := range filters {
		f := &filters[i]
		at := fmt.Sprintf("filters[%d]", i)
		j, repeated := first[f.Type]
		if repeated && !repeatable(f.Type) {
			s.invalid = incompatible("type", "%s is repeated: it is filters[%d] too", f.Type, j).under(at).appendTo(s.invalid)
			continue
		}
		first[f.Type] = i
		s.add(f, at)
	}
	redirect, redirects := first[gwv1.HTTPRouteFilterRequestRedirect]
	rewrite, rewrites := first[gwv1.HTTPRouteFilterURLRewrite]
	if redirects && rewrites {
		at := fmt.Sprintf("filters[%d]", max(redirect, rewrite))
		s.invalid = incompatible("type", "RequestRedirect and URLRewrite cannot be combined").under(at).appendTo(s.invalid)
	}
}

func repeatable(t gwv1.HTTPRouteFilterType) bool {
	return t == gwv1.HTTPRouteFilterRequestMirror || t == gwv1.HTTPRouteFilterExtensionRef
}

func (s *filterSet) add(f *gwv1.HTTPRouteFilter, at string) {
	if f.Type == gwv1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil {
		p, unresolved := s.resolve(&f.RequestMirror.BackendRef)
		if unresolved != nil {
			s.unresolved = unresolved.under(at + ".requestMirror.backendRef").appendTo(s.unresolved)
			return
		}
		s.mirrors = append(s.mirrors, p)
		mirror, fault := mirrorFilter(f.RequestMirror, p.key())
		s.keep(wire.Filter{Mirror: mirror}, fault.under(at+".requestMirror"))
		return
	}
	compiled, fault := s.compileFilter(f)
	s.keep(compiled, fault.under(at))
}

func (s *filterSet) keep(compiled wire.Filter, fault *fault) {
	if fault != nil {
		s.invalid = append(s.invalid, *fault)
		return
	}
	s.filters = append(s.filters, compiled)
}

// compileFilter compiles the filters that refer to no backend. The content that the type names may be
// missing only in objects that no API server has seen.
func (s *filterSet) compileFilter(f *gwv1.HTTPRouteFilter) (wire.Filter, *fault) {
	switch {
	case f.Type == gwv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		out, fault := requestHeaders(f.RequestHeaderModifier)
		return wire.Filter{RequestHeaders: out}, fault.under("requestHeaderModifier")
	case f.Type == gwv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		out, fault := responseHeaders(f.ResponseHeaderModifier)
		return wire.Filter{ResponseHeaders: out}, fault.under("responseHeaderModifier")
	case f.Type == gwv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
		out, fault := redirectFilter(f.RequestRedirect, s.prefixOnly)
		return wire.Filter{Redirect: out}, fault.under("requestRedirect")
	case f.Type == gwv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
		out, fault := rewriteFilter(f.URLRewrite, s.prefixOnly)
		return wire.Filter{URLRewrite: out}, fault.under("urlRewrite")
	case f.Type == gwv1.HTTPRouteFilterCORS && f.CORS != nil:
		out, fault := corsFilter(f.CORS)
		return wire.Filter{CORS: out}, fault.under("cors")
	case f.Type == gwv1.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil:
		return wire.Filter{}, unsupported("extensionRef", "Weft has no filter of kind %s in group %q", f.ExtensionRef.Kind, f.ExtensionRef.Group)
	case f.Type == gwv1.HTTPRouteFilterExternalAuth && f.ExternalAuth != nil:
		return wire.Filter{}, unsupported("externalAuth", "external authorization is not supported")
	default:
		return wire.Filter{}, unsupported("type", "%q is not supported", f.Type)
	}
}

// mirrorFilter compiles the share of requests that is mirrored; all of them where none is given.
func mirrorFilter(m *gwv1.HTTPRequestMirrorFilter, backend string) (*wire.Mirror, *fault) {
	out := &wire.Mirror{Backend: backend, Numerator: 100, Denominator: 100}
	switch {
	case m.Percent != nil && m.Fraction != nil:
		return nil, unsupported("percent", "only one of percent and fraction can be specified")
	case m.Percent != nil:
		out.Numerator = *m.Percent
		if out.Numerator < 0 || out.Numerator > 100 {
			return nil, unsupported("percent", "%d is not a percentage", out.Numerator)
		}
	case m.Fraction != nil:
		out.Numerator, out.Denominator = m.Fraction.Numerator, valueOr(m.Fraction.Denominator, 100)
		if out.Denominator < 1 || out.Numerator < 0 || out.Numerator > out.Denominator {
			return nil, unsupported("fraction", "%d/%d is not a fraction", out.Numerator, out.Denominator)
		}
	}
	return out, nil
}
