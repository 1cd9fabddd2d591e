//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// recovery is how long after the loss of a node requests may fail.
const recovery = 5 * time.Second

// TestNodeLoss takes away, without notice, the node that one of two proxies runs on. Clients and backends
// are on the other one. Requests may fail for 5 s, and none later, nor while the node comes back.
func TestNodeLoss(t *testing.T) {
	oneZone(t)
	namespace := bed.Namespace(t, true)
	backend := map[string]string{"role": "backend"}
	pods := bed.Run(t, namespace,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node1", Labels: backend},
		testbed.App{Name: "client", Node: "node1"})
	sender := pods[2]
	bed.Create(t, testbed.NewService(namespace, "web", backend))
	proxies := map[string]*testbed.Pod{}
	for _, p := range bed.Proxies(t, namespace) {
		proxies[p.Node] = p
	}
	if len(proxies) != 2 {
		t.Fatalf("the proxies are on %v, want one on each node", proxies)
	}
	bed.Program(t, testbed.HTTPRoute(t, namespace, `
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Mark, value: routed}]}}]
    backendRefs: [{name: web, port: 80}]
`))
	get := traffic.Request{URL: "http://web", Timeout: 2 * time.Second}
	post := traffic.Request{URL: "http://web", Method: "POST", Body: "body", Timeout: 2 * time.Second}
	http2 := traffic.Request{URL: "http://web", Protocol: traffic.H2C, Timeout: 2 * time.Second}
	for _, p := range proxies {
		eventually(t, sender, get, func(a *traffic.Answer) string {
			if wrong := marked("routed")(a); wrong != "" || !p.Has(a.Echo.Peer) {
				return "not through the proxy on " + p.Node
			}
			return ""
		})
	}
	loads := []*testbed.Load{
		sender.Load(t, traffic.Load{Requests: []traffic.Request{get, post}, Workers: 8, Rate: 40}),
		sender.Load(t, traffic.Load{Requests: []traffic.Request{http2}, Workers: 4, Rate: 20}),
		sender.Load(t, traffic.Load{Requests: []traffic.Request{get, http2}, Workers: 8, Rate: 40, NewConnections: true}),
	}
	more(loads)

	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*testbed.Patience)
		defer cancel()
		if err := bed.Cluster(ctx, "up"); err != nil {
			t.Error(err)
		}
	})
	begun := time.Now()
	if err := bed.Cluster(t.Context(), "node-stop", "node2"); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	for _, l := range loads {
		// As many as a load sends in three times the time that it may be disturbed.
		l.More(3 * 20 * int(recovery/time.Second))
	}
	if err := bed.Cluster(t.Context(), "node-start", "node2"); err != nil {
		t.Fatal(err)
	}
	// The old proxy's pod was on the node's disk and starts there again.
	bed.Proxies(t, namespace)
	testbed.Eventually(t, bed.WaitReady)
	back := bed.Run(t, namespace, testbed.App{Name: "returned", Node: "node2"})[0]
	eventually(t, back, get, marked("routed"))
	always(t, back, get, marked("routed"))
	more(loads)

	sent, failed, last := 0, 0, begun
	for n, l := range loads {
		p := l.Stop()
		sent, failed = sent+p.Sent, failed+p.Failed
		for _, s := range p.Samples {
			if s.Failure == "" {
				continue
			}
			if s.Ended.After(last) {
				last = s.Ended
			}
			if s.Sent.Before(begun) && s.Ended.Before(begun) || s.Ended.Sub(stopped) > recovery {
				t.Errorf("load %d: sent %s after the node was stopped, ended after %s: %s", n,
					s.Sent.Sub(stopped), s.Ended.Sub(s.Sent), s.Failure)
			}
		}
	}
	t.Logf("node-stop took %s; of %d requests %d failed, the last of them %s after it began and %s after it returned",
		stopped.Sub(begun).Round(time.Millisecond), sent, failed, last.Sub(begun).Round(time.Millisecond), last.Sub(stopped).Round(time.Millisecond))
}

// oneZone puts both nodes into one zone, so that clients use the proxies of both: those of their own zone
// are preferred.
func oneZone(t *testing.T) {
	t.Helper()
	var first corev1.Node
	if err := bed.Client.Get(t.Context(), client.ObjectKey{Name: "node1"}, &first); err != nil {
		t.Fatal(err)
	}
	second := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}}
	var before string
	testbed.Update(t, bed, second, func(n *corev1.Node) {
		before = n.Labels[corev1.LabelTopologyZone]
		n.Labels[corev1.LabelTopologyZone] = first.Labels[corev1.LabelTopologyZone]
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, corev1.LabelTopologyZone, before)
		if err := bed.Client.Patch(ctx, second, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			t.Error(err)
		}
	})
}
