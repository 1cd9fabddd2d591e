package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

// Options configure a Mesh; all may be left out.
type Options struct {
	// Log receives what proxies and the configuration server have to say.
	Log *slog.Logger
	// Random replaces the source of the proxies' choices, see engine.Options.
	Random func() uint64
	// LeaveGrace is that of the proxies, see engine.Options. Default: next to nothing, since nothing of
	// the harness is late in leaving a proxy.
	LeaveGrace time.Duration
	// HTTP is what the proxies speak HTTP/1.1 with, see engine.Options.
	HTTP engine.HTTPEngine
	// AccessLog, if set, returns where the proxy of a namespace writes lines about requests.
	AccessLog func(namespace string) io.Writer
}

// Mesh is a whole mesh in this process. Its methods may be called at any time, except that nothing may
// be used after Close.
type Mesh struct {
	options Options
	dir     string
	control *control
	network *network
	view    atomic.Pointer[view]
	// dialing is held for reading while a client connects by a view.
	dialing sync.RWMutex
	clients clients
	closing sync.Once

	mu      sync.Mutex
	numbers compile.Numbers
	proxies map[string]*proxy
	// started counts proxies, for their addresses.
	started      int
	certificates map[string][]wire.Resource

	podsMu sync.Mutex
	pods   map[string]*Pod
}

// Start returns a Mesh without objects.
func Start(options Options) (*Mesh, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.LeaveGrace == 0 {
		options.LeaveGrace = time.Millisecond
	}
	dir, err := os.MkdirTemp("", "weft-harness-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	m := &Mesh{
		options: options, dir: dir, network: newNetwork(), proxies: map[string]*proxy{},
		certificates: map[string][]wire.Resource{}, pods: map[string]*Pod{},
	}
	m.view.Store(&view{})
	if m.control, err = startControl(dir, options.Log); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return m, nil
}

// Close ends everything: clients first, then proxies, each after its last request, then pods. A second
// call does nothing.
func (m *Mesh) Close() (err error) {
	m.closing.Do(func() { err = m.close() })
	return err
}

func (m *Mesh) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients.close()
	errs := []error{closeAll(slices.Collect(maps.Values(m.proxies))), m.control.stop()}
	m.podsMu.Lock()
	defer m.podsMu.Unlock()
	for _, pod := range m.pods {
		errs = append(errs, pod.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

// Applied is what came of applying objects.
type Applied struct {
	// Compiled is what the operator makes of them.
	Compiled compile.Result
	// Rejected are the resources that some proxy cannot use and has the previous version of.
	Rejected []distribute.Rejected
}

// Apply makes the objects of a snapshot the whole content of the cluster and returns when every proxy
// has acknowledged. Everything in it that is not an API object is the harness's to fill in. Pods that
// EndpointSlices name are started before; those they do not name any more run on.
func (m *Mesh) Apply(ctx context.Context, s compile.Snapshot) (Applied, error) {
	return m.ApplyEdited(ctx, s, func(resources []wire.Resource) []wire.Resource { return resources })
}

// ApplyEdited is Apply with resources that were edited on their way to the proxies, as an operator of
// another version might make them.
func (m *Mesh) ApplyEdited(ctx context.Context, s compile.Snapshot, edit func([]wire.Resource) []wire.Resource) (Applied, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Numbers, s.TrustBundle, s.SystemNamespace = m.numbers, m.control.ca.Bundle(), "weft-system"
	result := compile.Compile(s)
	m.numbers = result.Numbers
	applied := Applied{Compiled: result}
	if err := m.startPods(s.EndpointSlices); err != nil {
		return applied, err
	}
	left, err := m.changeProxies(result.Enrolled)
	if err != nil {
		return applied, err
	}
	m.control.hub.Replace(distribute.LayerCompiled, edit(result.Resources))
	if err := m.publishProxies(ctx, result.Enrolled); err != nil {
		return applied, err
	}
	applied.Rejected = m.control.hub.Rejections()
	next, err := m.newView(s, result)
	if err != nil {
		return applied, err
	}
	m.view.Store(next)
	// Nobody connects to the proxy of a namespace that left any more, and then it drains.
	m.dialing.Lock()
	m.dialing.Unlock() //nolint:staticcheck // Nothing is to be done once nobody holds it.
	return applied, closeAll(left)
}

// publishProxies tells proxies of each other, and of their certificates, when all have acknowledged
// what they are to serve.
func (m *Mesh) publishProxies(ctx context.Context, enrolled []string) error {
	var certificates []wire.Resource
	for _, namespace := range enrolled {
		certificates = append(certificates, m.certificates[namespace]...)
	}
	m.control.hub.Replace(distribute.LayerCertificates, certificates)
	known := m.view.Load().enrolled
	if err := m.announce(slices.DeleteFunc(slices.Clone(known), func(namespace string) bool {
		return !slices.Contains(enrolled, namespace)
	})); err != nil {
		return err
	}
	if err := m.control.await(ctx, enrolled); err != nil {
		return err
	}
	if err := m.announce(enrolled); err != nil {
		return err
	}
	return m.control.await(ctx, enrolled)
}

// announce publishes where the proxies of namespaces accept the hop.
func (m *Mesh) announce(namespaces []string) error {
	ready, set := map[string][]wire.Proxy{}, map[string]bool{}
	for _, namespace := range namespaces {
		p := m.proxies[namespace]
		if p == nil {
			return fmt.Errorf("namespace %s has no proxy", namespace)
		}
		set[namespace] = true
		ready[namespace] = []wire.Proxy{{Pod: "weft-proxy-" + namespace, Addresses: []netip.Addr{p.address}}}
	}
	m.control.hub.Replace(distribute.LayerProxies, compile.Proxies(ready, set))
	return nil
}

// changeProxies starts the proxies of namespaces that have been enrolled and returns those of
// namespaces that have left.
func (m *Mesh) changeProxies(enrolled []string) (left []*proxy, err error) {
	for _, namespace := range enrolled {
		if m.proxies[namespace] != nil {
			continue
		}
		if m.proxies[namespace], err = m.startProxy(namespace); err != nil {
			delete(m.proxies, namespace)
			return nil, err
		}
	}
	for namespace, p := range m.proxies {
		if !slices.Contains(enrolled, namespace) {
			left = append(left, p)
			delete(m.proxies, namespace)
		}
	}
	return left, nil
}

func (m *Mesh) startProxy(namespace string) (*proxy, error) {
	if m.certificates[namespace] == nil {
		issued, err := m.control.certificates(namespace)
		if err != nil {
			return nil, err
		}
		m.certificates[namespace] = issued
	}
	hop, err := listen()
	if err != nil {
		return nil, err
	}
	m.started++
	// 198.18.0.0/15 is for tests (RFC 2544), so no pod of an example has such an address.
	address := netip.AddrFrom4([4]byte{198, 18, byte(m.started >> 8), byte(m.started)})
	m.network.set(netip.AddrPortFrom(address, wire.PortHop), hop.Addr().String())
	var lines *accesslog.Log
	if m.options.AccessLog != nil {
		lines = accesslog.New(m.options.AccessLog(namespace))
	}
	return startProxy(m.control, engine.Options{
		Namespace: namespace,
		AccessLog: lines,
		Resource:  []attribute.Attribute{attribute.String(attribute.ServiceNamespace, namespace)},
		Source: &wire.Workload{
			Pod: ClientAccount, Namespace: namespace, ServiceAccount: ClientAccount, Node: ClientNode, Zone: ClientZone,
		},
		LeaveGrace: m.options.LeaveGrace,
		Log:        m.options.Log.With("proxy", namespace),
		Dial:       m.network.dial,
		Random:     m.options.Random,
		HTTP:       m.options.HTTP,
	}, address, hop)
}

// StopControl ends the configuration server. Proxies go on by what they have.
func (m *Mesh) StopControl() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control.stop()
}

// RestartControl starts the configuration server again after StopControl, as a new process that knows
// nothing. Proxies have nothing new before the next Apply.
func (m *Mesh) RestartControl() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control.start(m.options.Log)
}

// RenewCertificates issues all certificates anew and returns when every proxy has acknowledged.
func (m *Mesh) RenewCertificates(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for namespace := range m.certificates {
		issued, err := m.control.certificates(namespace)
		if err != nil {
			return err
		}
		m.certificates[namespace] = issued
	}
	return m.publishProxies(ctx, m.view.Load().enrolled)
}

// Metrics returns those of a namespace's proxy, or nil if it has none.
func (m *Mesh) Metrics(namespace string) prometheus.Gatherer {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.proxies[namespace]
	if p == nil {
		return nil
	}
	return p.engine.Metrics().Gatherer()
}

// MetricsHandler serves what Metrics returns, as the proxy itself does, or nil if there is no proxy.
func (m *Mesh) MetricsHandler(namespace string) http.Handler {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.proxies[namespace]
	if p == nil {
		return nil
	}
	return p.engine.Metrics().Handler()
}

// ControlMetrics returns those of the configuration server that runs now.
func (m *Mesh) ControlMetrics() prometheus.Gatherer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control.metrics
}

// Pod returns the pod of that name, as "namespace/name", or nil if no EndpointSlice has named it yet.
func (m *Mesh) Pod(name string) *Pod {
	m.podsMu.Lock()
	defer m.podsMu.Unlock()
	return m.pods[name]
}

// Pods returns all pods that ever were named, sorted.
func (m *Mesh) Pods() []*Pod {
	m.podsMu.Lock()
	defer m.podsMu.Unlock()
	return slices.SortedFunc(maps.Values(m.pods), func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
}

// Even returns a source of numbers for Options.Random that are spread so evenly that few requests show a
// split, where a truly random source needs thousands.
func Even() func() uint64 {
	var next atomic.Uint64
	return func() uint64 {
		// A whole circle divided by the golden ratio: each step falls into the widest gap left.
		return next.Add(0x9e3779b97f4a7c15)
	}
}
