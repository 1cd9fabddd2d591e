package envtest_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

var _ = Describe("The status of a route", func() {
	// writes counts the writes of a route's status that the operator has tried.
	writes := func(route client.Object) int {
		return len(leader().tried.all(http.MethodPut, "/"+route.GetNamespace()+"/", "/"+route.GetName()+"/status"))
	}

	It("tells when every proxy has it, in at most two writes", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		one, two := newProxy(ctx, namespace, "one"), newProxy(ctx, namespace, "two")
		Eventually(one.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		Eventually(two.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())

		By("waiting for both proxies")
		one.hold(anything)
		two.hold(anything)
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + pending}))
		Expect(messages(ctx, route, "Programmed")()).To(Equal("acknowledged by 0 of 2 proxies"))
		one.pass()
		Eventually(one.keys).WithArguments(wire.KindRoute).ShouldNot(BeEmpty())
		Expect(verdicts(ctx, route)()).To(Equal([]string{"web weft:" + pending}))
		two.pass()
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		Expect(writes(route)).To(Equal(2))

		By("beginning anew with each generation")
		one.hold(anything)
		edit(ctx, route, func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].BackendRefs[0].Weight = new(int32(7)) })
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + pending}))
		one.pass()
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		Expect(writes(route)).To(Equal(4))
	})

	It("is written neither at rest nor when proxies come and go", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		one := newProxy(ctx, namespace, "one")
		Eventually(one.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		before := writes(route)

		two := newProxy(ctx, namespace, "two")
		Eventually(two.keys).WithArguments(wire.KindRoute).ShouldNot(BeEmpty())
		run(ctx, two.pod, "10.2.0.2")
		Eventually(func() []wire.Proxy { return one.has(wire.KindProxies, namespace).Proxies.Proxies }).Should(HaveLen(1))
		one.stop()
		deletePod(ctx, one.pod)
		three := newProxy(ctx, namespace, "three")
		three.hold(anything)
		newService(ctx, namespace, "other", nil)
		Eventually(two.keys).WithArguments(wire.KindDestination).Should(HaveLen(2))

		By("writing another route's status after all that")
		three.pass()
		other := newRoute(ctx, namespace, "other", "other", parentService("other"))
		Eventually(verdicts(ctx, other)).Should(Equal([]string{"other weft:" + programmed}))
		Expect(writes(route)).To(Equal(before))
		Expect(verdicts(ctx, route)()).To(Equal([]string{"web weft:" + programmed}))
	})

	It("leaves the entries of other controllers alone, also while both write", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		newService(ctx, namespace, "api", nil)
		proxy := newProxy(ctx, namespace, "one")
		Eventually(proxy.keys).WithArguments(wire.KindDestination).Should(HaveLen(2))
		gateway := gwv1.ParentReference{Name: "gateway"}

		// Between the operator's read and its first write another controller writes.
		foreign := func(name string) gwv1.RouteParentStatus {
			return gwv1.RouteParentStatus{
				ParentRef: gwv1.ParentReference{Name: gwv1.ObjectName(name)}, ControllerName: "example.com/gateways",
				Conditions: []metav1.Condition{{
					Type: "Accepted", Status: "True", Reason: "Fine", ObservedGeneration: 1, LastTransitionTime: metav1.Now(),
				}},
			}
		}
		write := func(change func(*gwv1.HTTPRoute)) error {
			route := &gwv1.HTTPRoute{}
			if err := user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "route"}, route); err != nil {
				return err
			}
			change(route)
			return user.Status().Update(ctx, route)
		}
		var once sync.Once
		var interfered error
		leader().intercept(func(r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, namespace+"/httproutes/route/status") {
				once.Do(func() {
					interfered = write(func(r *gwv1.HTTPRoute) {
						r.Status.Parents = append(r.Status.Parents, foreign("gateway"))
					})
				})
			}
		})
		route := newRoute(ctx, namespace, "route", "web", gateway, parentService("web"), parentService("api"))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{
			"gateway example.com/gateways: Accepted=True/Fine", "web weft:" + programmed, "api weft:" + programmed,
		}))
		Expect(interfered).NotTo(HaveOccurred())
		Expect(leader().requests.all(http.MethodPut, namespace, "route/status", " 409")).To(HaveLen(1))

		By("keeping the order when a parent goes")
		Expect(write(func(r *gwv1.HTTPRoute) {
			r.Status.Parents = append(r.Status.Parents, foreign("second"))
		})).To(Succeed())
		edit(ctx, route, func(r *gwv1.HTTPRoute) {
			r.Spec.ParentRefs = []gwv1.ParentReference{gateway, parentService("api")}
		})
		Eventually(verdicts(ctx, route)).Should(Equal([]string{
			"gateway example.com/gateways: Accepted=True/Fine(stale)", "api weft:" + programmed,
			"second example.com/gateways: Accepted=True/Fine(stale)",
		}))

		By("taking our entry away with the last Service")
		edit(ctx, route, func(r *gwv1.HTTPRoute) { r.Spec.ParentRefs = []gwv1.ParentReference{gateway} })
		Eventually(verdicts(ctx, route)).Should(Equal([]string{
			"gateway example.com/gateways: Accepted=True/Fine(stale)", "second example.com/gateways: Accepted=True/Fine(stale)",
		}))
	})

	It("is repaired when somebody changes our entry", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		newProxy(ctx, namespace, "one")
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		Eventually(func(g Gomega) {
			g.Expect(user.Get(ctx, client.ObjectKeyFromObject(route), route)).To(Succeed())
			route.Status.Parents[0].Conditions[0].Status = metav1.ConditionFalse
			g.Expect(user.Status().Update(ctx, route)).To(Succeed())
		}).Should(Succeed())
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
	})

	It("says why a parent cannot be served", func(ctx SpecContext) {
		namespace, outside := enrolled(ctx), newNamespace(ctx)
		proxy := newProxy(ctx, namespace, "one")
		headless := func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }
		external := func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
		}
		newService(ctx, namespace, "web", nil)
		newService(ctx, namespace, "headless", headless)
		newService(ctx, namespace, "external", external)
		newService(ctx, outside, "web", nil)
		Eventually(proxy.keys).WithArguments(wire.KindDestination).Should(HaveLen(1))

		refused := " Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs Programmed=False/NotAccepted"
		noPort := parentService("web")
		noPort.Port = new(gwv1.PortNumber(81))
		unknown := newRoute(ctx, namespace, "unknown-kind", "web", parentService("web"))
		edit(ctx, unknown, func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].BackendRefs[0].Kind = new(gwv1.Kind("Bucket")) })
		for _, tc := range []struct {
			what     string
			route    *gwv1.HTTPRoute
			want     string
			typ, why string
		}{
			{"headless", newRoute(ctx, namespace, "headless", "web", parentService("headless")), "headless weft:" + refused, "Accepted", "headless"},
			{"ExternalName", newRoute(ctx, namespace, "external", "web", parentService("external")), "external weft:" + refused, "Accepted", "ExternalName"},
			{"missing Service", newRoute(ctx, namespace, "missing", "web", parentService("missing")), "missing weft:" + refused, "Accepted", "does not exist"},
			{"missing port", newRoute(ctx, namespace, "port", "web", noPort), "web weft:" + refused, "Accepted", "has no port 81"},
			{
				"namespace that is not enrolled", newRoute(ctx, outside, "route", "web", parentService("web")),
				"web weft:" + strings.Replace(refused, "NoMatchingParent", "NamespaceNotEnrolled", 1),
				"Accepted", `label it with mesh.weft.dev/enabled="true"`,
			},
			{
				"missing backend", newRoute(ctx, namespace, "backend", "missing", parentService("web")),
				"web weft: Accepted=True/Accepted ResolvedRefs=False/BackendNotFound Programmed=True/Programmed", "ResolvedRefs", "missing",
			},
			{
				"unknown kind of backend", unknown,
				"web weft: Accepted=True/Accepted ResolvedRefs=False/InvalidKind Programmed=True/Programmed", "ResolvedRefs", "Bucket",
			},
		} {
			By(tc.what)
			Eventually(verdicts(ctx, tc.route)).Should(Equal([]string{tc.want}), tc.what)
			Expect(messages(ctx, tc.route, tc.typ)()).To(ContainSubstring(tc.why))
		}

		By("accepting it once the Service is there")
		newService(ctx, namespace, "missing", nil)
		missing := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "missing"}}
		Eventually(verdicts(ctx, missing)).Should(Equal([]string{"missing weft:" + programmed}))
		By("accepting it once the namespace is enrolled")
		label(ctx, outside, "true")
		route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: outside, Name: "route"}}
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
	})

	It("is not programmed while a proxy refuses it, which an Event on the route tells", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		proxy := newProxy(ctx, namespace, "one")
		// The operator may see the route before its Service, and what the proxy refuses would have two versions.
		Eventually(proxy.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		proxy.refuse(func(r wire.Resource) string {
			if r.Kind == wire.KindRoute {
				return "no such thing"
			}
			return ""
		})
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + pending}))
		Eventually(func(g Gomega) {
			var list eventsv1.EventList
			g.Expect(user.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
			// The API server has Events of its own, of cluster IPs that it has just given.
			rejected := slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason != "Rejected" })
			g.Expect(rejected).To(HaveLen(1))
			event := rejected[0]
			g.Expect(event.Note).To(ContainSubstring("no such thing"))
			g.Expect(event.Regarding.Kind).To(Equal("HTTPRoute"))
			g.Expect(event.Regarding.Name).To(Equal("route"))
			// Without it the Event is not among those that "kubectl describe" shows.
			g.Expect(event.Regarding.UID).To(Equal(route.UID))
		}).Should(Succeed())

		By("trying the next version")
		proxy.refuse(nil)
		edit(ctx, route, func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].BackendRefs[0].Weight = new(int32(7)) })
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
	})

	It("is the same for a GRPCRoute", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		proxy := newProxy(ctx, namespace, "one")
		route := &gwv1.GRPCRoute{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "route"},
			Spec: gwv1.GRPCRouteSpec{
				CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{parentService("web")}},
				Rules:           []gwv1.GRPCRouteRule{{BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: backendRef("web")}}}},
			},
		}
		Expect(user.Create(ctx, route)).To(Succeed())
		Eventually(verdicts(ctx, route)).Should(Equal([]string{"web weft:" + programmed}))
		Expect(proxy.keys(wire.KindRoute)).To(Equal([]string{fmt.Sprintf("GRPCRoute/%s/route/0", namespace)}))
	})
})
