package webhooks

import (
	"context"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/identity"
)

// Names that the manifests in config/webhook share.
const (
	// ConfigurationName is the name of the ValidatingWebhookConfiguration.
	ConfigurationName = "weft-webhook"
	// ServiceName is the name of the Service that leads to every replica of the operator.
	ServiceName = "weft-webhook"
	// Path is where reviews are posted.
	Path = "/validate"
	// Port is where the operator listens.
	Port = 9443

	servingLifetime = 24 * time.Hour
)

// Options configure the webhook.
type Options struct {
	// Namespace is the operator's own.
	Namespace string
	// Listen is the address to listen on, host:port.
	Listen string
	// CA returns the authority that is trusted now. It issues the serving certificate, which every replica
	// has one of its own of, in memory, and exchanges at half of its life.
	CA func() *identity.CA
	// Changed returns a channel that is closed when CA may answer otherwise.
	Changed func() <-chan struct{}
}

// Setup adds the webhook to a manager whose cache has CacheOptions.
func Setup(mgr ctrl.Manager, opts Options) error {
	serving := &identity.Serving{
		CA: opts.CA, Names: identity.ServiceNames(ServiceName, opts.Namespace), Lifetime: servingLifetime, Now: time.Now,
	}
	server := &Server{
		Listen: opts.Listen, GetCertificate: serving.GetCertificate,
		Handler: NewHandler(func(ctx context.Context) (compile.Snapshot, error) {
			s, err := cluster.Declared(ctx, mgr.GetClient())
			s.SystemNamespace = opts.Namespace
			return s, err
		}, mgr.GetLogger().WithName("webhook")),
	}
	if err := mgr.Add(server); err != nil {
		return fmt.Errorf("add the webhook: %w", err)
	}
	if err := mgr.AddReadyzCheck("webhook", server.Ready); err != nil {
		return fmt.Errorf("add the webhook's readiness: %w", err)
	}
	bundle := &Bundle{Client: mgr.GetClient(), Roots: func() string { return opts.CA().Bundle() }, Changed: opts.Changed}
	if err := ctrl.NewControllerManagedBy(mgr).Named("webhook").
		For(&admissionregistrationv1.ValidatingWebhookConfiguration{}).
		WatchesRawSource(source.Func(bundle.follow)).Complete(bundle); err != nil {
		return fmt.Errorf("webhook controller: %w", err)
	}
	return nil
}
