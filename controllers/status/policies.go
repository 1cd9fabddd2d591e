package status

import (
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// KindPolicy is the kind of policies for Observed.
const KindPolicy = "MeshPolicy"

// policy is the desired status of a MeshPolicy as the writer's subject.
type policy compile.PolicyStatus

func (p policy) identity() (key, types.UID, int64) {
	return key{KindPolicy, p.Name}, p.UID, p.Generation
}

// equal compares exactly: an empty list in what is in force is not the same as none.
func (p policy) equal(other subject) bool {
	o, ok := other.(policy)
	return ok && reflect.DeepEqual(p, o)
}

func (p policy) strictPorts() []compile.ServicePort { return p.Strict }

func (p policy) newObject() client.Object { return &meshv1alpha1.MeshPolicy{} }

func (p policy) update(object client.Object, acks Acknowledgements, now metav1.Time) update {
	existing := statusOf(object)
	merged := p.merge(existing, acks, now)
	return update{
		change:  compare(existing, merged, timelessPolicy),
		pending: written{merged.Conditions, merged.Ancestors}.pending(),
		refused: refusals(existing.Conditions, merged.Conditions, ""),
		// What the API server answers is read into the object, which must not reach what was compiled.
		apply: func(object client.Object) { *statusOf(object) = *merged.DeepCopy() },
	}
}

func statusOf(object client.Object) *meshv1alpha1.MeshPolicyStatus {
	p, ok := object.(*meshv1alpha1.MeshPolicy)
	if !ok {
		panic(fmt.Sprintf("status: %T is no MeshPolicy", object))
	}
	return &p.Status
}

// merge returns what the status is to be. Nobody but Weft writes it, so that only times and what latches
// are taken over.
func (p policy) merge(existing *meshv1alpha1.MeshPolicyStatus, acks Acknowledgements, now metav1.Time) *meshv1alpha1.MeshPolicyStatus {
	merged := &meshv1alpha1.MeshPolicyStatus{ObservedGeneration: p.Generation, Target: p.Target, Effective: p.Effective, InForce: p.InForce}
	w := written{existing.Conditions, existing.Ancestors}.
		merge(p.Generation, append([]metav1.Condition{p.Accepted}, strict(p.Enforced, p.Strict, existing.Conditions, acks)...), p.Targets, acks, now)
	merged.Conditions, merged.Ancestors = w.conditions, w.ancestors
	return merged
}

// written is the part of a status that policies of all kinds have.
type written struct {
	conditions []metav1.Condition
	ancestors  []gwv1.PolicyAncestorStatus
}

// merge returns what is to be written: the conditions over all targets, of which the first is Accepted, with
// Programmed after it, and what follows from them for tools that know neither at the end.
func (w written) merge(
	generation int64, conditions []metav1.Condition, targets []compile.TargetStatus, acks Acknowledgements, now metav1.Time,
) written {
	var merged written
	overall := waiting{
		generation: generation,
		accepted:   conditions[0].Status == metav1.ConditionTrue,
		what:       "the policy",
		progress:   progressOf(acks, targets...),
	}
	for i := range targets {
		t := &targets[i]
		at := slices.IndexFunc(w.ancestors, func(a gwv1.PolicyAncestorStatus) bool {
			return reflect.DeepEqual(a.AncestorRef, t.Ref)
		})
		var before []metav1.Condition
		if at >= 0 {
			before = w.ancestors[at].Conditions
		}
		wait := waiting{
			generation: generation,
			accepted:   t.Accepted.Status == metav1.ConditionTrue,
			what:       "the policy",
			progress:   progressOf(acks, *t),
		}
		if wait.accepted && len(t.Awaited) == 0 {
			wait.idle = "nothing that it is for is in force yet"
			overall.idle = fmt.Sprintf("nothing of %s %s is in force yet", *t.Ref.Kind, t.Ref.Name)
		}
		merged.ancestors = append(merged.ancestors, gwv1.PolicyAncestorStatus{
			AncestorRef:    t.Ref,
			ControllerName: meshv1alpha1.ControllerName,
			Conditions:     timed([]metav1.Condition{t.Accepted, wait.programmed(before)}, before, now),
		})
	}
	all := slices.Concat(conditions[:1], []metav1.Condition{overall.programmed(w.conditions)}, conditions[1:])
	all = append(all, readiness(generation, all, merged.ancestors)...)
	merged.conditions = timed(all, w.conditions, now)
	return merged
}

// pending tells whether some of it waits for proxies.
func (w written) pending() bool {
	return pending(w.conditions) || slices.ContainsFunc(w.ancestors, func(a gwv1.PolicyAncestorStatus) bool {
		return pending(a.Conditions)
	})
}

// progressOf counts each proxy that targets concern once: it must have acknowledged everything that they
// await of its namespace.
func progressOf(acks Acknowledgements, targets ...compile.TargetStatus) Progress {
	byNamespace := make(map[string][]wire.Held)
	for i := range targets {
		for _, awaited := range targets[i].Awaited {
			for _, namespace := range awaited.Audience {
				// The lists belong to what was compiled and must not grow in place.
				byNamespace[namespace] = slices.Concat(byNamespace[namespace], awaited.Resources)
			}
		}
	}
	var progress Progress
	for namespace, held := range byNamespace {
		progress.add(acks, []string{namespace}, held)
	}
	return progress
}

// compare tells how much b differs from a, of which timeless makes copies without times and, on demand, without
// what only counts.
func compare[S any](a, b S, timeless func(status S, withoutCounts bool) S) Change {
	if reflect.DeepEqual(timeless(a, false), timeless(b, false)) {
		return Same
	}
	if reflect.DeepEqual(timeless(a, true), timeless(b, true)) {
		return Counts
	}
	return Different
}

func timelessPolicy(status *meshv1alpha1.MeshPolicyStatus, withoutCounts bool) *meshv1alpha1.MeshPolicyStatus {
	out := status.DeepCopy()
	written{out.Conditions, out.Ancestors}.clearTimes(withoutCounts)
	return out
}

// clearTimes changes the conditions in place.
func (w written) clearTimes(withoutCounts bool) {
	clearTimes(w.conditions, withoutCounts)
	for i := range w.ancestors {
		clearTimes(w.ancestors[i].Conditions, withoutCounts)
	}
}
