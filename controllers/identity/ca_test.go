package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/identity"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t *testing.T, now time.Time) *identity.CA {
	t.Helper()
	ca, err := identity.ParseCA(caData(t, now))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func caData(t *testing.T, now time.Time) map[string][]byte {
	t.Helper()
	data, err := identity.GenerateCA(now)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t *testing.T, chain string) []*x509.Certificate {
	t.Helper()
	var certificates []*x509.Certificate
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certificates
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, c)
	}
}

// verify checks a chain as a peer does that has the bundle alone.
func verify(t *testing.T, bundle, chain string, usage x509.ExtKeyUsage, at time.Time) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		t.Fatal("the bundle holds no certificate")
	}
	certificates := parse(t, chain)
	for _, c := range certificates[1:] {
		between.AddCert(c)
	}
	_, err := certificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

func TestIssuedCertificate(t *testing.T) {
	ca := newCA(t, start)
	id := identity.ID{TrustDomain: "example.org", Namespace: "shop", ServiceAccount: "cart.v2"}
	pair, err := ca.Issue(id, time.Hour, start.Add(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair([]byte(pair.Chain), []byte(pair.Key)); err != nil {
		t.Errorf("certificate and key do not belong together: %v", err)
	}
	if block, _ := pem.Decode([]byte(pair.Key)); block.Type != "PRIVATE KEY" {
		t.Errorf("the key is in form %q, want PKCS #8", block.Type)
	}

	chain := parse(t, pair.Chain)
	if len(chain) != 2 {
		t.Fatalf("the chain has %d certificates, want leaf and intermediate", len(chain))
	}
	leaf, intermediate := chain[0], chain[1]
	type content struct {
		URIs                    string
		DNS, Mail               []string
		IPs                     int
		Subject                 string
		NotBefore, NotAfter     time.Time
		Usage                   x509.KeyUsage
		ExtUsage                []x509.ExtKeyUsage
		IsCA, ConstraintsValid  bool
		Curve                   elliptic.Curve
		IntermediateSignsLeaves bool
	}
	got := content{
		DNS: leaf.DNSNames, Mail: leaf.EmailAddresses, IPs: len(leaf.IPAddresses),
		Subject: leaf.Subject.String(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		Usage: leaf.KeyUsage, ExtUsage: leaf.ExtKeyUsage, IsCA: leaf.IsCA,
		ConstraintsValid:        leaf.BasicConstraintsValid,
		Curve:                   leaf.PublicKey.(*ecdsa.PublicKey).Curve,
		IntermediateSignsLeaves: intermediate.IsCA && intermediate.MaxPathLen == 0 && intermediate.MaxPathLenZero,
	}
	for _, u := range leaf.URIs {
		got.URIs += u.String()
	}
	want := content{
		URIs:      "spiffe://example.org/ns/shop/sa/cart.v2",
		NotBefore: start.Add(-identity.ClockSkew), NotAfter: start.Add(time.Hour),
		Usage:            x509.KeyUsageDigitalSignature,
		ExtUsage:         []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ConstraintsValid: true, Curve: elliptic.P256(), IntermediateSignsLeaves: true,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b elliptic.Curve) bool { return a == b })); diff != "" {
		t.Errorf("leaf (-want +got):\n%s", diff)
	}
	if !pair.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("NotAfter = %v, want the leaf's %v", pair.NotAfter, leaf.NotAfter)
	}
	if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, start); err != nil {
		t.Errorf("a peer refuses it as client: %v", err)
	}
	if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageServerAuth, start); err == nil {
		t.Error("it passes for the certificate of a proxy")
	}
	if err := verify(t, newCA(t, start).Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, start); err == nil {
		t.Error("a mesh with another root accepts it")
	}
	if strings.Contains(pair.Chain, ca.Bundle()) {
		t.Error("the chain carries the root")
	}
}

func TestOnlyProxiesServe(t *testing.T) {
	ca := newCA(t, start)
	pair, err := ca.Issue(identity.ID{TrustDomain: "example.org", Namespace: "shop", ServiceAccount: "weft-proxy"}, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	for name, usage := range map[string]x509.ExtKeyUsage{
		"client": x509.ExtKeyUsageClientAuth, "server": x509.ExtKeyUsageServerAuth,
	} {
		if err := verify(t, ca.Bundle(), pair.Chain, usage, start); err != nil {
			t.Errorf("a peer refuses it as %s: %v", name, err)
		}
	}
}

// TestPodsThatServe: the certificate of a ServiceAccount is made anew to serve once a pod of it has a proxy of its own. The
// one before stays in use until then, and one that may serve is not taken back.
func TestPodsThatServe(t *testing.T) {
	ca := newCA(t, start)
	id := identity.ID{TrustDomain: "example.org", Namespace: "shop", ServiceAccount: "cart"}
	serving := id
	serving.Serves = true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1"}, Spec: corev1.PodSpec{ServiceAccountName: "cart"}}
	for name, tc := range map[string]struct {
		beside bool
		held   identity.ID
		issued bool
	}{
		"it has none":                           {held: id},
		"it has one":                            {beside: true, held: id, issued: true},
		"it has one, and the certificate is so": {beside: true, held: serving},
		"it has none any more":                  {held: serving},
	} {
		t.Run(name, func(t *testing.T) {
			state := identity.State{
				CA: ca, TrustDomain: "example.org", Lifetime: time.Hour, Namespaces: []string{"shop"}, Pods: []*corev1.Pod{pod, {ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: corev1.PodSpec{ServiceAccountName: "cart"}}},
				Sidecar: func(p *corev1.Pod) bool { return tc.beside && p == pod },
			}
			plan := identity.Desired(state, []identity.Held{identity.Inspect(ca, makeSecret(t, ca, tc.held, time.Hour, start))}, start)
			issued := slices.IndexFunc(plan.Issue, func(r identity.Request) bool { return r.ID.ServiceAccount == "cart" })
			if got := issued >= 0; got != tc.issued {
				t.Fatalf("to be issued: %+v", plan.Issue)
			}
			if len(plan.Certificates) != 1 {
				t.Errorf("%d certificates are in use, want that of the Secret", len(plan.Certificates))
			}
			if !tc.issued {
				return
			}
			pair, err := ca.Issue(plan.Issue[issued].ID, time.Hour, start)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageServerAuth, start); err != nil {
				t.Errorf("a peer refuses it as a server: %v", err)
			}
		})
	}
}

func TestIssueNearTheEndOfTheAuthority(t *testing.T) {
	ca := newCA(t, start)
	id := identity.ID{TrustDomain: "example.org", Namespace: "shop", ServiceAccount: "cart"}
	pair, err := ca.Issue(id, time.Hour, ca.NotAfter().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !pair.NotAfter.Equal(ca.NotAfter()) {
		t.Errorf("NotAfter = %v, want the authority's end %v", pair.NotAfter, ca.NotAfter())
	}
	if pair, err := ca.Issue(id, time.Hour, ca.NotAfter()); err == nil {
		t.Errorf("an expired authority issued a certificate until %v", pair.NotAfter)
	}
}

func TestServingCertificateIsNoWorkload(t *testing.T) {
	ca := newCA(t, start)
	names := identity.ServiceNames("weft-config", "weft-system")
	pair, err := ca.IssueServing(names, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, pair.Chain)[0]
	wantNames := []string{"weft-config.weft-system.svc", "weft-config.weft-system.svc.cluster.local"}
	if diff := cmp.Diff(wantNames, leaf.DNSNames); diff != "" {
		t.Errorf("DNS names (-want +got):\n%s", diff)
	}
	if len(leaf.URIs) != 0 {
		t.Errorf("it carries the identity %v", leaf.URIs)
	}
	if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageServerAuth, start); err != nil {
		t.Errorf("clients refuse it: %v", err)
	}
	if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, start); err == nil {
		t.Error("it passes for a client's certificate")
	}
}

func TestServingRenewsAtHalfLife(t *testing.T) {
	now, ca := start, newCA(t, start)
	serving := identity.Serving{
		CA: func() *identity.CA { return ca }, Names: []string{"a.example"},
		Lifetime: time.Hour, Now: func() time.Time { return now },
	}
	get := func() *tls.Certificate {
		t.Helper()
		c, err := serving.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	now = start.Add(29 * time.Minute)
	if get() != first {
		t.Error("replaced before half of its life was over")
	}
	now = start.Add(30 * time.Minute)
	second := get()
	if second == first {
		t.Error("not replaced after half of its life")
	}
	ca = newCA(t, start)
	if get() == second {
		t.Error("not replaced although the authority changed")
	}
}

func TestParseCA(t *testing.T) {
	good, other := caData(t, start), caData(t, start)
	leaf, err := newCA(t, start).Issue(identity.ID{TrustDomain: "a", Namespace: "b", ServiceAccount: "c"}, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		change  map[string][]byte
		wantErr string // a part of it; empty for none
	}{
		"as generated": {},
		"root key kept elsewhere": {
			change: map[string][]byte{"ca.key": nil},
		},
		"two roots, during a rotation": {
			change: map[string][]byte{"ca.crt": append(append([]byte(nil), other["ca.crt"]...), good["ca.crt"]...)},
		},
		"the root issues itself": {
			change: map[string][]byte{"tls.crt": good["ca.crt"], "tls.key": good["ca.key"]},
		},
		"no roots": {
			change: map[string][]byte{"ca.crt": nil}, wantErr: "ca.crt: holds no PEM certificate",
		},
		"no certificate": {
			change: map[string][]byte{"tls.crt": []byte("oops")}, wantErr: "tls.crt: holds no PEM certificate",
		},
		"no key": {
			change: map[string][]byte{"tls.key": nil}, wantErr: "tls.crt and tls.key",
		},
		"a key among the roots, which are published": {
			change:  map[string][]byte{"ca.crt": append(append([]byte(nil), good["ca.crt"]...), good["ca.key"]...)},
			wantErr: `ca.crt: holds a PEM block of type "PRIVATE KEY"`,
		},
		"another's key": {
			change: map[string][]byte{"tls.key": other["tls.key"]}, wantErr: "private key does not match public key",
		},
		"another's root": {
			change: map[string][]byte{"ca.crt": other["ca.crt"]}, wantErr: "tls.crt does not lead to a root of ca.crt",
		},
		"a leaf": {
			change:  map[string][]byte{"tls.crt": []byte(leaf.Chain), "tls.key": []byte(leaf.Key)},
			wantErr: "may not sign certificates",
		},
		"truncated": {
			change: map[string][]byte{"tls.crt": good["tls.crt"][:100]}, wantErr: "tls.crt",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			data := maps.Clone(good)
			maps.Copy(data, tc.change)
			ca, err := identity.ParseCA(data)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error = %v, want it to say %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			pair, err := ca.Issue(identity.ID{TrustDomain: "a", Namespace: "b", ServiceAccount: "c"}, time.Hour, start)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(t, ca.Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, start); err != nil {
				t.Errorf("peers refuse what it issues: %v", err)
			}
		})
	}
}

func TestSecretName(t *testing.T) {
	long := strings.Repeat("a", 230)
	cases := map[string]struct{ account, want string }{
		"short":           {"cart", "weft-identity-cart"},
		"dotted":          {"system.cart", "weft-identity-system.cart"},
		"longest that is": {long + "123456789", "weft-identity-" + long + "123456789"},
		"longer":          {long + "1234567890", ""},
		"cut at a dot":    {strings.Repeat("a", 221) + "." + strings.Repeat("b", 30), ""},
		"longest of all":  {strings.Repeat("a", 253), ""},
		"its sibling":     {strings.Repeat("a", 252) + "b", ""},
	}
	seen := map[string]string{}
	for name, tc := range cases {
		got := identity.SecretName(tc.account)
		if tc.want != "" && got != tc.want {
			t.Errorf("%s: SecretName = %q, want %q", name, got, tc.want)
		}
		if len(got) > 253 || strings.Contains(got, ".-") || strings.Contains(got, "-.") {
			t.Errorf("%s: %q (%d characters) is no name for a Secret", name, got, len(got))
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s share the name %q", name, other, got)
		}
		seen[got] = name
	}
}
