//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/bench/figures"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

const (
	// recovery bounds how long after the loss of a node requests may fail: generously, since what else runs
	// on the machine takes its part. recoveryGoal is what the bench holds the same figure to.
	recovery     = time.Minute
	recoveryGoal = 5 * time.Second
	// calmAfter is how many requests in a row must succeed until a load counts as undisturbed again.
	calmAfter = 300
)

var figuresFile = flag.String("figures", "", "file that receives what TestNodeLoss has measured; the test reports it in any case")

// TestNodeLoss takes away, without notice, the node that one of two proxies runs on. Clients and backends
// are on the other one. Requests fail for a while at most, and none later, nor while the node comes back.
func TestNodeLoss(t *testing.T) {
	oneZone(t)
	namespace := shared(t, bed.Namespace(t, true)) // a pod and a proxy of its own are lost together
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
	for n, l := range loads {
		calm(t, n, l)
	}
	undisturbed := time.Now()
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

	sent, failed := 0, 0
	// Requests that were under way at the loss were sent just before it.
	var first, last time.Time
	for n, l := range loads {
		p := l.Stop()
		sent, failed = sent+p.Sent, failed+p.Failed
		for _, s := range p.Samples {
			if s.Failure == "" {
				continue
			}
			if first.IsZero() || s.Sent.Before(first) {
				first = s.Sent
			}
			if s.Ended.After(last) {
				last = s.Ended
			}
			if s.Ended.Before(begun) || s.Ended.After(undisturbed) || s.Ended.Sub(stopped) > recovery {
				t.Errorf("load %d: sent %s after the node was stopped, ended after %s: %s", n,
					s.Sent.Sub(stopped), s.Ended.Sub(s.Sent), s.Failure)
			}
		}
	}
	measured := []figures.Figure{
		figures.New("from the first request that failed to the last", last.Sub(first).Seconds(), "s").AtMost(recoveryGoal.Seconds()),
		figures.New("failed", float64(failed), "requests"),
		figures.New("sent", float64(sent), "requests"),
		figures.New("from the order to stop the node to its end", stopped.Sub(begun).Seconds(), "s"),
	}
	t.Log("\n" + figures.Table(measured))
	if *figuresFile != "" {
		if err := figures.Write(*figuresFile, measured); err != nil {
			t.Error(err)
		}
	}
}

// calm waits until the last requests of a load have all succeeded.
func calm(t *testing.T, n int, l *testbed.Load) {
	t.Helper()
	begin := l.Progress().Sent
	testbed.Eventually(t, func(context.Context) error {
		p := l.Progress()
		if p.Sent < begin+calmAfter {
			return fmt.Errorf("load %d has sent %d of %d requests", n, p.Sent-begin, calmAfter)
		}
		for _, s := range p.Samples[len(p.Samples)-calmAfter:] {
			if s.Failure != "" {
				return fmt.Errorf("load %d is still disturbed: %s", n, s.Failure)
			}
		}
		return nil
	})
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
