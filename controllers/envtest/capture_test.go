package envtest_test

import (
	"context"
	"net/http"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// optOut keeps a Service out of the mesh.
func optOut(ctx context.Context, service *corev1.Service) {
	GinkgoHelper()
	before := service.DeepCopy()
	service.Labels = map[string]string{meshv1alpha1.EnabledLabel: "false"}
	Expect(user.Patch(ctx, service, client.MergeFrom(before))).To(Succeed())
}

var _ = Describe("Capture", func() {
	It("of a Service begins when every connected proxy of the namespace knows it", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		one, two := newProxy(ctx, namespace, "one"), newProxy(ctx, namespace, "two")
		node := newNode(ctx, "node-1")
		run(ctx, one.pod, "10.2.0.1", "fd00::1")
		run(ctx, two.pod, "10.2.0.2")
		Eventually(func() []wire.Proxy {
			if c := node.has(wire.KindCapture, namespace).Capture; c != nil {
				return c.Proxies
			}
			return nil
		}).Should(HaveLen(2))
		first := newService(ctx, namespace, "first", nil)
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		Expect(node.captured(namespace)).To(Equal([]uint16{one.number(key(first))}))

		By("holding one proxy back")
		two.hold(anything)
		service := newService(ctx, namespace, "web", nil)
		Eventually(one.number).WithArguments(key(service)).ShouldNot(BeZero())
		bystander(ctx)
		Eventually(node.keys).WithArguments(wire.KindCapture).Should(HaveLen(2))
		Expect(node.captured(namespace)).NotTo(ContainElement(one.number(key(service))))
		two.pass()
		Eventually(node.captured).WithArguments(namespace).Should(ContainElement(one.number(key(service))))

		By("letting proxies come and go")
		seen := len(node.received())
		three := newProxy(ctx, namespace, "three")
		three.hold(anything)
		one.stop()
		deletePod(ctx, one.pod)
		Eventually(func() []wire.Proxy { return node.has(wire.KindCapture, namespace).Capture.Proxies }).Should(HaveLen(1))
		for _, delta := range node.received()[seen:] {
			for _, r := range delta.Upserted {
				if r.Ref == (wire.Ref{Kind: wire.KindCapture, Key: namespace}) {
					Expect(len(r.Capture.Ports)).To(BeNumerically(">=", 2), "nothing is withdrawn")
				}
			}
		}
		Expect(node.kinds()).To(Equal([]wire.Kind{wire.KindCapture, wire.KindMesh}))
		Expect(two.kinds()).NotTo(ContainElement(wire.KindCapture))
		Expect(two.kinds()).To(ContainElements(wire.KindMesh, wire.KindDestination, wire.KindProxies, wire.KindCertificate))
	})

	It("of a Service that opts out ends at the nodes before proxies forget it", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		newSlice(ctx, service, "10.2.0.9")
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		proxy, node := newProxy(ctx, namespace, "one"), newNode(ctx, "node-1")
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		before := proxy.has(wire.KindRoute, "HTTPRoute/"+namespace+"/route/0").Version

		node.hold(func(d wire.Delta) bool {
			return slices.ContainsFunc(d.Upserted, func(r wire.Resource) bool {
				return r.Kind == wire.KindCapture && r.Key == namespace && len(r.Capture.Ports) == 0
			})
		})
		optOut(ctx, service)
		Eventually(node.blocked).Should(BeTrue())
		Eventually(verdicts(ctx, route)).Should(ContainElement(ContainSubstring("Accepted=False/NoMatchingParent")))
		bystander(ctx)
		for _, kind := range []wire.Kind{wire.KindDestination, wire.KindBackend, wire.KindEndpoints} {
			Expect(proxy.keys(kind)).To(ContainElement(key(service)))
		}
		Expect(proxy.has(wire.KindRoute, "HTTPRoute/"+namespace+"/route/0").Version).To(Equal(before))
		node.pass()
		Eventually(proxy.keys).WithArguments(wire.KindDestination).ShouldNot(ContainElement(key(service)))
		Expect(proxy.keys(wire.KindRoute)).To(BeEmpty())
	})

	It("of a Service that is deleted ends at a node whose agent restarts, too", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		proxy, node := newProxy(ctx, namespace, "one"), newNode(ctx, "node-1")
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		node.stop()
		Eventually(leader().clients).WithArguments("node").Should(BeZero())
		Expect(user.Delete(ctx, service)).To(Succeed())
		bystander(ctx)
		Expect(proxy.keys(wire.KindDestination)).To(ContainElement(key(service)))
		node.start()
		Eventually(proxy.keys).WithArguments(wire.KindDestination).ShouldNot(ContainElement(key(service)))
	})

	It("gives a Service that is created again another number", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		proxy := newProxy(ctx, namespace, "one")
		service := newService(ctx, namespace, "web", nil)
		Eventually(proxy.number).WithArguments(key(service)).ShouldNot(BeZero())
		first := proxy.number(key(service))
		Expect(user.Delete(ctx, service)).To(Succeed())
		Eventually(proxy.number).WithArguments(key(service)).Should(BeZero())
		newService(ctx, namespace, "web", nil)
		Eventually(proxy.number).WithArguments(key(service)).ShouldNot(BeZero())
		Expect(proxy.number(key(service))).NotTo(Equal(first))
		other := newService(ctx, namespace, "other", nil)
		Eventually(proxy.number).WithArguments(key(other)).ShouldNot(BeZero())
		Expect(proxy.number(key(other))).NotTo(Equal(first))
	})

	It("outlives the leader, without a change to anything", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		present(ctx, belongings(namespace)...)
		service := newService(ctx, namespace, "web", nil)
		newSlice(ctx, service, "10.2.0.9")
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		app := newPod(namespace, "app", "default", "node-1")
		createPod(ctx, app)
		run(ctx, app, "10.2.0.9")
		one, two, node := newProxy(ctx, namespace, "one"), newProxy(ctx, namespace, "two"), newNode(ctx, "node-1")
		run(ctx, one.pod, "10.2.0.1")
		run(ctx, two.pod, "10.2.0.2")
		report := identityOf(app)
		report.Addresses = addresses("10.2.0.9")
		node.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{report}})
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(1))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		for _, proxy := range []*peer{one, two} {
			Eventually(proxy.keys).WithArguments(wire.KindWorkload).Should(ContainElement("10.2.0.9"))
			Eventually(func() []wire.Proxy { return proxy.has(wire.KindProxies, namespace).Proxies.Proxies }).Should(HaveLen(2))
			Eventually(proxy.keys).WithArguments(wire.KindCertificate).Should(HaveLen(2))
		}
		number := one.number(key(service))

		By("letting a standby lead, which the proxies cannot reach yet")
		standby := startOperator()
		one.isolate()
		two.isolate()
		seen := map[*peer]int{one: len(one.received()), two: len(two.received()), node: len(node.received())}
		succeed(standby)
		Eventually(standby.clients).WithArguments("node").Should(Equal(1))
		refused := newRoute(ctx, namespace, "refused", "web", parentService("missing"))
		Eventually(verdicts(ctx, refused)).Should(HaveLen(1))
		Expect(node.received()).To(HaveLen(seen[node]))

		By("letting them reach it")
		one.reachable()
		two.reachable()
		for _, p := range []*peer{one, two, node} {
			Eventually(p.stream.Connected).Should(BeTrue())
			Expect(p.changesSince(seen[p])).To(BeEmpty(), p.name)
		}
		Expect(standby.requests.all(http.MethodPut, "/httproutes/route/status")).To(BeEmpty())

		By("going on where the last one ended")
		other := newService(ctx, namespace, "other", nil)
		Eventually(node.captured).WithArguments(namespace).Should(HaveLen(2))
		Expect(one.number(key(service))).To(Equal(number))
		Expect(one.number(key(other))).To(BeNumerically(">", number))
	})
})
