//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// marking is a route on a Service whose requests carry a mark.
const marking = `
metadata: {name: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-mark, value: routed}]}}]
    backendRefs: [{name: %[1]s, port: 80}]
`

// TestFirstInstruction runs a hundred Jobs whose first instruction is a request, to their own namespace
// and to another one, with several ServiceAccounts. Every one is captured, known and answered.
func TestFirstInstruction(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	bed.Create(t, testbed.NewService(w.home, "jobs", allVersions), testbed.NewService(w.abroad, "jobs-abroad", allVersions))
	bed.Program(t, testbed.HTTPRoute(t, w.home, fmt.Sprintf(marking, "jobs")))
	bed.Program(t, testbed.HTTPRoute(t, w.abroad, fmt.Sprintf(marking, "jobs-abroad")))
	urls := []string{"http://jobs", "http://jobs-abroad." + w.abroad}
	for _, url := range urls {
		captured(t, w.client, traffic.Request{URL: url})
	}
	accounts := []string{"default", "jobs-1", "jobs-2", "jobs-3"}
	for _, name := range accounts[1:] {
		bed.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.home, Name: name}})
	}

	hundredJobs(t, w.home, func(n int) (testbed.App, string) {
		return testbed.App{Name: fmt.Sprintf("jobs-%03d", n), ServiceAccount: accounts[n%len(accounts)]}, urls[n%2]
	}, marked("routed"))
}

// hundredJobs runs a hundred Jobs in a namespace, not all at once, each of which sends one request. All must end, and
// nothing may be wrong with an answer.
func hundredJobs(t *testing.T, namespace string, job func(n int) (app testbed.App, url string), wrong func(*traffic.Answer) string) {
	t.Helper()
	const jobs, abreast = 100, 12
	todo := make(chan int)
	var workers sync.WaitGroup
	for range abreast {
		workers.Go(func() {
			for n := range todo {
				app, url := job(n)
				a, err := runJob(t.Context(), namespace, app, url)
				if err != nil {
					t.Errorf("%s: %v", app.Name, err)
				} else if w := wrong(&a); w != "" {
					t.Errorf("%s: %s; the answer: %s", app.Name, w, show(&a))
				}
			}
		})
	}
	for n := range jobs {
		todo <- n
	}
	close(todo)
	workers.Wait()
}

// runJob runs a Job that sends one request, waits until it is complete and returns the answer.
func runJob(ctx context.Context, namespace string, app testbed.App, url string) (traffic.Answer, error) {
	pod := bed.Object(namespace, app, "once", url)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app.Name}}
	never := int32(0)
	job.Spec.BackoffLimit = &never
	job.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}
	if err := bed.Client.Create(ctx, job); err != nil {
		return traffic.Answer{}, err
	}
	var answer traffic.Answer
	err := testbed.Poll(ctx, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := bed.Client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{batchv1.JobNameLabel: app.Name}); err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("the job has %d pods", len(pods.Items))
		}
		var err error
		answer, err = testbed.LastWords[traffic.Answer](&pods.Items[0])
		return err
	})
	if err != nil {
		return answer, err
	}
	if err := testbed.Poll(ctx, func(ctx context.Context) error {
		if err := bed.Client.Get(ctx, client.ObjectKeyFromObject(job), job); err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the job has answered and is not complete: %+v", job.Status)
	}); err != nil {
		return answer, err
	}
	return answer, bed.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
}

// TestForgedSource: a pod that sends with the address of another one gets no answer, over either family,
// whether the Service is captured or not. With its own address it does.
func TestForgedSource(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	outside := bed.Namespace(t, false)
	services := map[string]*corev1.Service{
		"captured":     testbed.NewService(w.home, "forged", onlyV1),
		"not-captured": testbed.NewService(outside, "web", onlyV1),
	}
	for _, service := range services {
		bed.Create(t, service)
	}
	bed.Run(t, outside, testbed.App{Name: "web", Version: "v1", Node: "node1"})
	victim := bed.Run(t, w.home, testbed.App{Name: "victim", Version: "none", Node: "node1"})[0]
	captured(t, w.client, traffic.Request{URL: "http://forged"})
	for i, family := range []string{"IPv4", "IPv6"} {
		for where, service := range services {
			t.Run(where+" over "+family, func(t *testing.T) {
				t.Parallel()
				url := "http://" + address(service.Spec.ClusterIPs[i], testbed.PortHTTP)
				f := forge(t, w.home, fmt.Sprintf("forger-%s-%d", where, i), victim.Addresses[i].String(), url)
				if f.Forged.Error == "" {
					t.Errorf("the forged request got an answer: %s", show(&f.Forged))
				}
				if wrong := from("v1")(&f.Own); wrong != "" {
					t.Errorf("with its own address: %s: %s", wrong, show(&f.Own))
				}
			})
		}
	}
}

// forge runs a pod that sends a request with another address and one with its own. The capability is what
// it takes to try.
func forge(t *testing.T, namespace, name, address, url string) traffic.Forgery {
	t.Helper()
	pod := bed.Object(namespace, testbed.App{Name: name, Version: "none", Node: "node1"}, "forge", address, url)
	root := int64(0)
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		RunAsUser: &root, Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}},
	}
	bed.Create(t, pod)
	var f traffic.Forgery
	testbed.Eventually(t, func(ctx context.Context) error {
		if err := bed.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		var err error
		f, err = testbed.LastWords[traffic.Forgery](pod)
		return err
	})
	return f
}

// TestOptOut: a pod and a Service can be kept out of the mesh by their label.
func TestOptOut(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	out := map[string]string{meshv1alpha1.EnabledLabel: "false"}
	mute := testbed.NewService(w.home, "optout-service", onlyV1)
	mute.Labels = out
	bed.Create(t, testbed.NewService(w.home, "optout", onlyV1), mute)
	bed.Program(t, testbed.HTTPRoute(t, w.home, fmt.Sprintf(marking, "optout")))
	pod := bed.Run(t, w.home, testbed.App{Name: "outsider", Version: "none", Labels: out})[0]
	expect(t, w.client, traffic.Request{URL: "http://optout"}, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" || a.Echo.Get(traffic.MarkHeader) != "routed" {
			return wrong + ", or not routed"
		}
		return ""
	})
	always(t, pod, traffic.Request{URL: "http://optout"}, direct(pod))
	always(t, w.client, traffic.Request{URL: "http://optout-service"}, direct(w.client))

	route := testbed.HTTPRoute(t, w.home, fmt.Sprintf(marking, "optout-service"))
	bed.Create(t, route)
	if wrong := wantCondition(bed.Settled(t, route), "Accepted", metav1.ConditionFalse, "NoMatchingParent"); wrong != "" {
		t.Error(wrong)
	}
}

// TestPodAddress: what is sent to a pod's own address is nobody's business (GEP-1294).
func TestPodAddress(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	for _, a := range w.v1.Addresses {
		answer := w.client.Send(t, traffic.Request{URL: "http://" + address(a.String(), 8080)})
		if wrong := from("v1")(&answer); wrong != "" || !w.client.Has(answer.Echo.Peer) {
			t.Errorf("%s, or through a proxy: %s", wrong, show(&answer))
		}
	}
}
