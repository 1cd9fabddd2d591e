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
	"github.com/prometheus/client_golang/prometheus/testutil"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// strictShop is shop with a strict port, and inbound what is known of the ports of pod "web".
func strictShop() *wire.Capture {
	c := shop()
	c.Strict, c.Admitted = true, []netip.Addr{near1, near2, far}
	return c
}

func inbound(uid string, ports ...wire.InboundPort) wire.Resource {
	return wire.New(uid, wire.ScopeNode("a"), wire.Origin{}, &wire.Inbound{Namespace: "shop", Pod: "web", UID: uid, Ports: ports})
}

var strictPort = wire.InboundPort{Port: 8080, Strict: true}

// inbound returns what is in force for callers of a pod.
func (n *netns) inbound() rules.Inbound {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tables.IPv4.Inbound == nil {
		return rules.Inbound{}
	}
	return *n.tables.IPv4.Inbound
}

func TestPodOfAStrictNamespaceStartsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(strictShop()))
		synctest.Wait()
		pod := n.start("web")
		want := rules.Inbound{Closed: true, Admitted: []netip.Addr{near1, near2, podAddress, nodeAddress, far}}
		slices.SortFunc(want.Admitted, netip.Addr.Compare)
		if diff := cmp.Diff(want, pod.inbound(), byText); diff != "" {
			t.Errorf("when its containers start, the rules differ (-want +got):\n%s", diff)
		}
		if got := n.pod("uid-web"); got.Inbound != "" || !got.Captured {
			t.Errorf("report %+v, want a captured pod of whose ports nothing is known", got)
		}
		resource := inbound("uid-web", strictPort, wire.InboundPort{Port: 9090})
		n.Apply(wire.Delta{Seq: 2, Upserted: []wire.Resource{resource}})
		want.Closed, want.Strict, want.Counted = false, []uint16{8080}, []uint16{9090}
		if diff := cmp.Diff(want, pod.inbound(), byText); diff != "" {
			t.Errorf("rules differ (-want +got):\n%s", diff)
		}
		if got := n.pod("uid-web").Inbound; got != resource.Version {
			t.Errorf("version %q is in force, want %q", got, resource.Version)
		}

		// A pod that has opted out, a proxy, and one in another namespace.
		for name, labels := range map[string]map[string]string{
			"out": {"mesh.weft.dev/enabled": "false"}, "proxy": {"mesh.weft.dev/component": "proxy"},
		} {
			pod := n.start(name, func(s *capture.Sandbox, _ *netns) { s.Labels = labels })
			if closed := pod.inbound().Closed; closed != (name == "out") {
				t.Errorf("%s: closed %v", name, closed)
			}
		}
		other := n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		if other.inbound().Closed {
			t.Error("a pod of another namespace is closed")
		}
	})
}

func TestPodWhosePortsAreKnownStartsWithThem(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		delta := upsert(strictShop())
		delta.Upserted = append(delta.Upserted, inbound("uid-web", strictPort))
		n.Apply(delta)
		synctest.Wait()
		pod := n.start("web")
		if got := pod.inbound(); got.Closed || !slices.Equal(got.Strict, []uint16{8080}) || pod.applied != 1 {
			t.Errorf("rules %+v, applied %d times", got, pod.applied)
		}
		n.Apply(wire.Delta{Seq: 2, Removed: []wire.Ref{{Kind: wire.KindInbound, Key: "uid-web"}, {Kind: wire.KindCapture, Key: "shop"}}})
		if !pod.tables.IPv4.Empty() || n.pod("uid-web").Inbound != "" {
			t.Errorf("tables %+v are left, report %+v", pod.tables, n.pod("uid-web"))
		}
	})
}

// What cannot be put in force is not reported to be, and is tried again.
func TestStrictPortsThatAreNotInForce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		n.Apply(upsert(strictShop()))
		synctest.Wait()
		pod := n.start("web")
		pod.set(func(p *netns) { p.applyErrs = []error{errors.New("refused"), errors.New("refused again")} })
		resource := inbound("uid-web", strictPort)
		n.Apply(wire.Delta{Seq: 2, Upserted: []wire.Resource{resource}})
		if got := n.pod("uid-web"); got.Inbound != "" || got.Reason != "refused again" {
			t.Errorf("report %+v", got)
		}
		pass(kernel.Lifetime)
		if got := n.pod("uid-web"); got.Inbound != resource.Version {
			t.Errorf("report %+v, want version %s in force", got, resource.Version)
		}
	})
}

func TestUnusableInboundKeepsThePreviousOne(t *testing.T) {
	for reason, change := range map[string]func(*wire.Inbound){
		"and not the key":               nil,
		"a port has no number":          func(i *wire.Inbound) { i.Ports[0].Port = 0 },
		"8080 allows an invalid prefix": func(i *wire.Inbound) { i.Ports[0].Allowed = []netip.Prefix{{}} },
	} {
		t.Run(reason, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				delta := upsert(strictShop())
				delta.Upserted = append(delta.Upserted, inbound("uid-web", strictPort))
				n.Apply(delta)
				pod := n.start("web")
				content := &wire.Inbound{UID: "uid-web", Ports: []wire.InboundPort{{Port: 8080}}}
				if change == nil {
					content.UID = "uid-other"
				} else {
					change(content)
				}
				unusable := wire.New("uid-web", wire.ScopeNode("a"), wire.Origin{}, content)
				rejected := n.Apply(wire.Delta{Seq: 2, Upserted: []wire.Resource{unusable}})
				if len(rejected) != 1 || rejected[0].Ref != unusable.Ref || !strings.Contains(rejected[0].Reason, reason) {
					t.Errorf("rejected %+v, want %v because %q", rejected, unusable.Ref, reason)
				}
				if got := pod.inbound().Strict; !slices.Equal(got, []uint16{8080}) {
					t.Errorf("strict ports %v", got)
				}
			})
		})
	}
}

// While the operator is away, an agent that restarts leaves what it finds, and knows which namespaces had
// strict ports: a pod of theirs that starts is open to its node alone.
func TestStrictWithoutAnOperator(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		running := func(found kernel.Found) func(*capture.Sandbox, *netns) {
			return func(s *capture.Sandbox, opened *netns) { s.Started, opened.found = time.Now().Add(-time.Hour), found }
		}
		left, leftNetns := n.sandbox("left", running(kernel.Found{Guard: true, Captured: true, Inbound: true}))
		// Nothing publishes a port of this one, so that it has no rules for callers.
		caller, callerNetns := n.sandbox("caller", running(kernel.Found{Guard: true, Captured: true}))
		missed, missedNetns := n.sandbox("missed", running(kernel.Found{}))
		n.Synchronize([]capture.Sandbox{left, caller, missed})
		synctest.Wait()
		started := n.start("web")
		other := n.start("other", func(s *capture.Sandbox, _ *netns) { s.Namespace = "other" })
		pass(10 * kernel.Lifetime)
		for name, pod := range map[string]*netns{"missed": missedNetns, "started": started} {
			want := rules.Inbound{Closed: true, Admitted: []netip.Addr{podAddress, nodeAddress}}
			if diff := cmp.Diff(want, pod.inbound(), byText); diff != "" {
				t.Errorf("%s: rules differ (-want +got):\n%s", name, diff)
			}
		}
		for name, pod := range map[string]*netns{"left": leftNetns, "caller": callerNetns} {
			if pod.applied != 0 || pod.refreshed == 0 {
				t.Errorf("%s: rules that were found were replaced %d times and refreshed %d times", name, pod.applied, pod.refreshed)
			}
		}
		if other.applied != 0 {
			t.Error("a pod of another namespace got rules")
		}
		if got := n.pod("uid-web").Reason; !strings.Contains(got, "only the node can connect") {
			t.Errorf("reason %q", got)
		}
		delta := upsert(strictShop())
		for _, uid := range []string{"uid-left", "uid-missed", "uid-web"} {
			delta.Upserted = append(delta.Upserted, inbound(uid, strictPort))
		}
		n.Apply(delta)
		for name, pod := range map[string]*netns{"left": leftNetns, "missed": missedNetns, "started": started} {
			if got := pod.inbound(); got.Closed || !slices.Equal(got.Strict, []uint16{8080}) {
				t.Errorf("%s: rules %+v", name, got)
			}
		}
	}, "shop")
}

func TestStrictNamespacesAreRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		remembered := func() []string {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.remembered
		}
		n.Apply(upsert(strictShop()))
		if got := remembered(); !slices.Equal(got, []string{"shop"}) {
			t.Errorf("remembered %v", got)
		}
		n.Apply(upsert(shop()))
		if got := remembered(); len(got) != 0 {
			t.Errorf("remembered %v after the last port had opened", got)
		}
	}, "gone")
}

func TestNodeThatGetsAnotherAddress(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		delta := upsert(strictShop())
		delta.Upserted = append(delta.Upserted, inbound("uid-web", strictPort))
		n.Apply(delta)
		pod := n.start("web")
		another := netip.MustParseAddr("10.0.0.253")
		n.mu.Lock()
		n.addresses = []netip.Addr{another}
		n.mu.Unlock()
		pass(kernel.Lifetime)
		if got := pod.inbound().Admitted; !slices.Contains(got, another) || slices.Contains(got, nodeAddress) {
			t.Errorf("admitted %v, want %v and not %v", got, another, nodeAddress)
		}
	})
}

func TestPlainCallersAreReported(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.Synchronize(nil)
		delta := upsert(shop())
		delta.Upserted = append(delta.Upserted, inbound("uid-web", wire.InboundPort{Port: 8080}))
		n.Apply(delta)
		synctest.Wait()
		pod := n.start("web")
		one, two := netip.MustParseAddr("10.0.9.1"), netip.MustParseAddr("10.0.9.2")
		at := time.Now()
		reported := func(want ...wire.PlainCaller) {
			t.Helper()
			pass(kernel.Lifetime)
			n.mu.Lock()
			defer n.mu.Unlock()
			if diff := cmp.Diff(want, n.plain, byText); diff != "" {
				t.Errorf("reported callers differ (-want +got):\n%s", diff)
			}
			n.plain = nil
		}
		reported()
		pod.set(func(p *netns) {
			p.callers = []kernel.Caller{
				{Port: 8080, Source: two, Connections: 2, Last: at.Add(time.Second)}, {Port: 8080, Source: one, Connections: 1, Last: at},
			}
		})
		reported(
			wire.PlainCaller{UID: "uid-web", Port: 8080, Source: one, Connections: 1, Last: at},
			wire.PlainCaller{UID: "uid-web", Port: 8080, Source: two, Connections: 2, Last: at.Add(time.Second)})
		pod.set(func(p *netns) {
			p.callers = []kernel.Caller{{Port: 8080, Source: one, Refused: 3, Last: at.Add(time.Minute)}, {Port: 8080, Connections: 5, Last: at}}
		})
		reported(
			wire.PlainCaller{UID: "uid-web", Port: 8080, Connections: 5, Last: at},
			wire.PlainCaller{UID: "uid-web", Port: 8080, Source: one, Connections: 1, Refused: 3, Last: at.Add(time.Minute)})

		// Later callers share one entry, so that nobody can make the agent grow.
		pod.set(func(p *netns) {
			for source := netip.MustParseAddr("10.1.0.0"); len(p.callers) < 1000; source = source.Next() {
				p.callers = append(p.callers, kernel.Caller{Port: 8080, Source: source, Connections: 1, Last: at})
			}
		})
		pass(kernel.Lifetime)
		var single, rest uint64
		n.mu.Lock()
		for _, caller := range n.plain {
			if caller.Source.IsValid() {
				single++
			} else {
				rest = caller.Connections
			}
		}
		n.mu.Unlock()
		if single != 253 || rest != 5+1000-253 {
			t.Errorf("%d callers have their own entry and %d connections share one, want 253 and %d", single, rest, 5+1000-253)
		}

		want := `
# HELP weft_node_plain_connections_total Connections to published ports of pods that came past the mesh and were let in, by the called pod's namespace.
# TYPE weft_node_plain_connections_total counter
weft_node_plain_connections_total{weft_destination_namespace="shop"} 1008
# HELP weft_node_refused_connections_total Connections to strict ports of pods that came past the mesh and were refused, by the called pod's namespace.
# TYPE weft_node_refused_connections_total counter
weft_node_refused_connections_total{weft_destination_namespace="shop"} 3
`
		if err := testutil.GatherAndCompare(n.registry, strings.NewReader(want), "weft_node_plain_connections_total", "weft_node_refused_connections_total"); err != nil {
			t.Error(err)
		}
	})
}
