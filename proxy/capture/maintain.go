package capture

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/wire"
)

const (
	// refreshInterval leaves three refreshes in a lifetime: one may fail, and one may be late.
	refreshInterval = kernel.Lifetime / 4
	canaryInterval  = time.Minute
	// canaryTimeout bounds one canary run.
	canaryTimeout = 20 * time.Second
)

// maintain refreshes the rules of every pod before they expire, repairs what somebody has damaged,
// and tries again what has failed, until ctx ends.
func (a *Agent) maintain(ctx context.Context) {
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed := a.readNode()
		a.mu.Lock()
		pods := a.podsWhere(func(p *pod) bool { return p.netns != nil })
		a.mu.Unlock()
		if changed {
			a.Log.Info("the addresses of the node have changed")
			a.reconcileAll(pods)
		}
		if !inParallel(pods, a.maintainPod) {
			a.Log.Error("refreshing the rules of all pods takes too long", "pods", len(pods))
		}
	}
}

func (a *Agent) maintainPod(p *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	a.mu.Lock()
	due := !p.guarded || !p.inForce && (a.complete || a.closes(p))
	a.mu.Unlock()
	if due {
		a.reconcileLocked(p)
		return
	}
	repaired, err := p.netns.Check()
	if repaired {
		a.Metrics.repairs.Inc()
		a.Log.Warn("rules of a pod were damaged and are repaired", "namespace", p.sandbox.Namespace, "pod", p.sandbox.Name)
	}
	if err == nil && p.capturing {
		err = p.netns.Refresh()
	}
	if err != nil {
		a.Metrics.errors.WithLabelValues("refresh").Inc()
		a.Log.Warn("rules of a pod are put in force again", "namespace", p.sandbox.Namespace, "pod", p.sandbox.Name, "error", err)
		a.reconcileLocked(p)
	}
	if p.counting {
		a.collect(p)
	}
}

// proxyChanged puts the pods of a namespace in line with the health of a proxy.
func (a *Agent) proxyChanged(proxy netip.Addr, namespace string, now health) {
	if now == dead {
		a.Metrics.evictions.Inc()
	}
	up, down := a.probes.count()
	a.Log.Info("a proxy has changed", "namespace", namespace, "proxy", proxy, "lost", now == dead,
		"accepts", a.probes.live(proxy), "liveProxies", up, "otherProxies", down)
	a.reconcileAll(a.podsOf(namespace))
}

// proxyLost has the pods of a namespace forget connections that the kernel still sends to a dead proxy.
func (a *Agent) proxyLost(proxy netip.Addr, namespace string, which connections) {
	forget := Netns.ForgetUnanswered
	if which == all {
		forget = Netns.Forget
	}
	var forgotten atomic.Int64
	inParallel(a.podsOf(namespace), func(p *pod) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ended || p.proxy() {
			return
		}
		count, err := forget(p.netns, []netip.Addr{proxy})
		forgotten.Add(int64(count))
		if err != nil {
			a.Metrics.errors.WithLabelValues("forget").Inc()
			a.Log.Warn("connections to a lost proxy may hang", "namespace", namespace, "pod", p.sandbox.Name, "error", err)
		}
	})
	a.Metrics.forgotten.Add(float64(forgotten.Load()))
	if count := forgotten.Load(); count > 0 || which == all {
		a.Log.Info("connections to a lost proxy are forgotten", "namespace", namespace, "proxy", proxy, "connections", count, "all", which == all)
	}
}

// podsOf returns the pods of a namespace that can have rules.
func (a *Agent) podsOf(namespace string) []*pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.podsWhere(func(p *pod) bool { return p.netns != nil && p.sandbox.Namespace == namespace })
}

// prove runs the canary at once and then in every canaryInterval, and reports what it proves.
func (a *Agent) prove(ctx context.Context) {
	ticker := time.NewTicker(canaryInterval)
	defer ticker.Stop()
	for {
		report := a.runCanary(ctx)
		if report.Reason != "" {
			// On a node that is out of breath a run may fail for want of time.
			report = a.runCanary(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		a.Metrics.canary(report)
		if report.Reason != "" {
			a.Log.Error("the canary has failed", "captured", report.Captured, "guarded", report.Guarded,
				"strictEnforced", report.StrictEnforced, "reason", report.Reason)
		}
		a.Report(wire.NodeReport{Canary: &report})
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (a *Agent) runCanary(ctx context.Context) wire.CanaryReport {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	return a.Canary(ctx)
}
