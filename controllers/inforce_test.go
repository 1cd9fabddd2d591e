package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

func timeouts(request gwv1.Duration) *meshv1alpha1.TrafficPolicy {
	return &meshv1alpha1.TrafficPolicy{Timeouts: &meshv1alpha1.Timeouts{Request: &request}}
}

// A status that has not been written yet must not bring back what was in force before.
func TestWhatWasValidLastIsRemembered(t *testing.T) {
	tests := map[string]struct {
		status *meshv1alpha1.TrafficPolicy
		name   string
		uid    types.UID
		want   gwv1.Duration
	}{
		"the status is not written yet":   {nil, "policy", "policy", "2s"},
		"the status has what was before":  {timeouts("1s"), "policy", "policy", "2s"},
		"the status is up to date":        {timeouts("2s"), "policy", "policy", "2s"},
		"another policy of the same name": {timeouts("1s"), "policy", "recreated", "1s"},
		"nothing was valid here":          {timeouts("1s"), "never valid", "never valid", "1s"},
	}
	memory := inForce{}
	memory.remember(map[types.NamespacedName]*compile.PolicyStatus{
		{Name: "policy"}: {UID: "policy", InForce: timeouts("2s")}, {Name: "never valid"}: {UID: "never valid"}, {Name: "gone"}: nil,
	})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			policy := &meshv1alpha1.MeshPolicy{ObjectMeta: metav1.ObjectMeta{Name: tc.name, UID: tc.uid}, Status: meshv1alpha1.MeshPolicyStatus{InForce: tc.status}}
			unchanged := policy.DeepCopy()
			got := memory.recall(policy)
			if *got.Status.InForce.Timeouts.Request != tc.want {
				t.Errorf("in force is %+v, want a timeout of %s", got.Status.InForce, tc.want)
			}
			if (policy.Status.InForce == nil) != (unchanged.Status.InForce == nil) ||
				tc.status != nil && *policy.Status.InForce.Timeouts.Request != *unchanged.Status.InForce.Timeouts.Request {
				t.Error("the object of the cache was changed")
			}
		})
	}
}
