package identity

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	certmanagermeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

const (
	// requestName is the one name of a CertificateRequest, so that the operator needs rights to no other.
	requestName = "weft-ca"
	// requestedLifetime is that of an intermediate. It is renewed when two thirds of it are over, so that an
	// issuer may be away for a month before anybody notices.
	requestedLifetime = 90 * 24 * time.Hour

	// pendingInterval is how often an answer is looked for, absentInterval whether cert-manager has been
	// installed. retryInterval is how long a request that failed stands, for people to read.
	pendingInterval = time.Second
	absentInterval  = 10 * time.Second
	retryInterval   = time.Minute
)

// issuer asks an issuer of cert-manager for an intermediate, when another is needed than what is in force.
// The key never leaves the operator's namespace, and is kept before anybody is asked: whoever leads next goes
// on with the same request.
func (s *Source) issuer(ctx context.Context, w Wanted) (Found, error) {
	ref := w.Authority.IssuerRef
	found := Found{Field: "spec.certificateAuthority.issuerRef"}
	found.Source, found.Name = issuerName(ref)
	if !s.Keeper.Authority().asks(found.Source, w.Request, s.Now()) {
		return found, nil
	}
	if err := s.Keeper.request(ctx, false); err != nil {
		return found, err
	}
	key := s.Keeper.Authority().Requested()
	if key == "" {
		found.Pending, found.Again = "Secret "+CASecretName+" has to be put right first", pendingInterval
		return found, nil
	}
	request := &certmanager.CertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: requestName}}
	err := s.Client.Get(ctx, client.ObjectKeyFromObject(request), request)
	switch {
	case meta.IsNoMatchError(err):
		found.Fault, found.Again = "the kind CertificateRequest of cert-manager is not installed", absentInterval
		return found, nil
	case apierrors.IsNotFound(err):
		found.Again, found.Pending = pendingInterval, "CertificateRequest "+requestName+" is being made"
		return found, s.ask(ctx, ref, key)
	case err != nil:
		return found, fmt.Errorf("CertificateRequest %s/%s: %w", s.Namespace, requestName, err)
	}
	found.Again = pendingInterval
	switch failed, why := failure(request); {
	case !asksFor(request, ref, key):
		found.Pending = "an earlier CertificateRequest is being replaced"
		return found, s.withdraw(ctx, request)
	case failed:
		found.Fault = fmt.Sprintf("CertificateRequest %s/%s: %s", s.Namespace, requestName, why)
	case len(request.Status.Certificate) == 0:
		found.Pending = fmt.Sprintf("CertificateRequest %s/%s is not answered yet%s", s.Namespace, requestName, why)
		return found, nil
	default:
		found.Offer, err = ReadOffer(found.Source, map[string][]byte{
			corev1.TLSCertKey: request.Status.Certificate, corev1.TLSPrivateKeyKey: []byte(key), rootsKey: request.Status.CA,
		}, w.Use, s.Now())
		if err == nil {
			return found, nil
		}
		found.Fault = fmt.Sprintf("CertificateRequest %s/%s was answered with what cannot be used: %v", s.Namespace, requestName, err)
	}
	if s.Now().Sub(request.CreationTimestamp.Time) < retryInterval {
		return found, nil
	}
	if err := s.withdraw(ctx, request); err != nil {
		return found, err
	}
	return found, s.Keeper.request(ctx, true)
}

// asks tells whether an issuer has to be asked: what issues is not from it or is due, or somebody wants another.
func (a *Authority) asks(source, request string, now time.Time) bool {
	if a.Phase == DistributingTrust && a.next.source == source {
		return false // what it has signed is on its way
	}
	return a.Source != source || due(a.CA.issuer, now) || request != "" && request != a.Handled
}

// ask makes the request for a key.
func (s *Source) ask(ctx context.Context, ref meshv1alpha1.AuthorityIssuer, key string) error {
	signer, err := privateKey(key)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"Weft"}, CommonName: "Weft intermediate"},
	}, signer)
	if err != nil {
		return fmt.Errorf("sign certificate request: %w", err)
	}
	request := &certmanager.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: requestName,
			Labels: map[string]string{meshv1alpha1.ComponentLabel: "ca", managedByLabel: project, partOfLabel: project},
		},
		Spec: certmanager.CertificateRequestSpec{
			Request:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			IsCA:      true,
			Usages:    []certmanager.KeyUsage{certmanager.UsageDigitalSignature, certmanager.UsageCertSign, certmanager.UsageCRLSign},
			Duration:  &metav1.Duration{Duration: requestedLifetime},
			IssuerRef: issuerReference(ref),
		},
	}
	if err := s.Client.Create(ctx, request, client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("CertificateRequest %s/%s: %w", s.Namespace, requestName, err)
	}
	return nil
}

func issuerReference(ref meshv1alpha1.AuthorityIssuer) certmanagermeta.IssuerReference {
	return certmanagermeta.IssuerReference{Name: ref.Name, Kind: cmp.Or(ref.Kind, "Issuer"), Group: cmp.Or(ref.Group, "cert-manager.io")}
}

// asksFor tells whether a request is one to this issuer and for this key.
func asksFor(request *certmanager.CertificateRequest, ref meshv1alpha1.AuthorityIssuer, key string) bool {
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil || request.Spec.IssuerRef != issuerReference(ref) {
		return false
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return false
	}
	signer, err := privateKey(key)
	if err != nil {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(parsed.PublicKey)
}

// failure tells whether a request will not be answered, and why; or why it was not yet.
func failure(request *certmanager.CertificateRequest) (failed bool, why string) {
	for _, c := range request.Status.Conditions {
		text := fmt.Sprintf("%s (%s)", c.Message, c.Reason)
		switch {
		case c.Type == certmanager.CertificateRequestConditionDenied && c.Status == certmanagermeta.ConditionTrue:
			return true, "it was denied: " + text
		case c.Type == certmanager.CertificateRequestConditionInvalidRequest && c.Status == certmanagermeta.ConditionTrue:
			return true, "it is invalid: " + text
		case c.Type == certmanager.CertificateRequestConditionReady && c.Status == certmanagermeta.ConditionFalse:
			if c.Reason == certmanager.CertificateRequestReasonFailed || c.Reason == certmanager.CertificateRequestReasonDenied {
				return true, "it failed: " + text
			}
			why = ": " + text
		}
	}
	return false, why
}

// withdraw deletes a request; a new one is made when it is gone.
func (s *Source) withdraw(ctx context.Context, request *certmanager.CertificateRequest) error {
	err := s.Client.Delete(ctx, request, client.Preconditions{UID: &request.UID})
	if err := client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("CertificateRequest %s/%s: %w", s.Namespace, requestName, err)
	}
	return nil
}

// privateKey reads a key that this package has made.
func privateKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("requested key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("requested key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("requested key: %T does not sign", key)
	}
	return signer, nil
}

// request makes sure that there is a key for which an issuer can be asked, or replaces it.
func (k *Keeper) request(ctx context.Context, replace bool) error {
	k.advancing.Lock()
	defer k.advancing.Unlock()
	now := k.Authority()
	if k.Fault() != nil || now.Requested() != "" && !replace {
		return nil
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	secret := now.secret.DeepCopy()
	secret.Data[requestedKey] = []byte(text)
	return k.write(ctx, secret)
}
