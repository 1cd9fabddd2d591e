package compile

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// What a Mesh says when it does not exist or its API server has not filled in the defaults.
const (
	defaultTrustDomain      = "cluster.local"
	defaultMaxConnectionAge = 10 * time.Minute
)

// Compile maps a snapshot to what it means. An object appears in it once. The result shares nothing
// mutable with the snapshot, but parts of it share memory with each other: whoever receives it must not
// change it.
func Compile(s Snapshot) Result {
	w, routes, destinations, numbers := settled(s)

	// What is captured is known from here on.
	uses := w.usesOf(routes)
	mesh, meshFaults := meshResource(s)
	resources := []wire.Resource{mesh}
	backends := make(map[place]bool)
	for _, p := range destinations {
		if number := numbers[w.numberKey(p)]; number != 0 {
			resources = append(resources, w.destination(p, number, uses))
			backends[p] = true
		}
	}
	compiled := make([]compiledRoute, len(routes))
	for i, r := range routes {
		compiled[i] = w.compileRoute(r, uses)
		resources = append(resources, compiled[i].resources...)
		for _, p := range compiled[i].places {
			backends[p] = true
		}
	}
	for p := range backends {
		resources = append(resources, w.backend(p, uses))
	}
	authorizations := w.readAuthorizations(s, resources)
	for _, a := range authorizations {
		resources = append(resources, a.resources()...)
	}
	exposures := w.exposures(authorizations)
	if len(s.EndpointSlices) > 0 {
		resources = append(resources, w.endpoints(resources, s.EndpointSlices)...)
	}
	slices.SortFunc(resources, func(a, b wire.Resource) int { return compareRefs(a.Ref, b.Ref) })

	result := Result{
		Resources: resources, Numbers: numbers, Enrolled: w.enrolment.names, Exposures: exposures,
		MeshFaults: append(fieldFaults("spec", meshFaults), fieldFaults("spec.defaults", w.policies.meshFaults)...),
	}
	versions := versionsOf(resources)
	for i := range compiled {
		result.Routes = append(result.Routes, w.status(&compiled[i], versions))
	}
	result.Policies = w.policyStatuses(routes, resources, exposures)
	for _, a := range authorizations {
		result.Authorizations = append(result.Authorizations, a.status(exposures))
	}
	return result
}

// settled returns the world of a snapshot, its routes with their parents as far as they apply, and what is
// captured by which number.
func settled(s Snapshot) (w *world, routes []*route, destinations []place, numbers Numbers) {
	w = newWorld(s)
	routes = readRoutes(s)
	parents := w.attach(routes)
	destinations = w.destinations(parents)
	numbers = assign(s.Numbers, w.numberKeys(destinations))
	w.settle(parents, numbers)
	return w, routes, destinations, numbers
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Key, b.Key))
}

// world is a snapshot indexed by name. It is read-only once made.
type world struct {
	enrolment enrolment
	starting  map[string]bool
	services  map[types.NamespacedName]*corev1.Service
	policies  policies
}

func newWorld(s Snapshot) *world {
	w := &world{
		enrolment: enrol(s),
		starting:  s.Starting,
		services:  make(map[types.NamespacedName]*corev1.Service, len(s.Services)),
	}
	for _, svc := range s.Services {
		w.services[namespacedName(svc)] = svc
	}
	w.policies = w.readPolicies(s)
	return w
}

// meshResource returns what concerns everybody, and what of the Mesh's spec is at fault and left out.
func meshResource(s Snapshot) (wire.Resource, []fault) {
	mesh := s.Mesh
	content := wire.Mesh{
		TrustDomain:      defaultTrustDomain,
		TrustBundle:      s.TrustBundle,
		Removed:          removed(s),
		MaxConnectionAge: wire.Duration(defaultMaxConnectionAge),
	}
	var faults []fault
	if mesh != nil {
		content.Traces, faults = collector(&mesh.Spec.Telemetry.Tracing)
		content.TrustDomain = cmp.Or(mesh.Spec.TrustDomain, defaultTrustDomain)
		if age, ok := parseDuration(mesh.Spec.Proxy.MaxConnectionAge); ok && age > 0 {
			content.MaxConnectionAge = wire.Duration(age)
		}
	}
	origin := wire.Origin{
		APIVersion: meshv1alpha1.GroupVersion.String(),
		Kind:       "Mesh",
		Name:       meshv1alpha1.MeshName,
	}
	return wire.New("mesh", wire.ScopeMesh, origin, &content), faults
}
