package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// Keys of the Secret weft-ca while a root is being exchanged. In every phase ca.crt holds all that is
// trusted and tls.crt and tls.key are what issues, so that whoever knows nothing of phases does right.
const (
	// nextRootKey and nextRootKeyKey hold the root that will issue once everybody trusts it. Its
	// intermediate is made then: the wait may be long.
	nextRootKey    = "next-ca.crt"
	nextRootKeyKey = "next-ca.key"
	// previousRootsKey holds the roots that are to be trusted no more. They are in ca.crt as well until
	// nothing in use was issued under them.
	previousRootsKey = "previous-ca.crt"

	// annotationSince tells when the phase began (RFC 3339).
	annotationSince = meshv1alpha1.GroupName + "/rotation-since"
	// annotationBefore has the fingerprint of the root that the issuing one took the place of.
	annotationBefore = meshv1alpha1.GroupName + "/previous-root"
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

// Step is something to do to an Authority. Each is one write of the Secret.
type Step string

// The steps. None is the empty one.
const (
	None              Step = ""
	RenewIntermediate Step = "RenewIntermediate"
	DistributeTrust   Step = "DistributeTrust"
	SwitchIssuer      Step = "SwitchIssuer"
	DropTrust         Step = "DropTrust"
	Finish            Step = "Finish"
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

	secret   *corev1.Secret
	roots    []*x509.Certificate
	previous []*x509.Certificate
	// rootKey is nil where the root's key is kept elsewhere.
	rootKey crypto.PrivateKey
	// next and nextKey are nil but in phase DistributingTrust.
	next    *x509.Certificate
	nextKey crypto.PrivateKey
}

// Evidence is what is known of those whom a step concerns.
type Evidence struct {
	// Request is the value with which somebody asked for an exchange; empty when nobody has.
	Request string
	// Trusted is the bundle that everybody has acknowledged; empty when there is none of which that can be
	// said.
	Trusted string
	// Issuer is the fingerprint of the issuing certificate under which every certificate in use was issued,
	// and acknowledged by every proxy; empty when there is none of which that can be said.
	Issuer string
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
	}
	if since, err := time.Parse(time.RFC3339, secret.Annotations[annotationSince]); err == nil {
		a.Since = since
	}
	if a.roots, err = decodeCertificates(data[rootsKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", rootsKey, err)
	}
	if key := data[rootKeyKey]; len(key) > 0 {
		if a.rootKey, err = parseRootKey(ca.root, key); err != nil {
			return nil, err
		}
	}
	if len(data[previousRootsKey]) > 0 {
		if a.previous, err = decodeCertificates(data[previousRootsKey]); err != nil {
			return nil, fmt.Errorf("%s: %w", previousRootsKey, err)
		}
		a.Phase = DroppingTrust
		if slices.ContainsFunc(a.roots, a.isPrevious) {
			a.Phase = ReissuingCertificates
		}
	}
	if len(data[nextRootKey]) > 0 {
		if a.next, a.nextKey, err = parseNext(data); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(a.roots, a.next.Equal) {
			return nil, fmt.Errorf("%s is not among the roots of %s", nextRootKey, rootsKey)
		}
		a.Phase = DistributingTrust
	}
	return a, nil
}

func parseNext(data map[string][]byte) (*x509.Certificate, crypto.PrivateKey, error) {
	roots, err := decodeCertificates(data[nextRootKey])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", nextRootKey, err)
	}
	key, err := parseRootKey(roots[0], data[nextRootKeyKey])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", nextRootKeyKey, err)
	}
	return roots[0], key, nil
}

func (a *Authority) isPrevious(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.previous, root.Equal)
}

// follows tells whether a can have come from before by steps, all of which an operator may have missed but
// the last: those who trust before are not cut off by it.
func (a *Authority) follows(before *Authority) bool {
	return slices.ContainsFunc(before.roots, a.CA.root.Equal) ||
		a.secret.Annotations[annotationBefore] == fingerprint(before.CA.root)
}

// due tells whether two thirds of a certificate's life are over: time enough is left for people to notice
// that its replacement failed.
func due(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

// Decide returns what is to be done now. The intermediate is exchanged in one step and at any time, since
// nobody trusts it by itself. An exchange of the root goes from phase to phase on evidence about exactly
// what is in force, never because time has passed: a root leaves only when nothing in use needs it.
//
// It begins when somebody asks with a request that was not handled yet, or by itself when the root is due;
// the latter not where the root's key is kept elsewhere, for then others look after the authority.
func (a *Authority) Decide(e Evidence, now time.Time) Step {
	longer := a.CA.issuer.NotAfter.Before(a.CA.root.NotAfter) && now.Before(a.CA.root.NotAfter)
	switch {
	case a.rootKey != nil && longer && due(a.CA.issuer, now):
		return RenewIntermediate
	case a.Phase == Steady && e.Request != "" && e.Request != a.Handled,
		a.Phase == Steady && a.rootKey != nil && due(a.CA.root, now):
		return DistributeTrust
	case a.Phase == DistributingTrust && e.Trusted == a.CA.Bundle():
		return SwitchIssuer
	case a.Phase == ReissuingCertificates && e.Issuer == a.CA.Fingerprint():
		return DropTrust
	case a.Phase == DroppingTrust && e.Trusted == a.CA.Bundle():
		return Finish
	}
	return None
}

// After returns the Secret as it is after a step. The keys of what is new are made here.
func (a *Authority) After(step Step, request string, now time.Time) (*corev1.Secret, error) {
	secret := a.secret.DeepCopy()
	data := secret.Data
	switch step {
	case RenewIntermediate:
		fresh, err := generateIntermediate(a.CA.root, a.rootKey, now)
		if err != nil {
			return nil, err
		}
		maps.Copy(data, fresh)
		return secret, nil
	case DistributeTrust:
		root, key, err := generateRoot(now)
		if err != nil {
			return nil, err
		}
		keyPEM, err := encodeKey(key)
		if err != nil {
			return nil, err
		}
		data[nextRootKeyKey] = []byte(keyPEM)
		data[nextRootKey] = []byte(encodeCertificates(root))
		data[rootsKey] = []byte(encodeCertificates(append(slices.Clone(a.roots), root)...))
		setAnnotation(secret, meshv1alpha1.RotateRootAnnotation, request)
	case SwitchIssuer:
		fresh, err := generateIntermediate(a.next, a.nextKey, now)
		if err != nil {
			return nil, err
		}
		maps.Copy(data, fresh)
		data[rootKeyKey] = data[nextRootKeyKey]
		delete(data, nextRootKey)
		delete(data, nextRootKeyKey)
		data[previousRootsKey] = []byte(encodeCertificates(a.CA.root))
		setAnnotation(secret, annotationBefore, fingerprint(a.CA.root))
	case DropTrust:
		kept := slices.DeleteFunc(slices.Clone(a.roots), a.isPrevious)
		data[rootsKey] = []byte(encodeCertificates(kept...))
	case Finish:
		delete(data, previousRootsKey)
	case None:
		return secret, nil
	}
	setAnnotation(secret, annotationSince, now.UTC().Format(time.RFC3339))
	return secret, nil
}

func setAnnotation(secret *corev1.Secret, key, value string) {
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Annotations[key] = value
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
