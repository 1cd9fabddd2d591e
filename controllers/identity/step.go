package identity

import (
	"bytes"
	"crypto/x509"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
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

// Evidence is what is known of those whom a step concerns, and of what is wanted.
type Evidence struct {
	// Request is the value with which somebody asked for an exchange; empty when nobody has.
	Request string
	// Trusted is the bundle that everybody has acknowledged; empty when there is none of which that can be
	// said.
	Trusted string
	// Issuer is the fingerprint of the issuing certificate under which every certificate in use was issued,
	// and acknowledged by every proxy; empty when there is none of which that can be said.
	Issuer string
	// Source names where the authority is to be from; empty for the operator itself.
	Source string
	// Offer is what Source offers; nil while it offers nothing that can be used, or nothing new.
	Offer *Offer
}

// due tells whether two thirds of a certificate's life are over: time enough is left for people to notice
// that its replacement failed.
func due(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

// Decide returns what is to be done now. The intermediate is exchanged in one step and at any time, since
// nobody trusts it by itself. An exchange of what is trusted goes from phase to phase on evidence about exactly
// what is in force, never because time has passed: a root leaves only when nothing in use needs it.
//
// It begins when somebody asks with a request that was not handled yet, by itself when the root is due, and
// when the authority is to come from another source or that offers another one. Where an exchange is not over
// nothing but an intermediate is taken up, with one exception: what is trusted beside the present roots, and
// has issued nothing, can be replaced by what is wanted now.
func (a *Authority) Decide(e Evidence, now time.Time) Step {
	switch {
	case a.renews(e, now):
		return RenewIntermediate
	case a.distributes(e, now):
		return DistributeTrust
	case a.switches(e):
		return SwitchIssuer
	case a.Phase == ReissuingCertificates && e.Issuer == a.CA.Fingerprint():
		return DropTrust
	case a.Phase == DroppingTrust && e.Trusted == a.CA.Bundle():
		return Finish
	}
	return None
}

// renews tells whether a new intermediate leads to what is trusted already, and to nothing else.
func (a *Authority) renews(e Evidence, now time.Time) bool {
	if a.takesIntermediate(e) {
		return true
	}
	longer := a.CA.issuer.NotAfter.Before(a.CA.root.NotAfter) && now.Before(a.CA.root.NotAfter)
	return a.Source == "" && a.rootKey != nil && longer && due(a.CA.issuer, now)
}

// takesIntermediate tells whether what is offered leads to what will be trusted in any case.
func (a *Authority) takesIntermediate(e Evidence) bool {
	return a.offered(e) && a.Phase != DistributingTrust && e.Offer.differs(a) && same(e.Offer.roots, a.kept())
}

func (a *Authority) distributes(e Evidence, now time.Time) bool {
	switch {
	case a.Phase == Steady && a.offered(e):
		return e.Offer.differs(a) && !within(e.Offer.roots, a.roots)
	case a.Phase == DistributingTrust && a.offered(e):
		return a.next.offer == nil || e.Offer.Source != a.next.source || !same(e.Offer.roots, a.next.roots)
	case a.Phase == DistributingTrust:
		return e.Source == "" && a.next.source != ""
	case a.Phase == Steady && e.Source == "":
		return a.Source != "" || e.Request != "" && e.Request != a.Handled || a.rootKey != nil && due(a.CA.root, now)
	}
	return false
}

func (a *Authority) switches(e Evidence) bool {
	switch a.Phase {
	case Steady:
		// Roots are only to go, or to go without others coming.
		return a.offered(e) && e.Offer.differs(a) && within(e.Offer.roots, a.roots)
	case DistributingTrust:
		return e.Trusted == a.CA.Bundle() && e.Source == a.next.source
	default:
		return false
	}
}

// offered tells whether the source that is wanted offers something.
func (a *Authority) offered(e Evidence) bool { return e.Offer != nil && e.Offer.Source == e.Source }

// kept returns the roots that stay after the exchange under way.
func (a *Authority) kept() []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(a.roots), a.isPrevious)
}

// After returns the Secret as it is after a step that was decided on evidence. The keys of what is new are made
// here.
func (a *Authority) After(step Step, e Evidence, now time.Time) (*corev1.Secret, error) {
	secret := a.secret.DeepCopy()
	var err error
	switch step {
	case RenewIntermediate:
		err = a.renewIntermediate(secret, e, now)
		setAnnotation(secret, annotationIssuing, now.UTC().Format(time.RFC3339))
		return secret, err
	case DistributeTrust:
		err = a.distributeTrust(secret, e, now)
	case SwitchIssuer:
		err = a.switchIssuer(secret, e, now)
		setAnnotation(secret, annotationIssuing, now.UTC().Format(time.RFC3339))
	case DropTrust:
		secret.Data[rootsKey] = encode(a.kept())
	case Finish:
		delete(secret.Data, previousRootsKey)
	case None:
		return secret, nil
	}
	setAnnotation(secret, annotationSince, now.UTC().Format(time.RFC3339))
	return secret, err
}

func (a *Authority) renewIntermediate(secret *corev1.Secret, e Evidence, now time.Time) error {
	if a.takesIntermediate(e) {
		e.Offer.take(secret)
		setAnnotation(secret, meshv1alpha1.RotateRootAnnotation, e.Request)
		return nil
	}
	fresh, err := generateIntermediate(a.CA.root, a.rootKey, now)
	maps.Copy(secret.Data, fresh)
	return err
}

// distributeTrust adds roots to those that are trusted. What an earlier exchange has added and not used goes.
func (a *Authority) distributeTrust(secret *corev1.Secret, e Evidence, now time.Time) error {
	data := secret.Data
	for _, key := range []string{nextIssuerKey, nextKeyKey, nextRootKeyKey, addedRootsKey} {
		delete(data, key)
	}
	roots := slices.DeleteFunc(slices.Clone(a.roots), func(root *x509.Certificate) bool { return slices.ContainsFunc(a.added, root.Equal) })
	var following []*x509.Certificate
	if a.offered(e) {
		following = e.Offer.roots
		data[nextIssuerKey], data[nextKeyKey] = e.Offer.data[corev1.TLSCertKey], e.Offer.data[corev1.TLSPrivateKeyKey]
		e.Offer.settle(secret)
	} else {
		root, key, err := generateRoot(now)
		if err != nil {
			return err
		}
		keyPEM, err := encodeKey(key)
		if err != nil {
			return err
		}
		following = []*x509.Certificate{root}
		data[nextRootKeyKey] = []byte(keyPEM)
	}
	added := without(following, roots)
	if len(added) > 0 {
		data[addedRootsKey] = encode(added)
	}
	data[nextRootsKey] = encode(following)
	data[rootsKey] = encode(append(roots, added...))
	setAnnotation(secret, annotationNext, e.Source)
	setAnnotation(secret, meshv1alpha1.RotateRootAnnotation, e.Request)
	return nil
}

// switchIssuer lets what is next issue. What it does not lead to goes next; but where the operator has made
// both roots, those that people have added stay.
func (a *Authority) switchIssuer(secret *corev1.Secret, e Evidence, now time.Time) error {
	data := secret.Data
	var previous []*x509.Certificate
	switch {
	case a.Phase == Steady:
		e.Offer.take(secret)
		setAnnotation(secret, meshv1alpha1.RotateRootAnnotation, e.Request)
		previous = without(a.roots, e.Offer.roots)
	case a.next.offer != nil:
		offer := a.next.offer
		if a.offered(e) {
			offer = e.Offer // its roots are the same, its intermediate may be a later one
		}
		offer.take(secret)
		previous = without(a.roots, offer.roots)
	default:
		fresh, err := generateIntermediate(a.next.roots[0], a.next.key, now)
		if err != nil {
			return err
		}
		maps.Copy(data, fresh)
		data[rootKeyKey] = data[nextRootKeyKey]
		setAnnotation(secret, annotationSource, "")
		previous = []*x509.Certificate{a.CA.root}
		if a.Source != "" {
			previous = without(a.roots, a.next.roots)
		}
	}
	for _, key := range []string{nextRootsKey, addedRootsKey, nextRootKeyKey, nextIssuerKey, nextKeyKey} {
		delete(data, key)
	}
	setAnnotation(secret, annotationNext, "")
	if len(previous) > 0 {
		data[previousRootsKey] = encode(previous)
	}
	setAnnotation(secret, annotationBefore, fingerprint(a.CA.root))
	return nil
}

// take makes the offer what issues.
func (o *Offer) take(secret *corev1.Secret) {
	secret.Data[corev1.TLSCertKey] = o.data[corev1.TLSCertKey]
	secret.Data[corev1.TLSPrivateKeyKey] = o.data[corev1.TLSPrivateKeyKey]
	delete(secret.Data, rootKeyKey)
	setAnnotation(secret, annotationSource, o.Source)
	o.settle(secret)
}

// settle forgets the request that the offer is the answer to.
func (o *Offer) settle(secret *corev1.Secret) {
	if bytes.Equal(secret.Data[requestedKey], o.data[corev1.TLSPrivateKeyKey]) {
		delete(secret.Data, requestedKey)
	}
}

func setAnnotation(secret *corev1.Secret, key, value string) {
	if value == "" {
		delete(secret.Annotations, key)
		return
	}
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Annotations[key] = value
}

func encode(certificates []*x509.Certificate) []byte {
	return []byte(encodeCertificates(certificates...))
}

// without returns the certificates that are not among others.
func without(certificates, others []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(certificates), func(c *x509.Certificate) bool { return slices.ContainsFunc(others, c.Equal) })
}

// within tells whether all certificates are among others, same whether they are the same in any order.
func within(certificates, others []*x509.Certificate) bool {
	return len(without(certificates, others)) == 0
}

func same(certificates, others []*x509.Certificate) bool {
	return within(certificates, others) && within(others, certificates)
}
