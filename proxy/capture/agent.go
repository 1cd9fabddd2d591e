package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// Labels that pods carry.
const (
	labelEnabled   = "mesh.weft.dev/enabled"
	labelComponent = "mesh.weft.dev/component"
	labelSidecar   = "mesh.weft.dev/sidecar"
	componentProxy = "proxy"
)

const (
	// configurationWait bounds how long a starting pod waits for the first configuration after the
	// agent has started. It stays well below the two seconds after which a runtime gives up on a
	// plugin.
	configurationWait = time.Second
	// callWait bounds how long the runtime waits for this agent. After two seconds it takes a plugin for
	// broken and goes on without it, which would cost every pod that starts until it is back.
	callWait = 1500 * time.Millisecond
	// applyWait bounds how long a delta waits for the pods of the node; one that hangs must not keep
	// the others from being acknowledged.
	applyWait = 10 * time.Second
	// parallel is how many namespaces are worked on at the same time.
	parallel = 8
)

// Netns is one pod's network namespace; kernel.Netns implements it.
type Netns interface {
	Addresses() ([]netip.Addr, error)
	Find() (kernel.Found, error)
	Guard(addresses []netip.Addr) error
	Clear() error
	Apply(want rules.Tables) error
	Refresh() error
	Check() (repaired bool, err error)
	Forget(proxies []netip.Addr) (int, error)
	ForgetUnanswered(proxies []netip.Addr) (int, error)
	Callers() ([]kernel.Caller, error)
	Close() error
}

// Sandbox is a pod as the container runtime knows it.
type Sandbox struct {
	// ID is the runtime's; a pod whose sandbox is made anew keeps its UID and gets another ID.
	ID, UID, Namespace, Name string
	Labels                   map[string]string
	// Addresses may be empty: then they are read from the network namespace.
	Addresses []netip.Addr
	// Netns is the path of the network namespace; empty means the node's own.
	Netns string
	// Started is when the first of its containers started; zero when none has.
	Started time.Time
}

// Config is what an Agent needs. All fields but Zone and Strict are required.
type Config struct {
	// Zone is the node's; empty when it has none.
	Zone string
	// NodeAddresses reads the addresses of the node, from which probes come.
	NodeAddresses func() ([]netip.Addr, error)
	// Strict are the namespaces that an earlier agent has remembered.
	Strict []string
	// Remember keeps the sorted names of the namespaces with strict ports for the next agent.
	Remember func(namespaces []string) error
	// Open opens a network namespace by its path.
	Open func(path string) (Netns, error)
	// Probe asks a proxy whether it accepts connections.
	Probe func(ctx context.Context, proxy netip.Addr) Verdict
	// Canary proves on this node what the agent claims.
	Canary func(ctx context.Context) wire.CanaryReport
	// Report sends a report; it must not block.
	Report  func(wire.NodeReport)
	Metrics *Metrics
	Log     *slog.Logger
}

// Agent keeps the rules of a node's pods. Make it with New, call Run, and tell it of sandboxes and
// configuration at any time.
type Agent struct {
	Config
	probes *prober

	// configured is closed with the first configuration.
	configured chan struct{}

	mu       sync.Mutex
	pods     map[string]*pod // by sandbox ID
	captures map[string]*wire.Capture
	inbounds map[string]*wire.Resource // by pod UID
	node     []netip.Addr              // its addresses, sorted
	strict   []string                  // namespaces with strict ports, as remembered
	complete bool                      // the first configuration is there
	removed  bool                      // Weft is being removed: nothing of it is to be in any pod
	listed   bool                      // the runtime has listed its sandboxes
}

// New returns an agent without pods and configuration.
func New(config Config) *Agent {
	a := &Agent{
		Config:     config,
		configured: make(chan struct{}),
		pods:       map[string]*pod{},
		captures:   map[string]*wire.Capture{},
		inbounds:   map[string]*wire.Resource{},
		strict:     config.Strict,
	}
	a.readNode()
	a.probes = newProber(config.Probe)
	a.probes.changed, a.probes.lost = a.proxyChanged, a.proxyLost
	return a
}

// Run probes, refreshes, checks and proves until ctx ends. It leaves every rule in force.
func (a *Agent) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { a.probes.run(ctx) })
	running.Go(func() { a.maintain(ctx) })
	running.Go(func() { a.prove(ctx) })
	running.Wait()
}

// Apply puts a delta in force for all pods of the node that it concerns and returns when it is. What
// cannot be used is rejected and keeps its previous version. A pod whose rules cannot be changed does
// not hold up the others: its report says so, and it is tried again.
func (a *Agent) Apply(delta wire.Delta) []wire.Rejection {
	a.mu.Lock()
	first := !a.complete
	a.complete = true
	removedBefore := a.removed
	namespaces, uids, rejected := a.take(delta)
	answered := a.probes.use(a.proxiesInUse())
	all := first || a.removed != removedBefore
	pods := a.podsWhere(func(p *pod) bool { return all || namespaces[p.sandbox.Namespace] || uids[p.sandbox.UID] })
	removed := a.removed
	a.mu.Unlock()

	if removed && !removedBefore {
		a.Log.Info("Weft is being removed: nothing of it stays in any pod")
	}
	a.remember()
	awaitAnswers(context.Background(), answered)
	if !a.reconcileAll(pods) {
		a.Log.Error("a delta was acknowledged before every pod had its rules", "seq", delta.Seq)
	}
	if first {
		close(a.configured)
	}
	return rejected
}

// take makes a delta part of the configuration and returns which namespaces and pods it concerns. The lock is
// held.
func (a *Agent) take(delta wire.Delta) (namespaces, uids map[string]bool, rejected []wire.Rejection) {
	namespaces, uids = map[string]bool{}, map[string]bool{}
	for i := range delta.Upserted {
		resource := &delta.Upserted[i]
		if err := usable(resource); err != nil {
			rejected = append(rejected, wire.Rejection{Ref: resource.Ref, Version: resource.Version, Reason: err.Error()})
			continue
		}
		switch resource.Kind {
		case wire.KindCapture:
			a.captures[resource.Key] = resource.Capture
			namespaces[resource.Key] = true
		case wire.KindInbound:
			a.inbounds[resource.Key] = resource
			uids[resource.Key] = true
		case wire.KindMesh:
			a.removed = resource.Mesh.Removed
		}
	}
	for _, ref := range delta.Removed {
		switch ref.Kind {
		case wire.KindCapture:
			delete(a.captures, ref.Key)
			namespaces[ref.Key] = true
		case wire.KindInbound:
			delete(a.inbounds, ref.Key)
			uids[ref.Key] = true
		}
	}
	return namespaces, uids, rejected
}

// remember keeps which namespaces have strict ports, for an agent that starts while the operator is away.
func (a *Agent) remember() {
	var strict []string
	a.mu.Lock()
	for namespace, capture := range a.captures {
		if capture.Strict && !a.removed {
			strict = append(strict, namespace)
		}
	}
	slices.Sort(strict)
	same := slices.Equal(strict, a.strict)
	a.strict = strict
	a.mu.Unlock()
	if same {
		return
	}
	if err := a.Remember(strict); err != nil {
		a.Metrics.errors.WithLabelValues("remember").Inc()
		a.Log.Error("pods of strict namespaces may start open when the agent restarts while the operator is away", "error", err)
	}
}

// readNode reads the addresses of the node and tells whether they have changed.
func (a *Agent) readNode() (changed bool) {
	addresses, err := a.NodeAddresses()
	if err != nil {
		a.Metrics.errors.WithLabelValues("node").Inc()
		a.Log.Error("addresses of the node cannot be read", "error", err)
		return false
	}
	addresses = slices.Clone(addresses)
	slices.SortFunc(addresses, netip.Addr.Compare)
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !slices.Equal(a.node, addresses)
	a.node = addresses
	return changed
}

// usable reports why a resource cannot be put in force.
func usable(resource *wire.Resource) error {
	if err := resource.Valid(); err != nil {
		return err
	}
	switch resource.Kind {
	case wire.KindCapture:
		return usableCapture(resource.Capture)
	case wire.KindInbound:
		return usableInbound(resource)
	}
	return nil
}

func usableCapture(capture *wire.Capture) error {
	for _, port := range capture.Ports {
		if !port.Address.IsValid() || port.Port == 0 {
			return fmt.Errorf("captured port %v:%d is no destination", port.Address, port.Port)
		}
		if port.Number < wire.MinNumber {
			return fmt.Errorf("destination number %d of %v:%d is below %d", port.Number, port.Address, port.Port, wire.MinNumber)
		}
	}
	for _, address := range capture.Admitted {
		if !address.IsValid() {
			return errors.New("an admitted address is invalid")
		}
	}
	for _, proxy := range capture.Proxies {
		for _, address := range proxy.Addresses {
			if !address.IsValid() {
				return fmt.Errorf("proxy %s has an invalid address", proxy.Pod)
			}
		}
	}
	return nil
}

func usableInbound(resource *wire.Resource) error {
	if resource.Inbound.UID != resource.Key {
		return fmt.Errorf("the pod's UID is %q and not the key", resource.Inbound.UID)
	}
	for _, port := range resource.Inbound.Ports {
		if port.Port == 0 {
			return errors.New("a port has no number")
		}
		for _, prefix := range port.Allowed {
			if !prefix.IsValid() {
				return fmt.Errorf("port %d allows an invalid prefix", port.Port)
			}
		}
	}
	return nil
}

// proxiesInUse returns the addresses of the proxies that pods of this node use, with their namespaces.
// The lock is held.
func (a *Agent) proxiesInUse() map[netip.Addr]string {
	used := map[netip.Addr]string{}
	for _, p := range a.pods {
		capture := a.captureOf(p)
		if capture == nil {
			continue
		}
		for _, proxy := range capture.Proxies {
			for _, address := range proxy.Addresses {
				used[address.Unmap()] = p.sandbox.Namespace
			}
		}
	}
	return used
}

// podsWhere returns the pods that match. The lock is held.
func (a *Agent) podsWhere(match func(*pod) bool) []*pod {
	var out []*pod
	for _, p := range a.pods {
		if match(p) {
			out = append(out, p)
		}
	}
	return out
}

// Start puts the rules of a new sandbox in force; the runtime calls it before any container starts.
// It never fails a pod, and it returns in time on a node that is overloaded: what went wrong is in the
// pod's report.
func (a *Agent) Start(ctx context.Context, sandbox Sandbox) {
	due := time.Now().Add(callWait)
	p := a.open(sandbox)
	p.due = due
	a.mu.Lock()
	a.pods[sandbox.ID] = p
	answered := a.probes.use(a.proxiesInUse())
	a.mu.Unlock()

	wait, cancel := context.WithTimeout(ctx, configurationWait)
	defer cancel()
	select {
	case <-a.configured:
	case <-wait.Done():
		// Its containers will run before its rules are known.
		p.mu.Lock()
		p.exposed = time.Now()
		p.mu.Unlock()
	}
	within(time.Until(due), func() {
		awaitAnswers(ctx, answered)
		a.reconcile(p)
	})
}

// within calls f and waits until it has returned, at most for the given time; f then goes on to its end.
func within(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// awaitAnswers waits until new proxies have been probed once, so that nothing is sent to one that is
// dead already. One that takes long counts as live for now.
func awaitAnswers(ctx context.Context, answered []<-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for _, one := range answered {
		select {
		case <-one:
		case <-ctx.Done():
			return
		}
	}
}

// Stop forgets a sandbox that has ended. It may be called more than once.
func (a *Agent) Stop(id string) {
	a.mu.Lock()
	p := a.pods[id]
	delete(a.pods, id)
	a.probes.use(a.proxiesInUse())
	a.mu.Unlock()
	if p != nil {
		within(callWait, func() { a.end(p) })
	}
}

// Synchronize takes all running sandboxes: it starts those it does not know and stops those that are
// gone. It returns before the rules of pods that run are in force, so that a runtime with many of them is not
// held up.
func (a *Agent) Synchronize(sandboxes []Sandbox) {
	running := map[string]bool{}
	var found []*pod
	for _, sandbox := range sandboxes {
		running[sandbox.ID] = true
		a.mu.Lock()
		known := a.pods[sandbox.ID] != nil
		a.mu.Unlock()
		if !known {
			found = append(found, a.find(sandbox))
		}
	}
	a.mu.Lock()
	gone := a.podsWhere(func(p *pod) bool { return !running[p.sandbox.ID] })
	for _, p := range gone {
		delete(a.pods, p.sandbox.ID)
	}
	for _, p := range found {
		a.pods[p.sandbox.ID] = p
	}
	answered := a.probes.use(a.proxiesInUse())
	a.mu.Unlock()
	for _, p := range gone {
		a.end(p)
	}
	// The containers of some have not started yet, and wait for this call.
	idle := slices.DeleteFunc(slices.Clone(found), func(p *pod) bool { return !p.sandbox.Started.IsZero() })
	within(callWait, func() { a.reconcileAll(idle) })
	go func() {
		awaitAnswers(context.Background(), answered)
		a.reconcileAll(found)
		a.reportAll()
	}()
}

// reportAll reports every pod once after the runtime has listed them; later changes are reported as
// they happen.
func (a *Agent) reportAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listed {
		return
	}
	a.listed = true
	report := wire.NodeReport{Full: true}
	for _, p := range a.pods {
		if p.reported != nil {
			report.Pods = append(report.Pods, *p.reported)
		}
		for _, caller := range p.plain {
			report.Plain = append(report.Plain, *caller)
		}
	}
	a.Report(report)
}

// Listed tells that the runtime has listed its sandboxes and Configured that the operator's
// configuration is in force. An agent is ready with both.
func (a *Agent) Listed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed
}

// Configured tells that the first configuration is in force.
func (a *Agent) Configured() bool {
	select {
	case <-a.configured:
		return true
	default:
		return false
	}
}
