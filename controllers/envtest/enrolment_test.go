package envtest_test

import (
	"context"
	"net/http"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// belongings are what an enrolled namespace has of ours.
func belongings(namespace string) []client.Object {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	return []client.Object{
		&rbacv1.RoleBinding{ObjectMeta: meta("weft-identity")},
		&corev1.ServiceAccount{ObjectMeta: meta(meshv1alpha1.ProxyName)},
		&corev1.ConfigMap{ObjectMeta: meta("weft-ca-bundle")},
		&policyv1.PodDisruptionBudget{ObjectMeta: meta(meshv1alpha1.ProxyName)},
		&networkingv1.NetworkPolicy{ObjectMeta: meta(meshv1alpha1.ProxyName)},
		proxies(namespace),
		&corev1.Secret{ObjectMeta: meta("weft-identity-weft-proxy")},
	}
}

// present expects objects to exist.
func present(ctx context.Context, objects ...client.Object) {
	GinkgoHelper()
	for _, object := range objects {
		Eventually(func() error { return user.Get(ctx, client.ObjectKeyFromObject(object), object) }).Should(Succeed(), "%T", object)
	}
}

// bystander enrols another namespace and waits for all that it gets: whatever the operator meant to do
// about namespaces before, it has done.
func bystander(ctx context.Context) *peer {
	GinkgoHelper()
	namespace := enrolled(ctx)
	present(ctx, belongings(namespace)...)
	newService(ctx, namespace, "web", nil)
	proxy := newProxy(ctx, namespace, "proxy")
	Eventually(proxy.keys).WithArguments(wire.KindDestination).Should(ContainElement(namespace + "/web:80"))
	return proxy
}

var _ = Describe("A namespace", func() {
	It("gets everything with the label, and gets it back", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		label(ctx, namespace, "true")
		present(ctx, belongings(namespace)...)
		deployment := proxies(namespace)
		present(ctx, deployment)
		Expect(*deployment.Spec.Replicas).To(Equal(int32(2)))
		Expect(deployment.Spec.Template.Spec.Containers[0].Image).To(Equal("example.com/weft-proxy:test"))

		By("deleting each object")
		for _, object := range belongings(namespace) {
			present(ctx, object)
			uid := object.GetUID()
			Expect(user.Delete(ctx, object)).To(Succeed())
			Eventually(func(g Gomega) {
				g.Expect(user.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
				g.Expect(object.GetUID()).NotTo(Equal(uid))
			}).Should(Succeed(), "%T", object)
		}

		By("changing what is ours and what is not")
		present(ctx, deployment)
		edited := deployment.DeepCopy()
		edited.Spec.Replicas = new(int32(7))
		edited.Annotations["example.com/owner"] = "me"
		Expect(user.Patch(ctx, edited, client.MergeFrom(deployment))).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(user.Get(ctx, client.ObjectKeyFromObject(deployment), deployment)).To(Succeed())
			g.Expect(*deployment.Spec.Replicas).To(Equal(int32(2)))
			g.Expect(deployment.Annotations).To(HaveKeyWithValue("example.com/owner", "me"))
		}).Should(Succeed())
		managers := map[string]bool{}
		for _, entry := range deployment.ManagedFields {
			if entry.Operation == metav1.ManagedFieldsOperationApply {
				managers[entry.Manager] = true
			}
		}
		Expect(managers).To(HaveLen(1))

		By("leaving it alone when all is well")
		written := func() int { return len(leader().tried.all("/namespaces/" + namespace + "/")) }
		before := written()
		status := deployment.DeepCopy()
		status.Status.Replicas = 2
		Expect(user.Status().Patch(ctx, status, client.MergeFrom(deployment))).To(Succeed())
		configure(ctx, func(s *meshv1alpha1.MeshSpec) { s.Proxy.MaxConnectionAge = nil })
		bystander(ctx)
		Expect(written()).To(Equal(before), "%v", leader().tried.all("/namespaces/"+namespace+"/"))
	})

	It("is not served without the exact label, nor where Weft itself is", func(ctx SpecContext) {
		other := newNamespace(ctx)
		label(ctx, other, "yes")
		label(ctx, systemNamespace, "true")
		DeferCleanup(func(ctx context.Context) { label(ctx, systemNamespace, "") })
		bystander(ctx)
		Eventually(gone(ctx, proxies(other))).Should(Succeed())
		Eventually(gone(ctx, proxies(systemNamespace))).Should(Succeed())
	})

	It("loses captures first, proxies then, and their rights last", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		label(ctx, namespace, "true")
		present(ctx, belongings(namespace)...)
		service := newService(ctx, namespace, "web", nil)
		proxy, node := newProxy(ctx, namespace, "leaving"), newNode(ctx, "node-1")
		consumer := bystander(ctx)
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(2))
		Eventually(consumer.keys).WithArguments(wire.KindDestination).Should(ContainElement(key(service)))

		By("waiting for the node")
		node.hold(removing(wire.KindCapture, namespace))
		label(ctx, namespace, "")
		Eventually(node.blocked).Should(BeTrue())
		bystander(ctx)
		present(ctx, belongings(namespace)...)
		Expect(consumer.keys(wire.KindDestination)).To(ContainElement(key(service)))
		Expect(proxy.keys(wire.KindDestination)).To(ContainElement(key(service)))
		Expect(proxy.keys(wire.KindCertificate)).NotTo(BeEmpty())
		node.pass()
		Eventually(consumer.keys).WithArguments(wire.KindDestination).ShouldNot(ContainElement(key(service)))

		By("waiting for the proxies to end")
		all := belongings(namespace)
		Eventually(gone(ctx, proxies(namespace))).Should(Succeed())
		bystander(ctx)
		present(ctx, slices.DeleteFunc(all, isDeployment)...)
		Expect(proxy.keys(wire.KindCertificate)).NotTo(BeEmpty())
		deletePod(ctx, proxy.pod)
		for _, object := range belongings(namespace) {
			Eventually(gone(ctx, object)).Should(Succeed())
		}
		Eventually(consumer.keys).WithArguments(wire.KindProxies).ShouldNot(ContainElement(namespace))

		path := func(resource string) string { return http.MethodDelete + " " + resource }
		core, apps := "/api/v1/namespaces/"+namespace, "/apis/apps/v1/namespaces/"+namespace
		binding := path("/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/rolebindings/weft-identity")
		Expect(events.before("weft-node-node-1 has no Capture/"+namespace, path(apps+"/deployments/weft-proxy"))).To(BeTrue())
		Expect(events.before(path(apps+"/deployments/weft-proxy"), path(core+"/secrets/weft-identity-weft-proxy"))).To(BeTrue())
		Expect(events.before(path(core+"/secrets/weft-identity-weft-proxy"), path(core+"/serviceaccounts/weft-proxy"))).To(BeTrue())
		Expect(events.before(path(core+"/serviceaccounts/weft-proxy"), binding)).To(BeTrue())
	})

	It("keeps its proxies until its pods are not captured any more, also without Services", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		label(ctx, namespace, "true")
		present(ctx, belongings(namespace)...)
		newProxy(ctx, namespace, "leaving")
		bystander(ctx)
		node := newNode(ctx, "node-1")
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		node.hold(removing(wire.KindCapture, namespace))
		label(ctx, namespace, "")
		Eventually(node.blocked).Should(BeTrue())
		bystander(ctx)
		present(ctx, proxies(namespace))
		node.pass()
		Eventually(gone(ctx, proxies(namespace))).Should(Succeed())
		Expect(events.before("weft-node-node-1 has no Capture/"+namespace,
			http.MethodDelete+" /apis/apps/v1/namespaces/"+namespace+"/deployments/weft-proxy")).To(BeTrue())
	})

	It("that comes back before it has left keeps everything", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		label(ctx, namespace, "true")
		present(ctx, belongings(namespace)...)
		service := newService(ctx, namespace, "web", nil)
		proxy, node := newProxy(ctx, namespace, "proxy"), newNode(ctx, "node-1")
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		number := proxy.number(key(service))
		node.hold(removing(wire.KindCapture, namespace))
		label(ctx, namespace, "")
		Eventually(node.blocked).Should(BeTrue())
		label(ctx, namespace, "true")
		bystander(ctx)
		node.pass()
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(2))
		bystander(ctx)
		Expect(proxy.number(key(service))).To(Equal(number))
		Expect(events.all(http.MethodDelete, "/namespaces/"+namespace+"/")).To(BeEmpty())
		Expect(events.all("proxy has no ", namespace+"/web:80")).To(BeEmpty())
	})

	It("keeps its proxies until the nodes have heard that it left while nobody led", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		label(ctx, namespace, "true")
		present(ctx, belongings(namespace)...)
		newService(ctx, namespace, "web", nil)
		proxy, node := newProxy(ctx, namespace, "leaving"), newNode(ctx, "node-1")
		run(ctx, proxy.pod, "10.2.0.1")
		run(ctx, node.pod, "10.250.0.11")
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))

		node.isolate()
		succeed(nil)
		label(ctx, namespace, "")
		succeed(startOperator())
		bystander(ctx)
		present(ctx, proxies(namespace))
		node.reachable()
		Eventually(gone(ctx, proxies(namespace))).Should(Succeed())
		Expect(events.before("weft-node-node-1 has no Capture/"+namespace,
			http.MethodDelete+" /apis/apps/v1/namespaces/"+namespace+"/deployments/weft-proxy")).To(BeTrue())
	})
})

func isDeployment(o client.Object) bool {
	_, ok := o.(*appsv1.Deployment)
	return ok
}
