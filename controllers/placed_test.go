package controllers

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func TestMisplaced(t *testing.T) {
	namespace := func(name, placement string) *corev1.Namespace {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{}}}
		if placement != "" {
			ns.Labels[meshv1alpha1.PlacementLabel] = placement
		}
		return ns
	}
	pod := func(namespace, name, placement string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), Labels: map[string]string{}}}
		if placement != "" {
			p.Labels[meshv1alpha1.PlacementLabel] = placement
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	injected := func(p *corev1.Pod) {
		p.Labels[meshv1alpha1.SidecarLabel] = "true"
		p.Spec.InitContainers = []corev1.Container{{Name: compile.SidecarContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	}
	s := compile.Snapshot{Namespaces: []*corev1.Namespace{namespace("vault", "sidecar"), namespace("shop", ""), namespace("typo", "Sidecar"), namespace("away", "x")}}
	pods := []*corev1.Pod{
		pod("vault", "fine", "", injected), pod("vault", "lacks", ""), pod("vault", "shares", "namespace"),
		pod("vault", "node", "", func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		pod("vault", "over", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		pod("vault", "going", "", func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }),
		pod("shop", "asks", "sidecar"), pod("shop", "typo", "ambient"), pod("typo", "shares", ""), pod("away", "asks", "sidecar"),
	}
	found := misplaced(s, pods, map[string]bool{"vault": true, "shop": true, "typo": true})
	var got []string
	for i := range found {
		got = append(got, found[i].name()+" "+found[i].reason)
	}
	want := "Namespace typo PlacementUnknown, Pod shop/asks ProxyMissing, Pod shop/typo PlacementUnknown, Pod vault/lacks ProxyMissing"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("found %s, want %s", text, want)
	}
	c := proxiesPlaced(found)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "ProxyMissing" ||
		!strings.Contains(c.Message, "Pod vault/lacks has no proxy of its own") || !strings.Contains(c.Message, `"Sidecar" is neither`) {
		t.Errorf("condition %+v", c)
	}
	if c := proxiesPlaced(nil); c != nil {
		t.Errorf("all is well, and the condition is %+v", c)
	}
}

// TestMisplacementsAreToldOnce has more found than there is room for in one look.
func TestMisplacementsAreToldOnce(t *testing.T) {
	recorder := events.NewFakeRecorder(100)
	n := placementNotices{recorder: recorder}
	var found []misplacement
	for i := range noticesAtOnce + 3 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: strconv.Itoa(i), UID: types.UID(strconv.Itoa(i))}}
		found = append(found, misplacement{p, "Pod", reasonProxyMissing, "made without"})
	}
	// What else there is to say of a pod is said, too, and nothing twice.
	both := append([]misplacement{{found[0].object, "Pod", reasonAgentMissing, "made without"}}, found[0])
	for _, tc := range []struct {
		of   []misplacement
		want int
	}{{found, noticesAtOnce}, {found, 3}, {found, 0}, {nil, 0}, {found[:1], 1}, {both, 1}, {both, 0}} {
		n.tell(&meshv1alpha1.Mesh{}, tc.of)
		if got := len(recorder.Events); got != tc.want {
			t.Errorf("%d Events of %d, want %d", got, len(tc.of), tc.want)
		}
		for len(recorder.Events) > 0 {
			if e := <-recorder.Events; !strings.HasSuffix(e, "Missing made without") {
				t.Errorf("Event %q", e)
			}
		}
	}
}

// TestPodsWithoutAgent tells the pods that were not captured when their node's agent went, or came after it.
func TestPodsWithoutAgent(t *testing.T) {
	pod := func(name, node string, phase corev1.PodPhase, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase, PodIP: "10.0.0.1"},
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	o := observation{
		enrolled: map[string]bool{"shop": true},
		pods: []*corev1.Pod{
			pod("came", "left", corev1.PodRunning), pod("waits", "left", corev1.PodPending), pod("was", "left", corev1.PodRunning),
			pod("host", "left", corev1.PodRunning, func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
			pod("over", "left", corev1.PodSucceeded), pod("unstarted", "left", corev1.PodPending, func(p *corev1.Pod) { p.Status.PodIP = "" }),
			pod("out", "left", corev1.PodRunning, func(p *corev1.Pod) { p.Namespace = "other" }),
			pod("first", "new", corev1.PodRunning), pod("fine", "served", corev1.PodRunning), pod("soon", "served", corev1.PodRunning),
		},
		reports: map[string]distribute.NodeState{
			"left":   {Pods: map[string]wire.PodReport{"was": {Captured: true}, "came": {}}},
			"served": {Connected: true, Pods: map[string]wire.PodReport{"fine": {Captured: true}}},
		},
	}
	found := unled(o)
	var got []string
	for i := range found {
		got = append(got, found[i].name()+" "+found[i].reason)
	}
	want := "Pod shop/came AgentMissing, Pod shop/first AgentMissing, Pod shop/waits AgentMissing"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("found %s, want %s", text, want)
	}
	if text := found[0].text; !strings.Contains(text, "no node agent is connected on left") {
		t.Errorf("the Event does not name the node: %s", text)
	}
	o.fresh = true
	if found := unled(o); len(found) > 0 {
		t.Errorf("before agents have had the time to connect, %d pods are found", len(found))
	}
}
