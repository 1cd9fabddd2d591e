package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/wire"
)

// serverName is the name under which proxies know the configuration server.
const serverName = "weft-config.weft-system.svc"

// trustDomain is that of a Mesh which does not say.
const trustDomain = "cluster.local"

// certificateLifetime outlives every run.
const certificateLifetime = 24 * time.Hour

// control is the part of the operator that runs: the hub, its server and the certificate authority.
type control struct {
	ca       *identity.CA
	dir      string
	security *tls.Config

	hub     *distribute.Hub
	metrics *prometheus.Registry
	cancel  context.CancelFunc
	served  chan error

	mu      sync.Mutex
	address string
}

// startControl serves an empty hub on loopback. dir is where proxies find the trusted roots and their
// tokens.
func startControl(dir string, log *slog.Logger) (*control, error) {
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	ca, err := identity.ParseCA(data)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	serving, err := ca.IssueServing([]string{serverName}, certificateLifetime, time.Now())
	if err != nil {
		return nil, fmt.Errorf("issue the server's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(serving.Chain), []byte(serving.Key))
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	c := &control{
		ca: ca, dir: dir,
		security: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
	}
	if err := os.WriteFile(c.caFile(), []byte(ca.Bundle()), 0o600); err != nil {
		return nil, fmt.Errorf("write the trusted roots: %w", err)
	}
	return c, c.start(log)
}

// start serves a hub that knows nothing.
func (c *control) start(log *slog.Logger) error {
	listener, err := listen()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.address = listener.Addr().String()
	c.mu.Unlock()
	c.hub = distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{
		distribute.LayerCompiled, distribute.LayerCertificates, distribute.LayerProxies,
	}})
	c.metrics = prometheus.NewRegistry()
	c.metrics.MustRegister(distribute.NewLag(c.hub))
	server := &distribute.Server{
		Hub: c.hub, Authenticator: tokens{}, Metrics: distribute.NewMetrics(c.metrics), Log: logr.FromSlogHandler(log.Handler()),
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	c.cancel, c.served = cancel, served
	go func() { served <- server.Serve(ctx, listener, c.security) }()
	return nil
}

// dial connects a proxy with the server that runs now.
func (c *control) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	c.mu.Lock()
	address := c.address
	c.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// stop ends the server, which ends every stream. Ending it once more does nothing.
func (c *control) stop() error {
	c.cancel()
	err := <-c.served
	c.served <- nil
	return err
}

func (c *control) caFile() string { return filepath.Join(c.dir, "ca.crt") }

// tokenFile returns a file with the token of a namespace's proxy.
func (c *control) tokenFile(namespace string) (string, error) {
	path := filepath.Join(c.dir, "token-"+namespace)
	if err := os.WriteFile(path, []byte(tokenPrefix+namespace), 0o600); err != nil {
		return "", fmt.Errorf("write a token: %w", err)
	}
	return path, nil
}

const tokenPrefix = "proxy-of-"

// tokens stands in for the API server's review of ServiceAccount tokens: each names its namespace.
type tokens struct{}

// Authenticate implements distribute.Authenticator.
func (tokens) Authenticate(_ context.Context, token string) (distribute.Identity, error) {
	namespace, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return distribute.Identity{}, fmt.Errorf("%w: unknown token", distribute.ErrUnauthenticated)
	}
	pod := meshv1alpha1.ProxyName + "-" + namespace
	return distribute.Identity{Kind: distribute.ClientProxy, Namespace: namespace, Pod: pod, PodUID: pod}, nil
}

// certificates issues those of a namespace's proxy and of the ServiceAccount that its clients run as.
func (c *control) certificates(namespace string) ([]wire.Resource, error) {
	var resources []wire.Resource
	for _, account := range []string{meshv1alpha1.ProxyName, ClientAccount} {
		id := identity.ID{TrustDomain: trustDomain, Namespace: namespace, ServiceAccount: account}
		pair, err := c.ca.Issue(id, certificateLifetime, time.Now())
		if err != nil {
			return nil, fmt.Errorf("issue the certificate of %s: %w", id, err)
		}
		certificate := &wire.Certificate{
			Namespace: namespace, ServiceAccount: account, SPIFFEID: id.String(),
			Chain: pair.Chain, Key: pair.Key, NotAfter: pair.NotAfter, Proxy: account == meshv1alpha1.ProxyName,
		}
		resources = append(resources, wire.New(namespace+"/"+account, wire.ScopeNamespace(namespace), wire.Origin{}, certificate))
	}
	return resources, nil
}

// await returns when the proxies of all these namespaces have acknowledged what is published now.
func (c *control) await(ctx context.Context, namespaces []string) error {
	for {
		changed := c.hub.Changed()
		waiting := c.waiting(namespaces)
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-changed:
		case err := <-c.served:
			c.served <- err
			return errors.Join(errors.New("the configuration server has ended"), err)
		case <-ctx.Done():
			return fmt.Errorf("proxies of %s have not acknowledged: %w", strings.Join(waiting, ", "), context.Cause(ctx))
		}
	}
}

// waiting returns the namespaces whose proxies have not acknowledged.
func (c *control) waiting(namespaces []string) []string {
	seq := c.hub.Seq()
	done := map[string]bool{}
	for _, client := range c.hub.Clients() {
		done[client.Namespace] = client.Seq >= seq
	}
	var waiting []string
	for _, namespace := range namespaces {
		if !done[namespace] {
			waiting = append(waiting, namespace)
		}
	}
	return waiting
}

func listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return l, nil
}
