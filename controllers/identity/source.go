package identity

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// secretInterval is how often a user's Secret is looked at. It is asked for instead of watched, because RBAC
// has no "watch one Secret whose name a user chooses": the right to watch would be one to all of them.
const secretInterval = 5 * time.Second

// Source finds what the Mesh names as certificate authority. Only the leader has one.
type Source struct {
	// Client must talk to the API server directly, not to a cache: the operator may get single objects only.
	Client client.Client
	// Keeper keeps the key for which an issuer is asked.
	Keeper *Keeper
	// Namespace is the operator's own.
	Namespace string
	// Now is the clock.
	Now func() time.Time
}

// Wanted is what is asked of a Source.
type Wanted struct {
	// Authority is nil where the operator is to be the authority itself.
	Authority *meshv1alpha1.CertificateAuthoritySpec
	// Request is that of Evidence.
	Request string
	Use     Use
}

// Found is the answer of a Source.
type Found struct {
	// Source is that of Evidence. Name is for people, Field names what of the Mesh's spec they have written.
	Source, Name, Field string
	// RootElsewhere tells that the source cannot be asked for another root.
	RootElsewhere bool
	// Offer is nil while there is nothing that can be used, or nothing new.
	Offer *Offer
	// Fault says what cannot be used, and Pending what is waited for.
	Fault, Pending string
	// Again is when to ask again; zero when that is not needed.
	Again time.Duration
}

// Find looks for what is wanted. The error is one of the API server; what is wrong with an authority is a
// Fault.
func (s *Source) Find(ctx context.Context, w Wanted) (Found, error) {
	switch {
	case w.Authority == nil:
		return Found{}, nil
	case w.Authority.Secret.Name != "":
		return s.secret(ctx, w)
	case w.Authority.IssuerRef.Name != "":
		return s.issuer(ctx, w)
	default:
		return Found{}, nil // the schema refuses it
	}
}

func (s *Source) secret(ctx context.Context, w Wanted) (Found, error) {
	key := types.NamespacedName{Namespace: s.Namespace, Name: w.Authority.Secret.Name}
	found := Found{
		Source: "secret/" + key.Name, Name: "Secret " + key.String(),
		Field: "spec.certificateAuthority.secret", RootElsewhere: true, Again: secretInterval,
	}
	var secret corev1.Secret
	err := s.Client.Get(ctx, key, &secret)
	switch {
	case apierrors.IsNotFound(err):
		found.Fault = "there is no " + found.Name
		return found, nil
	case err != nil:
		return found, fmt.Errorf("%s: %w", found.Name, err)
	case secret.Type != corev1.SecretTypeTLS:
		found.Fault = fmt.Sprintf("%s is of type %q, want %q", found.Name, secret.Type, corev1.SecretTypeTLS)
		return found, nil
	}
	if found.Offer, err = ReadOffer(found.Source, secret.Data, w.Use, s.Now()); err != nil {
		found.Fault = fmt.Sprintf("%s: %v", found.Name, err)
	}
	return found, nil
}

// issuerName returns how an issuer is named for comparison and for people.
func issuerName(ref meshv1alpha1.AuthorityIssuer) (source, name string) {
	group, kind := cmp.Or(ref.Group, "cert-manager.io"), cmp.Or(ref.Kind, "Issuer")
	return "issuer/" + group + "/" + kind + "/" + ref.Name, kind + " " + ref.Name
}
