package capture_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/wire"
)

// wantProxies checks which proxies a pod uses.
func wantProxies(t *testing.T, when string, pod *netns, want ...netip.Addr) {
	t.Helper()
	synctest.Wait()
	if got, _ := pod.state(); !slices.Equal(got, want) {
		t.Errorf("%s: the pod uses %v, want %v", when, got, want)
	}
}

func TestProxiesThatFail(t *testing.T) {
	tests := map[string]struct {
		verdict capture.Verdict
		// within bounds the time until the proxy is out; zero means never.
		within                time.Duration
		forgotten, unanswered bool
	}{
		"refused":  {verdict: capture.Refused, within: time.Second, forgotten: true},
		"draining": {verdict: capture.Draining, within: time.Second},
		"silent":   {verdict: capture.Silent, within: 2 * time.Second, unanswered: true},
		"slow":     {verdict: capture.Slow, within: 2 * time.Second},
		"unknown":  {verdict: capture.Unknown},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				n.Synchronize(nil)
				n.Apply(upsert(shop()))
				pod, other := n.start("web"), n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
				wantProxies(t, "at first", pod, near1, near2)

				n.probesSay(tc.verdict, near1)
				if tc.within == 0 {
					pass(time.Minute)
					wantProxies(t, "after a minute", pod, near1, near2)
					return
				}
				pass(tc.within)
				wantProxies(t, "afterwards", pod, near2)
				all, unanswered := pod.losses(near1)
				if all > 0 != tc.forgotten || unanswered > 0 != tc.unanswered {
					t.Errorf("forgotten %d times, unanswered ones %d times; want %v, %v", all, unanswered, tc.forgotten, tc.unanswered)
				}
				if all, unanswered := other.losses(near1); all+unanswered > 0 {
					t.Error("connections of another namespace are forgotten")
				}

				n.probesSay(capture.Accepting, near1)
				pass(time.Second)
				wantProxies(t, "when it is back", pod, near1, near2)
			})
		})
	}
}

func TestOneUnansweredProbeIsNotEnough(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		synctest.Wait()
		n.once(capture.Silent, near1)
		pass(10 * time.Second)
		wantProxies(t, "after one lost packet", pod, near1, near2)
		if all, unanswered := pod.losses(near1); all+unanswered > 0 {
			t.Error("connections are forgotten")
		}
	})
}

// A proxy that does not answer may be one that lives, on a node that is out of breath. What it has
// acknowledged is not taken from it until it has been silent for long; what it has not is, each time it
// stays silent, since the pod may have sent something meanwhile.
func TestSilentProxyKeepsWhatItHasAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		synctest.Wait()
		n.probesSay(capture.Silent, near1)
		pass(10 * time.Second)
		wantProxies(t, "while it is silent", pod, near2)
		if all, unanswered := pod.losses(near1); all > 0 || unanswered < 5 {
			t.Errorf("forgotten %d times, unanswered ones %d times; want the latter alone, again and again", all, unanswered)
		}
		n.probesSay(capture.Accepting, near1)
		pass(time.Second)
		wantProxies(t, "when it is back", pod, near1, near2)
		n.probesSay(capture.Silent, near1)
		pass(10 * time.Second)
		if all, _ := pod.losses(near1); all > 0 {
			t.Error("everything is forgotten though it has answered in between")
		}
		pass(10 * time.Second)
		all, unanswered := pod.losses(near1)
		if all != 1 {
			t.Errorf("everything is forgotten %d times, want once", all)
		}
		pass(time.Minute)
		if all, again := pod.losses(near1); all != 1 || again != unanswered {
			t.Error("what is forgotten already is forgotten again")
		}
	})
}

func TestOtherZonesStepIn(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		n.probesSay(capture.Refused, near1, near2)
		pass(time.Second)
		wantProxies(t, "without proxies of the zone", pod, far)
	})
}

func TestNoProxyIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(shop()))
		pod := n.start("web")
		n.probesSay(capture.Refused, near1, near2, far)
		pass(time.Second)
		wantProxies(t, "without proxies", pod)
		if got := n.pod("uid-web"); got.Captured || got.Reason != "no proxy accepts connections: Services without a route are reached directly, others are refused" {
			t.Errorf("report %+v, want one that says where connections go", got)
		}
		n.probesSay(capture.Accepting, far)
		pass(time.Second)
		wantProxies(t, "with one back", pod, far)
		if got := n.pod("uid-web"); !got.Captured || got.Reason != "" {
			t.Errorf("report %+v, want captured", got)
		}
	})
}

// An overloaded proxy is still a better way than around the mesh.
func TestSlowProxiesAreUsedWhenNoneIsLive(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		n.probesSay(capture.Slow, near1, near2, far)
		pass(10 * time.Second)
		wantProxies(t, "while all are slow", pod, near1, near2)
		if all, unanswered := pod.losses(near1); all+unanswered > 0 {
			t.Error("connections are forgotten")
		}
	})
}

func TestProxyThatIsDeadFromTheStartIsNeverUsed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.probesSay(capture.Refused, near1)
		n.Apply(upsert(shop()))
		wantProxies(t, "when the pod starts", n.start("web"), near2)
	})
}

func TestProxyThatEndsOnThisNodeIsOutAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		n.start("near1", func(s *capture.Sandbox, _ *netns) {
			s.Labels, s.Addresses = map[string]string{"mesh.weft.dev/component": "proxy"}, []netip.Addr{near1}
		})
		pod := n.start("web")
		synctest.Wait()
		begin := time.Now()
		n.Stop("sandbox-near1")
		wantProxies(t, "at once", pod, near2)
		if all, _ := pod.losses(near1); time.Since(begin) > 0 || all == 0 {
			t.Errorf("connections forgotten %d times after %v, want that at once", all, time.Since(begin))
		}
	})
}

// The operator takes a proxy that drains out of the list; if it dies then, connections to it must
// still be forgotten.
func TestDepartedProxyThatDies(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		pod := n.start("web")
		rest := shop()
		rest.Proxies = rest.Proxies[1:]
		n.Apply(upsert(rest))
		wantProxies(t, "when one has departed", pod, near2)
		pass(time.Minute)
		n.probesSay(capture.Silent, near1)
		pass(2 * time.Second)
		if _, unanswered := pod.losses(near1); unanswered == 0 {
			t.Error("unanswered connections to it are not forgotten")
		}
		pass(time.Minute)
		if all, _ := pod.losses(near1); all == 0 {
			t.Error("connections to it are not forgotten")
		}
	})
}

func TestProxiesThatNobodyUsesAreNotProbed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Apply(upsert(shop()))
		n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		pass(time.Minute)
		if probed := n.probed(); len(probed) > 0 {
			t.Errorf("probed %v", probed)
		}
		n.start("web")
		n.Stop("sandbox-web")
		pass(time.Hour)
		n.forgetProbes()
		pass(time.Minute)
		if probed := n.probed(); len(probed) > 0 {
			t.Errorf("probed %v an hour after the last pod", probed)
		}
	})
}

func TestAddressInUseByAnotherNamespaceIsProbedAnew(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.probesSay(capture.Refused, near1)
		n.Apply(upsert(shop()))
		n.start("web")
		pass(time.Second)
		n.probesSay(capture.Accepting, near1)
		n.Apply(wire.Delta{Seq: 2, Removed: []wire.Ref{{Kind: wire.KindCapture, Key: "shop"}}})
		n.Apply(wire.Delta{Seq: 3, Upserted: []wire.Resource{wire.New("other", wire.ScopeNodes, wire.Origin{}, shop())}})
		wantProxies(t, "in the other namespace", n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" }), near1, near2)
	})
}
