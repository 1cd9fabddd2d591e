package distribute_test

import (
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func pod(uid, address string) wire.PodReport {
	return wire.PodReport{UID: uid, Namespace: "a", Name: "app-" + uid, Addresses: []netip.Addr{netip.MustParseAddr(address)}, Captured: true}
}

func ended(uid string) wire.PodReport { return wire.PodReport{UID: uid, Ended: true} }

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// podsOf returns the UIDs and addresses that the hub knows of a node.
func podsOf(hub *distribute.Hub, node string) map[string]string {
	out := map[string]string{}
	for uid, p := range hub.Nodes()[node].Pods {
		out[uid] = p.Addresses[0].String()
	}
	return out
}

func TestNodeReportsAddUpAndSurviveReconnects(t *testing.T) {
	seen := &observer{}
	opts := distribute.HubOptions{Observer: seen}
	m := newMesh(t, distribute.NewHub(opts), nil)
	agent := m.newPeer("node/n1/agent")
	agent.stream.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("1", "10.0.0.1"), pod("2", "10.0.0.2")}})
	agent.start()
	awaitPods := func(want map[string]string) {
		t.Helper()
		m.await("pods "+cmp.Diff(nil, want), func() bool { return cmp.Equal(want, podsOf(m.hub, "n1")) })
	}
	awaitPods(map[string]string{"1": "10.0.0.1", "2": "10.0.0.2"})

	agent.stream.Report(wire.NodeReport{
		Pods: []wire.PodReport{pod("3", "10.0.0.3"), ended("1")}, Canary: &wire.CanaryReport{Captured: true, Guarded: true},
	})
	awaitPods(map[string]string{"2": "10.0.0.2", "3": "10.0.0.3"})
	state := m.hub.Nodes()["n1"]
	if !state.Complete || !state.Connected || state.Canary == nil || !state.Canary.Guarded || state.Build != "test" {
		t.Errorf("state is %+v, want a complete, connected node with a canary", state)
	}

	caller := func(uid string, connections uint64) wire.PlainCaller {
		return wire.PlainCaller{UID: uid, Port: 80, Source: netip.MustParseAddr("10.1.0.1"), Connections: connections}
	}
	agent.stream.Report(wire.NodeReport{Plain: []wire.PlainCaller{caller("2", 1), caller("3", 1)}})
	agent.stream.Report(wire.NodeReport{Plain: []wire.PlainCaller{caller("3", 5)}, Pods: []wire.PodReport{pod("4", "10.0.0.4")}})
	agent.stream.Report(wire.NodeReport{Pods: []wire.PodReport{ended("2"), ended("4"), pod("2", "10.0.0.2")}})
	awaitPlain := func() {
		t.Helper()
		want := map[wire.PlainKey]wire.PlainCaller{{UID: "3", Port: 80, Source: netip.MustParseAddr("10.1.0.1")}: caller("3", 5)}
		m.await("callers past the mesh", func() bool { return reflect.DeepEqual(want, m.hub.Nodes()["n1"].Plain) })
	}
	awaitPlain()

	m.failOver(distribute.NewHub(opts))
	awaitPods(map[string]string{"2": "10.0.0.2", "3": "10.0.0.3"})
	awaitPlain()
	state = m.hub.Nodes()["n1"]
	if !state.Complete || state.Canary == nil {
		t.Errorf("state after the fail-over is %+v, want all that was reported before", state)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	last := seen.reports[len(seen.reports)-1]
	want := wire.NodeReport{
		Full: true, Pods: []wire.PodReport{pod("2", "10.0.0.2"), pod("3", "10.0.0.3")},
		Canary: &wire.CanaryReport{Captured: true, Guarded: true}, Plain: []wire.PlainCaller{caller("3", 5)},
	}
	if diff := cmp.Diff(want, last, compareAddr); diff != "" {
		t.Errorf("last report (-want +got):\n%s", diff)
	}
}

func TestNodesReceiveCaptureAndAreCounted(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	capture := wire.New("a", wire.ScopeNodes, wire.Origin{}, &wire.Capture{Ports: []wire.CapturedPort{{Number: 16384}}})
	mesh := wire.New("mesh", wire.ScopeMesh, wire.Origin{}, &wire.Mesh{TrustDomain: "cluster.local"})
	route := wire.New("HTTPRoute/a/r/0", wire.ScopeMesh, wire.Origin{}, &wire.Route{Name: "r"})
	hub.Replace(distribute.LayerCompiled, []wire.Resource{capture, mesh, route})
	m := newMesh(t, hub, nil)
	agent, proxy := m.connect("node/n1/agent"), m.connect("proxy/a/p1")
	m.awaitHeld("a", mesh, route)
	m.await("the node", func() bool { n, of := hub.NodesHold(heldOf(capture, mesh)); return n == 1 && of == 1 })

	if diff := cmp.Diff(versions([]wire.Resource{capture, mesh}), agent.held()); diff != "" {
		t.Errorf("the agent's state (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(versions([]wire.Resource{mesh, route}), proxy.held()); diff != "" {
		t.Errorf("the proxy's state (-want +got):\n%s", diff)
	}
	if n, of := hub.NodesHold(heldOf(route)); n != 0 || of != 1 {
		t.Errorf("%d of %d nodes hold a route, want 0 of 1", n, of)
	}
}

// What an agent has reported is all there is for as long as it is connected: before its first full report on a stream, and
// after that stream, pods may have started that it does not know.
func TestReportsAreCurrentWhileTheAgentIsThere(t *testing.T) {
	seen := &observer{away: make(chan string, 10)}
	hub := distribute.NewHub(distribute.HubOptions{Observer: seen})
	full := wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("1", "10.0.0.1")}}
	check := func(when string, current bool, away int) {
		t.Helper()
		state := hub.Nodes()["n1"]
		if state.Current != current || len(seen.away) != away {
			t.Errorf("%s: current is %v and the node was said to be away %d times, want %v and %d", when, state.Current, len(seen.away), current, away)
		}
	}
	leave := distribute.JoinNode(t, hub, "n1", wire.NodeReport{})
	check("before the first full report", false, 0)
	leave()
	check("after that stream", false, 1)
	leave = distribute.JoinNode(t, hub, "n1", full)
	check("after a full report", true, 1)
	leave()
	check("after the stream", false, 2)
	again := distribute.JoinNode(t, hub, "n1", wire.NodeReport{Pods: []wire.PodReport{pod("2", "10.0.0.2")}})
	check("on the next stream, before all pods are reported", false, 2)
	leave()
	check("when a stream ends that another has replaced", false, 2)
	defer distribute.JoinNode(t, hub, "n1", full)()
	check("on a stream that has replaced another", true, 2)
	again()
	check("when the replaced one ends", true, 2)
	if diff := cmp.Diff(map[string]string{"1": "10.0.0.1"}, podsOf(hub, "n1")); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

func TestNodeIsForgottenAfterTheGracePeriod(t *testing.T) {
	tests := map[string]struct {
		back time.Duration
		want bool
	}{
		"agent restarts":   {back: time.Minute, want: true},
		"agent stays away": {want: false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := &observer{lost: make(chan string, 1)}
				hub := distribute.NewHub(distribute.HubOptions{Observer: seen, NodeGrace: 2 * time.Minute})
				leave := distribute.JoinNode(t, hub, "n1", wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("1", "10.0.0.1")}})
				leave()
				if state, ok := hub.Nodes()["n1"]; !ok || state.Connected || len(state.Pods) != 1 {
					t.Errorf("just after the stream's end the state is %+v, want the last pods", state)
				}
				if tc.back > 0 {
					<-time.After(tc.back)
					defer distribute.JoinNode(t, hub, "n1", wire.NodeReport{})()
				}
				<-time.After(3 * time.Minute)
				synctest.Wait()
				if _, ok := hub.Nodes()["n1"]; ok != tc.want || (len(seen.lost) == 1) == tc.want {
					t.Errorf("known: %v, said to be lost: %d times; want known: %v", ok, len(seen.lost), tc.want)
				}
			})
		})
	}
}
