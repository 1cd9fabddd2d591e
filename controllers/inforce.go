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
type inForce map[types.NamespacedName]valid

type valid struct {
	of     types.UID
	policy *meshv1alpha1.TrafficPolicy
}

// remember keeps what a pass has decided.
func (f inForce) remember(policies map[types.NamespacedName]*compile.PolicyStatus) {
	for name, p := range policies {
		if p != nil && p.InForce != nil {
			f[name] = valid{p.UID, p.InForce}
		} else {
			delete(f, name)
		}
	}
}

// recall returns a policy with a status that is up to date in this. One that is behind is copied, since it belongs to
// a cache. The policy may be nil.
func (f inForce) recall(p *meshv1alpha1.MeshPolicy) *meshv1alpha1.MeshPolicy {
	if p == nil {
		return nil
	}
	v, known := f[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}]
	if known && v.of == p.UID && !reflect.DeepEqual(v.policy, p.Status.InForce) {
		p = p.DeepCopy()
		p.Status.InForce = v.policy
	}
	return p
}
