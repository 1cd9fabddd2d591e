package status

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

func meshPolicy() *meshv1alpha1.MeshPolicy {
	return &meshv1alpha1.MeshPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "slow", UID: "u", Generation: 1}}
}

func held(key string) wire.Held {
	return wire.Held{Ref: wire.Ref{Kind: wire.KindRoute, Key: key}, Version: "1"}
}

// desiredPolicy is a policy for Services, each of which awaits one resource.
func desiredPolicy(services ...string) compile.PolicyStatus {
	accepted := metav1.Condition{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: 1, Message: "in force"}
	p := compile.PolicyStatus{
		Name: types.NamespacedName{Namespace: "shop", Name: "slow"}, UID: "u", Generation: 1, Target: "Service/web",
		Accepted: accepted,
		InForce:  &meshv1alpha1.TrafficPolicy{RateLimits: []meshv1alpha1.RateLimit{}},
		Effective: []meshv1alpha1.EffectivePolicy{{
			Target: "Service shop/web",
			Fields: []meshv1alpha1.EffectiveField{{Field: "rateLimits", Value: "[]", From: "MeshPolicy shop/slow"}},
		}},
	}
	for _, name := range services {
		p.Targets = append(p.Targets, compile.TargetStatus{
			Ref: service(name), Accepted: accepted,
			Awaited: []compile.Awaited{{Resources: []wire.Held{held(name)}, Audience: []string{"shop"}}},
		})
	}
	return p
}

// expectPolicy expects so many writes so far and these conditions, "summary; target; target".
func (r *rig) expectPolicy(writes int, want ...string) *meshv1alpha1.MeshPolicy {
	r.t.Helper()
	policy := meshPolicy()
	if err := r.client.Get(r.t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
		r.t.Fatal(err)
	}
	var got []string
	show := func(conditions []metav1.Condition) {
		c := meta.FindStatusCondition(conditions, ConditionProgrammed)
		got = append(got, string(c.Status)+" "+c.Reason+": "+c.Message)
	}
	if len(policy.Status.Conditions) > 0 {
		show(policy.Status.Conditions)
	}
	for _, a := range policy.Status.Ancestors {
		show(a.Conditions)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("conditions (-want +got):\n%s", diff)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes != writes {
		r.t.Errorf("%d writes, want %d", r.writes, writes)
	}
	return policy
}

const (
	done = "True Programmed: acknowledged by every ready proxy concerned"
	none = "False Pending: acknowledged by 0 of 2 proxies"
	half = "False Pending: acknowledged by 1 of 2 proxies"
)

func TestPolicyIsWrittenAtOnceAndNotAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, meshPolicy())
		r.proxies.set(2, 2)
		r.writer.Update(policies(desiredPolicy("web")))
		r.after(time.Second)
		written := r.expectPolicy(1, done, done)
		want := desiredPolicy("web")
		if written.Status.Target != want.Target {
			t.Errorf("target is %q", written.Status.Target)
		}
		if diff := cmp.Diff(want.Effective, written.Status.Effective); diff != "" {
			t.Errorf("effective policy (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want.InForce, written.Status.InForce); diff != "" {
			t.Errorf("policy in force (-want +got):\n%s", diff)
		}
		if ref := written.Status.Ancestors[0].AncestorRef; ref.Name != "web" || *ref.Kind != "Service" {
			t.Errorf("the ancestor is %v", ref)
		}
		for range 10 {
			r.proxies.set(1, 3) // proxies merely come and go
			r.writer.Update(policies(desiredPolicy("web")))
			r.writer.Observed(KindPolicy, want.Name)
			r.writer.Acknowledged()
			r.after(time.Minute)
		}
		r.expectPolicy(1, done, done)
	})
}

// A proxy that two targets of a policy concern is one proxy.
func TestPolicyCountsProxiesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, meshPolicy())
		r.proxies.set(0, 2)
		r.writer.Update(policies(desiredPolicy("web", "api")))
		r.after(time.Second)
		r.expectPolicy(1, none, none, none)
		r.proxies.set(1, 2)
		r.writer.Acknowledged()
		r.after(20 * time.Second)
		r.expectPolicy(2, half, half, half)
		r.proxies.set(2, 2)
		r.writer.Acknowledged()
		r.after(time.Second)
		r.expectPolicy(3, done, done, done)
	})
}

func TestPolicyBeginsAnewWithAGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, meshPolicy())
		r.proxies.set(2, 2)
		r.writer.Update(policies(desiredPolicy("web")))
		r.after(time.Second)
		policy := r.expectPolicy(1, done, done)
		policy.Generation = 2
		if err := r.client.Update(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
		next := desiredPolicy("web")
		next.Generation, next.Accepted.ObservedGeneration, next.Targets[0].Accepted.ObservedGeneration = 2, 2, 2
		r.proxies.set(0, 2)
		r.writer.Update(policies(next))
		r.after(time.Second)
		r.expectPolicy(2, none, none)
	})
}

func TestPolicyThatIsNotInForce(t *testing.T) {
	refused := desiredPolicy("web", "gone")
	refused.Accepted.Status, refused.Targets[1].Accepted.Status = metav1.ConditionFalse, metav1.ConditionFalse
	refused.Targets[1].Awaited = nil
	idle := desiredPolicy("web", "unused")
	idle.Targets[1].Awaited = nil
	const notAccepted = "False NotAccepted: the policy is not accepted"
	tests := map[string]struct {
		desired compile.PolicyStatus
		want    []string
	}{
		"refused for one target":     {refused, []string{notAccepted, done, notAccepted}},
		"one target is in use alone": {idle, []string{"False Pending: nothing of Service unused is in force yet", done, "False Pending: nothing that it is for is in force yet"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, meshPolicy())
				r.proxies.set(2, 2)
				r.writer.Update(policies(tc.desired))
				r.after(time.Second)
				r.expectPolicy(1, tc.want...)
			})
		})
	}
}

// Whether a list is empty or absent makes a difference to what is in force.
func TestPolicyInForceIsComparedExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, meshPolicy())
		r.proxies.set(2, 2)
		r.writer.Update(policies(desiredPolicy("web")))
		r.after(time.Second)
		next := desiredPolicy("web")
		next.InForce.RateLimits = nil
		r.writer.Update(policies(next))
		r.after(time.Second)
		if p := r.expectPolicy(2, done, done); p.Status.InForce.RateLimits != nil {
			t.Errorf("in force is %+v", p.Status.InForce)
		}
	})
}

func TestProgressOfNamespaces(t *testing.T) {
	acks := heldBy{"shop": {"a": 1, "b": 1}, "bank": {"a": 2}}
	target := compile.TargetStatus{Ref: gwv1.ParentReference{}, Awaited: []compile.Awaited{
		{Resources: []wire.Held{held("a"), held("b")}, Audience: []string{"shop"}},
		{Resources: []wire.Held{held("a")}, Audience: []string{"bank"}},
	}}
	if got, want := progressOf(acks, target), (Progress{Acknowledged: 3, Proxies: 4}); got != want {
		t.Errorf("progress is %v, want %v", got, want)
	}
	other := compile.TargetStatus{Awaited: []compile.Awaited{{Resources: []wire.Held{held("b")}, Audience: []string{"bank"}}}}
	if got, want := progressOf(acks, target, other), (Progress{Acknowledged: 1, Proxies: 4}); got != want {
		t.Errorf("progress with a target that bank has not acknowledged is %v, want %v", got, want)
	}
}

// heldBy says how many of two proxies of each namespace hold each resource.
type heldBy map[string]map[string]int

func (h heldBy) Holds(namespace string, held []wire.Held) (acknowledged, concerned int) {
	acknowledged = 2
	for _, want := range held {
		acknowledged = min(acknowledged, h[namespace][want.Key])
	}
	return acknowledged, 2
}

func (heldBy) Outdated(string, []wire.Held) int { return 0 }

func (heldBy) Enforcement([]compile.ServicePort) Enforcement { return Enforcement{} }
