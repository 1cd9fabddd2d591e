package compile

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

func pod(namespace, name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name + "-uid")},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: name + "-sa"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func with(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
	change(p)
	return p
}

func report(name string, ips ...string) wire.PodReport {
	r := wire.PodReport{UID: name + "-uid", Name: name}
	for _, ip := range ips {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(ip))
	}
	return r
}

// all are the pods of a node whose agent is there.
func all(reports ...wire.PodReport) NodeSandboxes { return NodeSandboxes{Pods: reports, Current: true} }

func TestWorkloads(t *testing.T) {
	ended := report("web", "10.0.0.1")
	ended.Ended = true
	zones := map[string]string{"n1": "z1"}
	cases := map[string]struct {
		pods      []*corev1.Pod
		sandboxes Sandboxes
		want      map[string]string // address -> ServiceAccount
	}{
		"before its node has reported, a pod's status counts": {
			pods: []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1", "fd00::1")},
			want: map[string]string{"10.0.0.1": "web-sa", "fd00::1": "web-sa"},
		},
		"a report counts over the status": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1")},
			sandboxes: Sandboxes{"n1": all(report("web", "10.0.0.9"))},
			want:      map[string]string{"10.0.0.9": "web-sa"},
		},
		"a pod its node does not report has no address": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1")},
			sandboxes: Sandboxes{"n1": all()},
		},
		"a report by another node is not believed": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1")},
			sandboxes: Sandboxes{"n1": all(), "n2": all(report("web", "10.0.0.1"))},
		},
		"a report for another UID is not believed": {
			pods:      []*corev1.Pod{with(pod("shop", "web", "n1"), func(p *corev1.Pod) { p.UID = "new" })},
			sandboxes: Sandboxes{"n1": all(report("web", "10.0.0.1"))},
		},
		"a pod that has started while the agent is away has that of its status": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1"), pod("shop", "new", "n1", "10.0.0.2")},
			sandboxes: Sandboxes{"n1": {Pods: []wire.PodReport{report("web", "10.0.0.1")}}},
			want:      map[string]string{"10.0.0.1": "web-sa", "10.0.0.2": "new-sa"},
		},
		"what the agent has said last counts over the status while it is away": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1")},
			sandboxes: Sandboxes{"n1": {Pods: []wire.PodReport{report("web", "10.0.0.9")}}},
			want:      map[string]string{"10.0.0.9": "web-sa"},
		},
		"a pod that has ended while the agent is away leaves its address": {
			pods: []*corev1.Pod{
				with(pod("shop", "old", "n1", "10.0.0.1"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
				pod("shop", "new", "n1", "10.0.0.1"),
			},
			sandboxes: Sandboxes{"n1": {Pods: []wire.PodReport{report("old", "10.0.0.1")}}},
			want:      map[string]string{"10.0.0.1": "new-sa"},
		},
		"an address that another pod had when the agent went belongs to nobody": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1"), pod("shop", "new", "n1", "10.0.0.1")},
			sandboxes: Sandboxes{"n1": {Pods: []wire.PodReport{report("web", "10.0.0.1")}}},
		},
		"an ended sandbox has no address": {
			pods:      []*corev1.Pod{pod("shop", "web", "n1", "10.0.0.1")},
			sandboxes: Sandboxes{"n1": all(ended)},
		},
		"a reused address belongs to the pod that has it now": {
			pods: []*corev1.Pod{
				with(pod("shop", "old", "n1", "10.0.0.1"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
				pod("shop", "new", "n1", "10.0.0.1"),
			},
			want: map[string]string{"10.0.0.1": "new-sa"},
		},
		"an address claimed twice belongs to nobody": {
			pods:      []*corev1.Pod{pod("shop", "a", "n1"), pod("other", "b", "n2")},
			sandboxes: Sandboxes{"n1": all(report("a", "10.0.0.1")), "n2": all(report("b", "10.0.0.1"))},
		},
		"other namespaces are left out": {
			pods: []*corev1.Pod{pod("other", "web", "n1", "10.0.0.1")},
		},
		"host network pods have no address of their own": {
			pods: []*corev1.Pod{with(pod("shop", "web", "n1", "192.0.2.1"), func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[string]string{}
			for _, r := range Workloads(Claimed(tc.pods, tc.sandboxes), map[string]bool{"shop": true}, zones, nil) {
				if r.Scope != wire.ScopeNamespace("shop") {
					t.Errorf("%s has scope %s", r.Ref, r.Scope)
				}
				if r.Workload.Node != "n1" || r.Workload.Zone != "z1" {
					t.Errorf("%s is on node %q in zone %q", r.Ref, r.Workload.Node, r.Workload.Zone)
				}
				got[r.Workload.Address.String()] = r.Workload.ServiceAccount
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("workloads (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadyProxies(t *testing.T) {
	proxy := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		p := pod("shop", name, "n1", "10.0.0.1", "fd00::1")
		p.Labels = map[string]string{meshv1alpha1.ComponentLabel: ComponentProxy}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if change != nil {
			change(p)
		}
		return p
	}
	now := metav1.Now()
	pods := []*corev1.Pod{
		proxy("b", nil),
		proxy("a", nil),
		proxy("leaving", func(p *corev1.Pod) { p.DeletionTimestamp = &now }),
		proxy("starting", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		proxy("no address", func(p *corev1.Pod) { p.Status.PodIPs = nil }),
		proxy("foreign", func(p *corev1.Pod) { p.Namespace = "other" }),
		proxy("application", func(p *corev1.Pod) { p.Labels = nil }),
	}
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	want := map[string][]wire.Proxy{"shop": {
		{Pod: "a", Addresses: addresses, Node: "n1", Zone: "z1"},
		{Pod: "b", Addresses: addresses, Node: "n1", Zone: "z1"},
	}}
	got := ReadyProxies(pods, map[string]bool{"shop": true}, map[string]string{"n1": "z1"})
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("ready proxies (-want +got):\n%s", diff)
	}

	resources := Proxies(got, map[string]bool{"shop": true, "empty": true})
	keys := []string{resources[0].Key, resources[1].Key}
	if diff := cmp.Diff([]string{"empty", "shop"}, keys); diff != "" {
		t.Errorf("a namespace without ready proxies is listed all the same (-want +got):\n%s", diff)
	}
}
