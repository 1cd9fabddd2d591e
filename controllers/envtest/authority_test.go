package envtest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	certmanagermeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// corporation is a certificate authority that is not the operator's.
type corporation struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey() *ecdsa.PrivateKey {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	return key
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newCorporation() *corporation {
	GinkgoHelper()
	c := &corporation{key: newKey()}
	c.certificate = c.sign("root", true, c.key.Public())
	return c
}

// sign signs a key: an intermediate, unless ca is false; or the root itself, when there is none yet.
func (c *corporation) sign(name string, ca bool, public crypto.PublicKey) *x509.Certificate {
	GinkgoHelper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "corp " + name}, IsCA: ca, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	parent := c.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.key)
	Expect(err).NotTo(HaveOccurred())
	certificate, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	return certificate
}

func (c *corporation) root() []byte { return encodePEM("CERTIFICATE", c.certificate.Raw) }

// secret returns what a user writes: an intermediate of the corporation, or what is none.
func (c *corporation) secret(ca bool) map[string][]byte {
	GinkgoHelper()
	key := newKey()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	Expect(err).NotTo(HaveOccurred())
	return map[string][]byte{
		"tls.crt": encodePEM("CERTIFICATE", c.sign("intermediate", ca, key.Public()).Raw),
		"tls.key": encodePEM("PRIVATE KEY", der), "ca.crt": c.root(),
	}
}

// answer does what cert-manager and an issuer of the corporation do for a request.
func (c *corporation) answer(ctx context.Context, request *certmanager.CertificateRequest) {
	GinkgoHelper()
	block, _ := pem.Decode(request.Spec.Request)
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	Expect(err).NotTo(HaveOccurred())
	Expect(parsed.CheckSignature()).To(Succeed())
	request.Status.Certificate = encodePEM("CERTIFICATE", c.sign("intermediate", request.Spec.IsCA, parsed.PublicKey).Raw)
	request.Status.CA = c.root()
	request.Status.Conditions = []certmanager.CertificateRequestCondition{
		{Type: certmanager.CertificateRequestConditionReady, Status: certmanagermeta.ConditionTrue, Reason: certmanager.CertificateRequestReasonIssued},
	}
	Expect(user.Status().Update(ctx, request)).To(Succeed())
}

// authorityOf is the condition of the Mesh that tells of its authority.
func authorityOf(ctx context.Context) string {
	return meshSays(ctx, meshv1alpha1.MeshCertificateAuthorityAccepted)()
}

// steady waits until the operator is the authority, and no exchange is under way.
func steady(ctx context.Context) {
	GinkgoHelper()
	Eventually(authorityOf).WithArguments(ctx).Should(Equal("True/Accepted: the operator is the certificate authority"))
	Eventually(meshCondition(ctx, meshv1alpha1.MeshRootRotating)).Should(Equal("False/Steady"))
}

// alone goes back to the operator's own authority.
func alone(ctx context.Context, proxies ...*peer) {
	GinkgoHelper()
	before := getMesh(ctx)
	after := before.DeepCopy()
	after.Spec.CertificateAuthority = nil
	Expect(user.Patch(ctx, after, client.MergeFrom(before))).To(Succeed())
	steady(ctx)
	for _, p := range proxies {
		Expect(rootsIn(bundleOf(p))).To(Equal(1))
	}
}

// holdsCertificate waits until a pod that is created now has a certificate of the root.
func holdsCertificate(ctx context.Context, proxy *peer, account string, root []byte) {
	GinkgoHelper()
	namespace := proxy.pod.Namespace
	createPod(ctx, newPod(namespace, account, account, ""))
	Eventually(func(g Gomega) {
		c := proxy.has(wire.KindCertificate, namespace+"/"+account).Certificate
		g.Expect(c).NotTo(BeNil())
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AppendCertsFromPEM(root)
		between.AppendCertsFromPEM([]byte(c.Chain))
		block, _ := pem.Decode([]byte(c.Chain))
		leaf, err := x509.ParseCertificate(block.Bytes)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		g.Expect(err).NotTo(HaveOccurred())
	}).Should(Succeed())
}

var _ = Describe("A certificate authority from elsewhere", func() {
	trusted := func(p *peer) func() string { return func() string { return bundleOf(p) } }

	It("that is in a user's Secret comes into force step by step, and stays when the Secret goes bad", func(ctx SpecContext) {
		corp := newCorporation()
		proxy := newProxy(ctx, enrolled(ctx), "proxy")
		Eventually(trusted(proxy)).ShouldNot(BeEmpty())
		steady(ctx)
		own := bundleOf(proxy)
		configure(ctx, func(s *meshv1alpha1.MeshSpec) {
			s.CertificateAuthority = &meshv1alpha1.CertificateAuthoritySpec{Secret: meshv1alpha1.AuthoritySecret{Name: "corp-ca"}}
		})
		Eventually(authorityOf).WithArguments(ctx).Should(And(HavePrefix("False/Invalid: spec.certificateAuthority.secret: there is no Secret weft-system/corp-ca"), HaveSuffix("stays in use")))

		By("reading what cannot be used")
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "corp-ca"}, Type: corev1.SecretTypeTLS, Data: corp.secret(true)}
		secret.Data["tls.key"] = corp.secret(true)["tls.key"]
		Expect(user.Create(ctx, secret)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(user.Delete(ctx, secret)).To(Succeed()) })
		Eventually(authorityOf).WithArguments(ctx).Should(And(HavePrefix("False/Invalid: spec.certificateAuthority.secret: Secret weft-system/corp-ca: tls.key: is not the key of"), HaveSuffix("stays in use")))
		Expect(bundleOf(proxy)).To(Equal(own))

		By("reading what can")
		secret.Data = corp.secret(true)
		Expect(user.Update(ctx, secret)).To(Succeed())
		Eventually(trusted(proxy)).Should(Equal(string(corp.root())))
		Eventually(authorityOf).WithArguments(ctx).Should(Equal("True/Accepted: Secret weft-system/corp-ca is the certificate authority"))
		holdsCertificate(ctx, proxy, "first", corp.root())

		By("reading what cannot be used once more")
		secret.Data = corp.secret(false)
		Expect(user.Update(ctx, secret)).To(Succeed())
		Eventually(authorityOf).WithArguments(ctx).Should(ContainSubstring("is not a certificate authority"))
		Expect(bundleOf(proxy)).To(Equal(string(corp.root())))
		holdsCertificate(ctx, proxy, "second", corp.root())
		Expect(meshCondition(ctx, meshv1alpha1.MeshCertificatesValid)()).To(Equal("True/Valid"))
		alone(ctx, proxy)
	})

	It("that cert-manager knows signs an intermediate, and is not needed to issue", func(ctx SpecContext) {
		corp := newCorporation()
		proxy := newProxy(ctx, enrolled(ctx), "proxy")
		Eventually(trusted(proxy)).ShouldNot(BeEmpty())
		steady(ctx)
		own := bundleOf(proxy)
		configure(ctx, func(s *meshv1alpha1.MeshSpec) {
			s.CertificateAuthority = &meshv1alpha1.CertificateAuthoritySpec{IssuerRef: meshv1alpha1.AuthorityIssuer{Name: "corp", Kind: "ClusterIssuer"}}
		})
		Eventually(authorityOf).WithArguments(ctx).Should(HavePrefix("False/Invalid: spec.certificateAuthority.issuerRef: the kind CertificateRequest of cert-manager is not installed"))
		_, err := envtest.InstallCRDs(userConfig, envtest.CRDInstallOptions{Scheme: scheme, Paths: []string{certManagerFile(ctx)}, ErrorIfPathMissing: true})
		Expect(err).NotTo(HaveOccurred())

		By("asking once, whoever leads")
		request := &certmanager.CertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-ca"}}
		present(ctx, request)
		Expect(request.Spec.IsCA).To(BeTrue())
		Expect(request.Spec.IssuerRef).To(Equal(certmanagermeta.IssuerReference{Name: "corp", Kind: "ClusterIssuer", Group: "cert-manager.io"}))
		Eventually(authorityOf).WithArguments(ctx).Should(And(HavePrefix("False/Pending: "), ContainSubstring("is not answered yet"), HaveSuffix("stays in use")))
		first := request.UID
		succeed(nil)
		succeed(startOperator())
		Eventually(authorityOf).WithArguments(ctx).Should(HavePrefix("False/Pending: "))
		present(ctx, request)
		Expect(request.UID).To(Equal(first))
		Expect(bundleOf(proxy)).To(Equal(own))
		// A proxy that is not ready is not waited for, and no kubelet brings this one the next root.
		Eventually(leader().clients).WithArguments("proxy").Should(Equal(1))

		By("getting an answer")
		corp.answer(ctx, request)
		Eventually(trusted(proxy)).Should(Equal(string(corp.root())))
		Eventually(authorityOf).WithArguments(ctx).Should(Equal("True/Accepted: ClusterIssuer corp is the certificate authority"))
		holdsCertificate(ctx, proxy, "first", corp.root())
		ca := &corev1.Secret{}
		Expect(user.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "weft-ca"}, ca)).To(Succeed())
		Expect(ca.Data).NotTo(HaveKey("requested-tls.key"))

		By("being asked for another root, and denied")
		rotate(ctx)
		Eventually(func() bool {
			present(ctx, request)
			return request.UID != first
		}).Should(BeTrue())
		request.Status.Conditions = []certmanager.CertificateRequestCondition{
			{Type: certmanager.CertificateRequestConditionDenied, Status: certmanagermeta.ConditionTrue, Reason: "Policy", Message: "no more CAs"},
		}
		Expect(user.Status().Update(ctx, request)).To(Succeed())
		Eventually(authorityOf).WithArguments(ctx).Should(ContainSubstring("it was denied: no more CAs (Policy)"))
		holdsCertificate(ctx, proxy, "second", corp.root())

		By("being allowed to")
		denied := request.UID
		Expect(user.Delete(ctx, request)).To(Succeed())
		Eventually(func() bool {
			present(ctx, request)
			return request.UID != denied
		}).Should(BeTrue())
		next := newCorporation()
		next.answer(ctx, request)
		Eventually(trusted(proxy)).Should(Equal(string(next.root())))
		Eventually(meshCondition(ctx, meshv1alpha1.MeshRootRotating)).Should(Equal("False/Steady"))
		holdsCertificate(ctx, proxy, "third", next.root())
		alone(ctx, proxy)
	})
})

// certManagerFile is the CRD of cert-manager that the operator uses.
func certManagerFile(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	Expect(err).NotTo(HaveOccurred())
	return filepath.Join(strings.TrimSpace(string(out)), "deploy", "crds", "cert-manager.io_certificaterequests.yaml")
}
