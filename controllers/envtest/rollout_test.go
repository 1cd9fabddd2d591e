package envtest_test

import (
	"context"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// rolledOut plays the Deployment's controller: updated of replicas proxies are of the present template, and all are
// available.
func rolledOut(ctx context.Context, namespace string, updated, replicas int32) {
	GinkgoHelper()
	deployment := proxies(namespace)
	present(ctx, deployment)
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation, Replicas: replicas, UpdatedReplicas: updated, ReadyReplicas: 2, AvailableReplicas: 2,
	}
	Expect(user.Status().Update(ctx, deployment)).To(Succeed())
}

// imageIn returns the image of a namespace's proxies.
func imageIn(ctx context.Context, namespace string) func() string {
	return func() string {
		deployment := proxies(namespace)
		if err := user.Get(ctx, client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return err.Error()
		}
		return deployment.Spec.Template.Spec.Containers[0].Image
	}
}

// messageOf returns the message of a condition of the Mesh.
func messageOf(ctx context.Context, conditionType string) func() string {
	return func() string {
		c := meta.FindStatusCondition(getMesh(ctx).Status.Conditions, conditionType)
		if c == nil {
			return ""
		}
		return c.Message
	}
}

var _ = Describe("Proxies of another release", func() {
	It("come to one namespace after the other, and to a new one at once", func(ctx SpecContext) {
		namespaces := []string{enrolled(ctx), enrolled(ctx)}
		slices.Sort(namespaces)
		for i, namespace := range namespaces {
			run(ctx, newProxy(ctx, namespace, "proxy").pod, "10.3.0."+string(rune('1'+i)))
			rolledOut(ctx, namespace, 2, 2)
		}
		first, second := namespaces[0], namespaces[1]
		const next = "example.com/proxy:next"
		before := imageIn(ctx, second)()
		current := meshCondition(ctx, meshv1alpha1.MeshProxiesCurrent)
		Eventually(current).Should(Equal("True/Current"))
		configure(ctx, func(spec *meshv1alpha1.MeshSpec) { spec.Proxy.Image = next })
		Eventually(imageIn(ctx, first)).Should(Equal(next))

		By("not becoming ready")
		rolledOut(ctx, first, 1, 3)
		Eventually(imageIn(ctx, enrolled(ctx))).Should(Equal(next))
		Eventually(current).Should(Equal("False/Rolling"))
		Eventually(messageOf(ctx, meshv1alpha1.MeshProxiesCurrent)).Should(ContainSubstring("replaced in " + first))
		deployment := proxies(first)
		present(ctx, deployment)
		deployment.Status.Conditions = []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "has timed out",
		}}
		Expect(user.Status().Update(ctx, deployment)).To(Succeed())
		Eventually(current).Should(Equal("False/Stuck"))
		Expect(messageOf(ctx, meshv1alpha1.MeshProxiesCurrent)()).To(ContainSubstring(first + ": has timed out"))
		Expect(imageIn(ctx, second)()).To(Equal(before))

		By("a change that concerns no pod")
		configure(ctx, func(spec *meshv1alpha1.MeshSpec) { spec.Proxy.Replicas = 3 })
		Eventually(func() int32 {
			present(ctx, deployment)
			return *deployment.Spec.Replicas
		}).Should(BeEquivalentTo(3))

		By("being replaced")
		deployment.Status.Conditions = nil
		Expect(user.Status().Update(ctx, deployment)).To(Succeed())
		Expect(imageIn(ctx, second)()).To(Equal(before))
		deployment.Status = appsv1.DeploymentStatus{
			ObservedGeneration: deployment.Generation, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3,
		}
		Expect(user.Status().Update(ctx, deployment)).To(Succeed())
		Eventually(imageIn(ctx, second)).Should(Equal(next))
		deployment = proxies(second)
		present(ctx, deployment)
		deployment.Status = appsv1.DeploymentStatus{
			ObservedGeneration: deployment.Generation, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3,
		}
		Expect(user.Status().Update(ctx, deployment)).To(Succeed())
		Eventually(current).Should(Equal("True/Current"))
	})
})
