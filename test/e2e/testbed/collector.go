package testbed

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/spans"
)

const (
	collectorName = "collector"
	// portOTLP is that of OTLP over gRPC.
	portOTLP = 4317
)

// Collector is the OpenTelemetry Collector's receiver of traces, in a pod behind a Service.
type Collector struct {
	// Endpoint is what a Mesh names.
	Endpoint string
	bed      *Bed
	pod      *corev1.Pod
}

// Collector builds and starts one. It lives as long as the test.
func (b *Bed) Collector(t testing.TB, namespace string) *Collector {
	t.Helper()
	image, err := b.build(t.Context(), "tools/collector", ".", "e2e-collector")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": collectorName}
	pod := &corev1.Pod{ObjectMeta: objectMeta(namespace, collectorName)}
	pod.Labels = labels
	grace, token := int64(1), false
	pod.Spec = corev1.PodSpec{
		AutomountServiceAccountToken: &token, TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{
			Name: collectorName, Image: image, ImagePullPolicy: corev1.PullNever,
			Args: []string{fmt.Sprintf("-grpc=:%d", portOTLP), fmt.Sprintf("-http=:%d", portOTLP+1)},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(portOTLP)}},
				PeriodSeconds: 1,
			},
		}},
	}
	service := &corev1.Service{ObjectMeta: objectMeta(namespace, collectorName)}
	service.Spec = corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "grpc-otlp", Port: portOTLP}}}
	b.Create(t, pod, service)
	Await(t, b, pod, func(p *corev1.Pod) string {
		if !podReady(p) {
			return "it is not ready: " + string(p.Status.Phase)
		}
		return ""
	})
	return &Collector{Endpoint: fmt.Sprintf("http://%s.%s:%d", collectorName, namespace, portOTLP), bed: b, pod: pod}
}

// Spans returns all spans that have come, by trace.
func (c *Collector) Spans(ctx context.Context) (map[string][]spans.Span, error) {
	log, err := c.bed.Clientset.CoreV1().Pods(c.pod.Namespace).GetLogs(c.pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("log of the collector: %w", err)
	}
	traces := map[string][]spans.Span{}
	for line := range strings.Lines(string(log)) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue // what it says first, and what is not yet there to its end
		}
		all, err := spans.Read(line)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			traces[s.TraceID] = append(traces[s.TraceID], s)
		}
	}
	return traces, nil
}

// Remove ends the collector; its Service stays, with nothing behind it.
func (c *Collector) Remove(t testing.TB) {
	t.Helper()
	if err := c.bed.Client.Delete(t.Context(), c.pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatalf("end the collector: %v", err)
	}
}
