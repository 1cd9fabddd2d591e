package capture_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/wire"
)

func TestRulesAreRefreshedInTime(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		captured := n.start("web")
		left := n.start("left", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		for range 20 {
			before := captured.refreshes()
			pass(kernel.Lifetime / 2)
			if captured.refreshes() == before {
				t.Fatal("no refresh in half a lifetime")
			}
		}
		if left.refreshes() > 0 {
			t.Error("a pod that is not captured was refreshed")
		}
		if captured.applied != 1 {
			t.Errorf("rules were put in force %d times, want once", captured.applied)
		}
	})
}

func TestRulesThatCannotBeRefreshedAreReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		pod.set(func(p *netns) { p.refreshErr = errors.New("no such table") })
		pass(kernel.Lifetime / 2)
		if pod.applied != 2 {
			t.Errorf("rules were put in force %d times, want once more after the failure", pod.applied)
		}
	})
}

func TestGuardIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		pod := n.start("web", func(_ *capture.Sandbox, opened *netns) { opened.guardErr = errors.New("no device") })
		pod.set(func(p *netns) { p.guardErr = nil })
		pass(kernel.Lifetime / 2)
		if got := n.pod("uid-web").Reason; got != "" {
			t.Errorf("the pod still reports %q", got)
		}
	})
}

// Rules that are not the wanted ones must not be kept alive: they would lead somewhere else.
func TestRulesThatAreNotWantedFade(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		pod.set(func(p *netns) { p.applyErrs = slices.Repeat([]error{errors.New("refused")}, 100) })
		n.Apply(upsert(&wire.Capture{}))
		before := pod.refreshes()
		pass(2 * kernel.Lifetime)
		if pod.refreshes() != before {
			t.Error("rules that could not be replaced were refreshed")
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		pod := n.start("web")
		n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		n.probesSay(capture.Refused, near1)
		pod.set(func(p *netns) { p.damaged = true })
		pass(kernel.Lifetime / 2)

		want := `
# HELP weft_node_canary_proven Whether the last canary run has proven the fact on this node (1) or not (0).
# TYPE weft_node_canary_proven gauge
weft_node_canary_proven{fact="captured"} 1
weft_node_canary_proven{fact="guarded"} 1
weft_node_canary_proven{fact="strict"} 0
# HELP weft_node_forgotten_connections_total Connection tracking entries deleted because they led to a dead proxy.
# TYPE weft_node_forgotten_connections_total counter
weft_node_forgotten_connections_total 1
# HELP weft_node_pods Pods of the node by state: captured, late (captured, after containers had run without rules) or none.
# TYPE weft_node_pods gauge
weft_node_pods{state="captured"} 1
weft_node_pods{state="late"} 0
weft_node_pods{state="none"} 1
# HELP weft_node_proxies Proxies that pods of the node use, by health as probed.
# TYPE weft_node_proxies gauge
weft_node_proxies{health="live"} 2
weft_node_proxies{health="out"} 1
# HELP weft_node_proxy_evictions_total Proxies that were found dead and got no more connections.
# TYPE weft_node_proxy_evictions_total counter
weft_node_proxy_evictions_total 1
# HELP weft_node_repairs_total Pods whose rules were found damaged and were put in force again.
# TYPE weft_node_repairs_total counter
weft_node_repairs_total 1
`
		err := testutil.GatherAndCompare(n.registry, strings.NewReader(want), "weft_node_canary_proven",
			"weft_node_forgotten_connections_total", "weft_node_pods", "weft_node_proxies",
			"weft_node_proxy_evictions_total", "weft_node_repairs_total")
		if err != nil {
			t.Error(err)
		}
	})
}

func TestCanaryIsReportedEveryMinute(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		pass(10*time.Minute + time.Second)
		if len(n.canaries) != 11 {
			t.Errorf("%d reports in ten minutes, want one at once and one each minute", len(n.canaries))
		}
	})
}

func TestCanaryThatFailsIsRunAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		synctest.Wait()
		n.failCanary(1)
		pass(time.Minute)
		n.failCanary(2)
		pass(time.Minute)
		want := []wire.CanaryReport{n.canary, n.canary, {Reason: "no time"}}
		if diff := cmp.Diff(want, n.canaries); diff != "" {
			t.Errorf("reports differ (-want +got):\n%s", diff)
		}
	})
}

// TestNothingStaysWhenWeftIsRemoved: an agent that is told so takes its rules and its guard out of every pod, of
// strict ports as well, and puts none into those that start. One that has merely lost the operator does not.
func TestNothingStaysWhenWeftIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(strictShop()))
		first, other := n.start("web"), n.start("db", func(s *capture.Sandbox, _ *netns) { s.Namespace = "elsewhere" })
		mesh := func(removed bool) wire.Delta {
			return wire.Delta{Seq: 2, Upserted: []wire.Resource{wire.New("mesh", wire.ScopeMesh, wire.Origin{}, &wire.Mesh{Removed: removed})}}
		}
		empty := func(pod *netns) bool {
			pod.mu.Lock()
			defer pod.mu.Unlock()
			return pod.guarded == nil && pod.tables.IPv4.Empty() && pod.tables.IPv6.Empty()
		}
		n.Apply(mesh(false))
		if empty(first) || empty(other) {
			t.Fatal("a pod has no rules, not even a guard")
		}
		first.set(func(n *netns) { n.clearErr = errors.New("busy") })
		n.Apply(mesh(true))
		if !empty(other) {
			t.Error("rules stay in a pod")
		}
		if got := n.pod("uid-web").Reason; got != "Weft is being removed; busy" {
			t.Errorf("reason %q", got)
		}
		first.set(func(n *netns) { n.clearErr = nil })
		pass(time.Minute) // what failed is tried again, and nothing comes back
		late := n.start("late")
		for name, pod := range map[string]*netns{"web": first, "db": other, "late": late} {
			if !empty(pod) {
				t.Errorf("pod %s has rules", name)
			}
		}
		n.mu.Lock()
		strict := n.remembered
		n.mu.Unlock()
		if len(strict) != 0 {
			t.Errorf("the node remembers strict ports of %v", strict)
		}
		n.Apply(mesh(false))
		if empty(first) || empty(late) {
			t.Error("no rules after Weft has stayed after all")
		}
	})
}
