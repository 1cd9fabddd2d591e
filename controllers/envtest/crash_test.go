package envtest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// understand expects that proxies accept each other with what they have in force now.
func understand(proxies ...*peer) {
	GinkgoHelper()
	for _, caller := range proxies {
		certificate := caller.has(wire.KindCertificate, caller.pod.Namespace+"/"+meshv1alpha1.ProxyName).Certificate
		if certificate == nil {
			continue // it is not ready yet
		}
		pair, err := tls.X509KeyPair([]byte(certificate.Chain), []byte(certificate.Key))
		Expect(err).NotTo(HaveOccurred())
		between := x509.NewCertPool()
		between.AppendCertsFromPEM([]byte(certificate.Chain))
		for _, callee := range proxies {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(bundleOf(callee)))
			_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			Expect(err).NotTo(HaveOccurred(), "%s refuses %s", callee.pod.Namespace, caller.pod.Namespace)
		}
	}
}

// takeOver lets another operator lead in place of one that has crashed, which has kept its lease.
func takeOver(ctx context.Context) {
	GinkgoHelper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-operator"}}
	succeed(nil)
	Expect(client.IgnoreNotFound(user.Delete(ctx, lease))).To(Succeed())
	succeed(startOperator())
}

var _ = Describe("An operator that crashes during an exchange of the root", func() {
	steps := []string{"DistributingTrust", "ReissuingCertificates", "DroppingTrust", "Steady"}
	writes := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/namespaces/"+systemNamespace+"/secrets/weft-ca")
	}
	for name, written := range map[string]bool{"before each step is written": false, "after each step was written": true} {
		It(name+" is followed by one that goes on", func(ctx SpecContext) {
			one, two := newProxy(ctx, enrolled(ctx), "proxy"), newProxy(ctx, enrolled(ctx), "proxy")
			// They take traffic, so that they are waited for while they have no stream.
			run(ctx, one.pod, "10.2.8.1")
			run(ctx, two.pod, "10.2.8.2")
			authority := func() meshv1alpha1.CertificateAuthorityStatus { return getMesh(ctx).Status.CertificateAuthority }
			Eventually(func() []string { return append(one.keys(wire.KindCertificate), two.keys(wire.KindCertificate)...) }).Should(HaveLen(2))
			Eventually(authority).Should(HaveField("Rotation", "Steady"))
			oldRoot := authority().Roots[0].Fingerprint

			leader().crash(crash{match: writes, nth: 1, written: written})
			value := rotate(ctx)
			for n := range steps {
				Eventually(leader().crashed).Should(BeClosed(), "at step %d", n)
				understand(one, two)
				takeOver(ctx) // from here on what proxies have changes while it is looked at
				if n < len(steps)-1 {
					nth := 1
					if !written {
						nth = 2 // the step that the one before has not written comes first
					}
					leader().crash(crash{match: writes, nth: nth, written: written})
				}
			}
			Eventually(authority).Should(And(HaveField("Rotation", "Steady"), HaveField("RotateRoot", value), HaveField("Roots", HaveLen(1))))
			Expect(authority().Roots[0].Fingerprint).NotTo(Equal(oldRoot))
			Eventually(func() string { return bundleOf(one) }).Should(Equal(bundleOf(two)))
			understand(one, two)
		})
	}
})
