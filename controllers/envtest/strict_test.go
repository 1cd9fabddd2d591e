package envtest_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// guard is a Service in an enrolled namespace with one pod behind it, on node-1, and agents there and on node-2.
type guard struct {
	namespace string
	pod       *corev1.Pod
	near, far *peer
}

func newGuard(ctx context.Context) *guard {
	GinkgoHelper()
	g := &guard{namespace: enrolled(ctx)}
	newService(ctx, g.namespace, "web", func(s *corev1.Service) {
		s.Spec.Selector = map[string]string{"app": "web"}
		s.Spec.Ports[0].TargetPort = intstr.FromString("web")
	})
	g.near, g.far = newNode(ctx, "node-1"), newNode(ctx, "node-2")
	g.pod = newPod(g.namespace, "web", "default", "node-1")
	g.pod.Labels = map[string]string{"app": "web"}
	g.pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	createPod(ctx, g.pod)
	return g
}

// port is what an agent knows of the pod's one port, as "port strict [networks]".
func (g *guard) port(agent *peer) func() string {
	return func() string {
		in := agent.has(wire.KindInbound, string(g.pod.UID)).Inbound
		if in == nil {
			return "nothing"
		}
		var text strings.Builder
		for _, p := range in.Ports {
			fmt.Fprintf(&text, "%d %v %v", p.Port, p.Strict, p.Allowed)
		}
		return text.String()
	}
}

// reports has the pod's agent say what is in force.
func (g *guard) reports(version string, proven bool) {
	report := identityOf(g.pod)
	report.Addresses, report.Inbound = addresses("10.2.0.9"), version
	g.near.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{report}, Canary: &wire.CanaryReport{
		Time: time.Now(), Captured: true, Guarded: true, StrictEnforced: proven,
	}})
}

func (g *guard) version() string { return g.near.has(wire.KindInbound, string(g.pod.UID)).Version }

var _ = Describe("A strict port", func() {
	It("is known to the pod's node alone, and enforced once that has proven it", func(ctx SpecContext) {
		g := newGuard(ctx)
		Eventually(g.port(g.near)).Should(Equal("8080 false []"))
		Expect(g.near.has(wire.KindCapture, g.namespace).Capture.Strict).To(BeFalse())
		g.reports(g.version(), true)

		By("letting in the pods of a ServiceAccount of a namespace outside the mesh")
		outside := newNamespace(ctx)
		policy := newPolicy(ctx, g.namespace, "strict", fmt.Sprintf(
			`{mtls: {mode: Strict, allowFrom: {cidrs: [192.0.2.0/24], serviceAccounts: [{namespace: %s, name: scraper}]}}}`, outside))
		Eventually(g.port(g.near)).Should(Equal("8080 true [192.0.2.0/24]"))
		Expect(g.near.has(wire.KindCapture, g.namespace).Capture.Strict).To(BeTrue())
		scraper := newPod(outside, "scraper", "scraper", "node-2")
		createPod(ctx, scraper)
		says := identityOf(scraper)
		says.Addresses = addresses("10.2.1.7", "fd00::7")
		g.far.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{says}})
		Eventually(g.port(g.near)).Should(Equal("8080 true [10.2.1.7/32 192.0.2.0/24 fd00::7/128]"))
		says.Ended = true
		g.far.stream.Report(wire.NodeReport{Pods: []wire.PodReport{says}})
		Eventually(g.port(g.near)).Should(Equal("8080 true [192.0.2.0/24]"))
		Expect(g.port(g.far)()).To(Equal("nothing"))

		By("saying what is in force")
		enforced := func() string { return policyMessage(ctx, policy, meshv1alpha1.PolicyEnforced) }
		Eventually(policyVerdict(ctx, policy)).Should(ContainSubstring("Enforced=False/Bypassable"))
		Eventually(enforced).Should(ContainSubstring("0 of 1 pods provably refuse callers that the mesh has not identified: not yet in force in all pods"))
		g.reports(g.version(), false)
		Eventually(enforced).Should(ContainSubstring("the agent of node node-1 could not prove that it refuses callers"))
		g.reports(g.version(), true)
		Eventually(policyVerdict(ctx, policy)).Should(ContainSubstring("Enforced=True/Enforced"))
		Expect(enforced()).To(ContainSubstring("no proxy of namespace " + g.namespace + " is ready, so that every call is refused"))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshStrictEnforced)).Should(Equal("True/Enforced"))

		By("ending it")
		Expect(user.Delete(ctx, policy)).To(Succeed())
		Eventually(g.port(g.near)).Should(Equal("8080 false []"))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshStrictEnforced)).ShouldNot(HavePrefix("True"))
	})

	It("knows a new proxy before that is used", func(ctx SpecContext) {
		g := newGuard(ctx)
		one := newProxy(ctx, g.namespace, "one")
		run(ctx, one.pod, "10.2.0.1")
		used := func() []string {
			var names []string
			if p := one.has(wire.KindProxies, g.namespace).Proxies; p != nil {
				for _, proxy := range p.Proxies {
					names = append(names, proxy.Pod)
				}
			}
			return names
		}
		admitted := func(c *wire.Capture, address string) bool {
			return c != nil && slices.Contains(c.Admitted, netip.MustParseAddr(address))
		}
		Eventually(used).Should(Equal([]string{"one"}))
		newPolicy(ctx, g.namespace, "strict", `{mtls: {mode: Strict}}`)
		Eventually(g.port(g.near)).Should(Equal("8080 true []"))
		Expect(admitted(g.near.has(wire.KindCapture, g.namespace).Capture, "10.2.0.1")).To(BeTrue())

		g.near.hold(func(d wire.Delta) bool {
			return slices.ContainsFunc(d.Upserted, func(r wire.Resource) bool {
				return r.Key == g.namespace && admitted(r.Capture, "10.2.0.2")
			})
		})
		two := newProxy(ctx, g.namespace, "two")
		run(ctx, two.pod, "10.2.0.2")
		Eventually(g.near.blocked).Should(BeTrue())
		Eventually(func() bool { return admitted(g.far.has(wire.KindCapture, g.namespace).Capture, "10.2.0.2") }).Should(BeTrue())
		bystander(ctx)
		Expect(used()).To(Equal([]string{"one"}))
		for _, p := range g.far.has(wire.KindCapture, g.namespace).Capture.Proxies {
			Expect(p.Pod).To(Equal("one"))
		}
		g.near.pass()
		Eventually(used).Should(Equal([]string{"one", "two"}))
	})

	It("is what an authorization makes of its target, and callers past the mesh are named", func(ctx SpecContext) {
		g := newGuard(ctx)
		Eventually(g.port(g.near)).Should(Equal("8080 false []"))
		g.reports(g.version(), true)
		outside := newNamespace(ctx)
		stranger := newPod(outside, "stranger", "batch", "node-2")
		createPod(ctx, stranger)
		run(ctx, stranger, "10.2.1.9")
		caller := func(connections, refused uint64) {
			g.near.stream.Report(wire.NodeReport{Plain: []wire.PlainCaller{{
				UID: string(g.pod.UID), Port: 8080, Source: netip.MustParseAddr("10.2.1.9"), Connections: connections, Refused: refused, Last: time.Now(),
			}}})
		}
		caller(3, 0)
		named := func() string {
			for _, n := range getMesh(ctx).Status.PlainCallers {
				if n.Namespace == g.namespace {
					c := n.Top[0]
					return fmt.Sprintf("%d: %s as %s to %s, %d let in, %d refused", *n.Callers, c.Caller, c.ServiceAccount, c.Service, *c.Connections, *c.Refused)
				}
			}
			return "nobody"
		}
		Eventually(named).Should(Equal("1: " + outside + "/stranger as batch to web:80, 3 let in, 0 refused"))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshPlainCallers)).Should(Equal("True/Seen"))

		By("authorizing")
		object := newAuthorization(ctx, g.namespace, "web", `{targetRefs: [{group: "", kind: Service, name: web}], action: Allow,
			rules: [{from: [{unauthenticated: true, ipBlocks: [{cidr: 10.3.0.0/16, except: [10.3.128.0/17]}]}], to: [{ports: [80]}]}]}`)
		Eventually(g.port(g.near)).Should(Equal("8080 true [10.3.0.0/17]"))
		Eventually(authorizationVerdict(ctx, object)).Should(ContainSubstring("Enforced=False/Bypassable"))
		g.reports(g.version(), true)
		Eventually(authorizationVerdict(ctx, object)).Should(ContainSubstring("Enforced=True/Enforced"))
		caller(3, 4)
		Eventually(func() string {
			there := &meshv1alpha1.MeshAuthorization{}
			Expect(user.Get(ctx, client.ObjectKeyFromObject(object), there)).To(Succeed())
			for _, c := range there.Status.Conditions {
				if c.Type == meshv1alpha1.AuthorizationEnforced {
					return c.Message
				}
			}
			return ""
		}).Should(ContainSubstring("called past the mesh within the last hour by pod " + outside + "/stranger (ServiceAccount batch)"))
		Eventually(named).Should(HaveSuffix("3 let in, 4 refused"))
	})
})
