package envtest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

func addresses(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

var _ = Describe("The identity", func() {
	It("of an address is what the pod's own node says", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		proxy := newProxy(ctx, namespace, "proxy")
		one, two := newNode(ctx, "node-1"), newNode(ctx, "node-2")
		app, near := newPod(namespace, "app", "cart", "node-1"), newPod(namespace, "near", "till", "node-2")
		createPod(ctx, app)
		createPod(ctx, near)
		says := func(pod *corev1.Pod, address string) wire.PodReport {
			report := identityOf(pod)
			report.Addresses = addresses(address)
			return report
		}
		workload := func(address string) func() string {
			return func() string {
				if w := proxy.has(wire.KindWorkload, address).Workload; w != nil {
					return w.ServiceAccount + " of " + w.Pod
				}
				return "nobody"
			}
		}

		By("not believing another node")
		one.stream.Report(wire.NodeReport{Full: true})
		two.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{says(app, "10.2.0.7"), says(near, "10.2.0.8")}})
		Eventually(workload("10.2.0.8")).Should(Equal("till of near"))
		Expect(workload("10.2.0.7")()).To(Equal("nobody"))

		By("believing its own")
		one.stream.Report(wire.NodeReport{Pods: []wire.PodReport{says(app, "10.2.0.7")}})
		Eventually(workload("10.2.0.7")).Should(Equal("cart of app"))

		By("giving an address that two claim to nobody")
		one.stream.Report(wire.NodeReport{Pods: []wire.PodReport{says(app, "10.2.0.8")}})
		Eventually(workload("10.2.0.8")).Should(Equal("nobody"))
		two.stream.Report(wire.NodeReport{Pods: []wire.PodReport{{UID: string(near.UID), Ended: true}}})
		Eventually(workload("10.2.0.8")).Should(Equal("cart of app"))

		By("giving an address that is used again to the new pod")
		next := newPod(namespace, "next", "shop", "node-1")
		createPod(ctx, next)
		one.stream.Report(wire.NodeReport{Pods: []wire.PodReport{{UID: string(app.UID), Ended: true}, says(next, "10.2.0.8")}})
		Eventually(workload("10.2.0.8")).Should(Equal("shop of next"))
		Expect(workload("10.2.0.7")()).To(Equal("nobody"))
	})

	It("of a ServiceAccount is a certificate that its namespace's proxies get, and a new one in time", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		proxy, foreign := newProxy(ctx, namespace, "proxy"), bystander(ctx)
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"}}
		Expect(user.Create(ctx, account)).To(Succeed())
		app := newPod(namespace, "app", "cart", "")
		createPod(ctx, app)
		cart := namespace + "/cart"
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "weft-identity-cart"}}
		present(ctx, secret)
		Expect(secret.Type).To(Equal(corev1.SecretTypeTLS))
		Expect(secret.OwnerReferences).To(HaveExactElements(And(HaveField("Kind", "ServiceAccount"), HaveField("UID", account.UID))))
		Eventually(proxy.keys).WithArguments(wire.KindCertificate).Should(Equal([]string{cart, namespace + "/weft-proxy"}))
		Expect(foreign.keys(wire.KindCertificate)).NotTo(ContainElement(cart))

		first := *proxy.has(wire.KindCertificate, cart).Certificate
		Expect(first.Chain).To(Equal(string(secret.Data["tls.crt"])))
		pair, err := tls.X509KeyPair([]byte(first.Chain), []byte(first.Key))
		Expect(err).NotTo(HaveOccurred())
		Expect(pair.Leaf.URIs[0].String()).To(Equal("spiffe://cluster.local/ns/" + namespace + "/sa/cart"))
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		Expect(roots.AppendCertsFromPEM([]byte(proxy.has(wire.KindMesh, "mesh").Mesh.TrustBundle))).To(BeTrue())
		intermediates.AppendCertsFromPEM([]byte(first.Chain))
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		Expect(err).NotTo(HaveOccurred())

		By("shortening its life")
		notAfter := func() time.Time { return proxy.has(wire.KindCertificate, cart).Certificate.NotAfter }
		configure(ctx, func(s *meshv1alpha1.MeshSpec) { s.Certificates.Lifetime = new(gwv1.Duration("10s")) })
		Eventually(notAfter).Should(BeTemporally("<", time.Now().Add(time.Minute)))
		short := notAfter()
		Eventually(notAfter).Should(BeTemporally(">", short), "it is renewed")
		Expect(time.Now()).To(BeTemporally("<", short), "before its end")
	})

	It("of a pod with a proxy of its own is a key that this proxy gets, to serve with, and no other", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		proxy := newProxy(ctx, namespace, "proxy")
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"}}
		Expect(user.Create(ctx, account)).To(Succeed())
		createPod(ctx, newPod(namespace, "till", "till", ""))
		pod, err := webhooks.Inject(newPod(namespace, "app", "cart", "node-1"), webhooks.InjectConfig{Image: "weft-proxy", TrustBundle: "weft-ca-bundle", TrustBundleKey: "ca.crt"})
		Expect(err).NotTo(HaveOccurred())
		beside := connect(ctx, pod)
		cart, till := namespace+"/cart", namespace+"/till"
		Eventually(proxy.keys).WithArguments(wire.KindCertificate).Should(Equal([]string{cart, till, namespace + "/weft-proxy"}))
		Eventually(beside.keys).WithArguments(wire.KindCertificate).Should(Equal([]string{cart}))
		Eventually(func(g Gomega) {
			certificate := beside.has(wire.KindCertificate, cart).Certificate
			g.Expect(certificate).NotTo(BeNil())
			pair, err := tls.X509KeyPair([]byte(certificate.Chain), []byte(certificate.Key))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(pair.Leaf.ExtKeyUsage).To(ContainElement(x509.ExtKeyUsageServerAuth))
		}).Should(Succeed())
		Eventually(beside.keys).WithArguments(wire.KindSidecar).Should(Equal([]string{namespace + "/app"}))
		Expect(beside.keys(wire.KindWorkload)).To(BeEmpty())
		Expect(proxy.keys(wire.KindSidecar)).To(BeEmpty())
	})

	It("of a client is that of a pod that belongs to our workloads", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		genuine := newProxy(ctx, namespace, "genuine")
		Eventually(genuine.stream.Connected).Should(BeTrue())
		// The account and the labels of a proxy are anybody's to use who may create pods.
		pretender := newPod(namespace, "pretender", meshv1alpha1.ProxyName, "node-1")
		pretender.Labels = genuine.pod.Labels
		before, err := leader().refused()
		Expect(err).NotTo(HaveOccurred())
		p := connect(ctx, pretender)
		Eventually(leader().refused).Should(BeNumerically(">", before))
		Expect(p.received()).To(BeEmpty())
	})
})
