package webhooks

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// reduceToRoute returns the part of a snapshot that decides what compile says about a route, with the route in
// place. It costs a fraction of the whole to compile and says the same about the route.
func reduceToRoute(route metav1.Object, s compile.Snapshot) compile.Snapshot {
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		s.HTTPRoutes = put(s.HTTPRoutes, r)
	case *gwv1.GRPCRoute:
		s.GRPCRoutes = put(s.GRPCRoutes, r)
	}
	s.MeshPolicies, s.MeshAuthorizations = nil, nil
	return around(set{}, func(r metav1.Object) bool { return r == route }, s)
}

// reduceToPolicy does so for a policy: what is in its namespace, and what decides about the routes there.
func reduceToPolicy(policy *meshv1alpha1.MeshPolicy, s compile.Snapshot) compile.Snapshot {
	s.MeshPolicies, s.MeshAuthorizations = put(s.MeshPolicies, policy), nil
	s = aroundNamespace(policy.Namespace, s)
	namespaces := map[string]bool{policy.Namespace: true}
	for _, service := range s.Services {
		namespaces[service.Namespace] = true
	}
	s.MeshPolicies = filter(s.MeshPolicies, func(p *meshv1alpha1.MeshPolicy) bool { return namespaces[p.Namespace] })
	return s
}

// reduceToAuthorization does so for an authorization. Others do not matter to it.
func reduceToAuthorization(authorization *meshv1alpha1.MeshAuthorization, s compile.Snapshot) compile.Snapshot {
	s.MeshPolicies, s.MeshAuthorizations = nil, []*meshv1alpha1.MeshAuthorization{authorization}
	return aroundNamespace(authorization.Namespace, s)
}

// aroundNamespace keeps a namespace's Services and what decides about its routes.
func aroundNamespace(namespace string, s compile.Snapshot) compile.Snapshot {
	services := set{}
	for _, service := range s.Services {
		if service.Namespace == namespace {
			services[nameOf(service)] = true
		}
	}
	return around(services, func(r metav1.Object) bool { return r.GetNamespace() == namespace }, s)
}

// around returns what decides about the routes that central picks: their Services, the routes that use one of
// these, and, since other routes of their parents decide whether those are in force, the parents of these
// routes with all that is attached to them. services are kept with the routes that use them as well; it is
// added to.
func around(services set, central func(metav1.Object) bool, s compile.Snapshot) compile.Snapshot {
	routes := make([]metav1.Object, 0, len(s.HTTPRoutes)+len(s.GRPCRoutes))
	for _, r := range s.HTTPRoutes {
		routes = append(routes, r)
	}
	for _, r := range s.GRPCRoutes {
		routes = append(routes, r)
	}
	of := make(map[metav1.Object]references, len(routes))
	for _, r := range routes {
		of[r] = referencesOf(r)
		if central(r) {
			services.add(of[r].parents)
			services.add(of[r].backends)
		}
	}
	used := maps.Clone(services)
	for _, r := range routes {
		if used.any(of[r].parents) || used.any(of[r].backends) {
			services.add(of[r].parents)
		}
	}
	matters := func(r metav1.Object) bool { return used.any(of[r].backends) || services.any(of[r].parents) }
	s.HTTPRoutes = filter(s.HTTPRoutes, func(r *gwv1.HTTPRoute) bool { return matters(r) })
	s.GRPCRoutes = filter(s.GRPCRoutes, func(r *gwv1.GRPCRoute) bool { return matters(r) })
	s.Services = filter(s.Services, func(o *corev1.Service) bool { return services[nameOf(o)] })
	return s
}

// references are the Services that a route may mean. Whether they are Services is not looked at: too many do
// no harm.
type references struct{ parents, backends []types.NamespacedName }

func referencesOf(route metav1.Object) references {
	var of references
	refer := func(list *[]types.NamespacedName, namespace *gwv1.Namespace, name gwv1.ObjectName) {
		in := route.GetNamespace()
		if namespace != nil {
			in = string(*namespace)
		}
		*list = append(*list, types.NamespacedName{Namespace: in, Name: string(name)})
	}
	parents := func(refs []gwv1.ParentReference) {
		for i := range refs {
			refer(&of.parents, refs[i].Namespace, refs[i].Name)
		}
	}
	backend := func(ref *gwv1.BackendObjectReference) { refer(&of.backends, ref.Namespace, ref.Name) }
	mirror := func(m *gwv1.HTTPRequestMirrorFilter) {
		if m != nil {
			backend(&m.BackendRef)
		}
	}
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		parents(r.Spec.ParentRefs)
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Filters {
				mirror(r.Spec.Rules[i].Filters[j].RequestMirror)
			}
			for j := range r.Spec.Rules[i].BackendRefs {
				ref := &r.Spec.Rules[i].BackendRefs[j]
				backend(&ref.BackendObjectReference)
				for k := range ref.Filters {
					mirror(ref.Filters[k].RequestMirror)
				}
			}
		}
	case *gwv1.GRPCRoute:
		parents(r.Spec.ParentRefs)
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Filters {
				mirror(r.Spec.Rules[i].Filters[j].RequestMirror)
			}
			for j := range r.Spec.Rules[i].BackendRefs {
				ref := &r.Spec.Rules[i].BackendRefs[j]
				backend(&ref.BackendObjectReference)
				for k := range ref.Filters {
					mirror(ref.Filters[k].RequestMirror)
				}
			}
		}
	}
	return of
}

// set holds names of Services.
type set map[types.NamespacedName]bool

func (s set) add(names []types.NamespacedName) {
	for _, name := range names {
		s[name] = true
	}
}

func (s set) any(names []types.NamespacedName) bool {
	return slices.ContainsFunc(names, func(name types.NamespacedName) bool { return s[name] })
}

// put returns a list of its own with the object in the place of the one of its name.
func put[T metav1.Object](list []T, object T) []T {
	return append(filter(list, func(o T) bool { return nameOf(o) != nameOf(object) }), object)
}

func filter[T any](list []T, keep func(T) bool) []T {
	var kept []T
	for _, o := range list {
		if keep(o) {
			kept = append(kept, o)
		}
	}
	return kept
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
