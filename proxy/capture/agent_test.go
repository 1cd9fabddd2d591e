package capture_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/wire"
)

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestStartReturnsWithTheRulesInForce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		pod := n.start("web")
		if _, captures := pod.state(); !captures {
			t.Error("the pod is not captured when its containers start")
		}
		if diff := cmp.Diff([]netip.Addr{podAddress}, pod.guarded, byText); diff != "" {
			t.Errorf("guarded addresses differ (-want +got):\n%s", diff)
		}
		want := wire.PodReport{
			UID: "uid-web", Namespace: "shop", Name: "web", Addresses: []netip.Addr{podAddress}, Captured: true,
		}
		if diff := cmp.Diff(want, n.pod("uid-web"), byText); diff != "" {
			t.Errorf("report differs (-want +got):\n%s", diff)
		}
	})
}

func TestWhoIsNotCaptured(t *testing.T) {
	tests := map[string]struct {
		change func(*capture.Sandbox, *netns)
		want   string
	}{
		"another namespace": {
			change: func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" },
			want:   "the namespace is not enrolled",
		},
		"opted out": {
			change: func(s *capture.Sandbox, _ *netns) { s.Labels = map[string]string{"mesh.weft.dev/enabled": "false"} },
			want:   "opted out by label mesh.weft.dev/enabled",
		},
		"a proxy": {
			change: func(s *capture.Sandbox, _ *netns) { s.Labels = map[string]string{"mesh.weft.dev/component": "proxy"} },
			want:   "the pod is a proxy",
		},
		"the node's network": {
			change: func(s *capture.Sandbox, _ *netns) { s.Netns, s.Addresses = "", nil },
			want:   "the pod uses the network of the node",
		},
		"out of reach": {
			change: func(s *capture.Sandbox, _ *netns) { s.Netns = "/elsewhere" },
			want:   "no such namespace",
		},
		"rules refused by the kernel": {
			change: func(_ *capture.Sandbox, opened *netns) {
				opened.applyErrs = []error{errors.New("out of memory"), errors.New("still out of memory")}
			},
			want: "still out of memory",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				n.Synchronize(nil)
				n.Apply(upsert(shop()))
				synctest.Wait()
				sandbox, opened := n.sandbox("web", tc.change)
				if sandbox.Netns == "/elsewhere" {
					delete(n.netns, sandbox.Netns)
				}
				n.Start(t.Context(), sandbox)
				if _, captures := opened.state(); captures {
					t.Error("the pod is captured")
				}
				if got := n.pod("uid-web"); got.Captured || got.Reason != tc.want {
					t.Errorf("captured %v, reason %q, want reason %q", got.Captured, got.Reason, tc.want)
				}
			})
		})
	}
}

func TestProxyIsRedirected(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		// Its own rules do not depend on the operator, which it may have to serve first.
		pod := n.start("proxy", func(s *capture.Sandbox, _ *netns) {
			s.Labels = map[string]string{"mesh.weft.dev/component": "proxy"}
			s.Addresses = append(s.Addresses, netip.MustParseAddr("fd00::9"))
		})
		if !pod.tables.IPv4.Redirect || !pod.tables.IPv6.Redirect {
			t.Errorf("tables %+v do not redirect", pod.tables)
		}
	})
}

func TestUnguardedPodSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		n.start("web", func(_ *capture.Sandbox, opened *netns) { opened.guardErr = errors.New("guard: no egress hook") })
		if got := n.pod("uid-web"); !got.Captured || got.Reason != "guard: no egress hook" {
			t.Errorf("captured %v, reason %q, want captured and the guard's error", got.Captured, got.Reason)
		}
	})
}

func TestApplyReturnsWithTheRulesInForceEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(wire.Delta{})
		var pods []*netns
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
			pods = append(pods, n.start(name))
		}
		stranger := n.start("stranger", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		untouched := stranger.applied
		n.Apply(upsert(shop()))
		for i, pod := range pods {
			if _, captures := pod.state(); !captures {
				t.Errorf("pod %d is not captured", i)
			}
		}
		if stranger.applied != untouched {
			t.Error("a pod of another namespace was touched")
		}
		n.Apply(wire.Delta{Seq: 2, Removed: []wire.Ref{{Kind: wire.KindCapture, Key: "shop"}}})
		for i, pod := range pods {
			if _, captures := pod.state(); captures {
				t.Errorf("pod %d is still captured", i)
			}
		}
	})
}

func TestOnePodDoesNotHoldUpTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(wire.Delta{})
		broken, hanging, healthy := n.start("broken"), n.start("hanging"), n.start("healthy")
		released := make(chan struct{})
		broken.set(func(p *netns) { p.applyErrs = []error{errors.New("refused"), errors.New("refused again")} })
		hanging.set(func(p *netns) { p.hang = released })
		n.Apply(upsert(shop()))
		if _, captures := healthy.state(); !captures {
			t.Error("the healthy pod is not captured")
		}
		if got := n.pod("uid-broken"); got.Captured || got.Reason != "refused again" {
			t.Errorf("the broken pod reports %+v", got)
		}
		close(released)
		pass(kernel.Lifetime)
		for name, pod := range map[string]*netns{"broken": broken, "hanging": hanging} {
			if _, captures := pod.state(); !captures {
				t.Errorf("the %s pod was not tried again", name)
			}
		}
		if got := n.pod("uid-broken"); !got.Captured || got.Reason != "" {
			t.Errorf("the pod that was broken reports %+v", got)
		}
	})
}

func TestFailedChangeIsFollowedByAnother(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(wire.Delta{})
		pod := n.start("web")
		pod.set(func(p *netns) { p.applyErrs = []error{errors.New("no such element")} })
		n.Apply(upsert(shop()))
		if _, captures := pod.state(); !captures {
			t.Error("the pod is not captured after the first attempt has failed")
		}
	})
}

func TestUnusableCaptureKeepsThePreviousOne(t *testing.T) {
	tests := map[string]struct {
		change func(*wire.Capture)
		reason string
	}{
		"a number of a proxy's own port": {
			change: func(c *wire.Capture) { c.Ports[0].Number = wire.PortHealth }, reason: "below 16384",
		},
		"no address": {change: func(c *wire.Capture) { c.Ports[0].Address = netip.Addr{} }, reason: "is no destination"},
		"no port":    {change: func(c *wire.Capture) { c.Ports[0].Port = 0 }, reason: "is no destination"},
		"a proxy without an address": {
			change: func(c *wire.Capture) { c.Proxies[0].Addresses = []netip.Addr{{}} }, reason: "proxy near1 has an invalid address",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				n.Apply(upsert(shop()))
				pod := n.start("web")
				unusable := shop()
				tc.change(unusable)
				delta := upsert(unusable)
				rejected := n.Apply(delta)
				if len(rejected) != 1 || rejected[0].Ref != delta.Upserted[0].Ref ||
					rejected[0].Version != delta.Upserted[0].Version || !strings.Contains(rejected[0].Reason, tc.reason) {
					t.Errorf("rejected %+v, want %v because %q", rejected, delta.Upserted[0].Ref, tc.reason)
				}
				if _, captures := pod.state(); !captures {
					t.Error("the previous version is not in force any more")
				}
			})
		})
	}
}

func TestPodThatStartsBeforeTheConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		synctest.Wait()
		begin := time.Now()
		pod := n.start("web")
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("the pod waited for %v, want one second", waited)
		}
		if got, want := n.pod("uid-web").Reason, "no configuration has been received"; got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
		pass(7 * time.Second)
		n.Apply(upsert(shop()))
		if _, captures := pod.state(); !captures {
			t.Error("the pod is not captured")
		}
		if got := n.pod("uid-web"); !got.Captured || !got.Late || time.Duration(got.Gap) != 7*time.Second {
			t.Errorf("captured %v, late %v, gap %v, want late by 7s", got.Captured, got.Late, time.Duration(got.Gap))
		}
	})
}

func TestPodWaitsForTheFirstConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		started := make(chan *netns)
		go func() { started <- n.start("web") }()
		pass(300 * time.Millisecond)
		n.Apply(upsert(shop()))
		pod := <-started
		if _, captures := pod.state(); !captures {
			t.Error("the pod is not captured when its containers start")
		}
		if got := n.pod("uid-web"); !got.Captured || got.Late {
			t.Errorf("captured %v, late %v, want captured in time", got.Captured, got.Late)
		}
	})
}

func TestPodWhoseRulesTakeTooLong(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		hang := make(chan struct{})
		begin := time.Now()
		pod := n.start("web", func(_ *capture.Sandbox, opened *netns) { opened.hang = hang })
		if waited := time.Since(begin); waited != 1500*time.Millisecond {
			t.Errorf("the runtime waited for %v, want 1.5s: after two it goes on without the agent", waited)
		}
		pass(3 * time.Second)
		close(hang)
		synctest.Wait()
		if _, captures := pod.state(); !captures {
			t.Error("the pod is not captured")
		}
		if got := n.pod("uid-web"); !got.Captured || !got.Late || time.Duration(got.Gap) != 3*time.Second {
			t.Errorf("captured %v, late %v, gap %v, want late by 3s", got.Captured, got.Late, time.Duration(got.Gap))
		}
	})
}

func TestSynchronize(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		running := func(found kernel.Found) func(*capture.Sandbox, *netns) {
			return func(s *capture.Sandbox, opened *netns) {
				s.Started, opened.found = time.Now().Add(-time.Minute), found
			}
		}
		stays, _ := n.sandbox("stays", running(kernel.Found{Guard: true, Captured: true}))
		missed, _ := n.sandbox("missed", running(kernel.Found{}))
		idle, idleNetns := n.sandbox("idle")
		goes, gone := n.sandbox("goes")
		n.Synchronize([]capture.Sandbox{stays, missed, idle, goes})
		if _, captures := idleNetns.state(); !captures {
			t.Error("the pod whose containers have not started has no rules when they may")
		}
		synctest.Wait()
		if n.full != 1 || len(n.pods) != 4 {
			t.Errorf("%d full reports of %d pods, want one of four", n.full, len(n.pods))
		}
		type lateness struct {
			captured, late bool
			gap            time.Duration
		}
		for name, want := range map[string]lateness{
			"stays": {captured: true}, "missed": {captured: true, late: true, gap: time.Minute}, "idle": {captured: true},
		} {
			report := n.pod("uid-" + name)
			if got := (lateness{report.Captured, report.Late, time.Duration(report.Gap)}); got != want {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
		}

		n.Synchronize([]capture.Sandbox{stays, missed, idle})
		synctest.Wait()
		if diff := cmp.Diff([]string{"goes"}, n.ended); diff != "" {
			t.Errorf("ended pods differ (-want +got):\n%s", diff)
		}
		if !gone.closed {
			t.Error("the namespace of a pod that is gone is still open")
		}
		if n.full != 1 {
			t.Errorf("%d full reports, want one and then only changes", n.full)
		}
	})
}

// While the operator is away, what an earlier agent left is all there is.
func TestRulesThatWereFoundStayUntilTheConfigurationComes(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		sandbox, pod := n.sandbox("web", func(s *capture.Sandbox, opened *netns) {
			s.Started, opened.found = time.Now().Add(-time.Hour), kernel.Found{Guard: true, Captured: true}
		})
		n.Synchronize([]capture.Sandbox{sandbox})
		pass(10 * kernel.Lifetime)
		if pod.applied != 0 {
			t.Error("rules were replaced without a configuration")
		}
		if pod.refreshed < 20 {
			t.Errorf("refreshed %d times in ten lifetimes", pod.refreshed)
		}
		if got := n.pod("uid-web"); !got.Captured {
			t.Errorf("report %+v, want captured", got)
		}
		n.Apply(upsert(shop()))
		if got := n.pod("uid-web"); !got.Captured || got.Late || got.Reason != "" {
			t.Errorf("report %+v, want captured and not late", got)
		}
	})
}

func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		pod := n.start("web")
		n.Stop("sandbox-web")
		n.Stop("sandbox-web")
		if !pod.closed {
			t.Error("the namespace is still open")
		}
		if diff := cmp.Diff([]string{"web"}, n.ended); diff != "" {
			t.Errorf("ended pods differ (-want +got):\n%s", diff)
		}
	})
}

// A sandbox that is made anew has the UID of the pod; the end of the old one is not the pod's end.
func TestNewSandboxOfAPod(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		n.start("web")
		other := netip.MustParseAddr("10.0.0.10")
		n.start("again", func(s *capture.Sandbox, _ *netns) {
			s.UID, s.Name, s.Addresses = "uid-web", "web", []netip.Addr{other}
		})
		n.Stop("sandbox-web")
		if got := n.pod("uid-web"); !slices.Equal(got.Addresses, []netip.Addr{other}) || len(n.ended) != 0 {
			t.Errorf("report %+v, ended %v, want the new sandbox", got, n.ended)
		}
	})
}

func TestAddressesAreReadWhereTheRuntimeTellsNone(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		synctest.Wait()
		pod := n.start("web", func(s *capture.Sandbox, opened *netns) { s.Addresses, opened.addresses = nil, []netip.Addr{podAddress} })
		if !slices.Equal(pod.guarded, []netip.Addr{podAddress}) {
			t.Errorf("guarded %v, want %v", pod.guarded, podAddress)
		}
	})
}

func TestReadiness(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		if n.Configured() || n.Listed() {
			t.Error("ready at once")
		}
		n.Apply(wire.Delta{})
		n.Synchronize(nil)
		synctest.Wait()
		if !n.Configured() || !n.Listed() {
			t.Error("not ready with a configuration and all pods")
		}
	})
}
