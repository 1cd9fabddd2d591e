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
