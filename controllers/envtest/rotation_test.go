package envtest_test

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// rotate asks for an exchange of the root as "kubectl annotate --overwrite" does, with a value that was
// never used, and returns it.
func rotate(ctx context.Context) string {
	GinkgoHelper()
	value := rand.Text()
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, meshv1alpha1.RotateRootAnnotation, value))
	Expect(user.Patch(ctx, getMesh(ctx), patch)).To(Succeed())
	return value
}

// rootsIn counts PEM certificates.
func rootsIn(bundle string) int {
	n := 0
	for rest := []byte(bundle); ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return n
		}
	}
}

// upserting matches deltas that bring a resource of a kind.
func upserting(kind wire.Kind) func(wire.Delta) bool {
	return func(d wire.Delta) bool {
		for _, r := range d.Upserted {
			if r.Kind == kind {
				return true
			}
		}
		return false
	}
}

var _ = Describe("An exchange of the root", func() {
	authority := func(ctx context.Context) meshv1alpha1.CertificateAuthorityStatus {
		return getMesh(ctx).Status.CertificateAuthority
	}
	rotating := func(ctx context.Context) string {
		mesh := getMesh(ctx)
		c := meta.FindStatusCondition(mesh.Status.Conditions, meshv1alpha1.MeshRootRotating)
		if c == nil {
			return ""
		}
		return string(c.Status) + "/" + c.Reason + ": " + c.Message
	}
	issuer := func(p *peer, key string) func() string {
		return func() string {
			c := p.has(wire.KindCertificate, key).Certificate
			if c == nil {
				return ""
			}
			return c.Chain[strings.LastIndex(c.Chain, "-----BEGIN"):]
		}
	}
	trusts := func(p *peer) func() int {
		return func() int {
			if m := p.has(wire.KindMesh, "mesh").Mesh; m != nil {
				return rootsIn(m.TrustBundle)
			}
			return 0
		}
	}
	mounted := func(ctx context.Context, namespace string) string {
		bundle := &corev1.ConfigMap{}
		Expect(user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "weft-ca-bundle"}, bundle)).To(Succeed())
		return bundle.Data["ca.crt"]
	}

	It("waits at each step, over restarts of the operator, until everybody has acknowledged", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		app := newPod(namespace, "app", "cart", "")
		createPod(ctx, app)
		cart := namespace + "/cart"
		proxy, node := newProxy(ctx, namespace, "proxy"), newNode(ctx, "node-of-rotation")
		Eventually(issuer(proxy, cart)).ShouldNot(BeEmpty())
		Eventually(trusts(node)).Should(Equal(1))
		webhook := installWebhook(ctx, leader())
		webhookRoots := func() int {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(webhook), webhook)).To(Succeed())
			return rootsIn(string(webhook.Webhooks[0].ClientConfig.CABundle))
		}
		Eventually(authority).WithArguments(ctx).Should(HaveField("Rotation", "Steady"))
		before, oldRoot := issuer(proxy, cart)(), authority(ctx).Roots[0].Fingerprint

		restart := func(next func(wire.Delta) bool) {
			GinkgoHelper()
			succeed(nil)
			proxy.pass()
			if next != nil {
				proxy.hold(next)
			}
			succeed(startOperator())
		}

		By("distributing the next root")
		proxy.hold(upserting(wire.KindMesh))
		value := rotate(ctx)
		Eventually(proxy.blocked).Should(BeTrue())
		Eventually(rotating).WithArguments(ctx).Should(And(HavePrefix("True/DistributingTrust: 1 of 2"), ContainSubstring("waiting for proxy "+namespace+"/proxy")))
		Expect(authority(ctx)).To(And(HaveField("Acknowledged", "1/2"), HaveField("Since", Not(BeNil())), HaveField("Roots", HaveLen(2)), HaveField("RotateRoot", value)))
		Eventually(trusts(node)).Should(Equal(2))
		Eventually(webhookRoots).Should(Equal(2))
		Expect(rootsIn(mounted(ctx, namespace))).To(Equal(2))
		Expect(rootsIn(mounted(ctx, systemNamespace))).To(Equal(2))
		Expect(issuer(proxy, cart)()).To(Equal(before))

		By("reissuing, with mounted files that still have the old root alone")
		restart(upserting(wire.KindCertificate))
		Eventually(proxy.blocked).Should(BeTrue())
		Expect(trusts(proxy)()).To(Equal(2))
		Eventually(rotating).WithArguments(ctx).Should(And(HavePrefix("True/ReissuingCertificates: 0 of 1"), ContainSubstring("waiting for proxy "+namespace+"/proxy")))
		Expect(trusts(node)()).To(Equal(2), "the old root is trusted while a certificate of it may be in use")

		By("dropping the old root")
		restart(upserting(wire.KindMesh))
		Eventually(proxy.blocked).Should(BeTrue())
		Expect(issuer(proxy, cart)()).NotTo(Equal(before))
		Expect(issuer(proxy, namespace+"/weft-proxy")()).To(Equal(issuer(proxy, cart)()))
		Eventually(rotating).WithArguments(ctx).Should(And(HavePrefix("True/DroppingTrust: "), ContainSubstring("waiting for proxy "+namespace+"/proxy")))
		Eventually(trusts(node)).Should(Equal(1))

		By("coming to its end")
		restart(nil)
		Eventually(rotating).WithArguments(ctx).Should(HavePrefix("False/Steady"))
		Eventually(trusts(proxy)).Should(Equal(1))
		Eventually(webhookRoots).Should(Equal(1))
		Expect(authority(ctx)).To(And(HaveField("Acknowledged", BeEmpty()), HaveField("RotateRoot", value), HaveField("Roots", HaveLen(1))))
		Expect(authority(ctx).Roots[0].Fingerprint).NotTo(Equal(oldRoot))
		Expect(mounted(ctx, namespace)).To(Equal(proxy.has(wire.KindMesh, "mesh").Mesh.TrustBundle))
		Expect(meshCondition(ctx, meshv1alpha1.MeshCertificatesValid)()).To(Equal("True/Valid"))

		By("telling of each step in Events of the Mesh")
		var list eventsv1.EventList
		Expect(user.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault))).To(Succeed())
		reasons := map[string]bool{}
		for _, e := range list.Items {
			if e.Regarding.Kind == "Mesh" {
				reasons[e.Reason] = true
			}
		}
		Expect(reasons).To(And(HaveKey("DistributeTrust"), HaveKey("SwitchIssuer"), HaveKey("DropTrust"), HaveKey("Finish")))
	})

	It("waits for a proxy that is ready and away, and not for one that takes no traffic", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		near, away := newProxy(ctx, namespace, "near"), newProxy(ctx, namespace, "away")
		run(ctx, away.pod, "10.2.9.9")
		Eventually(trusts(near)).Should(Equal(1))
		Eventually(trusts(away)).Should(Equal(1))
		Eventually(authority).WithArguments(ctx).Should(HaveField("Rotation", "Steady"))
		oldRoot := authority(ctx).Roots[0].Fingerprint
		away.stop()
		Eventually(leader().clients).WithArguments("proxy").Should(Equal(1))

		rotate(ctx)
		Eventually(rotating).WithArguments(ctx).Should(And(HavePrefix("True/DistributingTrust: 1 of 2"),
			ContainSubstring("waiting for proxy "+namespace+"/away, which is ready and not connected")))

		By("its pod being not ready any more")
		unready := away.pod.DeepCopy()
		unready.Status.Conditions[0].Status = corev1.ConditionFalse
		Expect(user.Status().Patch(ctx, unready, client.MergeFrom(away.pod))).To(Succeed())
		Eventually(rotating).WithArguments(ctx).Should(HavePrefix("False/Steady"))
		Expect(authority(ctx).Roots).To(HaveEach(HaveField("Fingerprint", Not(Equal(oldRoot)))))
		Eventually(trusts(near)).Should(Equal(1))

		By("letting it back in by what the kubelet has mounted since")
		Expect(os.WriteFile(filepath.Join(away.files, "ca.crt"), []byte(mounted(ctx, namespace)), 0o600)).To(Succeed())
		away.start()
		Eventually(func() string { return bundleOf(away) }).Should(Equal(bundleOf(near)))
		Eventually(issuer(away, namespace+"/weft-proxy")).Should(Equal(issuer(near, namespace+"/weft-proxy")()))
	})
})

// bundleOf returns the trust bundle that a peer has in force.
func bundleOf(p *peer) string {
	if m := p.has(wire.KindMesh, "mesh").Mesh; m != nil {
		return m.TrustBundle
	}
	return ""
}
