package envtest_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// waiters returns what kstatus says of an object as the API server has it: what Flux and Helm wait by. The message is
// that of kstatus.
func waiters(object *unstructured.Unstructured) string {
	GinkgoHelper()
	result, err := kstatus.Compute(object)
	Expect(err).NotTo(HaveOccurred())
	return fmt.Sprintf("%s: %s", result.Status, result.Message)
}

// waitersOf looks at an object again.
func waitersOf(ctx context.Context, object *unstructured.Unstructured) func() string {
	return func() string {
		if err := user.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		return waiters(object)
	}
}

var _ = Describe("Whoever waits by kstatus", func() {
	const isReady = "Current: Resource is Ready"

	It("sees a policy from its creation to its end", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		proxy := newProxy(ctx, namespace, "one")
		Eventually(proxy.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		proxy.hold(anything)

		policy := policyOf(namespace, "slow", `{targetRefs: [{group: "", kind: Service, name: web}], timeouts: {request: 3s}}`)
		policy.SetFinalizers([]string{"example.com/keep"})
		Expect(user.Create(ctx, policy)).To(Succeed())
		Expect(waiters(policy)).To(Equal("InProgress: MeshPolicy generation is 1, but latest observed generation is -1"))
		look := waitersOf(ctx, policy)
		Eventually(look).Should(Equal("InProgress: acknowledged by 0 of 1 proxies"))
		proxy.pass()
		Eventually(look).Should(Equal(isReady))

		By("having been made invalid")
		change := func(spec string) {
			GinkgoHelper()
			Eventually(func() error {
				if err := user.Get(ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
					return err
				}
				policy.Object["spec"] = policyOf(namespace, "slow", spec).Object["spec"]
				return user.Update(ctx, policy)
			}).Should(Succeed())
			Expect(waiters(policy)).To(HavePrefix("InProgress: MeshPolicy generation is "))
		}
		change(`{targetRefs: [{group: "", kind: Service, name: web}],
			fault: {abort: {}, headers: [{name: test, type: RegularExpression, value: "("}]}}`)
		Eventually(look).Should(HavePrefix("Failed: spec.fault.headers[0].value: "))
		Expect(policy.Object["status"]).To(HaveKeyWithValue("conditions", ContainElement(HaveKeyWithValue("type", meshv1alpha1.ConditionStalled))))

		By("being for one target that is there and one that is not")
		change(`{targetRefs: [{group: "", kind: Service, name: web}, {group: "", kind: Service, name: api}], timeouts: {request: 4s}}`)
		Eventually(look).Should(Equal(fmt.Sprintf("InProgress: Service %[1]s/api does not exist; in force for Service %[1]s/web", namespace)))
		newService(ctx, namespace, "api", nil)
		Eventually(look).Should(Equal(isReady))

		By("being one of two for the same target")
		second := policyOf(namespace, "z-second", `{targetRefs: [{group: "", kind: Service, name: web}], timeouts: {request: 1s}}`)
		Expect(user.Create(ctx, second)).To(Succeed())
		Eventually(waitersOf(ctx, second)).Should(HavePrefix("Failed: MeshPolicy " + namespace + "/slow is for Service " + namespace + "/web"))

		By("being deleted")
		Expect(user.Delete(ctx, policy)).To(Succeed())
		Eventually(look).Should(Equal("Terminating: Resource scheduled for deletion"))
		Expect(user.Patch(ctx, policy, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`)))).To(Succeed())
		Eventually(waitersOf(ctx, second)).Should(Equal(isReady))
	})

	It("sees who may call", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		proxy := newProxy(ctx, namespace, "one")
		proxy.hold(anything)
		object := authorizationOf(namespace, "web", `{targetRefs: [{group: "", kind: Service, name: web}], action: Allow}`)
		Expect(user.Create(ctx, object)).To(Succeed())
		Expect(waiters(object)).To(Equal("InProgress: MeshAuthorization generation is 1, but latest observed generation is -1"))
		look := waitersOf(ctx, object)
		Eventually(look).Should(Equal("InProgress: Service " + namespace + "/web does not exist"))
		newService(ctx, namespace, "web", nil)
		Eventually(look).Should(Equal("InProgress: acknowledged by 0 of 1 proxies"))
		proxy.pass()
		Eventually(look).Should(Equal(isReady))
	})

	It("sees the Mesh", func(ctx SpecContext) {
		newNode(ctx, "unproven")
		mesh := &unstructured.Unstructured{}
		mesh.SetGroupVersionKind(meshv1alpha1.GroupVersion.WithKind("Mesh"))
		mesh.SetName(meshv1alpha1.MeshName)
		Eventually(waitersOf(ctx, mesh)).Should(HavePrefix("InProgress: not proven on "))
		generation, _, err := unstructured.NestedInt64(mesh.Object, "status", "observedGeneration")
		Expect(err).NotTo(HaveOccurred())
		Expect(generation).To(Equal(mesh.GetGeneration()))
		Expect(getMesh(ctx).Status.Conditions).To(ContainElement(HaveField("Type", meshv1alpha1.ConditionReconciling)))
	})
})
