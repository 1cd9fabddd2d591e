// Package identitytest issues certificates for tests, the way the operator's CA does: a root, an
// intermediate, and short-lived leaves with SPIFFE IDs. It must not be used outside tests.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// CA is a certificate authority of one trust domain.
type CA struct {
	TrustDomain string

	root         *x509.Certificate
	intermediate *x509.Certificate
	key          crypto.Signer
}

// NewCA returns an authority with a root of its own.
func NewCA(tb testing.TB, trustDomain string) *CA {
	tb.Helper()
	rootKey, key := newKey(tb), newKey(tb)
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage:  x509.KeyUsageCertSign,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}
	root := sign(tb, template("root"), nil, rootKey.Public(), rootKey)
	return &CA{
		TrustDomain:  trustDomain,
		root:         root,
		intermediate: sign(tb, template("intermediate"), root, key.Public(), rootKey),
		key:          key,
	}
}

// Mesh returns the mesh that trusts this authority and others.
func (ca *CA) Mesh(others ...*CA) *wire.Mesh {
	var bundle strings.Builder
	for _, trusted := range append([]*CA{ca}, others...) {
		bundle.WriteString(encode("CERTIFICATE", trusted.root.Raw))
	}
	return &wire.Mesh{TrustDomain: ca.TrustDomain, TrustBundle: bundle.String()}
}

// Issue returns a certificate for a ServiceAccount that is valid for an hour. Each change may alter the
// leaf before it is signed.
func (ca *CA) Issue(tb testing.TB, namespace, serviceAccount string, changes ...func(*x509.Certificate)) *wire.Certificate {
	tb.Helper()
	id := &url.URL{Scheme: "spiffe", Host: ca.TrustDomain, Path: "/ns/" + namespace + "/sa/" + serviceAccount}
	leaf := &x509.Certificate{
		URIs: []*url.URL{id}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	for _, change := range changes {
		change(leaf)
	}
	key := newKey(tb)
	signed := sign(tb, leaf, ca.intermediate, key.Public(), ca.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatalf("marshal key: %v", err)
	}
	return &wire.Certificate{
		Namespace: namespace, ServiceAccount: serviceAccount, SPIFFEID: id.String(),
		Chain:    encode("CERTIFICATE", signed.Raw) + encode("CERTIFICATE", ca.intermediate.Raw),
		Key:      encode("PRIVATE KEY", der),
		NotAfter: signed.NotAfter,
	}
}

// IssueProxy returns a certificate for the proxy of a namespace, good for both sides of the hop.
func (ca *CA) IssueProxy(tb testing.TB, namespace string, changes ...func(*x509.Certificate)) *wire.Certificate {
	tb.Helper()
	server := func(leaf *x509.Certificate) {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	certificate := ca.Issue(tb, namespace, "weft-proxy", append([]func(*x509.Certificate){server}, changes...)...)
	certificate.Proxy = true
	return certificate
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("generate key: %v", err)
	}
	return key
}

// sign signs template; a nil parent makes it self-signed.
func sign(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatalf("serial number: %v", err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		tb.Fatalf("sign certificate: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parse certificate: %v", err)
	}
	return certificate
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// SelfSigned returns a certificate that vouches for itself.
func SelfSigned(tb testing.TB, id *url.URL) *wire.Certificate {
	tb.Helper()
	key := newKey(tb)
	certificate := sign(tb, &x509.Certificate{
		URIs: []*url.URL{id}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}, nil, key.Public(), key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatalf("marshal key: %v", err)
	}
	return &wire.Certificate{
		SPIFFEID: id.String(), Chain: encode("CERTIFICATE", certificate.Raw), Key: encode("PRIVATE KEY", der),
		NotAfter: certificate.NotAfter,
	}
}
