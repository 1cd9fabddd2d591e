package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/proxy/wire"
)

// connection is a cluster, as the kubeconfig and the flags have it.
type connection struct {
	// reader and writer are the same client: commands that write say so by using writer.
	reader client.Reader
	writer client.Client
	// namespace is the context's, or what -n says.
	namespace string
	// version returns that of the API server, way leads to proxies.
	version func() (string, error)
	way     func() (proxies.Way, error)
	// logs returns the end of a container's log, or of the one before it.
	logs func(ctx context.Context, pod types.NamespacedName, container string, previous bool) (io.ReadCloser, error)
}

// connectCluster reads the kubeconfig. It asks the cluster nothing.
func (a *app) connectCluster() (*connection, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: a.context}
	overrides.Context.Namespace = a.namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, unreadable(err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, unreadable(err)
	}
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = "kubectl-weft/" + wire.Build
	config.QPS, config.Burst = 50, 100
	config.Timeout = a.timeout
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return strict{next} })
	c, err := client.New(config, client.Options{Scheme: mesh.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &connection{
		reader: c, writer: c, namespace: namespace, logs: logsOf(config),
		way: func() (proxies.Way, error) { return proxies.NewForward(config) },
		version: func() (string, error) {
			d, err := discovery.NewDiscoveryClientForConfig(config)
			if err != nil {
				return "", err
			}
			info, err := d.ServerVersion()
			if err != nil {
				return "", err
			}
			return info.GitVersion, nil
		},
	}, nil
}

// errNoAPIServer is an answer that no API server gives.
var errNoAPIServer = errors.New("what answers there is no Kubernetes API server")

// strict passes on what API servers answer, which is never a page for people: those come from whatever else a kubeconfig
// may lead to, or from what stands before a server that is away.
type strict struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s strict) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := s.next.RoundTrip(req)
	if err == nil && strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		_ = res.Body.Close() // nobody reads it
		return nil, fmt.Errorf("%w: it says %s", errNoAPIServer, res.Status)
	}
	return res, err
}

// WrappedRoundTripper implements net.RoundTripperWrapper of apimachinery, by which client-go finds what can cancel.
func (s strict) WrappedRoundTripper() http.RoundTripper { return s.next }

// maxLogLines bounds what is asked of a log.
const maxLogLines = 5000

func logsOf(config *rest.Config) func(context.Context, types.NamespacedName, string, bool) (io.ReadCloser, error) {
	return func(ctx context.Context, pod types.NamespacedName, container string, previous bool) (io.ReadCloser, error) {
		clients, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		lines := int64(maxLogLines)
		options := &corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &lines, Timestamps: true}
		return clients.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	}
}

// unreadable is an error of the kubeconfig.
func unreadable(err error) error {
	if f := explain(err); f.code == exitUnreachable {
		return f
	}
	return &failure{exitUnreachable, fmt.Errorf("kubeconfig: %w", err), "name another with --kubeconfig or --context, or read files with -f"}
}

// withTimeout bounds what a command asks of a cluster.
func (a *app) withTimeout(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), a.timeout)
}
