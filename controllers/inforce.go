package controllers

import (
	"reflect"

	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// inForce is what was valid of each MeshPolicy when it was last compiled. Their statuses tell a new leader,
// but are written later: without this, a policy that is made invalid right after a change would lose the
// change.
type inForce map[types.UID]*meshv1alpha1.TrafficPolicy

// rememberInForce keeps what a pass has decided.
func rememberInForce(policies []compile.PolicyStatus) inForce {
	remembered := make(inForce, len(policies))
	for i := range policies {
		if p := &policies[i]; p.InForce != nil {
			remembered[p.UID] = p.InForce
		}
	}
	return remembered
}

// recall returns policies with statuses that are up to date in this. Those that are behind are copied, since
// they belong to a cache.
func (f inForce) recall(policies []*meshv1alpha1.MeshPolicy) []*meshv1alpha1.MeshPolicy {
	recalled := make([]*meshv1alpha1.MeshPolicy, len(policies))
	for i, p := range policies {
		if valid := f[p.UID]; valid != nil && !reflect.DeepEqual(valid, p.Status.InForce) {
			p = p.DeepCopy()
			p.Status.InForce = valid
		}
		recalled[i] = p
	}
	return recalled
}
