package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// maxRoots bounds the roots that a source may offer: each proxy holds all of them.
const maxRoots = 16

// Offer is a certificate authority that a source other than the operator offers.
type Offer struct {
	// Source names where it is from.
	Source string

	ca    *CA
	roots []*x509.Certificate
	// data is what ParseCA reads.
	data map[string][]byte
}

// Use is what an authority has to issue certificates for.
type Use struct {
	TrustDomain string
	// Names are DNS names of the operator.
	Names []string
}

// FaultError tells what is wrong with an authority that is offered.
type FaultError struct {
	// Key is that of the Secret: tls.crt, tls.key or ca.crt.
	Key string
	Err error
}

// Error implements error. It holds no key material.
func (e *FaultError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FaultError) Unwrap() error { return e.Err }

// ReadOffer reads an authority: tls.crt with the issuing certificate and what links it to a root, tls.key with
// its key, ca.crt with the trusted roots. Without ca.crt, tls.crt has to end with the root.
//
// It is refused with a FaultError unless peers would accept now what it issues, and for nothing that it says of
// itself: a certificate is issued to see. The source is a name for later comparison.
func ReadOffer(source string, data map[string][]byte, use Use, now time.Time) (*Offer, error) {
	chain, err := wire.ParseCertificates(string(data[corev1.TLSCertKey]))
	if err != nil {
		return nil, &FaultError{corev1.TLSCertKey, err}
	}
	issuer := chain[0]
	switch {
	case !issuer.BasicConstraintsValid || !issuer.IsCA:
		return nil, &FaultError{corev1.TLSCertKey, fmt.Errorf("%q is not a certificate authority", issuer.Subject)}
	case issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, &FaultError{corev1.TLSCertKey, fmt.Errorf("the key usage of %q does not allow to sign certificates", issuer.Subject)}
	}
	if err := keyOf(issuer, data); err != nil {
		return nil, &FaultError{corev1.TLSPrivateKeyKey, err}
	}
	roots, err := offeredRoots(chain, data[rootsKey])
	if err != nil {
		return nil, &FaultError{rootsKey, err}
	}
	for key, certificates := range map[string][]*x509.Certificate{corev1.TLSCertKey: chain, rootsKey: roots} {
		if err := usable(certificates, now); err != nil {
			return nil, &FaultError{key, err}
		}
	}
	o, err := newOffer(source, map[string][]byte{
		corev1.TLSCertKey: encode(chain), corev1.TLSPrivateKeyKey: data[corev1.TLSPrivateKeyKey], rootsKey: encode(roots),
	})
	if err == nil {
		err = o.ca.try(use, now)
	}
	if err != nil {
		return nil, &FaultError{corev1.TLSCertKey, err}
	}
	return o, nil
}

// newOffer reads what ReadOffer has made.
func newOffer(source string, data map[string][]byte) (*Offer, error) {
	ca, err := ParseCA(data)
	if err != nil {
		return nil, err
	}
	roots, err := decodeCertificates(data[rootsKey])
	if err != nil {
		return nil, err
	}
	return &Offer{Source: source, ca: ca, roots: roots, data: data}, nil
}

// differs tells whether the offer is another authority than the one that issues.
func (o *Offer) differs(a *Authority) bool {
	return o.Source != a.Source || !o.ca.issuer.Equal(a.CA.issuer) || !same(o.roots, a.kept())
}

// keyOf tells what is wrong with the key of an issuing certificate.
func keyOf(issuer *x509.Certificate, data map[string][]byte) error {
	if len(bytes.TrimSpace(data[corev1.TLSPrivateKeyKey])) == 0 {
		return errors.New("is empty")
	}
	if _, err := tls.X509KeyPair([]byte(encodeCertificates(issuer)), data[corev1.TLSPrivateKeyKey]); err != nil {
		return fmt.Errorf("is not the key of %q: %w", issuer.Subject, err)
	}
	return nil
}

// offeredRoots returns the roots of a bundle, without repetitions; without a bundle the last certificate of the
// chain, if that is one.
func offeredRoots(chain []*x509.Certificate, bundle []byte) ([]*x509.Certificate, error) {
	if len(bytes.TrimSpace(bundle)) == 0 {
		last := chain[len(chain)-1]
		if last.CheckSignatureFrom(last) != nil {
			return nil, fmt.Errorf("is empty, and %s does not end with a root", corev1.TLSCertKey)
		}
		return []*x509.Certificate{last}, nil
	}
	all, err := wire.ParseCertificates(string(bundle))
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for _, c := range all {
		if !c.IsCA {
			return nil, fmt.Errorf("%q is not a certificate authority", c.Subject)
		}
		if !slices.ContainsFunc(roots, c.Equal) {
			roots = append(roots, c)
		}
	}
	if len(roots) > maxRoots {
		return nil, fmt.Errorf("holds %d roots, more than %d", len(roots), maxRoots)
	}
	return roots, nil
}

// usable tells which of the certificates peers refuse for its time or key.
func usable(certificates []*x509.Certificate, now time.Time) error {
	for _, c := range certificates {
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf("%q is not valid before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return fmt.Errorf("%q has expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return wire.CheckKeys(certificates)
}

// try issues certificates and tells why peers would refuse them: a path that is too long, names or usages that
// an authority above does not allow.
func (c *CA) try(use Use, now time.Time) error {
	// Only a proxy's may be used on both sides.
	workload, err := c.Issue(ID{use.TrustDomain, "default", meshv1alpha1.ProxyName, false}, time.Minute, now)
	if err != nil {
		return err
	}
	server, err := c.IssueServing(use.Names, time.Minute, now)
	if err != nil {
		return err
	}
	for _, issued := range []struct {
		chain string
		usage x509.ExtKeyUsage
	}{{workload.Chain, x509.ExtKeyUsageClientAuth}, {workload.Chain, x509.ExtKeyUsageServerAuth}, {server.Chain, x509.ExtKeyUsageServerAuth}} {
		chain, err := decodeCertificates([]byte(issued.chain))
		if err != nil {
			return err
		}
		between := x509.NewCertPool()
		for _, certificate := range chain[1:] {
			between.AddCert(certificate)
		}
		_, err = chain[0].Verify(x509.VerifyOptions{
			Roots: c.trusted, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{issued.usage}, CurrentTime: now,
		})
		if err != nil {
			return fmt.Errorf("what it issues is refused: %w", err)
		}
	}
	return nil
}
