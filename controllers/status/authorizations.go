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
	conditions := append([]metav1.Condition{a.Accepted}, strict(&a.Enforced, a.Strict, existing.Conditions, acks)...)
	if a.Keys != nil {
		conditions = append(conditions, *a.Keys)
	}
	w := written{existing.Conditions, existing.Ancestors}.merge(a.Generation, conditions, a.Targets, acks, now)
	merged := &meshv1alpha1.MeshAuthorizationStatus{Target: a.Target, Conditions: w.conditions, Ancestors: w.ancestors}
	return update{
		change:  compare(existing, merged, timelessAuthorization),
		pending: w.pending(),
		apply: func(object client.Object) {
			if o, ok := object.(*meshv1alpha1.MeshAuthorization); ok {
				o.Status = *merged.DeepCopy()
			}
		},
	}
}

func timelessAuthorization(status *meshv1alpha1.MeshAuthorizationStatus, withoutCounts bool) *meshv1alpha1.MeshAuthorizationStatus {
	out := status.DeepCopy()
	written{out.Conditions, out.Ancestors}.clearTimes(withoutCounts)
	return out
}
