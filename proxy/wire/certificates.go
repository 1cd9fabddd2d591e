package wire

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// ParseCertificates returns the certificates of a PEM text as Mesh.TrustBundle and Certificate.Chain are, at
// least one. Text between blocks is allowed, as RFC 7468 section 2 does. Everything else that is no certificate
// is an error: a block that cannot be read would be a root that is missing, a key a secret in a place that is
// published, and bytes that are no text are no bundle.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	var parsed []*x509.Certificate
	if strings.ContainsFunc(text, func(r rune) bool {
		return r == unicode.ReplacementChar || unicode.IsControl(r) && !unicode.IsSpace(r)
	}) {
		return nil, errors.New("holds bytes that are no text")
	}
	begun := strings.Count(text, "-----BEGIN")
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a PEM block of type %q", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(parsed)+1, err)
		}
		parsed = append(parsed, certificate)
	}
	if len(parsed) == 0 {
		return nil, errors.New("holds no PEM certificate")
	}
	if len(parsed) != begun {
		return nil, fmt.Errorf("%d of %d PEM blocks cannot be read", begun-len(parsed), begun)
	}
	return parsed, nil
}

// The weakest keys that peers accept.
const (
	minRSABits   = 2048
	minCurveBits = 256
)

// CheckKeys refuses certificates with keys that the CA/Browser Forum's baseline requirements, section 6.1.5,
// refuse: RSA below 2048 bits and curves below P-256. Weak hashes never pass x509.Certificate.Verify.
func CheckKeys(certificates []*x509.Certificate) error {
	for _, c := range certificates {
		switch key := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if bits := key.N.BitLen(); bits < minRSABits {
				return fmt.Errorf("the key of %q is too weak: RSA with %d bits", c.Subject, bits)
			}
		case *ecdsa.PublicKey:
			if bits := key.Curve.Params().BitSize; bits < minCurveBits {
				return fmt.Errorf("the key of %q is too weak: ECDSA on %s", c.Subject, key.Curve.Params().Name)
			}
		case ed25519.PublicKey:
		default:
			return fmt.Errorf("the key of %q is of a kind that is not supported", c.Subject)
		}
	}
	return nil
}
