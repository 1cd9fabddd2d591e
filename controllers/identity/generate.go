package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	rootLifetime         = 10 * 365 * 24 * time.Hour
	intermediateLifetime = 365 * 24 * time.Hour
	// caSkew backdates an authority, so that a peer whose clock is behind accepts it.
	caSkew = time.Hour
)

// GenerateCA makes a root and an intermediate (ECDSA P-256) and returns them as the data of a Secret
// of type kubernetes.io/tls, which ParseCA reads.
func GenerateCA(now time.Time) (map[string][]byte, error) {
	root, rootKey, err := generateRoot(now)
	if err != nil {
		return nil, err
	}
	rootKeyPEM, err := encodeKey(rootKey)
	if err != nil {
		return nil, err
	}
	data, err := generateIntermediate(root, rootKey, now)
	if err != nil {
		return nil, err
	}
	data[rootsKey] = []byte(encodeCertificates(root))
	data[rootKeyKey] = []byte(rootKeyPEM)
	return data, nil
}

func generateRoot(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	root, err := sign(authorityTemplate("Weft root", now, rootLifetime), nil, key, key)
	return root, key, err
}

// generateIntermediate makes an intermediate, which ends no later than its root, and returns tls.crt and
// tls.key.
func generateIntermediate(root *x509.Certificate, rootKey crypto.PrivateKey, now time.Time) (map[string][]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := authorityTemplate("Weft intermediate", now, intermediateLifetime)
	template.MaxPathLenZero = true // it signs leaves and no further authority
	if template.NotAfter.After(root.NotAfter) {
		template.NotAfter = root.NotAfter
	}
	issuer, err := sign(template, root, key, rootKey)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		corev1.TLSCertKey:       []byte(encodeCertificates(issuer)),
		corev1.TLSPrivateKeyKey: []byte(keyPEM),
	}, nil
}

func authorityTemplate(name string, now time.Time, lifetime time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Weft"}, CommonName: name},
		NotBefore:             now.Add(-caSkew).Truncate(time.Second),
		NotAfter:              now.Add(lifetime).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// parseRootKey reads the key in ca.key; it must be the root's.
func parseRootKey(root *x509.Certificate, key []byte) (crypto.PrivateKey, error) {
	pair, err := tls.X509KeyPair([]byte(encodeCertificates(root)), key)
	if err != nil {
		return nil, fmt.Errorf("%s is not the key of the issuing root: %w", rootKeyKey, err)
	}
	return pair.PrivateKey, nil
}
