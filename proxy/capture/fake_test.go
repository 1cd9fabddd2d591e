package capture_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// netns is a network namespace that remembers what was done in it.
type netns struct {
	mu        sync.Mutex
	found     kernel.Found
	addresses []netip.Addr
	tables    rules.Tables
	applied   int
	guarded   []netip.Addr
	refreshed int
	forgotten []netip.Addr
	// unanswered counts, by proxy, how often the connections that it has not answered on were forgotten.
	unanswered map[netip.Addr]int
	// callers are what is counted next.
	callers []kernel.Caller
	cleared int
	damaged bool
	closed  bool
	// applyErrs, guardErr and refreshErr are returned by the next calls; hang blocks Apply until it is closed.
	applyErrs  []error
	guardErr   error
	clearErr   error
	refreshErr error
	hang       chan struct{}
}

func (n *netns) Addresses() ([]netip.Addr, error) { return n.addresses, nil }

func (n *netns) Find() (kernel.Found, error) { return n.found, nil }

func (n *netns) Guard(addresses []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.guarded = addresses
	return n.guardErr
}

func (n *netns) Clear() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tables, n.guarded, n.cleared = rules.Tables{}, nil, n.cleared+1
	return n.clearErr
}

func (n *netns) Apply(want rules.Tables) error {
	n.mu.Lock()
	hang := n.hang
	n.mu.Unlock()
	if hang != nil {
		<-hang
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.applyErrs) > 0 {
		err := n.applyErrs[0]
		n.applyErrs = n.applyErrs[1:]
		if err != nil {
			return err
		}
	}
	n.tables = want
	n.applied++
	return nil
}

func (n *netns) Refresh() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refreshed++
	err := n.refreshErr
	n.refreshErr = nil
	return err
}

func (n *netns) Check() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	damaged := n.damaged
	n.damaged = false
	return damaged, nil
}

func (n *netns) Forget(proxies []netip.Addr) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forgotten = append(n.forgotten, proxies...)
	return len(proxies), nil
}

func (n *netns) ForgetUnanswered(proxies []netip.Addr) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unanswered == nil {
		n.unanswered = map[netip.Addr]int{}
	}
	for _, proxy := range proxies {
		n.unanswered[proxy]++
	}
	return len(proxies), nil
}

func (n *netns) Callers() ([]kernel.Caller, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	callers := n.callers
	n.callers = nil
	return callers, nil
}

func (n *netns) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errors.New("closed twice")
	}
	n.closed = true
	return nil
}

// set changes how the namespace behaves from now on.
func (n *netns) set(change func(*netns)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

// state is what tests look at in a namespace.
func (n *netns) state() (proxies []netip.Addr, captures bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.tables.IPv4.Proxies), n.tables.IPv4.Captures()
}

// losses returns how often all connections to a proxy were forgotten, and how often the unanswered ones.
func (n *netns) losses(proxy netip.Addr) (all, unanswered int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, forgotten := range n.forgotten {
		if forgotten == proxy {
			all++
		}
	}
	return all, n.unanswered[proxy]
}

func (n *netns) refreshes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refreshed
}

// node is an agent with everything around it faked. It works in the bubble of a synctest.
type node struct {
	*capture.Agent
	t        *testing.T
	registry *prometheus.Registry

	mu       sync.Mutex
	netns    map[string]*netns
	verdicts map[netip.Addr]capture.Verdict
	// next holds verdicts that count once.
	next   map[netip.Addr]capture.Verdict
	asked  map[netip.Addr]bool
	canary wire.CanaryReport
	pods   map[string]wire.PodReport
	plain  []wire.PlainCaller
	ended  []string
	full   int
	// canaryFails is how many of the next runs of the canary fail.
	canaryFails int
	canaries    []wire.CanaryReport
	// addresses are the node's; remembered is what the next agent will know.
	addresses  []netip.Addr
	remembered []string
}

// newNode starts an agent in zone "a", after one that has remembered strict namespaces; it ends with the test.
func newNode(t *testing.T, strict ...string) *node {
	t.Helper()
	n := &node{
		t: t, registry: prometheus.NewRegistry(), netns: map[string]*netns{},
		verdicts: map[netip.Addr]capture.Verdict{}, next: map[netip.Addr]capture.Verdict{},
		asked: map[netip.Addr]bool{}, pods: map[string]wire.PodReport{},
		canary: wire.CanaryReport{Captured: true, Guarded: true}, addresses: []netip.Addr{nodeAddress},
	}
	n.Agent = capture.New(capture.Config{
		Zone:   "a",
		Strict: strict,
		NodeAddresses: func() ([]netip.Addr, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.addresses, nil
		},
		Remember: func(namespaces []string) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.remembered = namespaces
			return nil
		},
		Open: func(path string) (capture.Netns, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			opened, ok := n.netns[path]
			if !ok {
				return nil, errors.New("no such namespace")
			}
			return opened, nil
		},
		Probe: func(_ context.Context, proxy netip.Addr) capture.Verdict {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.asked[proxy] = true
			if verdict, ok := n.next[proxy]; ok {
				delete(n.next, proxy)
				return verdict
			}
			return n.verdicts[proxy]
		},
		Canary: func(context.Context) wire.CanaryReport {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.canaryFails > 0 {
				n.canaryFails--
				return wire.CanaryReport{Reason: "no time"}
			}
			return n.canary
		},
		Report:  n.report,
		Metrics: capture.NewMetrics(n.registry),
		Log:     slog.New(slog.DiscardHandler),
	})
	n.registry.MustRegister(n.Agent)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		n.Run(ctx)
		close(stopped)
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
	})
	return n
}

// report keeps the latest of every pod, as the stream does.
func (n *node) report(report wire.NodeReport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if report.Full {
		n.full++
		clear(n.pods)
	}
	n.plain = append(n.plain, report.Plain...)
	if report.Canary != nil {
		n.canaries = append(n.canaries, *report.Canary)
	}
	for _, pod := range report.Pods {
		if pod.Ended {
			n.ended = append(n.ended, pod.Name)
			delete(n.pods, pod.UID)
			continue
		}
		n.pods[pod.UID] = pod
	}
}

// pod returns the latest report of a pod by its UID.
func (n *node) pod(uid string) wire.PodReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[uid]
}

func (n *node) probesSay(verdict capture.Verdict, proxies ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, proxy := range proxies {
		n.verdicts[proxy] = verdict
	}
}

// once lets the next probe of a proxy say something else.
func (n *node) once(verdict capture.Verdict, proxy netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next[proxy] = verdict
}

// failCanary makes the next runs of the canary fail.
func (n *node) failCanary(runs int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.canaryFails = runs
}

// probed returns the proxies that have been probed since forgetProbes.
func (n *node) probed() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.asked))
}

func (n *node) forgetProbes() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.asked)
}

// sandbox makes a sandbox of a pod in namespace "shop", with a network namespace of its own.
func (n *node) sandbox(name string, change ...func(*capture.Sandbox, *netns)) (capture.Sandbox, *netns) {
	sandbox := capture.Sandbox{
		ID: "sandbox-" + name, UID: "uid-" + name, Namespace: "shop", Name: name,
		Addresses: []netip.Addr{podAddress}, Netns: "/run/netns/" + name,
	}
	opened := &netns{}
	for _, f := range change {
		f(&sandbox, opened)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.netns[sandbox.Netns] = opened
	return sandbox, opened
}

// start starts a pod in namespace "shop".
func (n *node) start(name string, change ...func(*capture.Sandbox, *netns)) *netns {
	sandbox, opened := n.sandbox(name, change...)
	n.Start(n.t.Context(), sandbox)
	return opened
}

var (
	podAddress  = netip.MustParseAddr("10.0.0.9")
	nodeAddress = netip.MustParseAddr("10.0.0.254")
	near1       = netip.MustParseAddr("10.0.0.1")
	near2       = netip.MustParseAddr("10.0.0.2")
	far         = netip.MustParseAddr("10.0.1.1")
)

// shop is what the pods of namespace "shop" are captured by: two proxies in the zone of the node and
// one elsewhere.
func shop() *wire.Capture {
	return &wire.Capture{
		Ports: []wire.CapturedPort{{Address: netip.MustParseAddr("10.96.0.7"), Port: 80, Number: 20000}},
		Proxies: []wire.Proxy{
			{Pod: "near1", Zone: "a", Addresses: []netip.Addr{near1}},
			{Pod: "near2", Zone: "a", Addresses: []netip.Addr{near2}},
			{Pod: "far", Zone: "b", Addresses: []netip.Addr{far}},
		},
	}
}

func upsert(capture *wire.Capture) wire.Delta {
	return wire.Delta{Seq: 1, Upserted: []wire.Resource{wire.New("shop", wire.ScopeNodes, wire.Origin{}, capture)}}
}

// bubble runs a test with a clock of its own, for an agent after one that has remembered strict namespaces.
func bubble(t *testing.T, test func(*testing.T, *node), strict ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, strict...)
		test(t, n)
	})
}

// pass lets time pass and then waits until everything that it brought about is done.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
