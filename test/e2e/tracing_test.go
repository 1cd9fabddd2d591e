//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
	"weft.dev/weft/test/spans"
)

// TestTracing sends traces to a collector in the cluster. A request to another namespace of which the first try fails
// is one trace, across both proxies and the retry. When the collector is gone, no request is the worse for it, and
// proxies count what they drop. Other tests go on meanwhile: their requests are not sampled.
func TestTracing(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	collector := bed.Collector(t, bed.Namespace(t, false))
	label := map[string]string{"traced": "true"}
	pods := bed.Run(t, w.home, testbed.App{Name: "traced-good", Node: "node1", Labels: label}, testbed.App{Name: "traced-bad", Node: "node2", Labels: label})
	pods[1].Behave(t, traffic.Behaviour{Status: 503})
	service := testbed.NewService(w.home, "traced", label)
	bed.Create(t, service)
	seen(t, service)
	request := traffic.Request{URL: "http://traced." + w.home}
	captured(t, w.abroadClient, request)

	setTracing := func(telemetry meshv1alpha1.MeshTelemetry, everybody *meshv1alpha1.TrafficPolicy) {
		testbed.Update(t, bed, theMesh(), func(m *meshv1alpha1.Mesh) { m.Spec.Telemetry, m.Spec.Defaults = telemetry, everybody })
	}
	mesh := theMesh()
	testbed.Eventually(t, func(ctx context.Context) error { return bed.Client.Get(ctx, client.ObjectKeyFromObject(mesh), mesh) })
	// The context of the test has ended when its cleanups run.
	defer setTracing(mesh.Spec.Telemetry, mesh.Spec.Defaults)
	nobody := &meshv1alpha1.TrafficPolicy{}
	if mesh.Spec.Defaults != nil {
		nobody = mesh.Spec.Defaults.DeepCopy()
	}
	nobody.Telemetry = &meshv1alpha1.Telemetry{Tracing: &meshv1alpha1.Tracing{SamplingRate: &meshv1alpha1.Fraction{Numerator: new(int32), Denominator: 1}}}
	setTracing(meshv1alpha1.MeshTelemetry{Tracing: meshv1alpha1.TraceCollector{Endpoint: collector.Endpoint}}, nobody)
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		if c := meta.FindStatusCondition(m.Status.Conditions, meshv1alpha1.MeshTelemetryAccepted); c == nil || c.Status != "True" || c.ObservedGeneration != m.Generation {
			return fmt.Sprintf("%s: %+v", meshv1alpha1.MeshTelemetryAccepted, c)
		}
		return ""
	})
	bed.Enforce(t, testbed.MeshPolicy(t, w.home, `
metadata: {name: traced}
spec:
  targetRefs: [{group: "", kind: Service, name: traced}]
  retry: {attempts: 1, codes: [503], backoff: {base: 1ms, max: 10ms}, budget: {percent: 100}}
  outlierEjection: {consecutiveFailures: 0}
  telemetry: {tracing: {samplingRate: {numerator: 1, denominator: 1}}}
`))

	name := " GET " + w.home + "/traced:80 "
	want := []string{
		w.abroad + " server" + name + "200",
		"  " + w.abroad + " client" + name + "503",
		"    " + w.home + " server" + name + "503",
		"      " + w.home + " client" + name + "503",
		"  " + w.abroad + " client" + name + "200 again 1",
		"    " + w.home + " server" + name + "200",
		"      " + w.home + " client" + name + "200 again 1",
	}
	load := w.abroadClient.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 1, Rate: 10})
	testbed.Eventually(t, func(ctx context.Context) error {
		traces, err := collector.Spans(ctx)
		if err != nil {
			return err
		}
		longest := []string{}
		for _, trace := range traces {
			tree := spans.Tree(trace)
			if slices.Equal(tree, want) {
				return nil
			}
			if len(tree) > len(longest) {
				longest = tree
			}
		}
		return fmt.Errorf("none of %d traces is the one of a request that was sent again; the longest is\n%s", len(traces), strings.Join(longest, "\n"))
	})

	proxies := bed.ProxiesOf(t, append(pods, w.abroadClient)...)
	const dropped = "weft_trace_spans_dropped_total"
	failed := map[string]string{"reason": "failed"}
	before := bed.Metric(t, proxies, dropped, failed)
	collector.Remove(t)
	testbed.Eventually(t, func(context.Context) error {
		if n := bed.Metric(t, proxies, dropped, failed); n <= before {
			return fmt.Errorf("%d spans have been dropped, want more than %d", n, before)
		}
		return nil
	})
	p := load.Stop()
	for _, s := range p.Samples {
		if s.Failure != "" {
			t.Errorf("a request at %s failed: %s", s.Sent, s.Failure)
		}
	}
	t.Logf("%d requests, with a collector and without one", p.Sent)
}
