// Package compile is the pure core of the control plane: it maps a snapshot of the API to the wire
// resources that proxies and node agents receive and to the statuses that users see. It knows no
// client, context, clock, logger or error: a user's mistake becomes a condition, and the same snapshot
// always gives the same result, whatever the order of its lists. It must not change its input, whose
// objects may belong to a cache.
package compile

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// Snapshot is everything that decides what proxies do, read at one moment. Lists may be in any order.
type Snapshot struct {
	// Mesh is nil until the Mesh named default exists; its defaults apply then. Deleted tells that there was one,
	// and that somebody has deleted it: no namespace is part of the mesh then.
	Mesh    *meshv1alpha1.Mesh
	Deleted bool
	// AgentsRemoved tells that the node agents are being removed for good.
	AgentsRemoved bool
	Namespaces    []*corev1.Namespace
	Services      []*corev1.Service
	HTTPRoutes    []*gwv1.HTTPRoute
	GRPCRoutes    []*gwv1.GRPCRoute
	// MeshPolicies are read with their statuses: what was accepted before stays in force while a spec
	// cannot be.
	MeshPolicies       []*meshv1alpha1.MeshPolicy
	MeshAuthorizations []*meshv1alpha1.MeshAuthorization
	// ServiceAccounts are those that pods run as; nil if that is not known.
	ServiceAccounts map[types.NamespacedName]bool
	// KeySets are the keys of the issuers of tokens, as far as they are known; nil if that is not looked at.
	KeySets map[KeySource]KeySet
	// EndpointSlices may be left out by a caller that sends endpoints on the side path (Endpoints).
	EndpointSlices []*discoveryv1.EndpointSlice
	// Numbers are the destination numbers given out so far.
	Numbers Numbers
	// TrustBundle holds the PEM roots that are trusted now.
	TrustBundle string
	// SystemNamespace is where Weft itself runs; it is never enrolled, like kube-system.
	SystemNamespace string
	// Starting are namespaces whose proxies have not been ready yet. While that is so, other namespaces
	// send to the pods of their Services as they did before: nobody would take it at the hop.
	Starting map[string]bool
}

// Numbers maps a destination to its number: the input and, with additions, a result of Compile.
// Entries of destinations that are gone stay until the caller drops them, which it may do once every
// node has acknowledged their removal.
type Numbers map[NumberKey]uint16

// NumberKey identifies a destination beyond the life of a name: a Service that is deleted and created
// again is another destination.
type NumberKey struct {
	UID  types.UID
	Port uint16
}

// Result is what a snapshot means.
type Result struct {
	// Resources are sorted by Ref. They hold neither Capture, Inbound, Proxies, Workload nor Certificate
	// resources, which depend on what runs and not on what is declared, nor Endpoints when the
	// snapshot had no slices.
	Resources []wire.Resource
	// Numbers are the snapshot's, with those of new destinations.
	Numbers Numbers
	// Enrolled are the names of enrolled namespaces, sorted.
	Enrolled []string
	// Exposures are what Services publish of the pods of enrolled namespaces, sorted by namespace, Service and
	// port: what Inbounds are made from.
	Exposures []Exposure
	// Routes are the statuses of all routes with a Service parent, sorted by kind and name.
	Routes []RouteStatus
	// Policies are the statuses of all MeshPolicies, sorted by name.
	Policies []PolicyStatus
	// Authorizations are the statuses of all MeshAuthorizations, sorted by name.
	Authorizations []AuthorizationStatus
	// MeshFaults are what is wrong with the Mesh's defaults and telemetry. The parts that they are in are not in
	// force.
	MeshFaults []FieldFault
}

// FieldFault is what is wrong with a field of an object. Field is its whole path.
type FieldFault struct{ Field, Why string }

// RouteStatus is what Weft has to say about one route.
type RouteStatus struct {
	Kind       wire.RouteKind
	Name       types.NamespacedName
	UID        types.UID
	Generation int64
	// Parents follow the order of spec.parentRefs and leave out those that are not Services.
	Parents []ParentStatus
}

// ParentStatus is Weft's entry for one parentRef, echoed exactly as the route has it.
type ParentStatus struct {
	ParentRef gwv1.ParentReference
	// Conditions are Accepted, PartiallyInvalid where it is True, and ResolvedRefs, without timestamps;
	// ObservedGeneration is set.
	// Programmed is added by the status writer, from Resources and acknowledgements.
	Conditions []metav1.Condition
	// Resources are what proxies must have acknowledged, at these versions, for the parent to be
	// programmed. Empty when the parent is not accepted, even where its rules are sent so that their
	// requests fail.
	Resources []wire.Held
	// Audience lists the namespaces whose proxies are concerned, sorted.
	Audience []string
}
