//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestNoProxyReady takes all proxies of a namespace away and lets none come back for a while. Meanwhile a
// Service with a route refuses connections, since nobody would apply the route, a Service without one works
// as it would without the mesh, and the Mesh says so. Afterwards both are as before, and from the first
// request on that succeeds none fails.
func TestNoProxyReady(t *testing.T) {
	namespace := shared(t, bed.Namespace(t, true)) // the proxies that it takes away are those that pods share
	sender := bed.Run(t, namespace, testbed.App{Name: "v1", Version: "v1", Node: "node1"}, testbed.App{Name: "client", Node: "node2"})[1]
	bed.Create(t, testbed.NewService(namespace, "routed", onlyV1), testbed.NewService(namespace, "plain", onlyV1))
	proxies := bed.Proxies(t, namespace)
	bed.Program(t, testbed.HTTPRoute(t, namespace, fmt.Sprintf(marking, "routed")))
	routed, plain := traffic.Request{URL: "http://routed"}, traffic.Request{URL: "http://plain"}
	eventually(t, sender, routed, marked("routed"))
	captured(t, sender, plain)
	toRouted := sender.Load(t, traffic.Load{Requests: []traffic.Request{routed}, Workers: 4, Rate: 40, NewConnections: true})
	toPlain := []*testbed.Load{
		sender.Load(t, traffic.Load{Requests: []traffic.Request{plain}, Workers: 4, Rate: 40}),
		sender.Load(t, traffic.Load{Requests: []traffic.Request{plain}, Workers: 4, Rate: 40, NewConnections: true}),
	}
	more(append(toPlain, toRouted))

	empty := fillNodes(t)
	for _, p := range proxies {
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, sender, routed, refused)
	eventually(t, sender, plain, direct(sender))
	always(t, sender, routed, refused)
	always(t, sender, plain, direct(sender))
	for _, p := range proxies {
		gone(t, p)
	}
	meshSays(t, meshv1alpha1.MeshProxiesReady, func(c *metav1.Condition) string {
		if c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, namespace) || !strings.Contains(c.Message, "with a route are refused") {
			return "want it to name " + namespace
		}
		return ""
	})
	more(append(toPlain, toRouted))
	always(t, sender, routed, refused)
	always(t, sender, plain, direct(sender))

	empty()
	bed.Proxies(t, namespace)
	eventually(t, sender, routed, marked("routed"))
	captured(t, sender, plain)
	meshSays(t, meshv1alpha1.MeshProxiesReady, func(c *metav1.Condition) string {
		if strings.Contains(c.Message, namespace) {
			return "want it not to name " + namespace
		}
		return ""
	})
	more(append(toPlain, toRouted))
	unharmed(t, toPlain)
	judgeRefusals(t, toRouted.Stop().Samples)
}

// refused says what is wrong with an answer where the connection must be refused.
func refused(a *traffic.Answer) string {
	if !strings.Contains(a.Error, "connection refused") {
		return "not refused"
	}
	return ""
}

// judgeRefusals looks at all requests to a Service with a route: one that succeeded has been routed, one
// that failed was refused, and none is refused after another has succeeded again.
func judgeRefusals(t *testing.T, samples []traffic.Sample) {
	t.Helper()
	var begun, back time.Time
	slices.SortFunc(samples, func(a, b traffic.Sample) int { return a.Ended.Compare(b.Ended) })
	failed := 0
	for _, s := range samples {
		switch {
		case s.Failure != "":
			failed++
			if begun.IsZero() {
				begun = s.Ended
			}
			if !strings.Contains(s.Failure, "connection refused") {
				t.Errorf("sent at %s, ended after %s: %s", s.Sent, s.Ended.Sub(s.Sent), s.Failure)
			}
			if !back.IsZero() && s.Sent.After(back) {
				t.Errorf("refused at %s, after a request had succeeded again at %s", s.Sent, back)
			}
		case s.Mark != "routed":
			t.Errorf("sent at %s: past the route", s.Sent)
		case !begun.IsZero() && s.Sent.After(begun) && back.IsZero():
			back = s.Ended
		}
	}
	t.Logf("%d requests to the Service with a route, %d of them refused, within %s", len(samples), failed, back.Sub(begun).Round(time.Millisecond))
}

// fillNodes lets no further pod onto any node until it is told to or the test ends.
func fillNodes(t *testing.T) (empty func()) {
	t.Helper()
	full := corev1.Taint{Key: "e2e.weft.dev/full", Effect: corev1.TaintEffectNoSchedule}
	set := func(ctx context.Context, change func([]corev1.Taint) []corev1.Taint) error {
		var nodes corev1.NodeList
		if err := bed.Client.List(ctx, &nodes); err != nil {
			return err
		}
		for i := range nodes.Items {
			before := nodes.Items[i].DeepCopy()
			nodes.Items[i].Spec.Taints = change(nodes.Items[i].Spec.Taints)
			// Taints are one list, so that a change of somebody else's must not be overwritten.
			if err := bed.Client.Patch(ctx, &nodes.Items[i], client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
				return err
			}
		}
		return nil
	}
	without := func(taints []corev1.Taint) []corev1.Taint {
		return slices.DeleteFunc(taints, func(taint corev1.Taint) bool { return taint.Key == full.Key })
	}
	empty = func() {
		if err := testbed.Poll(context.Background(), func(ctx context.Context) error { return set(ctx, without) }); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(empty)
	testbed.Eventually(t, func(ctx context.Context) error {
		return set(ctx, func(taints []corev1.Taint) []corev1.Taint { return append(without(taints), full) })
	})
	return empty
}
