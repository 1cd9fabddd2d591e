package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/controllers/identity"
)

// use is what authorities of these tests have to issue.
var use = identity.Use{TrustDomain: "cluster.local", Names: []string{"weft-config.weft-system.svc"}}

// userRoot is the root of an authority that is not Weft's.
type userRoot struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(90 * year),
	}
}

func curve(t *testing.T, c elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newUserRoot returns a root that changes have bent.
func newUserRoot(t *testing.T, changes ...func(*x509.Certificate)) *userRoot {
	t.Helper()
	r := &userRoot{key: curve(t, elliptic.P256())}
	template := authorityTemplate("corp root")
	for _, change := range changes {
		change(template)
	}
	r.certificate = signed(t, template, template, r.key, r.key)
	return r
}

func signed(t *testing.T, template, parent *x509.Certificate, key, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func pemOf(certificates ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certificates {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func keyPEM(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// intermediate returns the data of a Secret with an authority under the root, which key and changes have bent.
func (r *userRoot) intermediate(t *testing.T, key crypto.Signer, changes ...func(*x509.Certificate)) map[string][]byte {
	t.Helper()
	template := authorityTemplate("corp intermediate")
	for _, change := range changes {
		change(template)
	}
	return map[string][]byte{
		"tls.crt": pemOf(signed(t, template, r.certificate, key, r.key)), "tls.key": keyPEM(t, key), "ca.crt": pemOf(r.certificate),
	}
}

// data returns the data of a Secret with a new intermediate, and other roots to be trusted beside.
func (r *userRoot) data(t *testing.T, others ...*userRoot) map[string][]byte {
	t.Helper()
	data := r.intermediate(t, curve(t, elliptic.P256()))
	for _, other := range others {
		data["ca.crt"] = append(data["ca.crt"], pemOf(other.certificate)...)
	}
	return data
}

func TestReadOffer(t *testing.T) {
	root, other := newUserRoot(t), newUserRoot(t)
	p256 := curve(t, elliptic.P256())
	bent := func(change func(*x509.Certificate)) map[string][]byte { return root.intermediate(t, p256, change) }
	edited := func(edit func(data map[string][]byte)) map[string][]byte {
		data := root.intermediate(t, p256)
		edit(data)
		return data
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	expired := func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) }
	early := func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }
	short := newUserRoot(t, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	narrow := newUserRoot(t, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"corp.example"} })
	closed := newUserRoot(t, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"corp.example"} })

	for name, tc := range map[string]struct {
		data map[string][]byte
		want string // the key at fault and a part of the reason; empty if it is good
	}{
		"good":                          {data: root.data(t)},
		"good, with roots beside":       {data: root.data(t, other, other)},
		"good, with RSA":                {data: root.intermediate(t, strong)},
		"a root that issues":            {data: map[string][]byte{"tls.crt": pemOf(root.certificate), "tls.key": keyPEM(t, root.key)}},
		"a chain that ends with a root": {data: edited(func(d map[string][]byte) { d["tls.crt"] = append(d["tls.crt"], d["ca.crt"]...); delete(d, "ca.crt") })},

		"nothing":                        {data: nil, want: "tls.crt: holds no PEM certificate"},
		"a certificate that is garbage":  {data: edited(func(d map[string][]byte) { d["tls.crt"] = []byte("oops") }), want: "tls.crt: holds no PEM certificate"},
		"a key in place of it":           {data: edited(func(d map[string][]byte) { d["tls.crt"] = d["tls.key"] }), want: `tls.crt: holds a PEM block of type "PRIVATE KEY"`},
		"no key":                         {data: edited(func(d map[string][]byte) { delete(d, "tls.key") }), want: "tls.key: is empty"},
		"a key that is garbage":          {data: edited(func(d map[string][]byte) { d["tls.key"] = []byte("oops") }), want: "tls.key: is not the key"},
		"a key that is cut off":          {data: edited(func(d map[string][]byte) { d["tls.key"] = d["tls.key"][:60] }), want: "tls.key: is not the key"},
		"another certificate's key":      {data: edited(func(d map[string][]byte) { d["tls.key"] = keyPEM(t, curve(t, elliptic.P256())) }), want: "tls.key: is not the key"},
		"expired":                        {data: bent(expired), want: "tls.crt: \"CN=corp intermediate\" has expired"},
		"not valid yet":                  {data: bent(early), want: "tls.crt: \"CN=corp intermediate\" is not valid before"},
		"not a CA":                       {data: bent(func(c *x509.Certificate) { c.IsCA = false }), want: "tls.crt: \"CN=corp intermediate\" is not a certificate authority"},
		"a usage without signing":        {data: bent(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), want: "tls.crt: the key usage"},
		"usages that workloads have not": {data: bent(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), want: "incompatible key usage"},
		"a weak key":                     {data: root.intermediate(t, weak), want: "tls.crt: the key of \"CN=corp intermediate\" is too weak"},
		"a weak curve":                   {data: root.intermediate(t, curve(t, elliptic.P224())), want: "tls.crt: the key of \"CN=corp intermediate\" is too weak"},
		"a path longer than the root's":  {data: short.data(t), want: "too many intermediates"},
		"another trust domain alone":     {data: narrow.data(t), want: "not permitted by any constraint"},
		"other DNS names than ours":      {data: closed.data(t), want: "not permitted by any constraint"},
		"a root that is another's":       {data: edited(func(d map[string][]byte) { d["ca.crt"] = pemOf(other.certificate) }), want: "does not lead to a root of ca.crt"},
		"no root":                        {data: edited(func(d map[string][]byte) { delete(d, "ca.crt") }), want: "ca.crt: is empty, and tls.crt does not end with a root"},
		"a bundle of garbage":            {data: edited(func(d map[string][]byte) { d["ca.crt"] = []byte("oops") }), want: "ca.crt: holds no PEM certificate"},
		"a bundle with garbage":          {data: edited(func(d map[string][]byte) { d["ca.crt"] = append(d["ca.crt"], 0) }), want: "ca.crt: holds bytes that are no text"},
		"a bundle that is cut off":       {data: edited(func(d map[string][]byte) { d["ca.crt"] = append(d["ca.crt"], d["ca.crt"][:80]...) }), want: "ca.crt: 1 of 2 PEM blocks cannot be read"},
		"a bundle with a key":            {data: edited(func(d map[string][]byte) { d["ca.crt"] = append(d["ca.crt"], d["tls.key"]...) }), want: "ca.crt: holds a PEM block"},
		"a bundle with a leaf": {data: edited(func(d map[string][]byte) {
			d["ca.crt"] = append(d["ca.crt"], bent(func(c *x509.Certificate) { c.IsCA = false })["tls.crt"]...)
		}), want: "ca.crt: \"CN=corp intermediate\" is not a certificate authority"},
		"a bundle with a root that is over": {data: root.data(t, newUserRoot(t, expired)), want: "ca.crt: \"CN=corp root\" has expired"},
		"a bundle of far too many":          {data: root.data(t, many(t, 17)...), want: "ca.crt: holds 18 roots"},
	} {
		t.Run(name, func(t *testing.T) {
			offer, err := identity.ReadOffer("secret/corp", tc.data, use, start)
			if tc.want == "" {
				if err != nil || offer == nil {
					t.Errorf("error %v", err)
				}
				return
			}
			var fault *identity.FaultError
			if !errors.As(err, &fault) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "PRIVATE KEY-----") {
				t.Errorf("error %v, want a fault with %q", err, tc.want)
			}
		})
	}
}

func many(t *testing.T, n int) []*userRoot {
	t.Helper()
	roots := make([]*userRoot, n)
	for i := range roots {
		roots[i] = newUserRoot(t)
	}
	return roots
}

func offer(t *testing.T, source string, data map[string][]byte) *identity.Offer {
	t.Helper()
	o, err := identity.ReadOffer(source, data, use, start)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// exchanged gives an authority all the evidence it asks for, and returns the steps that it takes.
func exchanged(t *testing.T, a *identity.Authority, source string, o *identity.Offer) (*identity.Authority, string) {
	t.Helper()
	var steps []string
	for range 10 {
		e := identity.Evidence{Trusted: a.CA.Bundle(), Issuer: a.CA.Fingerprint(), Source: source, Offer: o}
		step := a.Decide(e, start)
		if step == identity.None {
			return a, strings.Join(steps, " ")
		}
		secret, err := a.After(step, e, start)
		if err != nil {
			t.Fatal(err)
		}
		a = parseAuthority(t, secret)
		steps = append(steps, string(step))
	}
	t.Fatalf("it does not come to an end: %q", steps)
	return nil, ""
}

// What an authority does when a user changes where it is from, or what is there.
func TestSourcesOfAnAuthority(t *testing.T) {
	const whole = "DistributeTrust SwitchIssuer DropTrust Finish"
	one, two := newUserRoot(t), newUserRoot(t)
	a := parseAuthority(t, authoritySecret(caData(t, start)))
	fingerprints := func() string {
		var names []string
		for _, root := range a.Roots() {
			name := "other"
			for label, r := range map[string]*userRoot{"one": one, "two": two} {
				if root.Fingerprint == fingerprintOf(r.certificate) {
					name = label
				}
			}
			names = append(names, name)
		}
		return strings.Join(names, " ")
	}
	first := one.data(t)
	for _, tc := range []struct {
		what, source string
		data         map[string][]byte
		steps, roots string
	}{
		{"a Secret is named", "secret/a", first, whole, "one"},
		{"nothing changes", "secret/a", first, "", "one"},
		{"it is renamed", "secret/b", first, "RenewIntermediate", "one"},
		{"it gets another intermediate", "secret/b", one.data(t), "RenewIntermediate", "one"},
		{"a root is added", "secret/b", one.data(t, two), "DistributeTrust SwitchIssuer", "one two"},
		{"the other root issues", "secret/b", two.data(t, one), "RenewIntermediate", "one two"},
		{"a root is taken away", "secret/b", two.data(t), "SwitchIssuer DropTrust Finish", "two"},
		{"nothing can be used", "secret/b", nil, "", "two"},
		{"an issuer has the same root", "issuer/x", two.data(t), "RenewIntermediate", "two"},
		{"it has another", "issuer/x", one.data(t), whole, "one"},
		{"the operator takes over", "", nil, whole, "other"},
	} {
		var o *identity.Offer
		if tc.data != nil {
			o = offer(t, tc.source, tc.data)
		}
		var steps string
		a, steps = exchanged(t, a, tc.source, o)
		if steps != tc.steps || fingerprints() != tc.roots || a.Phase != identity.Steady {
			t.Errorf("%s: steps %q to roots %q in phase %s, want %q to %q", tc.what, steps, fingerprints(), a.Phase, tc.steps, tc.roots)
		}
		if tc.data != nil && a.Source != tc.source {
			t.Errorf("%s: it is from %q, want %q", tc.what, a.Source, tc.source)
		}
		pair, err := a.CA.Issue(makeID("shop", "cart"), time.Hour, start)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(t, a.CA.Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, start); err != nil {
			t.Errorf("%s: what it issues is refused: %v", tc.what, err)
		}
	}
}

// While what is next is only trusted, people may think better of it.
func TestWhatIsOnlyTrustedCanBeReplaced(t *testing.T) {
	mistaken, right := newUserRoot(t), newUserRoot(t)
	steady := parseAuthority(t, authoritySecret(caData(t, start)))
	begin := func(o *identity.Offer) *identity.Authority {
		secret, err := steady.After(identity.DistributeTrust, identity.Evidence{Source: "secret/a", Offer: o}, start)
		if err != nil {
			t.Fatal(err)
		}
		return parseAuthority(t, secret)
	}
	distributing := begin(offer(t, "secret/a", mistaken.data(t)))
	if len(distributing.Roots()) != 2 || distributing.CA.Fingerprint() != steady.CA.Fingerprint() {
		t.Fatalf("%d roots, issuer changed %v", len(distributing.Roots()), distributing.CA.Fingerprint() != steady.CA.Fingerprint())
	}
	fixed := offer(t, "secret/a", right.data(t))
	e := identity.Evidence{Source: "secret/a", Offer: fixed, Trusted: distributing.CA.Bundle()}
	if step := distributing.Decide(e, start); step != identity.DistributeTrust {
		t.Fatalf("step %q, want what is right to be trusted", step)
	}
	secret, err := distributing.After(identity.DistributeTrust, e, start)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(secret.Data["ca.crt"]), string(pemOf(mistaken.certificate))) {
		t.Error("the mistaken root, which has issued nothing, is trusted on")
	}
	after, steps := exchanged(t, parseAuthority(t, secret), "secret/a", fixed)
	if steps != "SwitchIssuer DropTrust Finish" || after.Root().Fingerprint != fingerprintOf(right.certificate) || len(after.Roots()) != 1 {
		t.Errorf("steps %q to %d roots", steps, len(after.Roots()))
	}
	// What is wanted no more does not issue, whoever has acknowledged it; nor while its source is silent.
	if step := distributing.Decide(identity.Evidence{Source: "issuer/x", Trusted: distributing.CA.Bundle()}, start); step != identity.None {
		t.Errorf("step %q towards what is not wanted any more", step)
	}
	if back, steps := exchanged(t, distributing, "", nil); steps != "DistributeTrust SwitchIssuer DropTrust Finish" || len(back.Roots()) != 1 || back.Source != "" {
		t.Errorf("going back took %q to %d roots of %q", steps, len(back.Roots()), back.Source)
	}
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
