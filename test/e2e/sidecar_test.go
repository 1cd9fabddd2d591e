//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// placed is the label of pods and namespaces that says where proxies are to be.
func placed(where meshv1alpha1.Placement) map[string]string {
	return map[string]string{meshv1alpha1.PlacementLabel: string(where)}
}

// besides are the labels of a pod that is to have a proxy of its own.
func besides(more map[string]string) map[string]string {
	labels := placed(meshv1alpha1.PlacementSidecar)
	maps.Copy(labels, more)
	return labels
}

// place labels a namespace.
func place(t *testing.T, namespace string, where meshv1alpha1.Placement) {
	t.Helper()
	ns := &corev1.Namespace{}
	ns.Name = namespace
	testbed.Update(t, bed, ns, func(ns *corev1.Namespace) { maps.Copy(ns.Labels, placed(where)) })
}

// shared has the pods of a namespace share their proxies, whatever the Mesh says, and returns it. It is for tests of what
// is so by its nature for these proxies alone; all others have the placement that the Mesh says.
func shared(t *testing.T, namespace string) string {
	t.Helper()
	place(t, namespace, meshv1alpha1.PlacementNamespace)
	return namespace
}

// overHop counts what the proxy beside a pod has been asked for over mutual TLS by the pods of a namespace.
func overHop(t *testing.T, of *testbed.Pod, from string) int {
	t.Helper()
	return bed.Metric(t, []*testbed.Pod{of}, "http_server_request_duration_seconds", map[string]string{
		"weft_listener": "hop", "weft_tls": "mtls", "weft_source_namespace": from, "http_response_status_code": "200",
	})
}

// TestSidecar: requests from pod to pod are encrypted by the proxies beside both, and between a pod with a proxy of its own
// and the proxies of a namespace in either direction.
func TestSidecar(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	namespace := shared(t, bed.Namespace(t, true)) // of the pods that do not say
	pods := bed.Run(t, namespace,
		testbed.App{Name: "server", Version: "v1", Node: "node1", Labels: besides(map[string]string{"role": "beside"})},
		testbed.App{Name: "client", Node: "node2", Labels: besides(nil)},
		testbed.App{Name: "shared", Version: "v2", Node: "node2", Labels: map[string]string{"role": "shared"}})
	server, sender, shared := pods[0], pods[1], pods[2]
	bed.Create(t, testbed.NewService(namespace, "beside", map[string]string{"role": "beside"}),
		testbed.NewService(namespace, "shared", map[string]string{"role": "shared"}),
		testbed.NewService(namespace, "mixed", map[string]string{"app": "server"}))
	bed.Create(t, testbed.NewService(w.home, "sidecar", onlyV1))

	for name, way := range map[string]struct {
		from     *testbed.Pod
		service  string
		version  string
		receiver *testbed.Pod
	}{
		"from pod to pod":                            {sender, "beside." + namespace, "v1", server},
		"from a pod to a pod of the proxies":         {sender, "shared." + namespace, "v2", nil},
		"from a pod to another namespace":            {sender, "sidecar." + w.home, "v1", nil},
		"from the proxies of the namespace to a pod": {shared, "beside." + namespace, "v1", server},
		"from another namespace":                     {w.abroadClient, "beside." + namespace, "v1", server},
		"from a pod to itself":                       {server, "beside." + namespace, "v1", server},
	} {
		t.Run(name, func(t *testing.T) {
			before := 0
			if way.receiver != nil {
				before = overHop(t, way.receiver, way.from.Namespace)
			}
			get := traffic.Request{URL: "http://" + way.service}
			if way.from != way.receiver { // whose proxy has the same address
				captured(t, way.from, get)
			}
			for _, request := range []traffic.Request{
				get,
				{URL: "http://" + way.service, Method: "POST", Body: "a body", Protocol: traffic.H2C},
				{URL: fmt.Sprintf("%s:%d", way.service, testbed.PortGRPC), Protocol: traffic.GRPC},
				{URL: fmt.Sprintf("%s:%d", way.service, testbed.PortLines), Protocol: traffic.TCP, Body: "a line"},
			} {
				a := way.from.Send(t, request)
				if wrong := from(way.version)(&a); wrong != "" {
					t.Errorf("%s %s: %s: %s", request.Protocol, request.URL, wrong, show(&a))
				}
			}
			if way.receiver == nil {
				return
			}
			if n := overHop(t, way.receiver, way.from.Namespace) - before; n < 2 {
				t.Errorf("the proxy beside the pod was asked for %d requests over mutual TLS, want 2 at least", n)
			}
		})
	}
}

// TestSidecarOfAJob: the first request of a Job is encrypted, and the Job ends although its proxy would go on.
func TestSidecarOfAJob(t *testing.T) {
	t.Parallel()
	namespace := bed.Namespace(t, true)
	pods := bed.Run(t, namespace,
		testbed.App{Name: "server", Version: "v1", Labels: besides(map[string]string{"role": "beside"})}, testbed.App{Name: "client", Labels: besides(nil)})
	server := pods[0]
	bed.Create(t, testbed.NewService(namespace, "beside", map[string]string{"role": "beside"}))
	captured(t, pods[1], traffic.Request{URL: "http://beside"})
	before := overHop(t, server, namespace)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	a, err := runJob(ctx, namespace, testbed.App{Name: "job", Labels: besides(nil)}, "http://beside")
	if err != nil {
		t.Fatal(err)
	}
	if wrong := from("v1")(&a); wrong != "" {
		t.Errorf("%s: %s", wrong, show(&a))
	}
	if n := overHop(t, server, namespace) - before; n != 1 {
		t.Errorf("the proxy beside the server was asked for %d requests over mutual TLS, want 1", n)
	}
}

// TestSidecarsOfJobs runs a hundred Jobs with proxies of their own: all of them end, and what they send is encrypted from
// the first instruction on.
func TestSidecarsOfJobs(t *testing.T) {
	t.Parallel()
	namespace := bed.Namespace(t, true)
	pods := bed.Run(t, namespace, testbed.App{Name: "server", Version: "v1", Labels: besides(nil)}, testbed.App{Name: "client", Labels: besides(nil)})
	server := pods[0]
	bed.Create(t, testbed.NewService(namespace, "beside", onlyV1))
	captured(t, pods[1], traffic.Request{URL: "http://beside"})
	before := overHop(t, server, namespace)
	hundredJobs(t, namespace, func(n int) (testbed.App, string) {
		return testbed.App{Name: fmt.Sprintf("job-%03d", n), Labels: besides(nil)}, "http://beside"
	}, from("v1"))
	if n := overHop(t, server, namespace) - before; n < 100 {
		t.Errorf("the proxy beside the server was asked for %d requests over mutual TLS, want 100 at least", n)
	}
}

// TestSidecarIsMissing: a pod that is to have a proxy of its own and has none is refused where its ports are strict, and
// named; one that has is served.
func TestSidecarIsMissing(t *testing.T) {
	t.Parallel()
	namespace := shared(t, bed.Namespace(t, true)) // of the pods that do not say
	pods := bed.Run(t, namespace,
		testbed.App{Name: "with", Version: "v1", Labels: besides(nil)},
		testbed.App{Name: "without", Version: "v2"},
		testbed.App{Name: "client"})
	bed.Create(t, testbed.NewService(namespace, "with", onlyV1), testbed.NewService(namespace, "without", onlyV2))
	policy := strict(t, namespace)
	for service, version := range map[string]string{"with": "v1", "without": "v2"} {
		captured(t, pods[2], traffic.Request{URL: "http://" + service})
		if a := pods[2].Send(t, traffic.Request{URL: "http://" + service}); from(version)(&a) != "" {
			t.Fatalf("%s: %s", service, show(&a))
		}
	}
	// As if the operator had been away when the pod was made.
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = namespace, pods[1].Name
	testbed.Update(t, bed, pod, func(p *corev1.Pod) {
		p.Labels[meshv1alpha1.PlacementLabel] = string(meshv1alpha1.PlacementSidecar)
	})
	testbed.Eventually(t, func(ctx context.Context) error {
		a, err := pods[2].Try(ctx, traffic.Request{URL: "http://without"})
		if err != nil {
			return err
		}
		if a.Error == "" && a.Status == 200 {
			return fmt.Errorf("a pod without its proxy is still called: %s", show(&a))
		}
		return nil
	})
	testbed.Await(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) string {
		if text := testbed.Describe(p.Status.Conditions); !strings.Contains(text, "pod "+pods[1].Name) {
			return "the pod is not named: " + text
		}
		return ""
	})
	if a := pods[2].Send(t, traffic.Request{URL: "http://with"}); from("v1")(&a) != "" {
		t.Errorf("the pod with its proxy: %s", show(&a))
	}
}
