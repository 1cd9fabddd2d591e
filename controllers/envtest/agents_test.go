package envtest_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/controllers"
)

var _ = Describe("An operator that is given the image of the node agents", func() {
	It("deploys them as a part of its own Deployment", func(ctx SpecContext) {
		labels := map[string]string{"app.kubernetes.io/name": "weft-operator"}
		own := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-operator"},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "operator", Image: "weft-operator"}}},
				},
			},
		}
		Expect(user.Create(ctx, own)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(user.Delete(ctx, own)).To(Succeed()) })
		succeed(startOperator(func(o *controllers.Options) { o.NodeImage = "example.com/weft-node:test" }))
		DeferCleanup(func() { spent = true })
		agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-node"}}
		Eventually(func(g Gomega) {
			g.Expect(user.Get(ctx, client.ObjectKeyFromObject(agents), agents)).To(Succeed())
			g.Expect(agents.Spec.Template.Spec.Containers[0].Image).To(Equal("example.com/weft-node:test"))
		}).Should(Succeed())
		Expect(agents.OwnerReferences).To(HaveExactElements(And(HaveField("Kind", "Deployment"), HaveField("UID", own.UID))))
	})
})
