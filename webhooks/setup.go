package webhooks

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/identity"
)

// Names that the manifests in config/webhook share.
const (
	// ConfigurationName is the name of the ValidatingWebhookConfiguration and of the MutatingWebhookConfiguration.
	ConfigurationName = "weft-webhook"
	// ServiceName is the name of the Service that leads to every replica of the operator.
	ServiceName = "weft-webhook"
	// Path is where reviews are posted, InjectPath where those of pods are that may be given proxies of their own.
	Path       = "/validate"
	InjectPath = "/inject"
	// Port is where the operator listens.
	Port = 9443

	// DefaultCertPath is where the Operator Lifecycle Manager mounts a certificate.
	DefaultCertPath = "/tmp/k8s-webhook-server/serving-certs"

	servingLifetime = 24 * time.Hour
)

// CertMode says whose certificate the webhook serves with, and with it who keeps caBundle: whoever issues it.
type CertMode string

// The modes.
const (
	// CertSelf is a certificate of the mesh's own authority. The leader writes its roots into the
	// configuration.
	CertSelf CertMode = "self"
	// CertProvided is tls.crt and tls.key in a directory, such as cert-manager, the Operator Lifecycle Manager
	// or an administrator fills. They are read again when they change, and nothing is written.
	CertProvided CertMode = "provided"
	// CertAuto is CertProvided where tls.crt is in the directory when the operator starts, else CertSelf.
	CertAuto CertMode = "auto"
)

// Options configure the webhook.
type Options struct {
	// Namespace is the operator's own.
	Namespace string
	// Listen is the address to listen on, host:port.
	Listen string
	// CertMode says whose certificate is served; empty means CertSelf. CertPath is the directory of a provided one.
	CertMode CertMode
	CertPath string
	// Inject returns what the proxies beside pods are made from.
	Inject func(*meshv1alpha1.Mesh) InjectConfig
	// CA returns the authority that is trusted now. It issues the serving certificate, which every replica
	// has one of its own of, in memory, and exchanges at half of its life.
	CA func() *identity.CA
	// Changed returns a channel that is closed when CA may answer otherwise.
	Changed func() <-chan struct{}
}

// Setup adds the webhook to a manager whose cache has CacheOptions.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	if err := indexRoutes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	mode, err := opts.CertMode.resolve(opts.CertPath)
	if err != nil {
		return err
	}
	get, err := certificates(mgr, mode, opts)
	if err != nil {
		return err
	}
	mgr.GetLogger().Info("webhook certificate", "mode", mode)
	server := &Server{
		Listen: opts.Listen, GetCertificate: get,
		Await: func(ctx context.Context) error { return await(ctx, mgr.GetCache()) },
		Handler: NewHandler(func(ctx context.Context, object metav1.Object) (compile.Snapshot, error) {
			return readPart(ctx, mgr.GetClient(), opts.Namespace, object)
		}, mgr.GetLogger().WithName("webhook")),
		Injector: NewInjector(func(ctx context.Context, namespace string) (compile.Snapshot, error) {
			return readSettings(ctx, mgr.GetClient(), opts.Namespace, namespace)
		}, func(ctx context.Context, name string) (*corev1.Namespace, error) {
			ns := &corev1.Namespace{}
			return ns, mgr.GetAPIReader().Get(ctx, client.ObjectKey{Name: name}, ns)
		}, opts.Inject, mgr.GetLogger().WithName("injection")),
	}
	if err := mgr.Add(server); err != nil {
		return fmt.Errorf("add the webhook: %w", err)
	}
	if err := mgr.AddReadyzCheck("webhook", server.Ready); err != nil {
		return fmt.Errorf("add the webhook's readiness: %w", err)
	}
	if mode == CertProvided {
		return nil // who provides the certificate keeps its roots in the configuration
	}
	bundle := Bundle{Client: mgr.GetClient(), Roots: func() string { return opts.CA().Bundle() }, Changed: opts.Changed}
	validating, mutating := bundle, bundle
	mutating.Mutating = true
	if err := ctrl.NewControllerManagedBy(mgr).Named("webhook").
		For(&admissionregistrationv1.ValidatingWebhookConfiguration{}).
		WatchesRawSource(source.Func(validating.follow)).Complete(&validating); err != nil {
		return fmt.Errorf("webhook controller: %w", err)
	}
	if err := ctrl.NewControllerManagedBy(mgr).Named("injection").
		For(&admissionregistrationv1.MutatingWebhookConfiguration{}).
		WatchesRawSource(source.Func(mutating.follow)).Complete(&mutating); err != nil {
		return fmt.Errorf("injection controller: %w", err)
	}
	return nil
}

// resolve returns CertSelf or CertProvided.
func (m CertMode) resolve(path string) (CertMode, error) {
	switch m {
	case "", CertSelf:
		return CertSelf, nil
	case CertProvided:
		return CertProvided, nil
	case CertAuto:
		switch _, err := os.Stat(filepath.Join(path, corev1.TLSCertKey)); {
		case err == nil:
			return CertProvided, nil
		case os.IsNotExist(err):
			return CertSelf, nil
		default:
			return "", fmt.Errorf("look for a webhook certificate: %w", err)
		}
	default:
		return "", fmt.Errorf("webhook certificate mode %q is none of %s, %s and %s", m, CertSelf, CertProvided, CertAuto)
	}
}

// certificates returns what the server asks for a certificate at each handshake.
func certificates(mgr ctrl.Manager, mode CertMode, opts Options) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if mode == CertSelf {
		serving := &identity.Serving{
			CA: opts.CA, Names: identity.ServiceNames(ServiceName, opts.Namespace), Lifetime: servingLifetime, Now: time.Now,
		}
		return serving.GetCertificate, nil
	}
	watcher, err := certwatcher.New(filepath.Join(opts.CertPath, corev1.TLSCertKey), filepath.Join(opts.CertPath, corev1.TLSPrivateKeyKey))
	if err != nil {
		return nil, fmt.Errorf("webhook certificate in %s: %w", opts.CertPath, err)
	}
	if err := mgr.Add(watcher); err != nil {
		return nil, fmt.Errorf("follow the webhook certificate: %w", err)
	}
	return watcher.GetCertificate, nil
}
