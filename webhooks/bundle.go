package webhooks

import (
	"bytes"
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
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
	ours := cache.ByObject{Field: fields.OneTermEqualSelector(metav1.ObjectNameField, ConfigurationName)}
	return map[client.Object]cache.ByObject{
		&admissionregistrationv1.ValidatingWebhookConfiguration{}: ours,
		&admissionregistrationv1.MutatingWebhookConfiguration{}:   ours,
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
	// Mutating is for the configuration of the other kind.
	Mutating bool
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
	roots := []byte(b.Roots())
	wanted, err := b.wanted(ctx, request.NamespacedName, roots)
	if err != nil || wanted == nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if err := b.Client.Apply(ctx, wanted, bundleOwner, client.ForceOwnership); err != nil {
		return reconcile.Result{}, fmt.Errorf("write the webhook's roots: %w", err)
	}
	return reconcile.Result{}, nil
}

// wanted returns what is to be applied; nil if the roots are there. The UID keeps a configuration that was deleted
// meanwhile from coming back as nothing but roots.
func (b *Bundle) wanted(ctx context.Context, name types.NamespacedName, roots []byte) (runtime.ApplyConfiguration, error) {
	same := true
	config := func(has []byte) *admissionregistrationac.WebhookClientConfigApplyConfiguration {
		same = same && bytes.Equal(has, roots)
		return admissionregistrationac.WebhookClientConfig().WithCABundle(roots...)
	}
	var wanted runtime.ApplyConfiguration
	if b.Mutating {
		var configuration admissionregistrationv1.MutatingWebhookConfiguration
		if err := b.Client.Get(ctx, name, &configuration); err != nil {
			return nil, err
		}
		apply := admissionregistrationac.MutatingWebhookConfiguration(configuration.Name).WithUID(configuration.UID)
		for _, w := range configuration.Webhooks {
			apply.WithWebhooks(admissionregistrationac.MutatingWebhook().WithName(w.Name).WithClientConfig(config(w.ClientConfig.CABundle)))
		}
		wanted = apply
	} else {
		var configuration admissionregistrationv1.ValidatingWebhookConfiguration
		if err := b.Client.Get(ctx, name, &configuration); err != nil {
			return nil, err
		}
		apply := admissionregistrationac.ValidatingWebhookConfiguration(configuration.Name).WithUID(configuration.UID)
		for _, w := range configuration.Webhooks {
			apply.WithWebhooks(admissionregistrationac.ValidatingWebhook().WithName(w.Name).WithClientConfig(config(w.ClientConfig.CABundle)))
		}
		wanted = apply
	}
	if same {
		return nil, nil
	}
	return wanted, nil
}

var _ reconcile.Reconciler = (*Bundle)(nil)
