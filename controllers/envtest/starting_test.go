package envtest_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

var _ = Describe("A namespace that has just been enrolled", func() {
	It("is sent to without the hop until its first proxy is ready, and never again", func(ctx SpecContext) {
		namespace, neighbour := enrolled(ctx), bystander(ctx)
		service := newService(ctx, namespace, "web", nil)
		newSlice(ctx, service, "10.2.0.1")
		// way is how the neighbour's proxies send to the Service.
		way := func() string {
			backend, endpoints := neighbour.has(wire.KindBackend, key(service)).Backend, neighbour.has(wire.KindEndpoints, key(service)).Endpoints
			switch {
			case backend == nil:
				return "none"
			case backend.Meshed && endpoints == nil:
				return "hop"
			case !backend.Meshed && endpoints != nil && len(endpoints.Endpoints) == 1:
				return "direct"
			}
			return "neither"
		}
		ready := func() int { return len(neighbour.has(wire.KindProxies, namespace).Proxies.Proxies) }
		Eventually(way).Should(Equal("direct"))
		Eventually(withoutProxies).WithArguments(ctx, namespace).Should(And(HavePrefix("False/NoProxyReady"), ContainSubstring("none has been ready")))
		first := newProxy(ctx, namespace, "first")
		bystander(ctx)
		Expect(way()).To(Equal("direct"))

		By("being ready")
		run(ctx, first.pod, "10.2.0.2")
		Eventually(way).Should(Equal("hop"))
		Expect(ready()).To(Equal(1))
		Eventually(withoutProxies).WithArguments(ctx, namespace).Should(BeEmpty())

		By("losing all its proxies")
		first.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		Expect(user.Status().Update(ctx, first.pod)).To(Succeed())
		Eventually(ready).Should(BeZero())
		Eventually(withoutProxies).WithArguments(ctx, namespace).Should(And(HavePrefix("False/NoProxyReady"), ContainSubstring("with a route are refused")))
		bystander(ctx)
		Expect(way()).To(Equal("hop"))

		By("under a leader that has not seen it ready")
		deployment := proxies(namespace)
		present(ctx, deployment)
		deployment.Status.Conditions = []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable",
		}}
		Expect(user.Status().Update(ctx, deployment)).To(Succeed())
		deltas := len(neighbour.received())
		succeed(startOperator())
		bystander(ctx)
		Expect(way()).To(Equal("hop"))
		for _, change := range neighbour.changesSince(deltas) {
			Expect(change).NotTo(ContainSubstring(key(service)))
		}
	})
})

// withoutProxies is what the Mesh says of a namespace without a ready proxy; empty if it has one.
func withoutProxies(ctx context.Context, namespace string) string {
	c := meta.FindStatusCondition(getMesh(ctx).Status.Conditions, meshv1alpha1.MeshProxiesReady)
	if c == nil {
		return "no condition"
	}
	for part := range strings.SplitSeq(c.Message, "; ") {
		if strings.Contains(part, namespace) {
			return string(c.Status) + "/" + c.Reason + " " + part
		}
	}
	return ""
}
