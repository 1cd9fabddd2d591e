package envtest_test

import (
	"context"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// getMesh returns the Mesh once the operator has created it.
func getMesh(ctx context.Context) *meshv1alpha1.Mesh {
	GinkgoHelper()
	mesh := &meshv1alpha1.Mesh{}
	Eventually(func() error { return user.Get(ctx, client.ObjectKey{Name: "default"}, mesh) }).Should(Succeed())
	return mesh
}

// configure changes the Mesh's spec until the end of the spec that runs.
func configure(ctx context.Context, change func(*meshv1alpha1.MeshSpec)) {
	GinkgoHelper()
	before := getMesh(ctx)
	after := before.DeepCopy()
	change(&after.Spec)
	Expect(user.Patch(ctx, after, client.MergeFrom(before))).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		now := getMesh(ctx)
		restored := now.DeepCopy()
		restored.Spec = before.Spec
		Expect(user.Patch(ctx, restored, client.MergeFrom(now))).To(Succeed())
	})
}

// meshCondition returns a condition of the Mesh as "status/reason".
func meshCondition(ctx context.Context, conditionType string) func() string {
	return func() string {
		mesh := &meshv1alpha1.Mesh{}
		if err := user.Get(ctx, client.ObjectKey{Name: "default"}, mesh); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(mesh.Status.Conditions, conditionType)
		if c == nil || c.ObservedGeneration != mesh.Generation {
			return "unknown"
		}
		return string(c.Status) + "/" + c.Reason
	}
}

// meshSays is a condition of the Mesh with its message, empty while there is none.
func meshSays(ctx context.Context, conditionType string) func() string {
	return func() string {
		c := meta.FindStatusCondition(getMesh(ctx).Status.Conditions, conditionType)
		if c == nil {
			return ""
		}
		return string(c.Status) + "/" + c.Reason + ": " + c.Message
	}
}

var _ = Describe("The Mesh", func() {
	It("is there with defaults, and takes every namespace out when somebody deletes it", func(ctx SpecContext) {
		mesh := getMesh(ctx)
		Expect(mesh.Spec.TrustDomain).To(Equal("cluster.local"))
		namespace := enrolled(ctx)
		definition := &metav1.PartialObjectMetadata{}
		definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		Expect(user.Get(ctx, client.ObjectKey{Name: "meshes.mesh.weft.dev"}, definition)).To(Succeed())
		deployment := proxies(namespace)
		present(ctx, deployment)
		Expect(deployment.OwnerReferences).To(HaveExactElements(HaveField("UID", definition.UID)))

		Expect(user.Delete(ctx, mesh)).To(Succeed())
		Eventually(gone(ctx, deployment)).Should(Succeed())
		again := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "default"}}

		By("letting another operator lead")
		succeed(startOperator())
		Eventually(leader().compiled).ShouldNot(BeZero())
		gone(ctx, again)(Default)

		By("creating one")
		Expect(user.Create(ctx, again)).To(Succeed())
		Eventually(func() error { return user.Get(ctx, client.ObjectKeyFromObject(deployment), proxies(namespace)) }).Should(Succeed())
		Expect(leader().tried.all(http.MethodPost, "/meshes")).To(BeEmpty())
	})

	It("keeps the spec that a user wrote", func(ctx SpecContext) {
		configure(ctx, func(s *meshv1alpha1.MeshSpec) { s.Proxy.Replicas = 3 })
		namespace := enrolled(ctx)
		Eventually(func(g Gomega) {
			deployment := proxies(namespace)
			g.Expect(user.Get(ctx, client.ObjectKeyFromObject(deployment), deployment)).To(Succeed())
			g.Expect(*deployment.Spec.Replicas).To(Equal(int32(3)))
		}).Should(Succeed())
		Eventually(meshCondition(ctx, meshv1alpha1.MeshGatewayAPI)).Should(Equal("True/Installed"))
		Expect(getMesh(ctx).Spec.Proxy.Replicas).To(Equal(int32(3)))
		for _, entry := range leader().requests.all("/meshes") {
			method, rest, _ := strings.Cut(entry, " ")
			status := strings.HasPrefix(rest, "/apis/mesh.weft.dev/v1alpha1/meshes/default/status ")
			Expect(method == http.MethodPost || status).To(BeTrue(), entry)
		}
	})

	It("says what the nodes have proven and how many namespaces are enrolled", func(ctx SpecContext) {
		label(ctx, newNamespace(ctx), "true")
		label(ctx, newNamespace(ctx), "true")
		Eventually(func() *int32 { return getMesh(ctx).Status.Namespaces }).Should(HaveValue(Equal(int32(2))))

		one, two := newNode(ctx, "node-1"), newNode(ctx, "node-2")
		captured := func() string { return getMesh(ctx).Status.Captured }
		Eventually(captured).Should(Equal("0/2"))
		Expect(meshCondition(ctx, meshv1alpha1.MeshReady)()).To(Equal("False/NotProven"))
		proven := &wire.CanaryReport{Time: metav1.Now().Time, Captured: true, Guarded: true, StrictEnforced: true}
		one.stream.Report(wire.NodeReport{Full: true, Canary: proven})
		Eventually(captured).Should(Equal("1/2"))
		two.stream.Report(wire.NodeReport{Full: true, Canary: proven})
		Eventually(captured).Should(Equal("2/2"))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshReady)).Should(Equal("True/Ready"))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshTrafficAdmitted)).Should(Equal("True/Admitted"))

		By("letting another operator lead, which has not heard from the nodes yet")
		one.isolate()
		two.isolate()
		// Of proxies the bystander's namespace is a new one without.
		ofNodes := func(s meshv1alpha1.MeshStatus) meshv1alpha1.MeshStatus {
			meta.RemoveStatusCondition(&s.Conditions, meshv1alpha1.MeshProxiesReady)
			return s
		}
		before := ofNodes(getMesh(ctx).Status)
		succeed(startOperator())
		bystander(ctx)
		Eventually(func() *int32 { return getMesh(ctx).Status.Namespaces }).Should(HaveValue(Equal(int32(3))))
		Expect(ofNodes(getMesh(ctx).Status).Conditions).To(Equal(before.Conditions))
		Expect(getMesh(ctx).Status.Nodes).To(Equal(before.Nodes))
		one.reachable()
		two.reachable()
		Eventually(leader().clients).WithArguments("node").Should(Equal(2))

		By("losing an agent")
		two.stop()
		Eventually(meshCondition(ctx, meshv1alpha1.MeshReady)).Should(Equal("False/NotProven"))
		Expect(meta.FindStatusCondition(getMesh(ctx).Status.Conditions, meshv1alpha1.MeshReady).Message).
			To(ContainSubstring("node-2: no agent is connected"))
	})

	It("names the collector of traces", func(ctx SpecContext) {
		proxy := newProxy(ctx, enrolled(ctx), "one")
		traces := func() *wire.Collector {
			if r := proxy.has(wire.KindMesh, "mesh"); r.Mesh != nil {
				return r.Mesh.Traces
			}
			return nil
		}
		configure(ctx, func(s *meshv1alpha1.MeshSpec) { s.Telemetry.Tracing.Endpoint = "http://collector.observability:4317" })
		Eventually(meshCondition(ctx, meshv1alpha1.MeshTelemetryAccepted)).Should(Equal("True/Accepted"))
		Eventually(traces).Should(Equal(&wire.Collector{Endpoint: "http://collector.observability:4317", Protocol: wire.CollectorGRPC}))

		By("giving gRPC a path")
		configure(ctx, func(s *meshv1alpha1.MeshSpec) {
			s.Telemetry.Tracing.Endpoint = "http://collector.observability:4317/v1/traces"
		})
		Eventually(meshCondition(ctx, meshv1alpha1.MeshTelemetryAccepted)).Should(Equal("False/Invalid"))
		Eventually(traces).Should(BeNil())
	})

	It("is refused when it is not valid", func(ctx SpecContext) {
		valid := getMesh(ctx)
		duration := func(text string) *gwv1.Duration { return new(gwv1.Duration(text)) }
		for what, tc := range map[string]struct {
			change func(*meshv1alpha1.Mesh)
			want   string
		}{
			"another name": {
				change: func(m *meshv1alpha1.Mesh) { m.ObjectMeta = metav1.ObjectMeta{Name: "second"} },
				want:   "the only Mesh is named default",
			},
			"no trust domain of SPIFFE": {
				change: func(m *meshv1alpha1.Mesh) {
					m.ObjectMeta = metav1.ObjectMeta{Name: "default"}
					m.Spec.TrustDomain = "Example.com/"
				},
				want: "trustDomain must be a SPIFFE trust domain",
			},
			"another trust domain": {
				change: func(m *meshv1alpha1.Mesh) { m.Spec.TrustDomain = "example.com" },
				want:   "trustDomain cannot be changed",
			},
			"a short lifetime": {
				change: func(m *meshv1alpha1.Mesh) { m.Spec.Certificates.Lifetime = duration("9s") },
				want:   "lifetime must be between 10s and 8760h",
			},
			"a collector without a scheme": {
				change: func(m *meshv1alpha1.Mesh) { m.Spec.Telemetry.Tracing.Endpoint = "collector:4317" },
				want:   "spec.telemetry.tracing.endpoint: Invalid value: \"collector:4317\": endpoint must be a URL with http or https and a host",
			},
			"a collector with a password": {
				change: func(m *meshv1alpha1.Mesh) { m.Spec.Telemetry.Tracing.Endpoint = "http://user:password@collector:4317" },
				want:   "endpoint must have neither user, query nor fragment",
			},
			"a protocol without a collector": {
				change: func(m *meshv1alpha1.Mesh) { m.Spec.Telemetry.Tracing.Protocol = meshv1alpha1.TraceHTTP },
				want:   "endpoint is required",
			},
		} {
			mesh := valid.DeepCopy()
			tc.change(mesh)
			var err error
			if mesh.ResourceVersion == "" {
				err = user.Create(ctx, mesh)
			} else {
				err = user.Update(ctx, mesh)
			}
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%s: %v", what, err)
			Expect(err.Error()).To(ContainSubstring(tc.want), what)
		}
	})
})
