package compile

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// route is an HTTPRoute or a GRPCRoute in the one shape that the rest of the package works on. It
// points into the API object, which belongs to the caller.
type route struct {
	kind      wire.RouteKind
	meta      *metav1.ObjectMeta
	refs      []gwv1.ParentReference
	hostnames []gwv1.Hostname
	rules     []rule
	// parents are those of refs that are Services, in their order; world.attach fills them in.
	parents []*parent
}

// rule is a rule of either kind. Filters of GRPCRoutes are a subset of those of HTTPRoutes and use
// their type.
type rule struct {
	name     string
	matches  []match
	filters  []gwv1.HTTPRouteFilter
	backends []backendRef
	timeouts *gwv1.HTTPRouteTimeouts
	retry    *gwv1.HTTPRouteRetry
	session  *gwv1.SessionPersistence
}

// match is one match of a rule, or what is wrong with it.
type match struct {
	wire   wire.Match
	faults []fault
}

type backendRef struct {
	gwv1.BackendRef
	filters []gwv1.HTTPRouteFilter
}

func (r *route) origin() wire.Origin {
	return wire.Origin{
		APIVersion: gwv1.GroupVersion.String(),
		Kind:       string(r.kind),
		Namespace:  r.meta.Namespace,
		Name:       r.meta.Name,
	}
}

// String is how messages name a route.
func (r *route) String() string {
	return string(r.kind) + " " + namespacedName(r.meta).String()
}

// inForce tells whether the route applies anywhere as a producer route, or as a consumer route.
func (r *route) inForce(consumer bool) bool {
	return slices.ContainsFunc(r.parents, func(p *parent) bool { return p.consumer == consumer && len(p.places) > 0 })
}

// eachBackend calls f with every reference to a backend.
func (r *route) eachBackend(f func(ref *gwv1.BackendObjectReference)) {
	for i := range r.rules {
		r.rules[i].eachBackend(f)
	}
}

// eachBackend calls f with every reference to a backend, mirrors included.
func (r *rule) eachBackend(f func(ref *gwv1.BackendObjectReference)) {
	mirrors := func(filters []gwv1.HTTPRouteFilter) {
		for i := range filters {
			if m := filters[i].RequestMirror; m != nil {
				f(&m.BackendRef)
			}
		}
	}
	mirrors(r.filters)
	for i := range r.backends {
		f(&r.backends[i].BackendObjectReference)
		mirrors(r.backends[i].filters)
	}
}

// valueOr returns *p, or fallback where p is nil.
func valueOr[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}
