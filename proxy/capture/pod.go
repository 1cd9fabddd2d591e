package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// Reasons why a pod is not captured.
const (
	reasonHostNetwork   = "the pod uses the network of the node"
	reasonOptedOut      = "opted out by label " + labelEnabled
	reasonProxy         = "the pod is a proxy"
	reasonNotEnrolled   = "the namespace is not enrolled"
	reasonNoProxy       = "no proxy accepts connections: Services without a route are reached directly, others are refused"
	reasonRemoved       = "Weft is being removed"
	reasonNotConfigured = "no configuration has been received"
	reasonClosed        = reasonNotConfigured + ", and the namespace had strict ports: only the node can connect to the pod"
)

// pod is one sandbox and what is in force in its network namespace.
type pod struct {
	sandbox   Sandbox
	addresses []netip.Addr

	// mu serializes work in the network namespace and guards the fields up to reported.
	mu sync.Mutex
	// netns is nil where there is nothing to do or it could not be opened; unusable says why.
	netns    Netns
	unusable string
	ended    bool
	// inForce tells that the last attempt to apply the rules succeeded, capturing that they send
	// connections to proxies, so that they must be refreshed, and guarded that the guard is in force.
	inForce, capturing bool
	guarded            bool
	// counting tells that callers are counted or refused; left that an earlier agent has seen to the pod.
	counting, left bool
	// exposed is since when containers ran without rules, zero if they did not; unguarded tells that
	// the guard was missing as well.
	exposed   time.Time
	unguarded bool
	// due is when containers start in any case; zero once the first rules are in force.
	due  time.Time
	late bool
	gap  time.Duration

	// reported and plain are guarded by the agent's lock.
	reported *wire.PodReport
	plain    map[caller]*wire.PlainCaller
}

func (p *pod) proxy() bool    { return p.sandbox.Labels[labelComponent] == componentProxy }
func (p *pod) sidecar() bool  { return p.sandbox.Labels[labelSidecar] == "true" }
func (p *pod) optedOut() bool { return p.sandbox.Labels[labelEnabled] == "false" }

// captureOf returns what the pod's connections are captured by; nil for nothing. The lock is held.
func (a *Agent) captureOf(p *pod) *wire.Capture {
	if p.netns == nil || p.proxy() || p.optedOut() {
		return nil
	}
	return a.captures[p.sandbox.Namespace]
}

// open opens the network namespace of a sandbox.
func (a *Agent) open(sandbox Sandbox) *pod {
	p := &pod{sandbox: sandbox}
	if sandbox.Netns == "" {
		p.unusable = reasonHostNetwork
		return p
	}
	netns, err := a.Open(sandbox.Netns)
	if err != nil {
		p.unusable = err.Error()
		a.Log.Error("a pod is out of reach", "namespace", sandbox.Namespace, "pod", sandbox.Name, "error", err)
		return p
	}
	p.netns = netns
	p.addresses = slices.Clone(sandbox.Addresses)
	if len(p.addresses) == 0 {
		if p.addresses, err = netns.Addresses(); err != nil {
			a.Log.Error("addresses of a pod are not known", "namespace", sandbox.Namespace, "pod", sandbox.Name, "error", err)
		}
	}
	for i, address := range p.addresses {
		p.addresses[i] = address.Unmap()
	}
	slices.SortFunc(p.addresses, netip.Addr.Compare)
	return p
}

// find opens a sandbox that has been running. An earlier agent was there when it started if it left
// its guard; otherwise its containers have run without rules.
func (a *Agent) find(sandbox Sandbox) *pod {
	p := a.open(sandbox)
	if p.netns == nil || sandbox.Started.IsZero() {
		return p
	}
	found, err := p.netns.Find()
	if err != nil {
		a.Log.Error("rules of a pod cannot be read", "namespace", sandbox.Namespace, "pod", sandbox.Name, "error", err)
		return p
	}
	p.capturing, p.counting, p.left = found.Captured, found.Inbound, found.Guard
	if !found.Guard {
		p.exposed, p.unguarded = sandbox.Started, true
	}
	return p
}

// reconcile brings the pod's rules in line with the present configuration and the proxies that live,
// and reports a change. Calls for one pod follow each other, and each works with the latest.
func (a *Agent) reconcile(p *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.reconcileLocked(p)
}

func (a *Agent) reconcileLocked(p *pod) {
	if p.ended {
		return
	}
	report := wire.PodReport{
		UID: p.sandbox.UID, Namespace: p.sandbox.Namespace, Name: p.sandbox.Name, Addresses: p.addresses,
	}
	if p.netns == nil {
		report.Reason = p.unusable
		a.report(p, report)
		return
	}
	a.mu.Lock()
	complete, resource := a.complete, a.inbounds[p.sandbox.UID]
	wanted := rules.Pod{
		Addresses: p.addresses, Proxy: p.proxy(), OptedOut: p.optedOut(), Sidecar: p.sidecar(), Capture: a.captures[p.sandbox.Namespace], Node: a.node,
	}
	closed, removed := a.closes(p), a.removed
	a.mu.Unlock()
	if removed {
		report.Reason = a.clear(p)
		a.report(p, report)
		return
	}
	if resource != nil {
		wanted.Inbound = resource.Inbound
	}

	guardErr := p.netns.Guard(p.addresses)
	p.guarded = guardErr == nil
	switch {
	case closed:
		wanted.Closed = true
		report.Reason = reasonClosed
		if _, reason := a.apply(p, wanted); !p.inForce {
			report.Reason = reason
		}
	case !complete && !p.proxy():
		// What an earlier agent left stays: it may be all there is until the operator is back.
		report.Captured, report.Reason = p.capturing, reasonNotConfigured
	default:
		report.Captured, report.Reason = a.apply(p, wanted)
		if resource != nil && p.inForce {
			report.Inbound = resource.Version
		}
		captured := wanted.Capture != nil && !p.proxy() && !p.optedOut()
		if p.settleLate(captured && p.inForce) {
			a.Log.Warn("containers of a pod ran before its rules were in force", "namespace", p.sandbox.Namespace, "pod", p.sandbox.Name, "gap", p.gap)
		}
	}
	if guardErr != nil {
		a.Metrics.errors.WithLabelValues("guard").Inc()
		report.Reason = joinReasons(report.Reason, guardErr.Error())
	}
	report.Late, report.Gap = p.late, wire.Duration(p.gap)
	a.report(p, report)
}

// clear takes everything out of a pod and says why the pod is not captured.
func (a *Agent) clear(p *pod) string {
	err := p.netns.Clear()
	p.inForce, p.guarded = err == nil, err == nil
	p.capturing, p.counting, p.left = false, false, false
	if err != nil {
		a.Metrics.errors.WithLabelValues("clear").Inc()
		return joinReasons(reasonRemoved, err.Error())
	}
	return reasonRemoved
}

// closes tells that a pod must not be open although nothing is known of it: there were strict ports in its
// namespace, and no earlier agent has seen to it. One that has knew which of its ports were strict, also if none
// was. The lock is held.
func (a *Agent) closes(p *pod) bool {
	return !a.complete && !p.left && !p.proxy() && slices.Contains(a.strict, p.sandbox.Namespace)
}

// apply puts the wanted rules in force and says whether the pod is captured, or why not.
func (a *Agent) apply(p *pod, wanted rules.Pod) (captured bool, reason string) {
	tables := rules.Build(wanted, a.Zone, a.probes.live)
	err := p.netns.Apply(tables)
	if err != nil {
		// After a failure the whole table is replaced, which mends what the smaller change fell over.
		err = p.netns.Apply(tables)
	}
	p.inForce = err == nil
	p.capturing = err == nil && (tables.IPv4.Captures() || tables.IPv6.Captures())
	p.counting = err == nil && (tables.IPv4.Inbound != nil || tables.IPv6.Inbound != nil)
	switch {
	case err != nil:
		a.Metrics.errors.WithLabelValues("apply").Inc()
		return false, err.Error()
	case p.proxy():
		return false, reasonProxy
	case p.optedOut():
		return false, reasonOptedOut
	case wanted.Capture == nil:
		return false, reasonNotEnrolled
	case !served(tables.IPv4) || !served(tables.IPv6) || len(tables.IPv4.Proxies)+len(tables.IPv6.Proxies) == 0:
		return false, reasonNoProxy
	}
	return true, ""
}

// served tells that every captured port of a family has a proxy to go to.
func served(t rules.Table) bool { return len(t.Ports) == 0 || len(t.Proxies) > 0 }

// settleLate decides, with the first rules in force, whether they came late. It is true once if they did.
func (p *pod) settleLate(captured bool) bool {
	due := p.due
	p.due = time.Time{}
	if p.exposed.IsZero() && !due.IsZero() && time.Now().After(due) {
		p.exposed, p.unguarded = due, true
	}
	if p.exposed.IsZero() {
		return false
	}
	late := p.unguarded || captured
	if late {
		p.late, p.gap = true, time.Since(p.exposed)
	}
	p.exposed = time.Time{}
	return late
}

func joinReasons(a, b string) string {
	if a == "" {
		return b
	}
	return fmt.Sprintf("%s; %s", a, b)
}

// report keeps the pod's report and sends it if it has changed.
func (a *Agent) report(p *pod, report wire.PodReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[p.sandbox.ID] != p || p.reported != nil && sameReport(*p.reported, report) {
		return
	}
	p.reported = &report
	if a.listed {
		a.Report(wire.NodeReport{Pods: []wire.PodReport{report}})
	}
}

func sameReport(x, y wire.PodReport) bool {
	return x.Captured == y.Captured && x.Reason == y.Reason && x.Late == y.Late && x.Gap == y.Gap && x.Inbound == y.Inbound &&
		slices.Equal(x.Addresses, y.Addresses)
}

// end lets go of a sandbox that has been taken out of a.pods. When the pod has got another sandbox
// already, that one is reported again instead of an end, since the operator knows pods by their UID.
func (a *Agent) end(p *pod) {
	p.mu.Lock()
	p.ended = true
	if p.netns != nil {
		if err := p.netns.Close(); err != nil {
			a.Log.Warn("close network namespace", "error", err)
		}
	}
	p.mu.Unlock()
	if p.proxy() {
		// The runtime waits for this call and must not wait for other pods.
		go func() {
			for _, address := range p.addresses {
				a.probes.ended(address)
			}
		}()
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.listed {
		return
	}
	report := wire.PodReport{
		UID: p.sandbox.UID, Namespace: p.sandbox.Namespace, Name: p.sandbox.Name, Addresses: p.addresses, Ended: true,
	}
	for _, other := range a.pods {
		if other.sandbox.UID == p.sandbox.UID && other.reported != nil {
			report = *other.reported
		}
	}
	a.Report(wire.NodeReport{Pods: []wire.PodReport{report}})
}

// reconcileAll reconciles pods side by side and waits for them, but not for ever: false tells that
// some are still being worked on.
func (a *Agent) reconcileAll(pods []*pod) bool {
	return inParallel(pods, a.reconcile)
}

// inParallel calls f for every pod and waits for the calls up to applyWait.
func inParallel(pods []*pod, f func(*pod)) bool {
	if len(pods) == 0 {
		return true
	}
	work := make(chan *pod, len(pods))
	for _, p := range pods {
		work <- p
	}
	close(work)
	var workers sync.WaitGroup
	for range min(parallel, len(pods)) {
		workers.Go(func() {
			for p := range work {
				f(p)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	timer := time.NewTimer(applyWait)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

var _ Netns = (*kernel.Netns)(nil)
