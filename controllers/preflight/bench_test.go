package preflight_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/preflight"
)

// BenchmarkFind is what looking at a large cluster costs, in which every namespace denies everything but the mesh.
func BenchmarkFind(b *testing.B) {
	c := preflight.Cluster{System: "weft-system", Managed: true}
	for i := range 1000 {
		namespace := fmt.Sprintf("shop-%d", i)
		c.Enrolled = append(c.Enrolled, namespace)
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		for j := range 2 {
			c.Pods = append(c.Pods, pod(namespace, fmt.Sprintf("proxy-%d", j), map[string]string{"mesh.weft.dev/component": "proxy"}, fmt.Sprintf("10.%d.%d.%d", j, i/256, i%256)))
		}
		for j := range 10 {
			c.Pods = append(c.Pods, pod(namespace, fmt.Sprintf("web-%d", j), map[string]string{"app": "web"}, fmt.Sprintf("10.%d.%d.%d", 10+j, i/256, i%256)))
		}
		c.Exposures = append(c.Exposures, compile.Exposure{
			ServicePort: compile.ServicePort{Namespace: namespace, Service: "web", Port: 80}, Selector: map[string]string{"app": "web"}, Target: intstr.FromInt32(8080),
		})
		c.Policies = append(c.Policies, policy(b, namespace, "deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`),
			policy(b, namespace, "mesh", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}], egress: [{to: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}]}`))
	}
	b.ReportAllocs()
	for b.Loop() {
		if found := preflight.Find(c); len(found) > 0 {
			b.Fatal(found[0].String())
		}
	}
}
