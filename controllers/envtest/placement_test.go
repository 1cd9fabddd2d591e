package envtest_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

// injected gives a pod a proxy of its own, as admission does.
func injected(pod *corev1.Pod) *corev1.Pod {
	GinkgoHelper()
	pod, err := webhooks.Inject(pod, webhooks.InjectConfig{Image: "weft-proxy", TrustBundle: "weft-ca-bundle", TrustBundleKey: "ca.crt"})
	Expect(err).NotTo(HaveOccurred())
	return pod
}

var _ = Describe("A proxy beside a pod", func() {
	account := func(ctx context.Context, namespace string) {
		GinkgoHelper()
		Expect(user.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app"}})).To(Succeed())
	}

	It("is waited for as those of its namespace are", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		account(ctx, namespace)
		node := newNode(ctx, "node-of-placement")
		shared := newProxy(ctx, namespace, "shared")
		run(ctx, shared.pod, "10.2.8.1")
		beside := connect(ctx, injected(newPod(namespace, "app", "app", "node-of-placement")))
		Eventually(beside.keys).WithArguments(wire.KindSidecar).ShouldNot(BeEmpty())

		By("capturing a port once it knows it")
		beside.hold(upserting(wire.KindDestination))
		service := newService(ctx, namespace, "web", nil)
		Eventually(shared.keys).WithArguments(wire.KindDestination).Should(ContainElement(key(service)))
		Eventually(beside.blocked).Should(BeTrue())
		number := shared.number(key(service))
		Expect(node.captured(namespace)).NotTo(ContainElement(number))
		beside.pass()
		Eventually(node.captured).WithArguments(namespace).Should(ContainElement(number))

		By("calling a route programmed once it has that")
		beside.hold(upserting(wire.KindRoute))
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(messages(ctx, route, "Programmed")).Should(Equal("acknowledged by 1 of 2 proxies"))
		beside.pass()
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
	})

	It("keeps the root from being exchanged while it is ready and away", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		account(ctx, namespace)
		shared := newProxy(ctx, namespace, "shared")
		beside := connect(ctx, injected(newPod(namespace, "app", "app", "node-1")))
		run(ctx, beside.pod, "10.2.8.9")
		Eventually(beside.keys).WithArguments(wire.KindCertificate).ShouldNot(BeEmpty())
		Eventually(shared.keys).WithArguments(wire.KindCertificate).ShouldNot(BeEmpty())
		rotating := meshSays(ctx, meshv1alpha1.MeshRootRotating)
		Eventually(rotating).Should(HavePrefix("False/Steady"))
		beside.stop()
		Eventually(leader().clients).WithArguments("sidecar").Should(Equal(0))
		rotate(ctx)
		Eventually(rotating).Should(And(HavePrefix("True/DistributingTrust: "),
			ContainSubstring("waiting for sidecar "+namespace+"/app, which is ready and not connected")))
		deletePod(ctx, beside.pod)
		Eventually(rotating).Should(HavePrefix("False/Steady"))
	})

	It("is missed in an Event of the pod and in the status of the Mesh", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		pod := newPod(namespace, "without", "default", "node-1")
		pod.Labels = map[string]string{meshv1alpha1.PlacementLabel: string(meshv1alpha1.PlacementSidecar)}
		createPod(ctx, pod)
		told := func(g Gomega) []string {
			var list eventsv1.EventList
			g.Expect(user.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
			var lines []string
			for _, e := range list.Items {
				if e.Regarding.Kind == "Pod" && e.Regarding.UID == pod.UID {
					lines = append(lines, strings.Join([]string{e.Type, e.Reason, e.Note}, " "))
				}
			}
			return lines
		}
		Eventually(told).Should(ConsistOf(HavePrefix("Warning ProxyMissing it is to have a proxy of its own and was made without")))
		placed := meshSays(ctx, meshv1alpha1.MeshProxiesPlaced)
		Eventually(placed).Should(And(HavePrefix("False/ProxyMissing"), ContainSubstring("Pod "+namespace+"/without has no proxy of its own")))
		deletePod(ctx, pod)
		Eventually(placed).Should(BeEmpty())
	})

	It("counts for a quota, and a pod that there is no room for is not made without it", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		room := corev1.ResourceList{corev1.ResourceRequestsMemory: resource.MustParse("60Mi")}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "small"}, Spec: corev1.ResourceQuotaSpec{Hard: room}}
		Expect(user.Create(ctx, quota)).To(Succeed())
		// No controller is here to say what is used.
		quota.Status = corev1.ResourceQuotaStatus{Hard: room, Used: corev1.ResourceList{corev1.ResourceRequestsMemory: resource.MustParse("0")}}
		Expect(user.Status().Update(ctx, quota)).To(Succeed())
		pod := newPod(namespace, "app", "default", "node-1")
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("40Mi")}
		var err error
		Eventually(func() bool {
			again := injected(pod.DeepCopy())
			err = user.Create(ctx, again)
			if err == nil {
				deletePod(ctx, again)
			}
			return apierrors.IsForbidden(err)
		}).Should(BeTrue(), "the API server comes to know of the quota")
		Expect(err).To(MatchError(ContainSubstring("exceeded quota: small, requested: requests.memory=72Mi")))
		createPod(ctx, pod) // it alone has room
	})
})
