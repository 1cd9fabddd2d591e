package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/wire"
)

const (
	account     = "app"
	trustDomain = "cluster.local"
	// replicas are the shared proxies of a namespace. They are there as well where all pods have proxies of their own.
	replicas = 2
	// operatorAddress is one in every pod, since names are not resolved there.
	operatorAddress = "localhost:15010"
)

var (
	namespaces = []string{"shop", "stock"}
	gateway    = netip.MustParseAddr("10.77.0.1")
)

// The addresses of pods, proxies and Services by the number of their namespace.
func podAddress(namespace, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(namespace + 1), byte(n + 1)})
}

func proxyAddress(namespace, n int) netip.Addr { return podAddress(namespace, 200+n) }

func serviceAddress(namespace int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(namespace + 1)}), 80)
}

func number(namespace int) uint16 { return uint16(wire.MinNumber + namespace) } //nolint:gosec // there are two

// mesh is a lab with the proxies of a placement.
type mesh struct {
	*lab
	sidecars bool
	// apps are the pods of each namespace that are no proxies of it.
	apps [][]*pod
	hub  *distribute.Hub
	ca   *identity.CA
}

// newMesh starts everything and returns once all proxies have their configuration.
func newMesh(ctx context.Context, program string, pods int, sidecars bool) (m *mesh, err error) {
	m = &mesh{sidecars: sidecars, hub: distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{distribute.LayerCompiled}})}
	if m.lab, err = newLab(program); err != nil {
		return nil, err
	}
	if err := m.start(ctx, pods); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, m.complaints())
	}
	return m, nil
}

func (m *mesh) start(ctx context.Context, pods int) error {
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		return err
	}
	if m.ca, err = identity.ParseCA(data); err != nil {
		return err
	}
	caFile := filepath.Join(m.dir, "ca.crt")
	if err := os.WriteFile(caFile, []byte(m.ca.Bundle()), 0o600); err != nil {
		return err
	}
	pair, err := m.ca.IssueServing([]string{"localhost"}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	serving, err := tls.X509KeyPair([]byte(pair.Chain), []byte(pair.Key))
	if err != nil {
		return err
	}
	for i, namespace := range namespaces {
		var apps []*pod
		for n := range pods {
			p, err := m.add(namespace, fmt.Sprintf("app-%d", n), podAddress(i, n))
			if err != nil {
				return err
			}
			if err := m.serve(ctx, p); err != nil {
				return err
			}
			apps = append(apps, p)
		}
		m.apps = append(m.apps, apps)
		for n := range replicas {
			p, err := m.add(namespace, fmt.Sprintf("weft-proxy-%d", n), proxyAddress(i, n))
			if err != nil {
				return err
			}
			p.shared = true
		}
	}
	resources, err := m.resources()
	if err != nil {
		return err
	}
	m.hub.Replace(distribute.LayerCompiled, resources)
	running, stop := context.WithCancel(ctx)
	// The streams end before the proxies do, which are stopped in the reverse order.
	m.closers = append(m.closers, func() error { stop(); return nil })
	server := &distribute.Server{Hub: m.hub, Authenticator: tokens{}}
	started := 0
	for _, p := range m.pods {
		if !p.shared && !m.sidecars {
			continue
		}
		l, err := p.listen(ctx, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 15010))
		if err != nil {
			return err
		}
		go func() {
			_ = server.Serve(running, l, &tls.Config{Certificates: []tls.Certificate{serving}, MinVersion: tls.VersionTLS13})
		}()
		if err := m.run(ctx, p, caFile); err != nil {
			return err
		}
		started++
	}
	if err := m.await(ctx, started); err != nil {
		return err
	}
	return m.apply(m.captures(), m.sidecars)
}

// await waits until so many proxies have acknowledged what is published.
func (m *mesh) await(ctx context.Context, proxies int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		changed := m.hub.Changed()
		clients := m.hub.Clients()
		behind := func(c distribute.Client) bool { return c.Seq < m.hub.Seq() }
		if len(clients) == proxies && !slices.ContainsFunc(clients, behind) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d proxies are connected: %w", len(clients), proxies, ctx.Err())
		}
	}
}

// look asks every proxy what kubelets and Prometheus do, which takes memory that it keeps.
func (m *mesh) look(ctx context.Context) error {
	for _, p := range m.pods {
		if p.proxy == nil {
			continue
		}
		local := &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(address)
				if err != nil {
					return nil, err
				}
				return p.dial(ctx, to)
			},
		}}
		for port, path := range map[int]string{wire.PortHealth: "readyz", wire.PortMetrics: "metrics"} {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/%s", port, path), http.NoBody)
			if err != nil {
				return err
			}
			response, err := local.Do(request)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", path, p.name, err)
			}
			_, err = io.Copy(io.Discard, response.Body)
			if err := errors.Join(err, response.Body.Close()); err != nil || response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s of %s: %s, %w", path, p.name, response.Status, err)
			}
		}
	}
	return nil
}

// complaints are what proxies have written.
func (m *mesh) complaints() string {
	var text strings.Builder
	_ = m.close() // what runs writes no more
	for _, p := range m.pods {
		text.Write(p.output.Bytes())
	}
	return text.String()
}

// resources are what the operator publishes of the two namespaces.
func (m *mesh) resources() ([]wire.Resource, error) {
	var origin wire.Origin
	all := []wire.Resource{wire.New("mesh", wire.ScopeMesh, origin, &wire.Mesh{TrustDomain: trustDomain, TrustBundle: m.ca.Bundle()})}
	beside := map[netip.Addr]types.NamespacedName{}
	for i, namespace := range namespaces {
		scope, key := wire.ScopeNamespace(namespace), wire.ServicePortKey(namespace, "web", 80)
		at := serviceAddress(i).Addr()
		backend := wire.New(key, wire.ScopeMesh, origin, &wire.Backend{
			Namespace: namespace, Service: "web", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true, Addresses: []netip.Addr{at},
		})
		endpoints := &wire.Endpoints{}
		for _, p := range m.apps[i] {
			endpoints.Endpoints = append(endpoints.Endpoints, wire.Endpoint{Address: netip.AddrPortFrom(p.address, appPort), Node: "node"})
			all = append(all, wire.New(p.address.String(), scope, origin, &wire.Workload{
				Address: p.address, Pod: p.name, UID: p.name, Namespace: namespace, ServiceAccount: account, Node: "node",
			}))
			if m.sidecars {
				beside[p.address] = types.NamespacedName{Namespace: namespace, Name: account}
				all = append(all, wire.New(namespace+"/"+p.name, wire.ScopeWorkload(namespace, p.name), origin, &wire.Sidecar{
					Namespace: namespace, Pod: p.name, UID: p.name, ServiceAccount: account, Node: "node",
					Addresses: []netip.Addr{p.address}, Ports: []wire.SidecarPort{{Backend: key, Port: appPort}},
				}))
			}
		}
		known := wire.New(key, scope, origin, endpoints)
		all = append(all, backend, *compile.Speak(&known, &backend, beside),
			wire.New(key, wire.ScopeMesh, origin, &wire.Destination{
				Namespace: namespace, Service: "web", Port: 80, Number: number(i), Addresses: []netip.Addr{at}, Protocol: wire.ProtocolHTTP,
			}),
			wire.New(namespace, wire.ScopeMesh, origin, &wire.Proxies{Proxies: proxies(i)}))
		for _, who := range []string{account, wire.ProxyAccount} {
			id := identity.ID{TrustDomain: trustDomain, Namespace: namespace, ServiceAccount: who, Serves: m.sidecars || who == wire.ProxyAccount}
			pair, err := m.ca.Issue(id, time.Hour, time.Now())
			if err != nil {
				return nil, err
			}
			all = append(all, wire.New(namespace+"/"+who, scope, origin, &wire.Certificate{
				Namespace: namespace, ServiceAccount: who, SPIFFEID: id.String(), Chain: pair.Chain, Key: pair.Key, NotAfter: pair.NotAfter,
				Proxy: who == wire.ProxyAccount,
			}))
		}
	}
	return all, nil
}

func proxies(namespace int) []wire.Proxy {
	var all []wire.Proxy
	for n := range replicas {
		all = append(all, wire.Proxy{Pod: fmt.Sprintf("weft-proxy-%d", n), Node: "node", Addresses: []netip.Addr{proxyAddress(namespace, n)}})
	}
	return all
}

// captures are what the node agent is told.
func (m *mesh) captures() map[string]*wire.Capture {
	all := map[string]*wire.Capture{}
	for i, namespace := range namespaces {
		capture := &wire.Capture{Proxies: proxies(i)}
		for to := range namespaces {
			at := serviceAddress(to)
			capture.Ports = append(capture.Ports, wire.CapturedPort{Address: at.Addr(), Port: at.Port(), Number: number(to)})
		}
		all[namespace] = capture
	}
	return all
}

// token is what a proxy shows to the operator.
func (p *pod) token() string {
	kind := distribute.ClientSidecar
	if p.shared {
		kind = distribute.ClientProxy
	}
	return strings.Join([]string{string(kind), p.namespace, p.name}, "/")
}

// tokens believes every token: nobody else is in the network.
type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (distribute.Identity, error) {
	parts := strings.Split(token, "/")
	if len(parts) != 3 {
		return distribute.Identity{}, distribute.ErrUnauthenticated
	}
	id := distribute.Identity{Kind: distribute.ClientKind(parts[0]), Namespace: parts[1], Pod: parts[2], PodUID: parts[2], Node: "node"}
	if id.Kind == distribute.ClientSidecar {
		id.ServiceAccount = account
	}
	return id, nil
}
