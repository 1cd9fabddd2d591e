// Command weft-operator is Weft's control plane: it compiles the Gateway API into configuration for
// proxies and node agents and keeps what they need in enrolled namespaces. This package holds flags and
// wiring only.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/webhooks"
)

type flags struct {
	namespace, podName, podAddresses string
	proxyImage, nodeImage            string
	proxyHTTPEngine                  string
	configAddress, webhookAddress    string
	webhookCertMode, webhookCertPath string
	metricsAddress, metricsCerts     string
	probeAddress                     string
	leaderElect                      bool
	verbose                          bool
}

// engines are what proxies take for --http-engine; empty is their default. A proxy that is given another does not start,
// and with it the roll-out of a namespace stops.
var engines = []string{"", "weft", "std"}

func main() {
	var f flags
	flag.StringVar(&f.namespace, "namespace", "weft-system", "namespace of the operator")
	flag.StringVar(&f.podName, "pod", os.Getenv("POD_NAME"), "name of the operator's pod")
	flag.StringVar(&f.podAddresses, "pod-addresses", os.Getenv("POD_IPS"), "addresses of the operator's pod, separated by commas")
	flag.StringVar(&f.proxyImage, "proxy-image", os.Getenv("WEFT_PROXY_IMAGE"), "image of the proxies of enrolled namespaces")
	flag.StringVar(&f.proxyHTTPEngine, "proxy-http-engine", os.Getenv("WEFT_PROXY_HTTP_ENGINE"), "what proxies serve and speak HTTP with: weft or std; empty for the proxy's default")
	flag.StringVar(&f.nodeImage, "node-image", os.Getenv("WEFT_NODE_IMAGE"), "image of the node agents, where the operator is to deploy them itself; empty where the installation has")
	flag.StringVar(&f.configAddress, "config-bind-address", fmt.Sprintf(":%d", controllers.ConfigPort), "where the leader serves configuration")
	flag.StringVar(&f.webhookAddress, "webhook-bind-address", fmt.Sprintf(":%d", webhooks.Port), "where every replica answers admission reviews")
	flag.StringVar(&f.webhookCertMode, "webhook-cert-mode", string(webhooks.CertAuto), "whose certificate admission reviews are answered with: self, the operator's own authority, whose roots it writes into the webhook configuration; provided, the one in --webhook-cert-path; or auto, which is provided when there is one")
	flag.StringVar(&f.webhookCertPath, "webhook-cert-path", webhooks.DefaultCertPath, "directory with tls.crt and tls.key for the webhook")
	flag.StringVar(&f.metricsAddress, "metrics-bind-address", ":8443", "where metrics are served, over HTTPS and to authorized clients only; 0 disables")
	flag.StringVar(&f.metricsCerts, "metrics-cert-path", "", "directory with tls.crt and tls.key for metrics; self-signed when empty")
	flag.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081", "where health probes are served")
	flag.BoolVar(&f.leaderElect, "leader-elect", false, "run beside other operators, of which one leads")
	flag.BoolVar(&f.verbose, "verbose", false, "log details")
	flag.Parse()
	if err := run(&f); err != nil {
		fmt.Fprintln(os.Stderr, "weft-operator:", err)
		os.Exit(1)
	}
}

func run(f *flags) error {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client"))

	addresses, err := parseAddresses(f.podAddresses)
	if err != nil {
		return err
	}
	if !slices.Contains(engines, f.proxyHTTPEngine) {
		return fmt.Errorf("--proxy-http-engine %q is none that proxies have; write weft or std", f.proxyHTTPEngine)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gwv1.Install, certmanager.AddToScheme, meshv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("scheme: %w", err)
		}
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	metricsOptions, err := metricsServer(f)
	if err != nil {
		return err
	}
	cacheOptions := cluster.CacheOptions()
	maps.Copy(cacheOptions.ByObject, infra.CacheOptions())
	maps.Copy(cacheOptions.ByObject, webhooks.CacheOptions())
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		Metrics:                       metricsOptions,
		HealthProbeBindAddress:        f.probeAddress,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "weft-operator",
		LeaderElectionNamespace:       f.namespace,
		LeaderElectionReleaseOnCancel: true,
		Logger:                        log,
	})
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	for name, add := range map[string]func(string, healthz.Checker) error{"healthz": mgr.AddHealthzCheck, "readyz": mgr.AddReadyzCheck} {
		if err := add(name, healthz.Ping); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	direct, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	ctx := ctrl.SetupSignalHandler()
	if err := controllers.Setup(ctx, mgr, direct, controllers.Options{
		Namespace:       f.namespace,
		PodName:         f.podName,
		PodAddresses:    addresses,
		ProxyImage:      f.proxyImage,
		ProxyHTTPEngine: f.proxyHTTPEngine,
		ConfigListen:    f.configAddress,
		NodeImage:       f.nodeImage,
		WebhookListen:   f.webhookAddress,
		WebhookCertMode: webhooks.CertMode(f.webhookCertMode),
		WebhookCertPath: f.webhookCertPath,
	}, metrics.Registry); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// metricsServer serves metrics like every kubebuilder operator: over HTTPS, to clients that the API
// server authenticates and authorizes, and without HTTP/2.
func metricsServer(f *flags) (metricsserver.Options, error) {
	opts := metricsserver.Options{
		BindAddress:    f.metricsAddress,
		SecureServing:  true,
		FilterProvider: filters.WithAuthenticationAndAuthorization,
		TLSOpts:        []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	}
	if f.metricsCerts == "" {
		return opts, nil
	}
	watcher, err := certwatcher.New(f.metricsCerts+"/tls.crt", f.metricsCerts+"/tls.key")
	if err != nil {
		return opts, fmt.Errorf("metrics certificate: %w", err)
	}
	opts.TLSOpts = append(opts.TLSOpts, func(c *tls.Config) { c.GetCertificate = watcher.GetCertificate })
	return opts, nil
}

func parseAddresses(list string) ([]netip.Addr, error) {
	var out []netip.Addr
	for text := range strings.SplitSeq(list, ",") {
		if text == "" {
			continue
		}
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--pod-addresses: %w", err)
		}
		out = append(out, address)
	}
	if len(out) == 0 {
		return nil, errors.New("--pod-addresses is empty: clients could not be told where the leader is")
	}
	return out, nil
}
