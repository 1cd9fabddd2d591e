//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// programmed says what an authorization lacks to be in force.
func programmed(a *meshv1alpha1.MeshAuthorization) string {
	c := meta.FindStatusCondition(a.Status.Conditions, meshv1alpha1.PolicyProgrammed)
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != a.Generation {
		return fmt.Sprintf("not programmed: %+v", a.Status.Conditions)
	}
	return ""
}

// TestAuthorization: who may call is decided by the ServiceAccount of the calling pod, at home and over the
// hop, and by what is called. Audit refuses nothing.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	// It makes ports strict, so that nobody else can use its pods.
	w := &town{home: bed.Namespace(t, true), abroad: bed.Namespace(t, true)}
	pods := bed.Run(t, w.home, testbed.App{Name: "v1", Version: "v1"}, testbed.App{Name: "client"})
	w.v1, w.client = pods[0], pods[1]
	w.abroadClient = bed.Run(t, w.abroad, testbed.App{Name: "client"})[0]
	bed.Create(t, testbed.NewService(w.home, "guarded", onlyV1))
	bed.Proxies(t, w.home)
	bed.Proxies(t, w.abroad)
	request := traffic.Request{URL: "http://guarded." + w.home + "/open"}
	lines := traffic.Request{URL: "guarded." + w.home + ":9090", Protocol: traffic.TCP, Body: "a line"}
	for _, c := range []*testbed.Pod{w.client, w.abroadClient} {
		expect(t, c, request, from("v1"))
		expect(t, c, lines, from("v1"))
	}
	policy := testbed.MeshAuthorization(t, w.home, fmt.Sprintf(`
metadata: {name: guarded}
spec:
  targetRefs: [{group: "", kind: Service, name: guarded}]
  action: Allow
  rules:
  - from: [{namespaces: [%s]}]
  - from: [{serviceAccounts: [{namespace: %s, name: default}]}]
    to: [{methods: [GET], paths: [{type: Prefix, value: /open}]}]
`, w.home, w.abroad))
	bed.Create(t, policy)
	testbed.Await(t, bed, policy, programmed)
	testbed.Await(t, bed, policy, func(a *meshv1alpha1.MeshAuthorization) string { return inForce(a.Status.Conditions, a.Generation) })
	denied := local(403, "authorization_denied")
	closed := request
	closed.URL = "http://guarded." + w.home + "/closed"
	always(t, w.client, request, from("v1"))
	always(t, w.client, closed, from("v1"))
	always(t, w.client, lines, from("v1"))
	always(t, w.abroadClient, request, from("v1"))
	always(t, w.abroadClient, closed, denied)
	if a := w.abroadClient.Send(t, lines); a.Echo != nil {
		t.Errorf("bytes of a caller that may only use HTTP paths have been let through: %s", show(&a))
	}
	labels := map[string]string{"weft_destination_namespace": w.home, "weft_destination_service": "guarded", "weft_authorization_verdict": "denied"}
	if n := bed.Metric(t, bed.ProxiesOf(t, w.v1), "weft_authorization_decisions_total", labels); n < tries {
		t.Errorf("%d denials have been counted, want at least %d", n, tries)
	}

	testbed.Update(t, bed, policy, func(a *meshv1alpha1.MeshAuthorization) { a.Spec.Mode = "Audit" })
	testbed.Await(t, bed, policy, programmed)
	always(t, w.abroadClient, closed, from("v1"))
	tokensAndRoutes(t, w)
}
