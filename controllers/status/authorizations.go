package status

import (
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// KindAuthorization is the kind of authorizations for Observed.
const KindAuthorization = "MeshAuthorization"

// authorization is the desired status of a MeshAuthorization as the writer's subject.
type authorization compile.AuthorizationStatus

func (a authorization) identity() (key, types.UID, int64) {
	return key{KindAuthorization, a.Name}, a.UID, a.Generation
}

func (a authorization) equal(other subject) bool {
	o, ok := other.(authorization)
	return ok && reflect.DeepEqual(a, o)
}

func (a authorization) strictPorts() []compile.ServicePort { return a.Strict }

func (a authorization) newObject() client.Object { return &meshv1alpha1.MeshAuthorization{} }

func (a authorization) update(object client.Object, acks Acknowledgements, now metav1.Time) update {
	o, ok := object.(*meshv1alpha1.MeshAuthorization)
	if !ok {
		panic(fmt.Sprintf("status: %T is no MeshAuthorization", object))
	}
	existing := &o.Status
	enforced := strict(&a.Enforced, a.Strict, existing.Conditions, acks)
	if progress := progressOf(acks, a.Targets...); progress.Outdated > 0 {
		for i := range enforced {
			enforced[i] = unknownTo(progress, enforced[i])
		}
	}
	conditions := append([]metav1.Condition{a.Accepted}, enforced...)
	if a.Keys != nil {
		conditions = append(conditions, *a.Keys)
	}
	w := written{existing.Conditions, existing.Ancestors}.merge(a.Generation, conditions, a.Targets, acks, now)
	merged := &meshv1alpha1.MeshAuthorizationStatus{
		ObservedGeneration: a.Generation, Target: a.Target, Conditions: w.conditions, Ancestors: w.ancestors,
	}
	return update{
		change:  compare(existing, merged, timelessAuthorization),
		pending: w.pending(),
		refused: refusals(existing.Conditions, w.conditions, ""),
		apply: func(object client.Object) {
			if o, ok := object.(*meshv1alpha1.MeshAuthorization); ok {
				o.Status = *merged.DeepCopy()
			}
		},
	}
}

// unknownTo makes the condition Enforced of a policy that proxies of an earlier release do not know. They get no new
// connections, and decide about those that they have without it.
func unknownTo(progress Progress, c metav1.Condition) metav1.Condition {
	if c.Status == metav1.ConditionTrue {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, compile.ReasonBypassable, ""
	} else {
		c.Message += "; "
	}
	c.Message += progress.outdated() + ": no new connections are sent to them, and those that they have are not subject to it"
	return c
}

func timelessAuthorization(status *meshv1alpha1.MeshAuthorizationStatus, withoutCounts bool) *meshv1alpha1.MeshAuthorizationStatus {
	out := status.DeepCopy()
	written{out.Conditions, out.Ancestors}.clearTimes(withoutCounts)
	return out
}
