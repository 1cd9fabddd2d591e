package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// Keys of the Secret weft-ca beside those of ParseCA. In every phase ca.crt holds all that is trusted and
// tls.crt and tls.key are what issues, so that whoever knows nothing of phases does right.
const (
	// nextRootsKey holds the roots that will be trusted after an exchange, addedRootsKey those of them that are
	// trusted for its sake alone.
	nextRootsKey  = "next-ca.crt"
	addedRootsKey = "added-ca.crt"
	// nextRootKeyKey is the key of the next root where the operator has made it; its intermediate is made when
	// the root issues, since the wait may be long. What another source offers is in the other two.
	nextRootKeyKey = "next-ca.key"
	nextIssuerKey  = "next-tls.crt"
	nextKeyKey     = "next-tls.key"
	// previousRootsKey holds the roots that are to be trusted no more. They are in ca.crt as well until
	// nothing in use was issued under them.
	previousRootsKey = "previous-ca.crt"
	// requestedKey is the key for which an issuer has been asked to sign an intermediate.
	requestedKey = "requested-tls.key"

	// annotationSince tells when the phase began, annotationIssuing when what issues began to (RFC 3339).
	annotationSince   = meshv1alpha1.GroupName + "/rotation-since"
	annotationIssuing = meshv1alpha1.GroupName + "/issuing-since"
	// annotationBefore has the fingerprint of the root that the issuing one took the place of.
	annotationBefore = meshv1alpha1.GroupName + "/previous-root"
	// annotationSource names where what issues is from, annotationNext where what is next is. The operator
	// itself has no name.
	annotationSource = meshv1alpha1.GroupName + "/authority-source"
	annotationNext   = meshv1alpha1.GroupName + "/next-source"
)

// Phase is a step of the exchange of the root. What the Secret holds says which it is.
type Phase string

// The phases, in order. Each but the first ends with evidence from everybody whom it concerns.
const (
	// Steady: one root, nothing under way.
	Steady Phase = "Steady"
	// DistributingTrust: the next root is trusted as well, and issues nothing yet. It ends when everybody
	// has acknowledged that.
	DistributingTrust Phase = "DistributingTrust"
	// ReissuingCertificates: the next root's intermediate issues. It ends when every proxy has
	// acknowledged certificates of it in place of all others.
	ReissuingCertificates Phase = "ReissuingCertificates"
	// DroppingTrust: the previous root is trusted no more. It ends when everybody has acknowledged that.
	DroppingTrust Phase = "DroppingTrust"
)

// Authority is what the Secret weft-ca holds: what issues, what is trusted, and how far an exchange of the
// root has come. It is immutable and safe for concurrent use.
type Authority struct {
	CA    *CA
	Phase Phase
	// Since is when the phase began; zero when that was not noted.
	Since time.Time
	// Handled is the last request that an exchange was begun for.
	Handled string

	// Source names where what issues is from; empty if the operator has made it.
	Source string
	// Issuing is since when it issues; zero when that was not noted.
	Issuing time.Time

	secret *corev1.Secret
	roots  []*x509.Certificate
	// added are those of roots that only the exchange under way has brought, previous those that are to go.
	added, previous []*x509.Certificate
	// rootKey is nil where the root's key is kept elsewhere.
	rootKey crypto.PrivateKey
	// next is nil but in phase DistributingTrust.
	next *next
}

// next is what will issue once everybody trusts it.
type next struct {
	source string
	roots  []*x509.Certificate
	// key is that of the root, where the operator has made it; otherwise offer is what another source offers.
	key   crypto.PrivateKey
	offer *Offer
}

// ParseAuthority reads the Secret. The error says what is wrong; it holds no key material.
func ParseAuthority(secret *corev1.Secret) (*Authority, error) {
	data := secret.Data
	ca, err := ParseCA(data)
	if err != nil {
		return nil, err
	}
	a := &Authority{
		CA: ca, Phase: Steady, secret: secret.DeepCopy(),
		Handled: secret.Annotations[meshv1alpha1.RotateRootAnnotation],
		Source:  secret.Annotations[annotationSource],
		Since:   timeIn(secret, annotationSince),
		Issuing: timeIn(secret, annotationIssuing),
	}
	if a.roots, err = decodeCertificates(data[rootsKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", rootsKey, err)
	}
	if key := data[rootKeyKey]; len(key) > 0 {
		if a.rootKey, err = parseRootKey(ca.root, key); err != nil {
			return nil, err
		}
	}
	for key, field := range map[string]*[]*x509.Certificate{addedRootsKey: &a.added, previousRootsKey: &a.previous} {
		if len(data[key]) > 0 {
			if *field, err = decodeCertificates(data[key]); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if len(a.previous) > 0 {
		a.Phase = DroppingTrust
		if slices.ContainsFunc(a.roots, a.isPrevious) {
			a.Phase = ReissuingCertificates
		}
	}
	if len(data[nextRootsKey]) > 0 {
		if a.next, err = parseNext(secret); err != nil {
			return nil, err
		}
		if !within(a.next.roots, a.roots) {
			return nil, fmt.Errorf("%s is not among the roots of %s", nextRootsKey, rootsKey)
		}
		a.Phase = DistributingTrust
	}
	return a, nil
}

func parseNext(secret *corev1.Secret) (*next, error) {
	data := secret.Data
	n := &next{source: secret.Annotations[annotationNext]}
	var err error
	if n.roots, err = decodeCertificates(data[nextRootsKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", nextRootsKey, err)
	}
	if len(data[nextIssuerKey]) > 0 {
		n.offer, err = newOffer(n.source, map[string][]byte{
			corev1.TLSCertKey: data[nextIssuerKey], corev1.TLSPrivateKeyKey: data[nextKeyKey], rootsKey: data[nextRootsKey],
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nextIssuerKey, err)
		}
		return n, nil
	}
	if n.key, err = parseRootKey(n.roots[0], data[nextRootKeyKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", nextRootKeyKey, err)
	}
	return n, nil
}

func timeIn(secret *corev1.Secret, annotation string) time.Time {
	at, err := time.Parse(time.RFC3339, secret.Annotations[annotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

func (a *Authority) isPrevious(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.previous, root.Equal)
}

// Requested is the key for which an issuer has been asked to sign an intermediate, in PEM; empty when none has.
func (a *Authority) Requested() string { return string(a.secret.Data[requestedKey]) }

// follows tells whether a can have come from before by steps, all of which an operator may have missed but
// the last: those who trust before are not cut off by it.
func (a *Authority) follows(before *Authority) bool {
	return slices.ContainsFunc(before.roots, a.CA.root.Equal) ||
		a.secret.Annotations[annotationBefore] == fingerprint(before.CA.root)
}

// Certificate describes a certificate of an authority.
type Certificate struct {
	// Fingerprint is the SHA-256 of the certificate, in lower-case hexadecimal digits.
	Fingerprint         string
	NotBefore, NotAfter time.Time
	// Issuing tells that what is issued now depends on it.
	Issuing bool
}

// Roots describes all trusted roots.
func (a *Authority) Roots() []Certificate {
	roots := make([]Certificate, len(a.roots))
	for n, root := range a.roots {
		roots[n] = describe(root)
		roots[n].Issuing = root.Equal(a.CA.root)
	}
	return roots
}

// Root describes the root that what is issued now leads to.
func (a *Authority) Root() Certificate { return describe(a.CA.root) }

// Intermediate describes the certificate that issues.
func (a *Authority) Intermediate() Certificate { return describe(a.CA.issuer) }

// Fingerprint is that of the issuing certificate, in the form of Certificate.Fingerprint.
func (c *CA) Fingerprint() string { return fingerprint(c.issuer) }

func describe(c *x509.Certificate) Certificate {
	return Certificate{Fingerprint: fingerprint(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Issuing: true}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// LifeLeft returns 50, 25 or 10 when no more than so many percent of the certificate's life are left, 0
// when it is over, and 100 before.
func (c Certificate) LifeLeft(now time.Time) int {
	left, life := c.NotAfter.Sub(now), c.NotAfter.Sub(c.NotBefore)
	for _, percent := range []int{0, 10, 25, 50} {
		if left <= life/100*time.Duration(percent) {
			return percent
		}
	}
	return 100
}
