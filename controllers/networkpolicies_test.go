package controllers

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/preflight"
)

func blocking(names ...string) blocks {
	b := blocks{known: true, policies: map[types.NamespacedName]*networkingv1.NetworkPolicy{}}
	for _, name := range names {
		at := types.NamespacedName{Namespace: "shop", Name: name}
		b.findings = append(b.findings, preflight.Finding{
			Policy: at, Direction: networkingv1.PolicyTypeEgress, Flow: preflight.ToProxy, Pods: []string{"web"}, Rule: `{"to":[]}`,
		})
		b.policies[at] = &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name}}
	}
	return b
}

// took returns the Events since the last call.
func took(recorder *events.FakeRecorder) []string {
	var out []string
	for {
		select {
		case e := <-recorder.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func TestBlocksAreToldOnce(t *testing.T) {
	mesh := &meshv1alpha1.Mesh{}
	recorder := events.NewFakeRecorder(100)
	notices := blockNotices{recorder: recorder}
	steps := []struct {
		what   string
		blocks blocks
		// want is what each Event has in it, in order.
		want []string
	}{
		{"nothing is known", blocks{findings: blocking("a").findings}, nil},
		{"two", blocking("a", "b"), []string{"Warning BlockedByNetworkPolicy blocks egress of pod web", "Warning BlockedByNetworkPolicy"}},
		{"the same", blocking("a", "b"), nil},
		{"one is mended", blocking("b"), nil},
		{"it is back", blocking("a", "b"), []string{"BlockedByNetworkPolicy"}},
		{"many at once", blocking(strings.Split("a b c d e f g h i j k l m n o p q r s t u v w x y z", " ")...), strings.Split(strings.Repeat("Blocked,", 20), ",")[:20]},
	}
	for _, step := range steps {
		notices.tell(mesh, step.blocks)
		got := took(recorder)
		if len(got) != len(step.want) {
			t.Errorf("%s: Events %q, want %d", step.what, got, len(step.want))
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], step.want[i]) {
				t.Errorf("%s: Event %q, want %q in it", step.what, got[i], step.want[i])
			}
		}
	}

	mesh.Status.Conditions = []metav1.Condition{trafficAdmitted(blocking("a", "b"))}
	next := blockNotices{recorder: recorder}
	if next.tell(mesh, blocking("a", "b")); len(took(recorder)) != 0 {
		t.Error("the next leader tells again what the status has")
	}
	if next.tell(mesh, blocking("a", "b", "c")); len(took(recorder)) != 1 {
		t.Error("the next leader does not tell what is new")
	}
}

func TestTrafficAdmitted(t *testing.T) {
	mesh := &meshv1alpha1.Mesh{}
	if c := meshCondition(t, meshStatus(mesh, observation{}), meshv1alpha1.MeshTrafficAdmitted); c != nil {
		t.Errorf("condition is %+v before anything is known", c)
	}
	if c := meshCondition(t, meshStatus(mesh, observation{blocks: blocking()}), meshv1alpha1.MeshTrafficAdmitted); c.Status != metav1.ConditionTrue {
		t.Errorf("condition is %+v without findings", c)
	}
	c := meshCondition(t, meshStatus(mesh, observation{blocks: blocking("deny")}), meshv1alpha1.MeshTrafficAdmitted)
	if c.Status != metav1.ConditionFalse || c.Reason != "BlockedByNetworkPolicy" ||
		!strings.Contains(c.Message, `NetworkPolicy shop/deny blocks egress of pod web, between pods and their proxies: add to spec.egress {"to":[]}`) {
		t.Errorf("condition is %+v", c)
	}
}

func meshCondition(t *testing.T, status meshv1alpha1.MeshStatus, kind string) *metav1.Condition {
	t.Helper()
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}
