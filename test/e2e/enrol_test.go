//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// everyWay is a load over everything that a client may speak to a Service, on kept and on new
// connections, and with requests that nobody may repeat.
func everyWay(t *testing.T, client *testbed.Pod, service string) []*testbed.Load {
	t.Helper()
	get := traffic.Request{URL: "http://" + service}
	post := traffic.Request{URL: "http://" + service, Method: "POST", Body: "not to be repeated"}
	http2 := traffic.Request{URL: "http://" + service, Method: "POST", Body: "not to be repeated", Protocol: traffic.H2C}
	grpc := traffic.Request{URL: fmt.Sprintf("%s:%d", service, testbed.PortGRPC), Protocol: traffic.GRPC}
	line := traffic.Request{URL: fmt.Sprintf("%s:%d", service, testbed.PortLines), Protocol: traffic.TCP, Body: "a line"}
	return []*testbed.Load{
		client.Load(t, traffic.Load{Requests: []traffic.Request{get, post}, Workers: 4, Rate: 40}),
		client.Load(t, traffic.Load{Requests: []traffic.Request{http2}, Workers: 2, Rate: 20}),
		client.Load(t, traffic.Load{Requests: []traffic.Request{grpc}, Workers: 2, Rate: 10}),
		client.Load(t, traffic.Load{Requests: []traffic.Request{get, line, http2}, Workers: 3, Rate: 24, NewConnections: true}),
	}
}

// unharmed stops loads and fails for every request that failed.
func unharmed(t *testing.T, loads []*testbed.Load) {
	t.Helper()
	sent, failed := 0, 0
	for n, l := range loads {
		p := l.Stop()
		sent, failed = sent+p.Sent, failed+p.Failed
		for _, s := range p.Samples {
			if s.Failure != "" {
				t.Errorf("load %d, sent at %s, ended after %s: %s", n, s.Sent.Format("15:04:05.000"), s.Ended.Sub(s.Sent), s.Failure)
			}
		}
	}
	t.Logf("%d requests, %d failed", sent, failed)
}

// TestEnrol labels a namespace and takes the label off again while clients send, its own and those of a
// namespace that has been enrolled before. Its route is applied while it is enrolled and only then, no
// request fails, and nothing is left behind.
func TestEnrol(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	namespace := bed.Namespace(t, false)
	backend := map[string]string{"role": "backend"}
	pods := bed.Run(t, namespace,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node2", Labels: backend},
		testbed.App{Name: "client", Node: "node1"})
	sender := pods[2]
	bed.Create(t, testbed.NewService(namespace, "web", backend), testbed.HTTPRoute(t, namespace, `
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Mark, value: meshed}]}}]
    backendRefs: [{name: web, port: 80}]
`))
	before := belongings(t, namespace)
	for _, client := range []*testbed.Pod{sender, w.abroadClient} {
		// kube-proxy takes a moment to know a new Service.
		eventually(t, client, traffic.Request{URL: "http://web." + namespace}, marked(""))
	}
	loads := append(everyWay(t, sender, "web"), everyWay(t, w.abroadClient, "web."+namespace)...)
	meshed := traffic.Request{URL: "http://web." + namespace}
	for range 2 {
		label(t, namespace, "true")
		bed.Proxies(t, namespace)
		for _, client := range []*testbed.Pod{sender, w.abroadClient} {
			eventually(t, client, meshed, marked("meshed"))
			always(t, client, meshed, marked("meshed"))
		}
		more(loads)
		label(t, namespace, "")
		for _, client := range []*testbed.Pod{sender, w.abroadClient} {
			eventually(t, client, meshed, marked(""))
		}
		testbed.Eventually(t, func(context.Context) error {
			if now := belongings(t, namespace); !slices.Equal(now, before) {
				return fmt.Errorf("the namespace holds %v, and held %v before", now, before)
			}
			return nil
		})
		always(t, sender, meshed, marked(""))
	}
	more(loads)
	unharmed(t, loads)
}

// marked says what is wrong with an answer that a route must have set a mark on, or none.
func marked(mark string) func(*traffic.Answer) string {
	return func(a *traffic.Answer) string {
		switch {
		case a.Error != "" || a.Echo == nil || a.Status != 200 && a.Status != 0:
			return "no success"
		case a.Echo.Get(traffic.MarkHeader) != mark:
			return fmt.Sprintf("marked %q, want %q", a.Echo.Get(traffic.MarkHeader), mark)
		}
		return ""
	}
}

// label enrols a namespace, or takes the label off.
func label(t *testing.T, namespace, value string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	testbed.Update(t, bed, ns, func(ns *corev1.Namespace) {
		if ns.Labels[meshv1alpha1.EnabledLabel] = value; value == "" {
			delete(ns.Labels, meshv1alpha1.EnabledLabel)
		}
	})
}

// belongings lists, sorted, all objects of a namespace of the kinds that enrolling makes.
func belongings(t *testing.T, namespace string) []string {
	t.Helper()
	var all []string
	for _, list := range []client.ObjectList{
		&appsv1.DeploymentList{}, &appsv1.ReplicaSetList{}, &corev1.PodList{}, &corev1.SecretList{}, &corev1.ConfigMapList{},
		&corev1.ServiceAccountList{}, &policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{}, &rbacv1.RoleBindingList{}, &rbacv1.RoleList{},
	} {
		if err := bed.Client.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			name, err := meta.Accessor(o)
			if err == nil {
				all = append(all, fmt.Sprintf("%T %s", o, name.GetName()))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	return all
}
