// Package status is the only writer of route statuses. The conditions are computed by pure functions
// from what compile decided and what proxies have acknowledged; the Writer compares and writes. It
// must not decide whether a route is valid, and it never touches what other controllers wrote.
package status

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// ConditionProgrammed is True once every ready proxy concerned has acknowledged the route. It is
// Weft's own condition on a route's parent and latches for a generation: proxies that come later
// receive the route before they are ready.
const ConditionProgrammed = "Programmed"

// Reasons of ConditionProgrammed.
const (
	ReasonProgrammed  = "Programmed"
	ReasonPending     = "Pending"
	ReasonNotAccepted = "NotAccepted"
)

// Progress says how many of the ready proxies that a parent concerns have acknowledged it.
type Progress struct{ Acknowledged, Proxies int }

// Done reports whether all of them have. Nobody to acknowledge means that nothing serves the route.
func (p Progress) Done() bool { return p.Proxies > 0 && p.Acknowledged == p.Proxies }

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
			if !placed[j] && equality.Semantic.DeepEqual(existing[i].ParentRef, desired.Parents[j].ParentRef) {
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

func entry(desired compile.RouteStatus, j int, progress Progress, existing []metav1.Condition, now metav1.Time) gwv1.RouteParentStatus {
	parent := &desired.Parents[j]
	conditions := make([]metav1.Condition, 0, len(parent.Conditions)+1)
	for _, want := range append(parent.Conditions[:len(parent.Conditions):len(parent.Conditions)], programmed(desired.Generation, parent, progress, existing)) {
		want.LastTransitionTime = now
		if have := meta.FindStatusCondition(existing, want.Type); have != nil && have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		conditions = append(conditions, want)
	}
	return gwv1.RouteParentStatus{
		ParentRef:      parent.ParentRef,
		ControllerName: meshv1alpha1.ControllerName,
		Conditions:     conditions,
	}
}

func programmed(generation int64, parent *compile.ParentStatus, progress Progress, existing []metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: ConditionProgrammed, Status: metav1.ConditionFalse, ObservedGeneration: generation}
	accepted := meta.IsStatusConditionTrue(parent.Conditions, string(gwv1.RouteConditionAccepted))
	before := meta.FindStatusCondition(existing, ConditionProgrammed)
	latched := before != nil && before.Status == metav1.ConditionTrue && before.ObservedGeneration == generation
	switch {
	case !accepted:
		c.Reason, c.Message = ReasonNotAccepted, "the route is not accepted"
	case latched || progress.Done():
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "acknowledged by every ready proxy concerned"
	case progress.Proxies == 0:
		c.Reason, c.Message = ReasonPending, "no proxy concerned is connected yet"
	default:
		c.Reason, c.Message = ReasonPending, fmt.Sprintf("acknowledged by %d of %d proxies", progress.Acknowledged, progress.Proxies)
	}
	return c
}

// Change says how two status.parents differ, for the decision when to write.
type Change int

// The kinds of changes, in the order of their urgency.
const (
	// Same means that nothing needs to be written.
	Same Change = iota
	// Counts means that only the text of a Programmed=False condition differs.
	Counts
	// Different means anything else.
	Different
)

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
		for j := range out[i].Conditions {
			c := &out[i].Conditions[j]
			c.LastTransitionTime = metav1.Time{}
			if withoutCounts && c.Type == ConditionProgrammed && c.Reason == ReasonPending {
				c.Message = ""
			}
		}
	}
	return out
}

// Pending reports whether a parent of ours waits for acknowledgements.
func Pending(parents []gwv1.RouteParentStatus) bool {
	for i := range parents {
		if parents[i].ControllerName != meshv1alpha1.ControllerName {
			continue
		}
		if c := meta.FindStatusCondition(parents[i].Conditions, ConditionProgrammed); c != nil && c.Reason == ReasonPending {
			return true
		}
	}
	return false
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
