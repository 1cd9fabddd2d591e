package controllers

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// newCapturing returns a World of a leader that was told by its predecessor, so to speak, to capture
// every Service of every namespace.
func newCapturing(namespaces, services int) *World {
	w := NewWorld()
	w.Hub = distribute.NewHub(distribute.HubOptions{NodeLayers: []distribute.Layer{distribute.LayerCapture, distribute.LayerInbound}})
	w.opened, w.revision = true, 1
	w.published, w.enrolled, w.captured = map[wire.Ref]*wire.Resource{}, map[string]bool{}, map[string]captured{}
	everything := &wire.Capture{}
	for i := range namespaces {
		namespace := fmt.Sprintf("shop-%d", i)
		w.enrolled[namespace] = true
		w.captured[namespace] = captured{resource: &wire.Resource{Capture: everything}}
		for j := range services {
			w.publish(namespace, fmt.Sprintf("web-%d", j))
		}
	}
	for _, r := range w.published {
		everything.Ports = append(everything.Ports, wire.CapturedPort{Number: r.Destination.Number})
	}
	return w
}

// publish adds a destination with the next number.
func (w *World) publish(namespace, service string) wire.Ref {
	n := uint16(len(w.published))
	r := wire.New(wire.ServicePortKey(namespace, service, 80), wire.ScopeMesh, wire.Origin{}, &wire.Destination{
		Namespace: namespace, Service: service, Port: 80, Number: wire.MinNumber + n, Protocol: wire.ProtocolHTTP,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)})},
	})
	w.published[r.Ref] = &r
	w.revision++
	return r.Ref
}

// captures returns the resource of each namespace.
func (w *World) captures() map[string]*wire.Capture {
	out := map[string]*wire.Capture{}
	for namespace, c := range w.captured {
		out[namespace] = c.resource.Capture
	}
	return out
}

func TestCapturesAreMadeAnewOnlyWhenTheyChange(t *testing.T) {
	w := newCapturing(3, 2)
	w.publishToNodes()
	first, seq := w.captures(), w.capturedSeq
	if len(first["shop-0"].Ports) != 6 {
		t.Fatalf("%d ports are captured, want 6", len(first["shop-0"].Ports))
	}

	w.publishToNodes() // an acknowledgement
	w.revision++
	w.publishToNodes() // a pass that has changed no destination
	if again := w.captures(); !maps.Equal(first, again) || w.capturedSeq != seq {
		t.Error("captures were made or published again although nothing changed")
	}

	w.ready = map[string][]wire.Proxy{"shop-1": {{Pod: "proxy"}}}
	w.publishToNodes()
	next := w.captures()
	if next["shop-0"] != first["shop-0"] || next["shop-1"] == first["shop-1"] || len(next["shop-1"].Proxies) != 1 {
		t.Error("want the capture of shop-1 made anew, and no other")
	}

	// No proxy is connected that could have acknowledged it.
	ref := w.publish("shop-0", "new")
	w.publishToNodes()
	if got := w.captured["shop-2"]; len(got.resource.Capture.Ports) != 6 || len(got.awaited) != 1 || got.awaited[0].Ref != ref {
		t.Errorf("%d ports are captured and %v are awaited, want 6 and %v", len(got.resource.Capture.Ports), got.awaited, ref)
	}

	route := wire.New("HTTPRoute/shop-0/r/0", wire.ScopeMesh, wire.Origin{}, &wire.Route{Destinations: []string{"shop-0/web-0:80"}})
	w.published[route.Ref] = &route
	w.revision++
	w.publishToNodes()
	routed := 0
	for _, port := range w.captures()["shop-1"].Ports {
		if port.Routed {
			routed++
		}
	}
	if routed != 1 {
		t.Errorf("%d ports are routed, want 1", routed)
	}

	// Without a proxy that could say where a call comes from, what has an authorization is refused, too.
	for name, audit := range map[string]bool{"audited": true, "enforced": false} {
		a := &wire.Authorization{Namespace: "shop-1", Name: name, Audit: audit, Targets: []wire.AuthorizationTarget{{Service: "web-1"}}}
		if audit {
			a.Targets = nil
		}
		r := wire.New(a.Key(), wire.ScopeNamespace("shop-1"), wire.Origin{}, a)
		w.published[r.Ref] = &r
	}
	w.revision++
	w.publishToNodes()
	routed = 0
	for _, port := range w.captures()["shop-1"].Ports {
		if port.Routed {
			routed++
		}
	}
	if routed != 2 {
		t.Errorf("%d ports are routed or authorized, want 2", routed)
	}

	delete(w.enrolled, "shop-2")
	w.publishToNodes()
	if _, stays := w.captured["shop-2"]; stays || w.capturedSeq == seq {
		t.Error("a namespace that left is still captured")
	}
}

// TestPodsAreNotClosedWhenTheirNamespaceIsEnrolled: agents close pods of a namespace with strict ports of which
// they know nothing, so they must not learn of the namespace before.
func TestPodsAreNotClosedWhenTheirNamespaceIsEnrolled(t *testing.T) {
	w := newCapturing(1, 1)
	w.publishToNodes()
	before := w.Hub.Seq()

	w.enrolled["strict"] = true
	w.strictNamespaces = map[string]bool{"strict": true}
	w.revision++
	inbound := wire.New("uid", wire.ScopeNode("n1"), wire.Origin{}, &wire.Inbound{Namespace: "strict", UID: "uid", Ports: []wire.InboundPort{{Port: 8080, Strict: true}}})
	w.inbounds = map[string]*inbounds{"strict": {pods: map[string]*podInbound{"uid": {resource: &inbound}}}}
	w.publishToNodes()
	if !w.captures()["strict"].Strict {
		t.Fatal("the namespace has no strict port")
	}
	if after := w.Hub.Seq(); after != before+1 || w.capturedSeq != after {
		t.Errorf("publications %d to %d, captures with %d; want one of both", before+1, after, w.capturedSeq)
	}
	if w.publishToNodes(); w.Hub.Seq() != before+1 {
		t.Error("the same was published again")
	}
}

func TestAgents(t *testing.T) {
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	pod := func(namespace, component, node string, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{meshv1alpha1.ComponentLabel: component}},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	got := agents([]*corev1.Node{node("a"), node("b"), node("c"), node("d")}, []*corev1.Pod{
		pod("weft-system", "node", "a", corev1.ConditionTrue),
		pod("weft-system", "node", "b", corev1.ConditionFalse),
		pod("shop", "node", "c", corev1.ConditionTrue),
		pod("weft-system", "proxy", "d", corev1.ConditionTrue),
		pod("weft-system", "node", "gone", corev1.ConditionTrue),
	}, "weft-system")
	if diff := cmp.Diff(map[string]bool{"a": true, "b": false, "c": false, "d": false}, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// BenchmarkAcknowledgement is what an acknowledgement costs in a large mesh in which nothing is awaited.
func BenchmarkAcknowledgement(b *testing.B) {
	w := newCapturing(200, 10)
	w.publishToNodes()
	b.ReportAllocs()
	for b.Loop() {
		w.publishToNodes()
	}
}
