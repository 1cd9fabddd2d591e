package envtest_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("Whoever owns a route or a policy", func() {
	It("is told in Events what was refused, and why", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		newRoute(ctx, namespace, "lost", "nobody", parentService("web"))
		newPolicy(ctx, namespace, "lost", `
targetRefs: [{group: "", kind: Service, name: nobody}]
timeouts: {request: 1s}
`)
		told := func(kind string) func(Gomega) []string {
			return func(g Gomega) []string {
				var list eventsv1.EventList
				g.Expect(user.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
				var lines []string
				for _, e := range list.Items {
					if e.Regarding.Kind == kind && e.Regarding.Name == "lost" && e.Regarding.UID != "" {
						lines = append(lines, strings.Join([]string{e.Type, e.Reason, e.Action, e.Note}, " "))
					}
				}
				return lines
			}
		}
		Eventually(told("HTTPRoute")).Should(ConsistOf(And(
			HavePrefix("Warning BackendNotFound Resolve Service web: "), ContainSubstring("Service "+namespace+"/nobody does not exist"))))
		Eventually(told("MeshPolicy")).Should(ConsistOf(HavePrefix("Warning TargetNotFound Accept ")))
	})
})
