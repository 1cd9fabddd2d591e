package compile

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// unit is a route that has a Service for a parent, what it says about ports, and what it was compiled to.
type unit struct {
	id Target
	// route is nil once it is gone.
	route *route
	// services are those that the route refers to.
	services []types.NamespacedName
	// wanted are the places that its parents mean; consumed those that are destinations because of it; spoken those
	// that it says speak HTTP; groups those that it is a GRPCRoute of; says is what it takes protocols for.
	wanted, consumed, spoken []place
	groups                   []group
	says                     []saying
	compiled                 compiledRoute
	// sends are the places that it sends to.
	sends  []place
	status RouteStatus
}

func (u *unit) parents() []*parent {
	if u.route == nil {
		return nil
	}
	return u.route.parents
}

// routeObject is a route as the API has it: one of the two.
type routeObject struct {
	http *gwv1.HTTPRoute
	grpc *gwv1.GRPCRoute
}

func (r routeObject) read() *route {
	if r.http != nil {
		return fromHTTPRoute(r.http)
	}
	return fromGRPCRoute(r.grpc)
}

func (r routeObject) meta() *metav1.ObjectMeta {
	if r.http != nil {
		return &r.http.ObjectMeta
	}
	return &r.grpc.ObjectMeta
}

func (r routeObject) exists() bool { return r.http != nil || r.grpc != nil }

// attached tells that the route is the mesh's: it has a Service for a parent.
func (r routeObject) attached() bool {
	if r.http != nil {
		return Attached(r.http.Spec.ParentRefs)
	}
	return r.grpc != nil && Attached(r.grpc.Spec.ParentRefs)
}

// names are those of the rules.
func (r routeObject) names() []string {
	var names []string
	if r.http != nil {
		for i := range r.http.Spec.Rules {
			names = append(names, string(valueOr(r.http.Spec.Rules[i].Name, "")))
		}
		return names
	}
	for i := range r.grpc.Spec.Rules {
		names = append(names, string(valueOr(r.grpc.Spec.Rules[i].Name, "")))
	}
	return names
}

// routeObjects are all routes, the mesh's or not.
type routeObjects map[Target]routeObject

func compareTargets(a, b Target) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// servicesOf are the Services that a route refers to, whatever becomes of the references.
func servicesOf(r *route) []types.NamespacedName {
	var names distinct[types.NamespacedName]
	for i := range r.refs {
		if ref := &r.refs[i]; isServiceParent(*ref) {
			names.add(types.NamespacedName{
				Namespace: string(valueOr(ref.Namespace, gwv1.Namespace(r.meta.Namespace))), Name: string(ref.Name),
			})
		}
	}
	r.eachBackend(func(ref *gwv1.BackendObjectReference) {
		names.add(types.NamespacedName{
			Namespace: string(valueOr(ref.Namespace, gwv1.Namespace(r.meta.Namespace))), Name: string(ref.Name),
		})
	})
	return names.list
}

// placesOf are the places of parents, each once.
func placesOf(parents []*parent, which func(*parent, place) bool) []place {
	var places distinct[place]
	for _, p := range parents {
		for _, at := range p.places {
			if which(p, at) {
				places.add(at)
			}
		}
	}
	return places.list
}

func anyPlace(*parent, place) bool           { return true }
func consumedPlace(_ *parent, at place) bool { return at.consumer != "" }
func spokenPlace(p *parent, at place) bool   { return p.route.speaksFor(at) }

// groupsOf are the groups that a GRPCRoute with these parents is of.
func groupsOf(parents []*parent) []group {
	var groups distinct[group]
	for _, p := range parents {
		for _, at := range p.places {
			if p.route.kind == wire.RouteGRPC {
				groups.add(p.group(at))
			}
		}
	}
	return groups.list
}
