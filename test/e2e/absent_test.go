//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestAgentAbsent starts pods on a node whose agent is away. They run without the mesh, and the Mesh says so;
// when the agent is back it captures them all, and the Mesh counts them as late until they end.
func TestAgentAbsent(t *testing.T) {
	const node = "node2"
	namespace := bed.Namespace(t, true)
	bed.Run(t, namespace, testbed.App{Name: "v1", Version: "v1", Node: "node1"})
	bed.Create(t, testbed.NewService(namespace, "web", onlyV1))
	bed.Proxies(t, namespace)
	bed.Program(t, testbed.HTTPRoute(t, namespace, fmt.Sprintf(marking, "web")))
	testbed.Eventually(t, bed.WaitReady)
	before := nodeStatus(t, node, func(meshv1alpha1.NodeStatus) string { return "" })

	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: testbed.SystemNamespace, Name: "weft-node"}}
	back := keepAway(t, agents, node)
	apps := []testbed.App{{Name: "late-0", Node: node}, {Name: "late-1", Node: node}, {Name: "late-2", Node: node}}
	late := bed.Run(t, namespace, apps...)
	request := traffic.Request{URL: "http://web"}
	for _, p := range late {
		always(t, p, request, direct(p))
	}
	nodeStatus(t, node, func(n meshv1alpha1.NodeStatus) string {
		if n.Message != "no agent is connected" || *n.Captured || *n.UncapturedPods < int32(len(late)) {
			return fmt.Sprintf("want no agent and at least %d pods that are not captured", len(late))
		}
		return ""
	})

	for _, p := range late {
		testbed.Eventually(t, func(ctx context.Context) error {
			var list eventsv1.EventList
			if err := bed.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
				return err
			}
			if !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == "AgentMissing" && e.Regarding.Name == p.Name }) {
				return fmt.Errorf("of %d Events none tells that %s has no agent", len(list.Items), p.Name)
			}
			return nil
		})
	}

	back()
	rolledOut(t, agents)
	for _, p := range late {
		eventually(t, p, request, marked("routed"))
		always(t, p, request, marked("routed"))
	}
	nodeStatus(t, node, func(n meshv1alpha1.NodeStatus) string {
		if *n.LatePods != *before.LatePods+int32(len(late)) || *n.UncapturedPods != *before.UncapturedPods {
			return fmt.Sprintf("want %d more late pods than %d, and as before %d that are not captured", len(late), *before.LatePods, *before.UncapturedPods)
		}
		return ""
	})
	for _, p := range late {
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}); err != nil {
			t.Fatal(err)
		}
	}
	nodeStatus(t, node, func(n meshv1alpha1.NodeStatus) string {
		if *n.LatePods != *before.LatePods {
			return fmt.Sprintf("want as many late pods as before, %d", *before.LatePods)
		}
		return ""
	})
	testbed.Eventually(t, bed.WaitReady)
}

// nodeStatus waits until nothing is wrong with what the Mesh says of a node.
func nodeStatus(t *testing.T, node string, wrong func(meshv1alpha1.NodeStatus) string) meshv1alpha1.NodeStatus {
	t.Helper()
	var found meshv1alpha1.NodeStatus
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		for _, n := range m.Status.Nodes {
			if n.Name != node {
				continue
			}
			found = n
			if w := wrong(n); w != "" {
				return fmt.Sprintf("%s; %s has %d late pods, %d that are not captured, message %q", w, node, *n.LatePods, *n.UncapturedPods, n.Message)
			}
			return ""
		}
		return "it does not list " + node
	})
	return found
}

// agents returns the pods of the node agents.
func agents(t *testing.T) []*testbed.Pod {
	t.Helper()
	pods, err := bed.Pods(t.Context(), testbed.SystemNamespace, client.MatchingLabels{meshv1alpha1.ComponentLabel: "node"})
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// keepAway ends the agent of a node, and lets it come back when it is told to or the test ends. The other
// agents stay as they are, because they are not replaced for a change that is taken back.
func keepAway(t *testing.T, agents *appsv1.DaemonSet, node string) (back func()) {
	t.Helper()
	const (
		away    = `{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":%q,"operator":"NotIn","values":[%q]}]}]}}}}}}}`
		present = `{"spec":{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":1}},"template":{"spec":{"affinity":null}}}}`
	)
	patch := func(ctx context.Context, text string) error {
		return bed.Client.Patch(ctx, agents, client.RawPatch(types.MergePatchType, []byte(text)))
	}
	restore := func() {
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		if err := patch(ctx, present); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	if err := patch(t.Context(), fmt.Sprintf(away, corev1.LabelHostname, node)); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, func(ctx context.Context) error {
		var list corev1.PodList
		if err := bed.Client.List(ctx, &list, client.InNamespace(agents.Namespace), client.MatchingLabels{meshv1alpha1.ComponentLabel: "node"}); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Spec.NodeName == node {
				return errors.New("the agent of " + node + " is still there")
			}
		}
		return nil
	})
	return restore
}

// meshSays waits until nothing is wrong with a condition of the Mesh.
func meshSays(t *testing.T, kind string, wrong func(*metav1.Condition) string) {
	t.Helper()
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		c := meta.FindStatusCondition(m.Status.Conditions, kind)
		if c == nil {
			return "it has no condition " + kind
		}
		if w := wrong(c); w != "" {
			return fmt.Sprintf("%s; it is %s: %s", w, c.Status, c.Message)
		}
		return ""
	})
}
