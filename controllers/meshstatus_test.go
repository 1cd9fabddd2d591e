package controllers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func TestMeshStatus(t *testing.T) {
	node := func(name string, unschedulable bool) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: unschedulable}}
	}
	running := func(name, node string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
	}
	proven := distribute.NodeState{Connected: true, Canary: &wire.CanaryReport{Captured: true, Guarded: true, StrictEnforced: true}}
	cases := map[string]struct {
		observation  observation
		wantReady    metav1.ConditionStatus
		wantReason   string
		wantCaptured string
		wantNodes    int
	}{
		"every node has proven capture": {
			observation:  observation{nodes: []*corev1.Node{node("a", false)}, reports: map[string]distribute.NodeState{"a": proven}},
			wantReady:    metav1.ConditionTrue,
			wantReason:   "Ready",
			wantCaptured: "1/1",
			wantNodes:    1,
		},
		"a node without an agent": {
			observation:  observation{nodes: []*corev1.Node{node("a", false), node("b", false)}, reports: map[string]distribute.NodeState{"a": proven}},
			wantReady:    metav1.ConditionFalse,
			wantReason:   "NotProven",
			wantCaptured: "1/2",
			wantNodes:    2,
		},
		"a cordoned node without meshed pods needs no agent": {
			observation:  observation{nodes: []*corev1.Node{node("a", false), node("b", true)}, reports: map[string]distribute.NodeState{"a": proven}},
			wantReady:    metav1.ConditionTrue,
			wantReason:   "Ready",
			wantCaptured: "1/1",
			wantNodes:    1,
		},
		"a cordoned node with meshed pods does": {
			observation: observation{
				enrolled: map[string]bool{"shop": true},
				nodes:    []*corev1.Node{node("a", true)}, pods: []*corev1.Pod{running("web", "a")},
			},
			wantReady:    metav1.ConditionFalse,
			wantReason:   "NotProven",
			wantCaptured: "0/1",
			wantNodes:    1,
		},
		"no Gateway API": {
			observation:  observation{installed: installed{missing: needed[:1]}},
			wantReady:    metav1.ConditionFalse,
			wantReason:   "Missing",
			wantCaptured: "0/0",
		},
		"an old Gateway API": {
			observation:  observation{installed: installed{version: "v1.4.1"}},
			wantReady:    metav1.ConditionTrue,
			wantReason:   "Ready",
			wantCaptured: "0/0",
		},
		"an operator that is newer than its CustomResourceDefinitions": {
			observation:  observation{installed: installed{missing: needed[2:]}},
			wantReady:    metav1.ConditionFalse,
			wantReason:   "Missing",
			wantCaptured: "0/0",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
			got := meshStatus(mesh, tc.observation)
			ready := meta.FindStatusCondition(got.Conditions, meshv1alpha1.MeshReady)
			if ready == nil || ready.Status != tc.wantReady || ready.Reason != tc.wantReason || ready.ObservedGeneration != 3 {
				t.Errorf("Ready = %+v, want %s %s", ready, tc.wantReady, tc.wantReason)
			}
			if diff := cmp.Diff(tc.wantCaptured, got.Captured); diff != "" {
				t.Errorf("captured: %s", diff)
			}
			if len(got.Nodes) != tc.wantNodes {
				t.Errorf("%d nodes listed, want %d", len(got.Nodes), tc.wantNodes)
			}
			if len(mesh.Status.Conditions) != 0 {
				t.Error("the input was changed")
			}
		})
	}
}

func TestMeshNamesNamespacesWithoutAReadyProxy(t *testing.T) {
	proxy := func(namespace string, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "proxy", Labels: map[string]string{meshv1alpha1.ComponentLabel: "proxy"}},
			Status: corev1.PodStatus{
				PodIPs:     []corev1.PodIP{{IP: "10.0.0.1"}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
			},
		}
	}
	const lost = ": connections to Services with a route are refused, like those to strict ports, others are made without the mesh"
	const starting = ": none has been ready since the namespace was enrolled, and nothing is captured yet"
	cases := map[string]struct {
		joined map[string]bool
		pods   []*corev1.Pod
		want   string
	}{
		"nobody is enrolled":                    {want: "True Ready: every enrolled namespace has a ready proxy"},
		"one of two proxies of a namespace":     {joined: map[string]bool{"shop": true}, pods: []*corev1.Pod{proxy("shop", "False"), proxy("shop", "True")}, want: "True Ready: every enrolled namespace has a ready proxy"},
		"its first proxy has just become ready": {joined: map[string]bool{"shop": false}, pods: []*corev1.Pod{proxy("shop", "True")}, want: "True Ready: every enrolled namespace has a ready proxy"},
		"none is ready": {
			joined: map[string]bool{"shop": true, "bank": true, "cafe": true}, pods: []*corev1.Pod{proxy("shop", "False"), proxy("bank", "True")},
			want: "False NoProxyReady: no proxy is ready in cafe, shop" + lost + "; see the pods of Deployment weft-proxy",
		},
		"none has ever been": {
			joined: map[string]bool{"shop": false, "bank": true},
			want:   "False NoProxyReady: no proxy is ready in bank" + lost + "; no proxy is ready in shop" + starting + "; see the pods of Deployment weft-proxy",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			enrolled := map[string]bool{"leaving": true}
			for namespace := range tc.joined {
				enrolled[namespace] = true
			}
			status := meshStatus(&meshv1alpha1.Mesh{}, observation{enrolled: enrolled, joined: tc.joined, pods: tc.pods})
			c := meta.FindStatusCondition(status.Conditions, meshv1alpha1.MeshProxiesReady)
			if c == nil {
				t.Fatal("the condition is missing")
			}
			if diff := cmp.Diff(tc.want, string(c.Status)+" "+c.Reason+": "+c.Message); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
			if !meta.IsStatusConditionTrue(status.Conditions, meshv1alpha1.MeshReady) {
				t.Error("the mesh is not ready for want of the proxies of one namespace")
			}
		})
	}
}

func TestMeshTellsWhatIsWrongWithItsDefaults(t *testing.T) {
	mesh := &meshv1alpha1.Mesh{Spec: meshv1alpha1.MeshSpec{Defaults: &meshv1alpha1.TrafficPolicy{
		Timeouts: &meshv1alpha1.Timeouts{Request: new(gwv1.Duration("1s"))},
	}}}
	got := func() string {
		c := meta.FindStatusCondition(meshStatus(mesh, observation{}).Conditions, meshv1alpha1.MeshDefaultsAccepted)
		if c == nil {
			return "the condition is missing"
		}
		return string(c.Status) + " " + c.Reason + ": " + c.Message
	}
	if diff := cmp.Diff("True Accepted: spec.defaults is in force", got()); diff != "" {
		t.Errorf("condition (-want +got):\n%s", diff)
	}
	mesh.Spec.Defaults.Fault = &meshv1alpha1.Fault{}
	want := "False Invalid: spec.defaults.fault: it needs delay or abort; these parts are left out of what is in force"
	if diff := cmp.Diff(want, got()); diff != "" {
		t.Errorf("condition (-want +got):\n%s", diff)
	}
}

// TestMeshForThoseWhoWait: a Mesh is stalled by what somebody has to correct, and otherwise on its way until it is ready.
func TestMeshForThoseWhoWait(t *testing.T) {
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
	got := func(o observation) string {
		mesh.Status = meshStatus(mesh, o)
		var words []string
		for _, c := range mesh.Status.Conditions {
			if c.Type == meshv1alpha1.ConditionStalled || c.Type == meshv1alpha1.ConditionReconciling {
				words = append(words, fmt.Sprintf("%s=%s/%s@%d", c.Type, c.Status, c.Reason, c.ObservedGeneration))
			}
		}
		return strings.Join(words, " ")
	}
	missing := observation{installed: installed{missing: needed[:1]}}
	for _, step := range []struct {
		fault *meshv1alpha1.Fault
		observation
		want string
	}{
		{nil, missing, "Reconciling=True/Missing@3"},
		{&meshv1alpha1.Fault{}, missing, "Stalled=True/Invalid@3"},
		{&meshv1alpha1.Fault{}, observation{}, "Stalled=True/Invalid@3"},
		{nil, missing, "Reconciling=True/Missing@3"},
		{nil, observation{}, ""},
	} {
		mesh.Spec.Defaults = &meshv1alpha1.TrafficPolicy{Fault: step.fault}
		if diff := cmp.Diff(step.want, got(step.observation)); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
		if mesh.Status.ObservedGeneration != 3 {
			t.Errorf("the observed generation is %d", mesh.Status.ObservedGeneration)
		}
		// What has not changed keeps its time, so that nothing is written.
		long := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
		for i := range mesh.Status.Conditions {
			mesh.Status.Conditions[i].LastTransitionTime = long
		}
		got(step.observation)
		for _, c := range mesh.Status.Conditions {
			if !c.LastTransitionTime.Equal(&long) {
				t.Errorf("%s has another time although nothing has changed", c.Type)
			}
		}
	}
}

func TestMeshTellsWhatIsWrongWithItsCollector(t *testing.T) {
	mesh := &meshv1alpha1.Mesh{}
	got := func() string {
		status := meshStatus(mesh, observation{})
		mesh.Status = status
		c := meta.FindStatusCondition(status.Conditions, meshv1alpha1.MeshTelemetryAccepted)
		if c == nil {
			return ""
		}
		return string(c.Status) + " " + c.Reason + ": " + c.Message
	}
	for _, step := range []struct{ endpoint, want string }{
		{"", ""},
		{"http://collector.observability:4317", "True Accepted: spec.telemetry is in force"},
		{"collector", `False Invalid: spec.telemetry.tracing.endpoint: "collector" is not a URL with http or https and a host, ` +
			"such as http://otel-collector.observability:4317; these parts are left out of what is in force"},
		{"", ""},
	} {
		mesh.Spec.Telemetry.Tracing.Endpoint = step.endpoint
		if diff := cmp.Diff(step.want, got()); diff != "" {
			t.Errorf("endpoint %q: condition (-want +got):\n%s", step.endpoint, diff)
		}
		if c := meta.FindStatusCondition(mesh.Status.Conditions, meshv1alpha1.MeshDefaultsAccepted); c == nil || c.Status != metav1.ConditionTrue {
			t.Errorf("endpoint %q: the defaults are not accepted", step.endpoint)
		}
	}
}

func TestNodeStatusCountsPods(t *testing.T) {
	var pods []*corev1.Pod
	for _, uid := range []types.UID{"captured", "late", "refused", "unknown"} {
		pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}})
	}
	pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "host"}, Spec: corev1.PodSpec{HostNetwork: true}})
	got := nodeStatus("a", pods, distribute.NodeState{Connected: true, Pods: map[string]wire.PodReport{
		"captured": {Captured: true},
		"late":     {Captured: true, Late: true},
		"refused":  {Reason: "no network"},
	}})
	if *got.LatePods != 1 || *got.UncapturedPods != 2 || *got.HostNetworkPods != 1 {
		t.Errorf("late %d, uncaptured %d, on the host's network %d; want 1, 2 and 1",
			*got.LatePods, *got.UncapturedPods, *got.HostNetworkPods)
	}
}

func TestNodeStatusOutlivesTheLeader(t *testing.T) {
	nodes := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}
	proven := distribute.NodeState{Connected: true, Canary: &wire.CanaryReport{Captured: true, Guarded: true}}
	before := meshStatus(&meshv1alpha1.Mesh{}, observation{nodes: nodes, reports: map[string]distribute.NodeState{"a": proven}})
	cases := map[string]struct {
		fresh   bool
		reports map[string]distribute.NodeState
		want    string
	}{
		"a new leader has not heard from the node":     {fresh: true, want: "1/1"},
		"the agent has come but reported nothing yet":  {fresh: true, reports: map[string]distribute.NodeState{"a": {Connected: true}}, want: "1/1"},
		"the agent has come and gone":                  {fresh: true, reports: map[string]distribute.NodeState{"a": {}}, want: "0/1"},
		"the agent has reported that capture is gone":  {fresh: true, reports: map[string]distribute.NodeState{"a": {Connected: true, Canary: &wire.CanaryReport{}}}, want: "0/1"},
		"the agent has not come within the grace time": {want: "0/1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := meshStatus(&meshv1alpha1.Mesh{Status: before}, observation{nodes: nodes, reports: tc.reports, fresh: tc.fresh})
			if got.Captured != tc.want {
				t.Errorf("captured = %s, want %s", got.Captured, tc.want)
			}
		})
	}
}
