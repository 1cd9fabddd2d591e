package controllers

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func TestInboundsAreMadeAnewOnlyWhereSomethingHasChanged(t *testing.T) {
	w := NewWorld()
	w.enrolled = map[string]bool{"shop": true, "bank": true}
	exposures := map[string][]compile.Exposure{"shop": {exposureOf("web", func(e *compile.Exposure) {
		e.Strict, e.Accounts = true, []types.NamespacedName{{Namespace: "monitoring", Name: "prometheus-sa"}}
	})}}
	w.setExposures(exposures)
	pods := func(version, prometheus string) []*corev1.Pod {
		web := plainPod("shop", "web", "n1", "10.0.0.1")
		web.ResourceVersion = version
		return []*corev1.Pod{web, plainPod("bank", "app", "n1", "10.0.0.2"), plainPod("monitoring", "prometheus", "n1", prometheus)}
	}
	look := func(pods []*corev1.Pod) (shop, bank *inbounds) {
		w.inbound(pods, compile.Claimed(pods, nil))
		return w.inbounds["shop"], w.inbounds["bank"]
	}
	shop, bank := look(pods("1", "10.0.0.3"))
	if again, same := look(pods("1", "10.0.0.3")); again != shop || same != bank {
		t.Error("made again although nothing has changed")
	}
	other, same := look(pods("2", "10.0.0.3"))
	if other == shop || same != bank {
		t.Error("want those of the namespace made anew whose pod has changed, and no others")
	}
	moved, same := look(pods("2", "10.0.0.4"))
	allowed := moved.pods["web"].resource.Inbound.Ports[0].Allowed
	if same != bank || len(allowed) != 1 || allowed[0].Addr() != netip.MustParseAddr("10.0.0.4") {
		t.Errorf("let in is %v, want the new address of the ServiceAccount's pod, and nothing new for bank", allowed)
	}
	if w.setExposures(exposures) {
		t.Error("the same exposures are said to be others")
	}
	before := []string{shop.pods["web"].resource.Version, moved.pods["web"].resource.Version}
	var kept []string
	for _, v := range moved.pods["web"].versions {
		kept = append(kept, v.version)
	}
	if diff := cmp.Diff(before, kept); diff != "" {
		t.Errorf("versions of the pod's Inbound that are strict (-want +got):\n%s", diff)
	}
}

// TestNothingIsPublished: that Services publish nothing is known as well, which TrafficAdmitted waits for.
func TestNothingIsPublished(t *testing.T) {
	w := NewWorld()
	if w.Exposures() != nil {
		t.Error("exposures are known before anything was compiled")
	}
	w.setExposures(nil)
	if w.Exposures() == nil {
		t.Error("that there are no exposures is not known")
	}
}

func TestEnforcement(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := plainPod("shop", "web", "n1", "10.0.0.1")
		if change != nil {
			change(p)
		}
		return p
	}
	proven := &wire.CanaryReport{StrictEnforced: true}
	reported := func(version string) map[string]wire.PodReport {
		return map[string]wire.PodReport{"web": {UID: "web", Inbound: version}}
	}
	strict := exposureOf("web", func(e *compile.Exposure) { e.Strict = true })
	version := compile.Inbounds([]*corev1.Pod{pod(nil)}, compile.NewExposed([]compile.Exposure{strict}), nil, "")[0].Version
	permissive := compile.Inbounds([]*corev1.Pod{pod(nil)}, compile.NewExposed([]compile.Exposure{exposureOf("web", nil)}), nil, "")[0].Version

	cases := map[string]struct {
		pod      *corev1.Pod
		exposure compile.Exposure
		node     *distribute.NodeState
		want     string // part of the message, empty if it is enforced
		wantPods int
	}{
		"in force and proven": {
			node: &distribute.NodeState{Complete: true, Canary: proven, Pods: reported(version)}, wantPods: 1,
		},
		"the agent is not connected any more, and what it had stays": {
			node: &distribute.NodeState{Complete: true, Canary: proven, Pods: reported(version), Connected: false}, wantPods: 1,
		},
		"not in force yet": {
			node: &distribute.NodeState{Complete: true, Canary: proven, Pods: reported("")}, want: "not yet in force in all pods", wantPods: 1,
		},
		"in force is what was permissive": {
			node: &distribute.NodeState{Complete: true, Canary: proven, Pods: reported(permissive)}, want: "not yet in force in all pods", wantPods: 1,
		},
		"a pod without a network": {
			node: &distribute.NodeState{Complete: true, Current: true, Canary: proven}, wantPods: 0,
		},
		"a pod without a network on a node whose agent is away": {
			pod:  pod(func(p *corev1.Pod) { p.Status.PodIPs = nil }),
			node: &distribute.NodeState{Complete: true, Canary: proven}, wantPods: 0,
		},
		"a pod that has started while the agent is away": {
			node: &distribute.NodeState{Complete: true, Canary: proven},
			want: "pod web has started while the agent of node n1 is away", wantPods: 1,
		},
		"no agent": {want: "no agent has proven on node n1", wantPods: 1},
		"the canary failed": {
			node: &distribute.NodeState{Complete: true, Canary: &wire.CanaryReport{Reason: "no nftables"}, Pods: reported(version)},
			want: "could not prove that it refuses callers: no nftables", wantPods: 1,
		},
		"on the network of the node": {
			pod:  pod(func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
			node: &distribute.NodeState{Complete: true, Canary: proven}, want: "pod web is on the network of its node", wantPods: 1,
		},
		"no selector": {
			exposure: exposureOf("web", func(e *compile.Exposure) { e.Strict, e.Selector = true, nil }), want: "Service web has no selector",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.pod == nil {
				tc.pod = pod(nil)
			}
			if tc.exposure.Service == "" {
				tc.exposure = strict
			}
			made := new(inbounds).make([]*corev1.Pod{tc.pod}, []compile.Exposure{tc.exposure}, nil)
			nodes := map[string]distribute.NodeState{}
			if tc.node != nil {
				nodes["n1"] = *tc.node
			}
			got := made.enforcement(&tc.exposure, nodes, true)
			c := got.Apply(metav1.Condition{Status: metav1.ConditionTrue, Reason: compile.ReasonEnforced})
			enforced := c.Status == metav1.ConditionTrue && c.Reason == compile.ReasonEnforced
			if enforced != (tc.want == "") || !strings.Contains(c.Message, tc.want) || got.Pods != tc.wantPods {
				t.Errorf("%+v makes %s %s: %s", got, c.Status, c.Reason, c.Message)
			}
		})
	}

	made := new(inbounds).make([]*corev1.Pod{pod(nil)}, []compile.Exposure{strict}, nil)
	unserved := made.enforcement(&strict, map[string]distribute.NodeState{"n1": {Complete: true, Canary: proven, Pods: reported(version)}}, false)
	if c := unserved.Apply(metav1.Condition{Status: metav1.ConditionTrue}); !strings.Contains(c.Message, "every call is refused") {
		t.Errorf("without a proxy the message is %q", c.Message)
	}

	alone := pod(func(p *corev1.Pod) { p.Labels[meshv1alpha1.PlacementLabel] = string(meshv1alpha1.PlacementSidecar) })
	of := compile.Inbound(alone, compile.NewExposed([]compile.Exposure{strict}), nil, "")
	made = new(inbounds).make([]*corev1.Pod{alone}, []compile.Exposure{strict}, nil)
	refused := made.enforcement(&strict, map[string]distribute.NodeState{"n1": {Complete: true, Canary: proven, Pods: reported(of.Version)}}, true)
	if c := refused.Apply(metav1.Condition{Status: metav1.ConditionTrue}); !of.Inbound.Alone || !strings.Contains(c.Message, "pod web is to have a proxy of its own") {
		t.Errorf("of a pod that lacks its proxy the agent is told %+v, and the message is %q", of.Inbound, c.Message)
	}
}

// A new proxy of a strict namespace is used once the agents concerned have acknowledged its address.
func TestProxiesOfStrictNamespacesAreUsedOnceTheyAreAdmitted(t *testing.T) {
	w := NewWorld()
	w.Hub = distribute.NewHub(distribute.HubOptions{})
	proxy := func(pod, address string) wire.Proxy {
		return wire.Proxy{Pod: pod, Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	usable := func() string {
		w.readyChanged()
		var names []string
		for _, p := range w.ready["shop"] {
			names = append(names, p.Pod)
		}
		return strings.Join(names, " ")
	}
	tell := func(seq uint64, addresses ...string) {
		c := captured{resource: &wire.Resource{Capture: &wire.Capture{}}}
		for _, a := range addresses {
			c.resource.Capture.Admitted = append(c.resource.Capture.Admitted, netip.MustParseAddr(a))
		}
		w.admitted.told(map[string]captured{"shop": c}, seq)
	}
	w.setExposures(map[string][]compile.Exposure{"shop": {exposureOf("web", func(e *compile.Exposure) { e.Strict = true })}})
	w.inbounds = map[string]*inbounds{"shop": {nodes: map[string]bool{"n1": true}}}
	w.proxies = map[string][]wire.Proxy{"shop": {proxy("first", "10.0.0.1")}}
	if got := usable(); got != "first" {
		t.Errorf("a new leader uses %q, want what was ready before", got)
	}
	w.opened = true
	w.proxies["shop"] = append(w.proxies["shop"], proxy("second", "10.0.0.2"))
	if got := usable(); got != "first" {
		t.Errorf("used are %q, want the second to wait until nodes are told of it", got)
	}
	tell(7, "10.0.0.1", "10.0.0.2")
	if got := usable(); got != "first second" {
		t.Errorf("used are %q; no agent that is connected could refuse the second", got)
	}
	w.proxies["shop"] = []wire.Proxy{proxy("second", "10.0.0.2"), proxy("first", "10.0.0.9")}
	tell(9, "10.0.0.2")
	if got := usable(); got != "second" {
		t.Errorf("used are %q, want a proxy of the same name at another address to wait", got)
	}
	w.setExposures(map[string][]compile.Exposure{"shop": nil})
	if got := usable(); got != "second first" {
		t.Errorf("used are %q where nothing is strict, want all", got)
	}
}
