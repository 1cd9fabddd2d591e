package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

const (
	// Component is the value of meshv1alpha1.ComponentLabel on certificate Secrets. Secrets without it
	// are never read or deleted.
	Component = "identity"

	// fieldOwner is the one name under which Weft owns fields of any object.
	fieldOwner = "weft"

	managedByLabel = "app.kubernetes.io/managed-by"
	partOfLabel    = "app.kubernetes.io/part-of"
	project        = "weft"

	// annotationID names the SPIFFE ID in a Secret and annotationNotAfter the end of its certificate
	// (RFC 3339), for people; annotationAccount the ServiceAccount, which the Secret's name may not show.
	annotationID       = meshv1alpha1.GroupName + "/spiffe-id"
	annotationNotAfter = meshv1alpha1.GroupName + "/not-after"
	annotationAccount  = meshv1alpha1.GroupName + "/service-account"
)

// Held is what a Secret holds, as Inspect found it.
type Held struct {
	Secret types.NamespacedName
	// Ours tells that the Secret carries our label.
	Ours bool
	// Account is the ServiceAccount it says to be for.
	Account string
	// Issued is when the certificate was made.
	Issued time.Time
	// Certificate has the content wire.Certificate; it is empty when Fault is set.
	Certificate wire.Resource
	// Serves tells that it is good for a server.
	Serves bool
	// Superseded tells that an authority before this one signed it, which is still trusted: the certificate
	// is to be replaced, and good until then.
	Superseded bool
	// Fault says why the content is of no use to anybody.
	Fault string
}

// Inspect reads a Secret and checks that its certificate, key and annotations belong together and that
// this CA, or one before it that is still trusted, signed it. It does not ask whether the certificate has expired or who needs it: the result
// holds as long as the Secret and the CA do, and Desired judges it cheaply.
func Inspect(ca *CA, secret *corev1.Secret) Held {
	h := Held{
		Secret:  types.NamespacedName{Namespace: secret.Namespace, Name: secret.Name},
		Ours:    secret.Labels[meshv1alpha1.ComponentLabel] == Component,
		Account: secret.Annotations[annotationAccount],
	}
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		h.Fault = fmt.Sprintf("it is malformed: %v", err)
		return h
	}
	leaf := pair.Leaf
	id := secret.Annotations[annotationID]
	h.Superseded = !ca.issued(leaf)
	switch {
	case h.Superseded && !ca.vouches(pair.Certificate, leaf):
		h.Fault = "another authority signed it"
		return h
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != id ||
		leaf.NotAfter.Format(time.RFC3339) != secret.Annotations[annotationNotAfter]:
		h.Fault = "its annotations do not describe it"
		return h
	}
	h.Serves = slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	h.Issued = leaf.NotBefore.Add(ClockSkew)
	h.Certificate = wire.New(
		secret.Namespace+"/"+h.Account,
		wire.ScopeNamespace(secret.Namespace),
		wire.Origin{APIVersion: "v1", Kind: "Secret", Namespace: secret.Namespace, Name: secret.Name},
		&wire.Certificate{
			Namespace:      secret.Namespace,
			ServiceAccount: h.Account,
			SPIFFEID:       id,
			Chain:          string(secret.Data[corev1.TLSCertKey]),
			Key:            string(secret.Data[corev1.TLSPrivateKeyKey]),
			NotAfter:       leaf.NotAfter,
			Proxy:          h.Account == meshv1alpha1.ProxyName,
		})
	return h
}

// unfit returns why the content does not serve as the certificate of id, or "".
func (h Held) unfit(id ID) string {
	if h.Fault != "" {
		return h.Fault
	}
	named := h.Certificate.Certificate.SPIFFEID
	if named != id.String() {
		return "it names " + named
	}
	if h.Account != id.ServiceAccount {
		return fmt.Sprintf("it names %s, for %s", named, h.Account)
	}
	return ""
}

// life is the time from the certificate's issue to its end.
func (h Held) life() time.Duration { return h.Certificate.Certificate.NotAfter.Sub(h.Issued) }

// renewal is when the certificate is to be replaced: between 40 % and 50 % of its life, by a hash of
// the identity, so that certificates issued in one moment are not renewed in one moment.
func (h Held) renewal() time.Time {
	return h.Issued.Add(time.Duration((0.5 - 0.1*h.spread()) * float64(h.life())))
}

// spread is a number between 0 and 1 that is evenly distributed over identities.
func (h Held) spread() float64 {
	sum := sha256.Sum256([]byte(h.Certificate.Certificate.SPIFFEID))
	return float64(binary.BigEndian.Uint64(sum[:])) / math.MaxUint64
}

const serviceAccountKind = "ServiceAccount"

// ownerReferences is how the watch shows an owner.
func ownerReferences(owner types.UID) []metav1.OwnerReference {
	if owner == "" {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: serviceAccountKind, UID: owner}}
}

// applyConfiguration returns the Secret that keeps a certificate, with every field that we own. It goes when
// the ServiceAccount with the UID owner goes, unless that is empty.
func applyConfiguration(request Request, pair KeyPair, owner types.UID) *corev1ac.SecretApplyConfiguration {
	secret := corev1ac.Secret(request.Secret.Name, request.Secret.Namespace).
		WithType(corev1.SecretTypeTLS).
		WithLabels(map[string]string{
			meshv1alpha1.ComponentLabel: Component,
			managedByLabel:              project,
			partOfLabel:                 project,
		}).
		WithAnnotations(map[string]string{
			annotationID:       request.ID.String(),
			annotationAccount:  request.ID.ServiceAccount,
			annotationNotAfter: pair.NotAfter.UTC().Format(time.RFC3339),
		}).
		WithData(map[string][]byte{
			corev1.TLSCertKey:       []byte(pair.Chain),
			corev1.TLSPrivateKeyKey: []byte(pair.Key),
		})
	if owner != "" {
		secret.WithOwnerReferences(metav1ac.OwnerReference().
			WithAPIVersion("v1").WithKind(serviceAccountKind).WithName(request.ID.ServiceAccount).WithUID(owner))
	}
	return secret
}
