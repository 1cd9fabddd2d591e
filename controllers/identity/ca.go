package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

const (
	// rootsKey holds the PEM certificates of all trusted roots, as cert-manager names it. The issuing
	// certificate and its key are under tls.crt and tls.key.
	rootsKey = "ca.crt"
	// rootKeyKey holds the self-made root's private key, which signs the next intermediate.
	rootKeyKey = "ca.key"

	// ClockSkew is how far before its issue a leaf becomes valid, so that a peer whose clock is behind
	// accepts it.
	ClockSkew = 5 * time.Minute
)

// CA issues certificates. It is immutable and safe for concurrent use.
type CA struct {
	roots   string
	trusted *x509.CertPool
	// root is the one that issuer leads to.
	root     *x509.Certificate
	issuer   *x509.Certificate
	key      crypto.PrivateKey
	chain    string
	notAfter time.Time
}

// KeyPair is a certificate with its private key, both in PEM.
type KeyPair struct {
	// Chain holds the leaf, then the intermediates; roots are never sent.
	Chain string
	// Key is PKCS #8.
	Key string
	// NotAfter is the leaf's.
	NotAfter time.Time
}

// ParseCA reads a CA from a Secret's data: ca.crt with one or more trusted roots, tls.crt with the
// issuing certificate and what links it to a root, tls.key with its key. So a Secret that cert-manager
// wrote is as good as one of GenerateCA. The error says what is wrong; it holds no key material.
func ParseCA(data map[string][]byte) (*CA, error) {
	roots, err := decodeCertificates(data[rootsKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootsKey, err)
	}
	issuers, err := decodeCertificates(data[corev1.TLSCertKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", corev1.TLSCertKey, err)
	}
	pair, err := tls.X509KeyPair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", corev1.TLSCertKey, corev1.TLSPrivateKeyKey, err)
	}
	issuer := issuers[0]
	if !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%s: %q may not sign certificates", corev1.TLSCertKey, issuer.Subject)
	}
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		trusted.AddCert(c)
	}
	for _, c := range issuers[1:] {
		between.AddCert(c)
	}
	paths, err := issuer.Verify(x509.VerifyOptions{
		Roots:         trusted,
		Intermediates: between,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		// Being expired is no malformation; Issue reports it.
		CurrentTime: issuer.NotBefore,
	})
	if err != nil {
		return nil, fmt.Errorf("%s does not lead to a root of %s: %w", corev1.TLSCertKey, rootsKey, err)
	}
	ca := &CA{
		roots:    encodeCertificates(roots...),
		trusted:  trusted,
		root:     paths[0][len(paths[0])-1],
		issuer:   issuer,
		key:      pair.PrivateKey,
		notAfter: issuer.NotAfter,
	}
	for _, c := range paths[0] {
		if c.NotAfter.Before(ca.notAfter) {
			ca.notAfter = c.NotAfter
		}
		if !slices.ContainsFunc(roots, c.Equal) {
			ca.chain += encodeCertificates(c)
		}
	}
	return ca, nil
}

// Bundle returns the PEM certificates of all trusted roots.
func (c *CA) Bundle() string { return c.roots }

// NotAfter is when the CA can issue no more: the end of the issuing certificate or of one above it.
func (c *CA) NotAfter() time.Time { return c.notAfter }

// Issue makes a certificate and key for a workload. The only name in it is the SPIFFE ID
// (X509-SVID section 2: exactly one URI SAN). Only proxies are servers of the hop, so only the certificates that they have may
// serve: their own, and those of ServiceAccounts whose pods have proxies of their own. Callers know whose they expect. It ends no later than the CA;
// an expired CA is an error.
func (c *CA) Issue(id ID, lifetime time.Duration, now time.Time) (KeyPair, error) {
	template := &x509.Certificate{
		URIs:        []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.Serves || id.ServiceAccount == meshv1alpha1.ProxyName {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return c.issue(template, lifetime, now)
}

// IssueServing makes a certificate and key for a server that is found by DNS names. It carries no
// SPIFFE ID, so that it never passes for a workload.
func (c *CA) IssueServing(names []string, lifetime time.Duration, now time.Time) (KeyPair, error) {
	template := &x509.Certificate{
		DNSNames:    names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return c.issue(template, lifetime, now)
}

// issue completes the template with validity and usage and signs it for a key of its own.
func (c *CA) issue(template *x509.Certificate, lifetime time.Duration, now time.Time) (KeyPair, error) {
	now = now.Truncate(time.Second) // certificates count in seconds (RFC 5280, section 4.1.2.5)
	if !now.Before(c.notAfter) {
		return KeyPair{}, fmt.Errorf("the certificate authority expired at %s", c.notAfter.Format(time.RFC3339))
	}
	template.NotBefore = now.Add(-ClockSkew)
	template.NotAfter = now.Add(lifetime)
	if template.NotAfter.After(c.notAfter) {
		template.NotAfter = c.notAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	key, err := newKey()
	if err != nil {
		return KeyPair{}, err
	}
	leaf, err := sign(template, c.issuer, key, c.key)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{Chain: encodeCertificates(leaf) + c.chain, Key: keyPEM, NotAfter: leaf.NotAfter}, nil
}

// issued tells whether this CA's issuing certificate signed the leaf.
func (c *CA) issued(leaf *x509.Certificate) bool { return leaf.CheckSignatureFrom(c.issuer) == nil }

// vouches tells whether a chain (leaf first) that another authority issued leads to a root that is trusted
// now, as it does while intermediate or root are being exchanged. Like issued it does not ask the time.
func (c *CA) vouches(chain [][]byte, leaf *x509.Certificate) bool {
	between := x509.NewCertPool()
	for _, der := range chain[1:] {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return false
		}
		between.AddCert(certificate)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.trusted, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: leaf.NotBefore.Add(ClockSkew),
	})
	return err == nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// sign makes the certificate that template describes for key's public half. A nil parent makes it
// self-signed.
func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.PrivateKey) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate just signed: %w", err)
	}
	return certificate, nil
}

func encodeKey(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func encodeCertificates(certificates ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certificates {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// decodeCertificates reads at least one PEM certificate and nothing else.
func decodeCertificates(data []byte) ([]*x509.Certificate, error) {
	return wire.ParseCertificates(string(data))
}
