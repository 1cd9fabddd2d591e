package controllers

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func plainPod(namespace, name, node, address string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: name + "-sa"},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: address}}},
	}
}

func exposureOf(name string, change func(*compile.Exposure)) compile.Exposure {
	e := compile.Exposure{
		ServicePort: compile.ServicePort{Namespace: "shop", Service: name, Port: 80},
		Selector:    map[string]string{"app": name}, Target: intstr.FromInt32(8080),
	}
	if change != nil {
		change(&e)
	}
	return e
}

func plainFrom(source string, connections, refused uint64, last time.Time) wire.PlainCaller {
	c := wire.PlainCaller{UID: "web", Port: 8080, Connections: connections, Refused: refused, Last: last}
	if source != "" {
		c.Source = netip.MustParseAddr(source)
	}
	return c
}

func plainNode(callers ...wire.PlainCaller) distribute.NodeState {
	state := distribute.NodeState{Plain: map[wire.PlainKey]wire.PlainCaller{}}
	for _, c := range callers {
		state.Plain[c.Key()] = c
	}
	return state
}

func TestPlainCallers(t *testing.T) {
	now := time.Now()
	pods := []*corev1.Pod{
		plainPod("shop", "web", "n1", "10.0.0.1"), plainPod("legacy", "old", "n2", "10.0.0.2"),
		plainPod("monitoring", "prometheus", "n2", "10.0.0.3"),
	}
	exposures := map[string][]compile.Exposure{"shop": {exposureOf("web", func(e *compile.Exposure) {
		e.Accounts = []types.NamespacedName{{Namespace: "monitoring", Name: "prometheus-sa"}}
		e.Allowed = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})}}
	counter := newPlainCounter()
	report := func(old uint64) map[string]distribute.NodeState {
		return map[string]distribute.NodeState{
			"n1": plainNode(plainFrom("10.0.0.2", old, 2, now), plainFrom("10.0.0.3", 4, 0, now), plainFrom("192.0.2.7", 5, 0, now),
				plainFrom("198.51.100.1", 1, 0, now.Add(-2*time.Hour)), plainFrom("", 9, 0, now)),
			// The pod is on n1: what others say about it is not believed.
			"n2": plainNode(plainFrom("203.0.113.1", 100, 0, now)),
		}
	}
	counter.take(report(3), pods, exposures)
	counter.take(report(7), pods, exposures)
	calls := counter.take(report(1), pods, exposures) // the agent of n1 has started again
	want := `
# HELP weft_plain_connections_total Connections to ports that Services publish that came past the mesh, by what was done with them. Known to the leader alone.
# TYPE weft_plain_connections_total counter
weft_plain_connections_total{verdict="allowed",weft_destination_namespace="shop",weft_destination_service="web",weft_source_namespace="",weft_source_service_account=""} 5
weft_plain_connections_total{verdict="allowed",weft_destination_namespace="shop",weft_destination_service="web",weft_source_namespace="monitoring",weft_source_service_account="prometheus-sa"} 4
weft_plain_connections_total{verdict="permitted",weft_destination_namespace="shop",weft_destination_service="web",weft_source_namespace="",weft_source_service_account=""} 10
weft_plain_connections_total{verdict="permitted",weft_destination_namespace="shop",weft_destination_service="web",weft_source_namespace="legacy",weft_source_service_account="old-sa"} 8
weft_plain_connections_total{verdict="refused",weft_destination_namespace="shop",weft_destination_service="web",weft_source_namespace="legacy",weft_source_service_account="old-sa"} 2
`
	if err := testutil.CollectAndCompare(counter.connections, strings.NewReader(want)); err != nil {
		t.Error(err)
	}

	calls = lately(calls, now)
	shown := plainStatus(calls)
	if len(shown) != 1 || shown[0].Namespace != "shop" || *shown[0].Callers != 2 {
		t.Fatalf("status is %+v, want two callers in shop: a pod, and those without room of their own", shown)
	}
	top := shown[0].Top[1]
	if top.Caller != "legacy/old" || top.ServiceAccount != "old-sa" || top.Service != "web:80" || *top.Connections != 1 || *top.Refused != 2 {
		t.Errorf("caller is %+v, want pod legacy/old with one connection let in and two refused", top)
	}
	condition := plainCallers(calls)
	if condition.Status != metav1.ConditionTrue || !strings.Contains(condition.Message, "pod legacy/old (ServiceAccount old-sa) to shop/web:80") {
		t.Errorf("condition is %+v, want it to name the pod", condition)
	}
	if c := plainCallers(nil); c.Status != metav1.ConditionFalse {
		t.Errorf("condition without callers is %+v", c)
	}
}

func TestCountsAloneOfPlainCallersAreNoOtherStatus(t *testing.T) {
	status := func(connections int64, caller string) *meshv1alpha1.MeshStatus {
		return &meshv1alpha1.MeshStatus{PlainCallers: []meshv1alpha1.NamespacePlainCallers{{
			Namespace: "shop", Top: []meshv1alpha1.PlainCaller{{Caller: caller, Connections: &connections}, {Caller: "a"}},
		}}}
	}
	same := func(a, b *meshv1alpha1.MeshStatus) bool {
		return equality.Semantic.DeepEqual(withoutPlainCounts(a), withoutPlainCounts(b))
	}
	if !same(status(1, "b"), status(2, "b")) {
		t.Error("more connections are another status")
	}
	if same(status(1, "b"), status(1, "c")) {
		t.Error("another caller is the same status")
	}
}
