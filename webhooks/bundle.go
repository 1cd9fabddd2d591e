package webhooks

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	admissionregistrationac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// bundleOwner owns the field caBundle and no other: everything else of the configuration belongs to whoever
// has installed it.
const bundleOwner = client.FieldOwner("weft-webhook")

// CacheOptions returns how the informer cache is to hold webhook configurations: ours alone. The operator's
// rights are limited to its name, which RBAC accepts for a list or watch only with exactly this selector.
func CacheOptions() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&admissionregistrationv1.ValidatingWebhookConfiguration{}: {
			Field: fields.OneTermEqualSelector(metav1.ObjectNameField, ConfigurationName),
		},
	}
}

// Bundle keeps the roots by which API servers verify the webhook in its configuration. While roots are being
// exchanged it has both, as the authority's own bundle does.
type Bundle struct {
	// Client reads from a cache with CacheOptions and writes to the API server.
	Client client.Client
	// Roots returns the PEM roots that are trusted now.
	Roots func() string
	// Changed returns a channel that is closed when Roots may answer otherwise.
	Changed func() <-chan struct{}
}

// follow wakes the reconciler when the roots change.
func (b *Bundle) follow(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		for {
			changed := b.Changed()
			queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: ConfigurationName}})
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return nil
}

// Reconcile writes the roots where they are missing or others. A configuration that does not exist is not
// made: who has not installed it does not want to be asked.
func (b *Bundle) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var configuration admissionregistrationv1.ValidatingWebhookConfiguration
	if err := b.Client.Get(ctx, request.NamespacedName, &configuration); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	roots := []byte(b.Roots())
	if !slices.ContainsFunc(configuration.Webhooks, func(w admissionregistrationv1.ValidatingWebhook) bool {
		return !bytes.Equal(w.ClientConfig.CABundle, roots)
	}) {
		return reconcile.Result{}, nil
	}
	// The UID keeps a configuration that was deleted meanwhile from coming back as nothing but roots.
	wanted := admissionregistrationac.ValidatingWebhookConfiguration(configuration.Name).WithUID(configuration.UID)
	for _, w := range configuration.Webhooks {
		wanted.WithWebhooks(admissionregistrationac.ValidatingWebhook().WithName(w.Name).
			WithClientConfig(admissionregistrationac.WebhookClientConfig().WithCABundle(roots...)))
	}
	if err := b.Client.Apply(ctx, wanted, bundleOwner, client.ForceOwnership); err != nil {
		return reconcile.Result{}, fmt.Errorf("write the webhook's roots: %w", err)
	}
	return reconcile.Result{}, nil
}

var _ reconcile.Reconciler = (*Bundle)(nil)
