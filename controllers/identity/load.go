package identity

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// CASecretName is the Secret in the operator's namespace that keeps the certificate authority.
const CASecretName = "weft-ca"

// MalformedCAError tells that the Secret of the certificate authority exists and cannot be used. Only
// a person can mend it: a new authority in its place would cut off every workload that trusts the old.
type MalformedCAError struct {
	Secret types.NamespacedName
	Err    error
}

// Error implements error.
func (e *MalformedCAError) Error() string {
	return fmt.Sprintf("secret %s is no certificate authority: %v", e.Secret, e.Err)
}

// Unwrap returns what is wrong with the Secret.
func (e *MalformedCAError) Unwrap() error { return e.Err }

// LoadCA returns the certificate authority that the Secret weft-ca in the namespace keeps, and makes
// one when there is no such Secret. It never changes a Secret that exists; one that cannot be used is
// a MalformedCAError. Operators that start together agree on the one that was written first, for which
// c must not read from a cache.
func LoadCA(ctx context.Context, c client.Client, namespace string, now time.Time) (*CA, error) {
	key := types.NamespacedName{Namespace: namespace, Name: CASecretName}
	var secret corev1.Secret
	err := c.Get(ctx, key, &secret)
	if apierrors.IsNotFound(err) {
		err = createCA(ctx, c, key, now, &secret)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	ca, err := ParseCA(secret.Data)
	if err != nil {
		return nil, &MalformedCAError{Secret: key, Err: err}
	}
	return ca, nil
}

// createCA writes a new authority and leaves in secret what is there afterwards, its own or another's.
func createCA(ctx context.Context, c client.Client, key types.NamespacedName, now time.Time, secret *corev1.Secret) error {
	data, err := GenerateCA(now)
	if err != nil {
		return err
	}
	*secret = corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace,
			Name:      key.Name,
			Labels: map[string]string{
				meshv1alpha1.ComponentLabel: "ca",
				managedByLabel:              project,
				partOfLabel:                 project,
			},
		},
		Type: corev1.SecretTypeTLS,
		Data: data,
	}
	err = c.Create(ctx, secret, client.FieldOwner(fieldOwner))
	if apierrors.IsAlreadyExists(err) {
		return c.Get(ctx, key, secret)
	}
	return err
}
