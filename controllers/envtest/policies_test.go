package envtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// policyOf is a MeshPolicy with a spec in YAML, not created yet.
func policyOf(namespace, name, spec string) *unstructured.Unstructured {
	return specified("MeshPolicy", namespace, name, spec)
}

func newPolicy(ctx context.Context, namespace, name, spec string) *meshv1alpha1.MeshPolicy {
	GinkgoHelper()
	Expect(user.Create(ctx, policyOf(namespace, name, spec))).To(Succeed())
	return &meshv1alpha1.MeshPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// editPolicy changes a policy, whatever its status is meanwhile.
func editPolicy(ctx context.Context, policy *meshv1alpha1.MeshPolicy, change func(*meshv1alpha1.MeshPolicySpec)) {
	GinkgoHelper()
	Expect(user.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
	before := policy.DeepCopy()
	change(&policy.Spec)
	Expect(user.Patch(ctx, policy, client.MergeFrom(before))).To(Succeed())
}

// policyVerdict returns the conditions of a policy and of its targets as "Accepted=True/Accepted
// Programmed=... | Service web: ...".
func policyVerdict(ctx context.Context, policy *meshv1alpha1.MeshPolicy) func() string {
	return func() string {
		there := &meshv1alpha1.MeshPolicy{}
		if err := user.Get(ctx, client.ObjectKeyFromObject(policy), there); err != nil {
			return err.Error()
		}
		show := func(conditions []metav1.Condition) string {
			var words []string
			for _, c := range ofGEP713(conditions) {
				word := fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason)
				if c.ObservedGeneration != there.Generation {
					word += "(stale)"
				}
				words = append(words, word)
			}
			return strings.Join(words, " ")
		}
		parts := []string{show(there.Status.Conditions)}
		for _, a := range there.Status.Ancestors {
			parts = append(parts, fmt.Sprintf("%s %s: %s", *a.AncestorRef.Kind, a.AncestorRef.Name, show(a.Conditions)))
		}
		return strings.Join(parts, " | ")
	}
}

// policyMessage returns the message of a policy's condition.
func policyMessage(ctx context.Context, policy *meshv1alpha1.MeshPolicy, conditionType string) string {
	GinkgoHelper()
	Expect(user.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
	c := meta.FindStatusCondition(policy.Status.Conditions, conditionType)
	Expect(c).NotTo(BeNil())
	return c.Message
}

// ofGEP713 leaves out the conditions that follow from the others for tools that do not know those.
func ofGEP713(conditions []metav1.Condition) []metav1.Condition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c metav1.Condition) bool {
		return c.Type == meshv1alpha1.PolicyReady || c.Type == meshv1alpha1.ConditionStalled || c.Type == meshv1alpha1.ConditionReconciling
	})
}

const (
	policyProgrammed = "Accepted=True/Accepted Programmed=True/Programmed"
	policyPending    = "Accepted=True/Accepted Programmed=False/Pending"
)

// refusedFor is what a policy with one target says that is refused.
func refusedFor(target, reason string) string {
	conditions := "Accepted=False/" + reason + " Programmed=False/NotAccepted"
	return conditions + " | " + target + ": " + conditions
}

// table is what the API server tells kubectl to print of a namespace's policies: the columns, those of
// "-o wide" in brackets, and the rows.
func table(ctx context.Context, namespace string) [][]string {
	GinkgoHelper()
	discoverer, err := discovery.NewDiscoveryClientForConfig(userConfig)
	Expect(err).NotTo(HaveOccurred())
	answer, err := discoverer.RESTClient().Get().
		AbsPath("apis", "mesh.weft.dev", "v1alpha1", "namespaces", namespace, "meshpolicies").
		SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").DoRaw(ctx)
	Expect(err).NotTo(HaveOccurred())
	var printed metav1.Table
	Expect(json.Unmarshal(answer, &printed)).To(Succeed())
	header := []string{}
	for _, c := range printed.ColumnDefinitions {
		name := c.Name
		if c.Priority > 0 {
			name = "[" + name + "]"
		}
		header = append(header, name)
	}
	rows := [][]string{header}
	for _, row := range printed.Rows {
		cells := []string{}
		for i, cell := range row.Cells {
			if printed.ColumnDefinitions[i].Name == "Age" {
				_, err := time.ParseDuration(fmt.Sprint(cell))
				Expect(err).NotTo(HaveOccurred(), "the age is %v", cell)
				cell = "age"
			}
			cells = append(cells, fmt.Sprint(cell))
		}
		rows = append(rows, cells)
	}
	return rows
}

var _ = Describe("The status of a MeshPolicy", func() {
	writes := func(policy *meshv1alpha1.MeshPolicy) int {
		return len(leader().tried.all(http.MethodPut, "/"+policy.Namespace+"/", "/"+policy.Name+"/status"))
	}

	It("tells when every proxy has it, in at most two writes, and rests", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		one, two := newProxy(ctx, namespace, "one"), newProxy(ctx, namespace, "two")
		Eventually(one.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		Eventually(two.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())

		one.hold(anything)
		two.hold(anything)
		policy := newPolicy(ctx, namespace, "slow", `{targetRefs: [{group: "", kind: Service, name: web}], timeouts: {request: 3s, connect: 1s}}`)
		Eventually(policyVerdict(ctx, policy)).Should(Equal(policyPending + " | Service web: " + policyPending))
		Expect(policyMessage(ctx, policy, "Programmed")).To(Equal("acknowledged by 0 of 2 proxies"))
		one.pass()
		two.pass()
		Eventually(policyVerdict(ctx, policy)).Should(Equal(policyProgrammed + " | Service web: " + policyProgrammed))
		Expect(writes(policy)).To(Equal(2))
		Expect(*one.has(wire.KindDestination, key(service)).Destination.Policy.Timeouts.Request).To(Equal(wire.Duration(3 * time.Second)))
		Expect(*one.has(wire.KindBackend, key(service)).Backend.Policy.Timeouts.Connect).To(Equal(wire.Duration(time.Second)))

		By("showing what results and what is in force")
		Expect(user.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		from := "MeshPolicy " + namespace + "/slow"
		Expect(policy.Status.Effective).To(Equal([]meshv1alpha1.EffectivePolicy{{
			Target: "Service " + namespace + "/web",
			Fields: []meshv1alpha1.EffectiveField{{Field: "timeouts.request", Value: "3s", From: from}, {Field: "timeouts.connect", Value: "1s", From: from}},
		}}))
		Expect(*policy.Status.InForce).To(Equal(policy.Spec.TrafficPolicy))

		By("being repaired when somebody changes it")
		policy.Status.Target, policy.Status.InForce = "something else", nil
		Expect(user.Status().Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(user.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
			g.Expect(policy.Status.Target).To(Equal("Service/web"))
			g.Expect(policy.Status.InForce).NotTo(BeNil())
		}).Should(Succeed())
		before := writes(policy)

		By("resting while proxies come and go and other policies are written")
		three := newProxy(ctx, namespace, "three")
		Eventually(three.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		one.stop()
		deletePod(ctx, one.pod)
		newService(ctx, namespace, "other", nil)
		other := newPolicy(ctx, namespace, "other", `{targetRefs: [{group: "", kind: Service, name: other}], retry: {attempts: 1}}`)
		Eventually(policyVerdict(ctx, other)).Should(Equal(policyProgrammed + " | Service other: " + policyProgrammed))
		Expect(writes(policy)).To(Equal(before))
	})

	It("says why a policy is not in force, until it is", func(ctx SpecContext) {
		namespace, outside := enrolled(ctx), newNamespace(ctx)
		newProxy(ctx, namespace, "one")
		newService(ctx, namespace, "web", nil)
		newService(ctx, namespace, "headless", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
		const first = `{targetRefs: [{group: "", kind: Service, name: web}], timeouts: {request: 1s}}`
		winner := newPolicy(ctx, namespace, "a-first", first)
		loser := newPolicy(ctx, namespace, "b-second", first)
		missing := newPolicy(ctx, namespace, "missing", `{targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: route, sectionName: slow}]}`)
		headless := newPolicy(ctx, namespace, "headless", `{targetRefs: [{group: "", kind: Service, name: headless}]}`)
		foreign := newPolicy(ctx, outside, "all", `{timeouts: {request: 1s}}`)
		Eventually(policyVerdict(ctx, winner)).Should(Equal(policyProgrammed + " | Service web: " + policyProgrammed))
		Eventually(policyVerdict(ctx, loser)).Should(Equal(refusedFor("Service web", "Conflicted")))
		Expect(policyMessage(ctx, loser, "Accepted")).To(ContainSubstring("MeshPolicy " + namespace + "/a-first"))
		Eventually(policyVerdict(ctx, missing)).Should(Equal(refusedFor("HTTPRoute route", "TargetNotFound")))
		Expect(policyMessage(ctx, missing, "Accepted")).To(Equal("HTTPRoute " + namespace + "/route does not exist"))
		Eventually(policyVerdict(ctx, headless)).Should(Equal(refusedFor("Service headless", "NotCaptured")))
		Eventually(policyVerdict(ctx, foreign)).Should(Equal(refusedFor("Namespace "+outside, "NamespaceNotEnrolled")))
		Expect(policyMessage(ctx, foreign, "Accepted")).To(ContainSubstring(`label it with mesh.weft.dev/enabled="true"`))

		By("printing that in kubectl's columns")
		Expect(table(ctx, namespace)).To(Equal([][]string{
			{"Name", "Target", "Ready", "Accepted", "Programmed", "[Reason]", "Age"},
			{"a-first", "Service/web", "True", "True", "True", "Ready", "age"},
			{"b-second", "Service/web", "False", "False", "False", "Conflicted", "age"},
			{"headless", "Service/headless", "False", "False", "False", "NotCaptured", "age"},
			{"missing", "HTTPRoute/route:slow", "False", "False", "False", "TargetNotFound", "age"},
		}))

		By("deleting the policy that had won")
		Expect(user.Delete(ctx, winner)).To(Succeed())
		Eventually(policyVerdict(ctx, loser)).Should(Equal(policyProgrammed + " | Service web: " + policyProgrammed))
		By("creating the route, and then its rule")
		route := newRoute(ctx, namespace, "route", "web", parentService("web"))
		Eventually(func() string { return policyMessage(ctx, missing, "Accepted") }).Should(ContainSubstring(`no rule named "slow"`))
		edit(ctx, route, func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].Name = new(gwv1.SectionName("slow")) })
		Eventually(policyVerdict(ctx, missing)).Should(Equal(policyProgrammed + " | HTTPRoute route: " + policyProgrammed))
		By("enrolling the namespace, which has nothing to apply to yet")
		label(ctx, outside, "true")
		Eventually(policyVerdict(ctx, foreign)).Should(Equal(policyPending + " | Namespace " + outside + ": " + policyPending))
	})

	It("keeps in force what was valid while a spec is not", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		proxy := newProxy(ctx, namespace, "one")
		timeout := func() wire.Duration {
			d := proxy.has(wire.KindDestination, key(service)).Destination
			if d == nil || d.Policy == nil || d.Policy.Timeouts == nil {
				return 0
			}
			return *d.Policy.Timeouts.Request
		}
		policy := newPolicy(ctx, namespace, "policy", `{targetRefs: [{group: "", kind: Service, name: web}], timeouts: {request: 3s}, rateLimits: []}`)
		Eventually(policyVerdict(ctx, policy)).Should(Equal(policyProgrammed + " | Service web: " + policyProgrammed))
		Eventually(timeout).Should(Equal(wire.Duration(3 * time.Second)))
		header := gwv1.HTTPHeaderMatch{Name: "test", Type: new(gwv1.HeaderMatchRegularExpression), Value: "("}
		editPolicy(ctx, policy, func(s *meshv1alpha1.MeshPolicySpec) {
			s.Timeouts.Request = new(gwv1.Duration("9s"))
			s.Fault = &meshv1alpha1.Fault{Abort: &meshv1alpha1.FaultAbort{}, Headers: []gwv1.HTTPHeaderMatch{header}}
		})
		Eventually(policyVerdict(ctx, policy)).Should(Equal(refusedFor("Service web", "Invalid")))
		Expect(policyMessage(ctx, policy, "Accepted")).To(And(HavePrefix("spec.fault.headers[0].value: "), ContainSubstring("stays in force")))
		Expect(*policy.Status.InForce.Timeouts.Request).To(Equal(gwv1.Duration("3s")))
		Expect(policy.Status.InForce.RateLimits).To(And(BeEmpty(), Not(BeNil())))
		Expect(timeout()).To(Equal(wire.Duration(3 * time.Second)))

		By("letting another operator lead")
		succeed(startOperator())
		other := newService(ctx, namespace, "other", nil)
		Eventually(func() *wire.Destination { return proxy.has(wire.KindDestination, key(other)).Destination }).ShouldNot(BeNil())
		Expect(timeout()).To(Equal(wire.Duration(3 * time.Second)))

		By("correcting the spec")
		editPolicy(ctx, policy, func(s *meshv1alpha1.MeshPolicySpec) { s.Fault.Headers[0].Value = "a|b" })
		Eventually(policyVerdict(ctx, policy)).Should(Equal(policyProgrammed + " | Service web: " + policyProgrammed))
		Eventually(timeout).Should(Equal(wire.Duration(9 * time.Second)))
	})

	It("follows the defaults of the Mesh, which tells what is wrong with them", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		newService(ctx, namespace, "near", func(s *corev1.Service) {
			s.Spec.TrafficDistribution = new(corev1.ServiceTrafficDistributionPreferSameZone)
		})
		proxy := newProxy(ctx, namespace, "one")
		policy := newPolicy(ctx, namespace, "all", `{retry: {attempts: 2}}`)
		configure(ctx, func(s *meshv1alpha1.MeshSpec) {
			s.Defaults = &meshv1alpha1.TrafficPolicy{
				Retry: &meshv1alpha1.Retry{Attempts: new(int32(1)), ConnectFailures: new(int32(5))},
				Fault: &meshv1alpha1.Fault{Abort: &meshv1alpha1.FaultAbort{}, Headers: []gwv1.HTTPHeaderMatch{
					{Name: "test", Type: new(gwv1.HeaderMatchRegularExpression), Value: "("},
				}},
			}
		})
		Eventually(proxy.keys).WithArguments(wire.KindDestination).Should(HaveLen(2))
		Eventually(func() *wire.Policy { return proxy.has(wire.KindDestination, key(service)).Destination.Policy }).
			Should(Equal(&wire.Policy{Retry: &wire.Retry{Attempts: new(2), ConnectFailures: new(5)}}))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshDefaultsAccepted)).Should(Equal("False/Invalid"))
		Eventually(func() []meshv1alpha1.EffectiveField {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
			if len(policy.Status.Effective) == 0 {
				return nil
			}
			return policy.Status.Effective[0].Fields
		}).Should(Equal([]meshv1alpha1.EffectiveField{
			{Field: "retry.attempts", Value: "2", From: "MeshPolicy " + namespace + "/all"},
			{Field: "retry.connectFailures", Value: "5", From: "Mesh default"},
		}))
		near := proxy.has(wire.KindBackend, wire.ServicePortKey(namespace, "near", 80)).Backend
		Expect(near.Zone).To(BeTrue())
		Expect(near.Node).To(BeFalse())
	})
})

var _ = Describe("A MeshPolicy", func() {
	It("has the names that users and tools know it by", func(ctx SpecContext) {
		discoverer, err := discovery.NewDiscoveryClientForConfig(userConfig)
		Expect(err).NotTo(HaveOccurred())
		resources, err := discoverer.ServerResourcesForGroupVersion(meshv1alpha1.GroupVersion.String())
		Expect(err).NotTo(HaveOccurred())
		found := false
		for _, r := range resources.APIResources {
			if r.Name == "meshpolicies" {
				found = true
				Expect(r.ShortNames).To(Equal([]string{"mpol"}))
				Expect(r.Categories).To(Equal([]string{"gateway-api"}))
				Expect(r.SingularName).To(Equal("meshpolicy"))
			}
		}
		Expect(found).To(BeTrue())
		crd := &metav1.PartialObjectMetadata{}
		crd.APIVersion, crd.Kind, crd.Name = "apiextensions.k8s.io/v1", "CustomResourceDefinition", "meshpolicies.mesh.weft.dev"
		Eventually(func() error { return user.Get(ctx, client.ObjectKeyFromObject(crd), crd) }).Should(Succeed())
		Expect(crd.Labels).To(HaveKeyWithValue("gateway.networking.k8s.io/policy", "Inherited"))
	})

	DescribeTable("is refused with a reason that tells what to do", func(ctx SpecContext, spec, why string) {
		err := user.Create(ctx, policyOf("default", "refused", spec), client.DryRunAll, client.FieldValidation("Strict"))
		Expect(err).To(MatchError(ContainSubstring(why)))
	},
		Entry("a percentage above 100", `{retry: {budget: {percent: 101}}}`, "spec.retry.budget.percent: Invalid value: 101: spec.retry.budget.percent in body should be less than or equal to 100"),
		Entry("a percentage below 0", `{outlierEjection: {maxEjectedPercent: -1}}`, "should be greater than or equal to 0"),
		Entry("a fault's percentage", `{fault: {abort: {percent: 101}}}`, "spec.fault.abort.percent"),
		Entry("a backoff with min over max", `{retry: {backoff: {base: 2s, max: 1s}}}`, "base cannot be longer than max"),
		Entry("an ejection with min over max", `{outlierEjection: {ejectionTime: 2m, maxEjectionTime: 1m}}`, "ejectionTime cannot be longer than maxEjectionTime"),
		Entry("a check that takes longer than its interval", `{healthCheck: {type: TCP, interval: 1s, timeout: 2s}}`, "timeout cannot be longer than interval"),
		Entry("no time to connect", `{timeouts: {connect: 0s}}`, "connect must be longer than 0s"),
		Entry("no time to wait", `{circuitBreaking: {pendingTimeout: 0s}}`, "pendingTimeout must be longer than 0s"),
		Entry("no time between retries", `{retry: {backoff: {base: 0s}}}`, "base must be longer than 0s"),
		Entry("a delay of nothing", `{fault: {delay: {duration: 0s}}}`, "duration must be longer than 0s and at most 1h"),
		Entry("a duration in another form", `{timeouts: {request: 1.5s}}`, "spec.timeouts.request"),
		Entry("a hash key without a name", `{loadBalancing: {algorithm: ConsistentHash, consistentHash: {type: Header}}}`, "name is for Header, Cookie and QueryParameter, which need it"),
		Entry("a hash key with a name too many", `{loadBalancing: {algorithm: ConsistentHash, consistentHash: {type: SourceAddress, name: a}}}`, "name is for Header, Cookie and QueryParameter, which need it"),
		Entry("a hash key that does not exist", `{loadBalancing: {algorithm: ConsistentHash, consistentHash: {type: Color, name: a}}}`, "Unsupported value"),
		Entry("consistent hashing of nothing", `{loadBalancing: {algorithm: ConsistentHash}}`, "algorithm ConsistentHash needs consistentHash"),
		Entry("a hash key for another algorithm", `{loadBalancing: {algorithm: Random, consistentHash: {type: SourceAddress}}}`, "consistentHash goes with algorithm ConsistentHash"),
		Entry("a rate limit's header without a name", `{rateLimits: [{requests: 1, keys: [{type: Header}]}]}`, "name is for Header, which needs it"),
		Entry("a rate limit of nothing", `{rateLimits: [{requests: 0}]}`, "spec.rateLimits[0].requests"),
		Entry("a fault that does nothing", `{fault: {}}`, "fault needs delay or abort"),
		Entry("a session's header that is not named", `{sessionPersistence: {type: Header}}`, "header is for type Header, which needs it"),
		Entry("a cookie that lasts for ever", `{sessionPersistence: {cookie: {lifetimeType: Permanent}}}`, "a Permanent cookie needs absoluteTimeout"),
		Entry("a latency factor of one", `{outlierEjection: {latencyFactor: 1}}`, "latencyFactor must be 0 or at least 2"),
		Entry("a share of more than all", `{telemetry: {tracing: {samplingRate: {numerator: 101}}}}`, "numerator must be at most denominator"),
		Entry("a share of nothing", `{telemetry: {tracing: {samplingRate: {numerator: 0, denominator: 0}}}}`, "should be greater than or equal to 1"),
		Entry("a share without a numerator", `{telemetry: {accessLog: {rules: [{samplingRate: {}}]}}}`, "spec.telemetry.accessLog.rules[0].samplingRate.numerator: Required value"),
		Entry("a reason that no proxy has", `{telemetry: {accessLog: {rules: [{reasons: [no_such_reason]}]}}}`, "Unsupported value"),
		Entry("a request that takes no time", `{telemetry: {accessLog: {rules: [{minDuration: 0s}]}}}`, "minDuration must be longer than 0s"),
		Entry("a target of another kind", `{targetRefs: [{group: "", kind: Pod, name: a}]}`, "a target must be a Service, an HTTPRoute or a GRPCRoute, with its group"),
		Entry("a route without its group", `{targetRefs: [{group: "", kind: HTTPRoute, name: a}]}`, "a target must be a Service, an HTTPRoute or a GRPCRoute, with its group"),
		Entry("no target at all, though there is a list", `{targetRefs: []}`, "should have at least 1 items"),
		Entry("a target in another namespace", `{targetRefs: [{group: "", kind: Service, name: a, namespace: other}]}`, `unknown field "spec.targetRefs[0].namespace"`),
		Entry("one target twice", `{targetRefs: [{group: "", kind: Service, name: a}, {group: "", kind: Service, name: a}]}`, "a target must be named once"),
		Entry("load balancing of a route", `{targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}], loadBalancing: {algorithm: Random}}`, "target a Service or the namespace"),
		Entry("a route's time to connect", `{targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a}], timeouts: {connect: 1s}}`, "target a Service or the namespace"),
	)
})
