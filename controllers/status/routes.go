package status

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// Merge returns a route's status.parents with Weft's entries brought to what is desired: progress
// belongs to desired.Parents by index. Entries of other controllers keep their content and order;
// Weft's keep their place when they stay, and new ones follow at the end. The existing list is not
// changed. Condition times move only with a condition's status.
func Merge(existing []gwv1.RouteParentStatus, desired compile.RouteStatus, progress []Progress, now metav1.Time) []gwv1.RouteParentStatus {
	merged := make([]gwv1.RouteParentStatus, 0, len(existing)+len(desired.Parents))
	placed := make([]bool, len(desired.Parents))
	for i := range existing {
		if existing[i].ControllerName != meshv1alpha1.ControllerName {
			merged = append(merged, existing[i])
			continue
		}
		for j := range desired.Parents {
			if !placed[j] && sameParent(existing[i].ParentRef, desired.Parents[j].ParentRef) {
				placed[j] = true
				merged = append(merged, entry(desired, j, progress[j], existing[i].Conditions, now))
				break
			}
		}
	}
	for j := range desired.Parents {
		if !placed[j] {
			merged = append(merged, entry(desired, j, progress[j], nil, now))
		}
	}
	return merged
}

func sameParent(a, b gwv1.ParentReference) bool { return equality.Semantic.DeepEqual(a, b) }

func entry(desired compile.RouteStatus, j int, progress Progress, existing []metav1.Condition, now metav1.Time) gwv1.RouteParentStatus {
	parent := &desired.Parents[j]
	wait := waiting{
		generation: desired.Generation,
		accepted:   meta.IsStatusConditionTrue(parent.Conditions, string(gwv1.RouteConditionAccepted)),
		what:       "the route",
		progress:   progress,
	}
	conditions := parent.Conditions[:len(parent.Conditions):len(parent.Conditions)]
	return gwv1.RouteParentStatus{
		ParentRef:      *parent.ParentRef.DeepCopy(),
		ControllerName: meshv1alpha1.ControllerName,
		Conditions:     timed(append(conditions, wait.programmed(existing)), existing, now),
	}
}

// Compare tells how much b differs from a, both as Merge returns them. Times do not count.
func Compare(a, b []gwv1.RouteParentStatus) Change {
	if equality.Semantic.DeepEqual(timeless(a, false), timeless(b, false)) {
		return Same
	}
	if equality.Semantic.DeepEqual(timeless(a, true), timeless(b, true)) {
		return Counts
	}
	return Different
}

// timeless copies parents without condition times and, on demand, without the progress message.
func timeless(parents []gwv1.RouteParentStatus, withoutCounts bool) []gwv1.RouteParentStatus {
	out := make([]gwv1.RouteParentStatus, len(parents))
	for i := range parents {
		out[i] = *parents[i].DeepCopy()
		clearTimes(out[i].Conditions, withoutCounts)
	}
	return out
}

// Pending reports whether a parent of ours waits for acknowledgements.
func Pending(parents []gwv1.RouteParentStatus) bool {
	return slices.ContainsFunc(parents, func(p gwv1.RouteParentStatus) bool {
		return p.ControllerName == meshv1alpha1.ControllerName && pending(p.Conditions)
	})
}

// Owns reports whether Weft has an entry in a route's status.
func Owns(parents []gwv1.RouteParentStatus) bool {
	for i := range parents {
		if parents[i].ControllerName == meshv1alpha1.ControllerName {
			return true
		}
	}
	return false
}

// route is the desired status of a route as the writer's subject.
type route compile.RouteStatus

func routeKey(kind wire.RouteKind, name types.NamespacedName) key { return key{string(kind), name} }

func (r route) identity() (key, types.UID, int64) {
	return routeKey(r.Kind, r.Name), r.UID, r.Generation
}

func (r route) equal(other subject) bool {
	o, ok := other.(route)
	return ok && equality.Semantic.DeepEqual(r, o)
}

func (r route) strictPorts() []compile.ServicePort { return nil }

func (r route) newObject() client.Object {
	if r.Kind == wire.RouteGRPC {
		return &gwv1.GRPCRoute{}
	}
	return &gwv1.HTTPRoute{}
}

func (r route) update(object client.Object, acks Acknowledgements, now metav1.Time) update {
	existing := *parentsOf(object)
	progress := make([]Progress, len(r.Parents))
	for i := range r.Parents {
		if len(r.Parents[i].Resources) > 0 {
			progress[i].add(acks, r.Parents[i].Audience, r.Parents[i].Resources)
		}
	}
	merged := Merge(existing, compile.RouteStatus(r), progress, now)
	return update{
		change:  Compare(existing, merged),
		pending: Pending(merged),
		refused: refusedParents(existing, merged),
		apply:   func(object client.Object) { *parentsOf(object) = merged },
	}
}

func parentsOf(object client.Object) *[]gwv1.RouteParentStatus {
	switch r := object.(type) {
	case *gwv1.HTTPRoute:
		return &r.Status.Parents
	case *gwv1.GRPCRoute:
		return &r.Status.Parents
	default:
		panic(fmt.Sprintf("status: %T is no route", object))
	}
}

// Stale returns desires without parents for those routes that have an entry of ours in their status and no Service
// for a parent any more. Routes that are nil are passed over.
func Stale(httpRoutes []*gwv1.HTTPRoute, grpcRoutes []*gwv1.GRPCRoute) []compile.RouteStatus {
	var stale []compile.RouteStatus
	add := func(kind wire.RouteKind, route client.Object, refs []gwv1.ParentReference, parents []gwv1.RouteParentStatus) {
		if Owns(parents) && !compile.Attached(refs) {
			stale = append(stale, compile.RouteStatus{
				Kind: kind, Name: client.ObjectKeyFromObject(route), UID: route.GetUID(), Generation: route.GetGeneration(),
			})
		}
	}
	for _, r := range httpRoutes {
		if r != nil {
			add(wire.RouteHTTP, r, r.Spec.ParentRefs, r.Status.Parents)
		}
	}
	for _, r := range grpcRoutes {
		if r != nil {
			add(wire.RouteGRPC, r, r.Spec.ParentRefs, r.Status.Parents)
		}
	}
	return stale
}
