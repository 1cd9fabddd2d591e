//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// strangers are callers outside the mesh, one on each node, that connect to a Service again and again.
type strangers struct {
	t     *testing.T
	pods  []*testbed.Pod
	loads []*testbed.Load
}

// newStrangers starts them in a namespace that is not enrolled.
func newStrangers(t *testing.T) *strangers {
	t.Helper()
	return &strangers{t: t, pods: bed.Run(t, bed.Namespace(t, false),
		testbed.App{Name: "stranger-1", Version: "none", Node: "node1"}, testbed.App{Name: "stranger-2", Version: "none", Node: "node2"})}
}

// call has them send to a Service, each request on a new connection, in HTTP and in lines.
func (s *strangers) call(service string) {
	s.t.Helper()
	requests := []traffic.Request{
		{URL: "http://" + service}, {URL: fmt.Sprintf("%s:%d", service, testbed.PortLines), Protocol: traffic.TCP, Body: "a line"},
	}
	for _, p := range s.pods {
		s.loads = append(s.loads, p.Load(s.t, traffic.Load{Requests: requests, Workers: 4, Rate: 40, NewConnections: true}))
	}
}

// judge stops the loads and returns how many requests that were sent and answered within a time were let in
// and how many refused. An end that is zero has not come yet.
func (s *strangers) judge(begin, end time.Time) (in, refused int) {
	s.t.Helper()
	for _, l := range s.loads {
		for _, sample := range l.Stop().Samples {
			switch {
			case sample.Sent.Before(begin) || !end.IsZero() && sample.Ended.After(end):
			case sample.Failure == "":
				in++
				s.t.Errorf("a stranger was let in, sent at %s", sample.Sent)
			case !strings.Contains(sample.Failure, "connection refused"):
				s.t.Errorf("a stranger was not refused but met with: %s", sample.Failure)
			default:
				refused++
			}
		}
	}
	s.loads = nil
	return in, refused
}

// strict makes all ports of a namespace strict and waits until the nodes have proven it.
func strict(t *testing.T, namespace string) *meshv1alpha1.MeshPolicy {
	t.Helper()
	policy := testbed.MeshPolicy(t, namespace, `
metadata: {name: strict}
spec:
  mtls: {mode: Strict}
`)
	bed.Create(t, policy)
	enforced(t, policy)
	return policy
}

func enforced(t *testing.T, policy *meshv1alpha1.MeshPolicy) {
	t.Helper()
	testbed.Await(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) string { return inForce(p.Status.Conditions, p.Generation) })
}

// inForce says what an object lacks to be enforced.
func inForce(conditions []metav1.Condition, generation int64) string {
	c := meta.FindStatusCondition(conditions, meshv1alpha1.PolicyEnforced)
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != generation {
		return "not enforced: " + testbed.Describe(conditions)
	}
	return ""
}

// TestStrictAndBack makes a namespace strict and permissive again under load. No request of the mesh fails;
// strangers are counted and reported before, refused and counted meanwhile, and served afterwards; a session
// that a stranger has opened before ends.
func TestStrictAndBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	loads := s.load(t)
	outside := newStrangers(t)
	outside.call(s.service())
	session := outside.pods[0].Load(t, traffic.Load{
		Requests: []traffic.Request{{URL: fmt.Sprintf("%s:%d", s.service(), testbed.PortLines), Protocol: traffic.TCP, Body: "a line"}},
		Workers:  1, Rate: 10,
	})
	more(append(outside.loads, session))
	called(t, s.home, func(c meshv1alpha1.PlainCaller) bool {
		return c.Caller == outside.pods[0].Namespace+"/stranger-1" && c.Connections != nil && *c.Connections > 0
	})
	counted := func(name string) func(context.Context) error {
		return func(context.Context) error {
			if bed.Metric(t, agents(t), name, map[string]string{"weft_destination_namespace": s.home}) == 0 {
				return fmt.Errorf("%s counts nothing of namespace %s", name, s.home)
			}
			return nil
		}
	}
	testbed.Eventually(t, counted("weft_node_plain_connections_total"))

	policy := strict(t, s.home)
	begin := time.Now()
	more(loads)
	more(outside.loads)
	testbed.Eventually(t, counted("weft_node_refused_connections_total"))
	called(t, s.home, func(c meshv1alpha1.PlainCaller) bool { return c.Refused != nil && *c.Refused > 0 })
	s.remark(t, "strict")
	end := time.Now()

	if err := bed.Client.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	eventually(t, outside.pods[1], s.request(), func(a *traffic.Answer) string {
		if a.Error != "" || a.Echo == nil {
			return "no success"
		}
		return ""
	})
	more(loads)
	s.remark(t, "after")
	unharmed(t, loads)
	_, refused := outside.judge(begin, end)
	if refused == 0 {
		t.Error("no stranger has called while the namespace was strict")
	}
	t.Logf("%d calls of strangers were refused within %s", refused, end.Sub(begin).Round(time.Millisecond))
	for _, sample := range session.Stop().Samples {
		if sample.Failure == "" {
			continue
		}
		if strings.Contains(sample.Failure, "connection refused") {
			t.Errorf("the stranger's session ended otherwise than by the step to strict, which resets it: %s", sample.Failure)
		}
		t.Logf("the stranger's session ended with: %s", sample.Failure)
		return
	}
	t.Error("the stranger's session has not ended")
}

// called waits until the Mesh reports a caller of a namespace past the mesh.
func called(t *testing.T, namespace string, by func(meshv1alpha1.PlainCaller) bool) {
	t.Helper()
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		for _, n := range m.Status.PlainCallers {
			if n.Namespace != namespace {
				continue
			}
			for _, caller := range n.Top {
				if by(caller) {
					return ""
				}
			}
		}
		return fmt.Sprintf("no such caller of namespace %s is reported: %+v", namespace, m.Status.PlainCallers)
	})
}

// TestStrictAgentRestart replaces the node agents while a namespace is strict: its ports are open at no
// moment, and no request of the mesh fails.
func TestStrictAgentRestart(t *testing.T) {
	s := newSite(t)
	policy := strict(t, s.home)
	loads := s.load(t)
	outside := newStrangers(t)
	outside.call(s.service())
	begin := time.Now()
	daemons := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: testbed.SystemNamespace, Name: "weft-node"}}
	testbed.Update(t, bed, daemons, func(d *appsv1.DaemonSet) { testbed.Restarted(&d.Spec.Template) })
	rolledOut(t, daemons)
	enforced(t, policy)
	more(loads)
	s.remark(t, "after")
	_, refused := outside.judge(begin, time.Time{})
	t.Logf("%d calls of strangers were refused", refused)
	unharmed(t, loads)
}

// TestStrictProxyRestart replaces the proxies of a strict namespace under load: pods admit the new ones before
// anything is sent to them.
func TestStrictProxyRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	strict(t, s.home)
	loads := s.load(t)
	outside := newStrangers(t)
	outside.call(s.service())
	begin := time.Now()
	for range 2 {
		old := bed.Proxies(t, s.home)
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.home, Name: meshv1alpha1.ProxyName}}
		bed.Restart(t, deployment)
		bed.Proxies(t, s.home)
		for _, p := range old {
			gone(t, p)
		}
	}
	more(loads)
	s.remark(t, "after")
	outside.judge(begin, time.Time{})
	unharmed(t, loads)
}

// TestStrictWithoutProxies takes all proxies of a strict namespace away: calls fail, with a route and without,
// and the Mesh says why. When they are back, so is everything.
func TestStrictWithoutProxies(t *testing.T) {
	namespace := shared(t, bed.Namespace(t, true)) // the proxies that it takes away are those that pods share
	sender := bed.Run(t, namespace, testbed.App{Name: "v1", Version: "v1", Node: "node1"}, testbed.App{Name: "client", Node: "node2"})[1]
	bed.Create(t, testbed.NewService(namespace, "plain", onlyV1))
	proxies := bed.Proxies(t, namespace)
	plain := traffic.Request{URL: "http://plain"}
	captured(t, sender, plain)
	strict(t, namespace)
	always(t, sender, plain, from("v1"))

	empty := fillNodes(t)
	for _, p := range proxies {
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, sender, plain, refused)
	for _, p := range proxies {
		gone(t, p)
	}
	always(t, sender, plain, refused)
	meshSays(t, meshv1alpha1.MeshProxiesReady, func(c *metav1.Condition) string {
		if c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, namespace) {
			return "want it to name " + namespace
		}
		return ""
	})
	always(t, sender, plain, refused)

	empty()
	bed.Proxies(t, namespace)
	eventually(t, sender, plain, from("v1"))
	captured(t, sender, plain)
	always(t, sender, plain, from("v1"))
}

// TestStrictFromTheStart starts pods under the eyes of strangers that know their address beforehand and try it
// all the time. They never get through in a strict namespace, and do in one that is not.
func TestStrictFromTheStart(t *testing.T) {
	const node = "node1"
	namespace := bed.Namespace(t, true)
	w := &vigil{t: t, namespace: namespace, node: node, outside: newStrangers(t)}
	bed.Create(t, testbed.NewService(namespace, "web", map[string]string{"role": "watched"}))
	bed.Proxies(t, namespace)
	if in, _ := w.start(); in == 0 {
		t.Fatal("the strangers did not get through to a pod that is open: they are no witnesses")
	}
	strict(t, namespace)
	for range 3 {
		in, refused := w.start()
		if in > 0 {
			t.Errorf("strangers got through %d times", in)
		}
		t.Logf("strangers were refused %d times", refused)
	}
	pods := bed.Run(t, namespace, testbed.App{Name: "client", Node: "node2"}, w.app())
	expect(t, pods[0], traffic.Request{URL: "http://web"}, from("v1"))
}

// TestStrictWithoutAnOperator takes the operator away and replaces the node agents meanwhile: what is strict
// stays so, a pod that starts is closed to all but its node, and no request of the mesh fails. When the operator
// is back the pod is served.
func TestStrictWithoutAnOperator(t *testing.T) {
	s := newSite(t)
	policy := strict(t, s.home)
	// Nobody can give pods proxies of their own meanwhile: TestSidecarIsMissing tells what becomes of one that is to have one.
	w := &vigil{t: t, namespace: s.home, node: "node1", outside: newStrangers(t), labels: placed(meshv1alpha1.PlacementNamespace)}
	loads := s.load(t)
	w.outside.call(s.service())
	begin := time.Now()
	back := withoutOperator(t)
	for _, p := range agents(t) {
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}); err != nil {
			t.Fatal(err)
		}
		gone(t, p)
	}
	testbed.Eventually(t, func(ctx context.Context) error {
		pods, err := bed.Pods(ctx, testbed.SystemNamespace, client.MatchingLabels{meshv1alpha1.ComponentLabel: "node"})
		if err != nil {
			return err
		}
		for _, p := range pods {
			// It knows pods once the runtime has told it of them, and will tell it of those that start.
			n, err := bed.TryMetric(ctx, p, "weft_node_pods", nil)
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("agent %s knows no pod", p.Name)
			}
		}
		if len(pods) < 2 {
			return fmt.Errorf("%d agents", len(pods))
		}
		return nil
	})
	in, refused := w.start()
	if in > 0 {
		t.Errorf("strangers got through to the new pod %d times", in)
	}
	t.Logf("strangers were refused by the new pod %d times", refused)
	more(loads)
	more(w.outside.loads)

	back()
	enforced(t, policy)
	more(loads)
	s.remark(t, "after")
	_, refused = w.outside.judge(begin, time.Time{})
	t.Logf("%d calls of strangers to the Service were refused", refused)
	unharmed(t, loads)
	bed.Create(t, testbed.NewService(s.home, "watched", map[string]string{"role": "watched"}))
	expect(t, s.clients[0], traffic.Request{URL: "http://watched." + s.home}, from("v1"))
}

// withoutOperator ends the operator, and lets it come back when it is told to or the test ends.
func withoutOperator(t *testing.T) (back func()) {
	t.Helper()
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: testbed.SystemNamespace, Name: "weft-operator"}}
	scale := func(replicas int32) (before int32) {
		testbed.Update(t, bed, deployment, func(d *appsv1.Deployment) { before, d.Spec.Replicas = *d.Spec.Replicas, &replicas })
		return before
	}
	before := scale(0)
	back = func() {
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, before))
		if err := bed.Client.Patch(context.Background(), deployment, patch); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(back)
	testbed.Eventually(t, func(ctx context.Context) error {
		pods, err := bed.Pods(ctx, testbed.SystemNamespace, client.MatchingLabels{meshv1alpha1.ComponentLabel: "operator"})
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%d operators are there", len(pods))
		}
		return err
	})
	return back
}

// TestStrictWithoutAnAgent starts a pod that asks not to run without the node's agent while that is away. It
// starts when the agent is back, and not late.
func TestStrictWithoutAnAgent(t *testing.T) {
	const node = "node2"
	namespace := bed.Namespace(t, true)
	outside := newStrangers(t)
	bed.Create(t, testbed.NewService(namespace, "web", onlyV1))
	bed.Proxies(t, namespace)
	strict(t, namespace)
	before := nodeStatus(t, node, func(meshv1alpha1.NodeStatus) string { return "" })
	daemons := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: testbed.SystemNamespace, Name: "weft-node"}}
	back := keepAway(t, daemons, node)
	pod := bed.Object(namespace, testbed.App{Name: "v1", Version: "v1", Node: node}, "serve")
	pod.Annotations = map[string]string{"required-plugins.noderesource.dev": `["weft"]`}
	bed.Create(t, pod)
	testbed.Await(t, bed, pod, func(p *corev1.Pod) string {
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if c.State.Waiting != nil && strings.Contains(c.State.Waiting.Message, `required plugin "weft" not present`) {
				return ""
			}
		}
		return fmt.Sprintf("not refused by the runtime: %+v, %+v", p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	})
	back()
	rolledOut(t, daemons)
	testbed.Await(t, bed, pod, func(p *corev1.Pod) string {
		if p.Status.Phase != corev1.PodRunning {
			return "it does not run"
		}
		return ""
	})
	past := traffic.Request{URL: "http://" + address(pod.Status.PodIP, 8080)}
	for _, p := range outside.pods {
		always(t, p, past, refused)
	}
	sender := bed.Run(t, namespace, testbed.App{Name: "client", Node: "node1"})[0]
	eventually(t, sender, traffic.Request{URL: "http://web"}, from("v1"))
	for _, p := range outside.pods {
		always(t, p, past, refused)
	}
	nodeStatus(t, node, func(n meshv1alpha1.NodeStatus) string {
		if n.Message != "" || *n.LatePods != *before.LatePods {
			return fmt.Sprintf("want %d late pods, as before", *before.LatePods)
		}
		return ""
	})
}

// vigil starts pods, each with an address that nobody has had before: what a neighbour still remembers of an
// address would keep the strangers from the pod's first moments.
type vigil struct {
	t               *testing.T
	namespace, node string
	outside         *strangers
	// labels are further ones of the pods.
	labels  map[string]string
	started byte
}

func (w *vigil) app() testbed.App {
	w.started++
	labels := map[string]string{"role": "watched"}
	maps.Copy(labels, w.labels)
	return testbed.App{Name: fmt.Sprintf("watched-%d", w.started), Version: "v1", Node: w.node, Labels: labels}
}

// next is an address of the node's that its address plugin has not come to yet.
func (w *vigil) next() netip.Addr {
	bytes := w.outside.pods[0].Addresses[0].As4()
	bytes[2], bytes[3] = bytes[2]|0x0f, 16*w.started+16
	return netip.AddrFrom4(bytes)
}

// start starts a pod while the strangers try its address, until both have met with it many times, and returns
// how often they got through and how often they were refused.
func (w *vigil) start() (in, refused int) {
	w.t.Helper()
	address := w.next()
	var loads []*testbed.Load
	for _, p := range w.outside.pods {
		loads = append(loads, p.Load(w.t, traffic.Load{
			Requests: []traffic.Request{{URL: "http://" + netip.AddrPortFrom(address, 8080).String(), Timeout: 200 * time.Millisecond}},
			Workers:  8, Rate: 80, NewConnections: true,
		}))
	}
	if err := testbed.ReuseAddresses(w.node, []netip.Addr{address}); err != nil {
		w.t.Fatal(err)
	}
	pod := bed.Run(w.t, w.namespace, w.app())[0]
	if pod.Addresses[0] != address {
		w.t.Fatalf("the pod has %v and not %v", pod.Addresses, address)
	}
	for _, l := range loads {
		testbed.Eventually(w.t, func(context.Context) error {
			if in, refused := met(l.Progress()); in+refused < 20 {
				return fmt.Errorf("a stranger has met with the pod %d times", in+refused)
			}
			return nil
		})
		through, turnedAway := met(l.Stop())
		in, refused = in+through, refused+turnedAway
	}
	return in, refused
}

// met counts the requests that got through and those that were refused; others found nobody.
func met(p traffic.Progress) (in, refused int) {
	for _, s := range p.Samples {
		switch {
		case s.Failure == "":
			in++
		case strings.Contains(s.Failure, "connection refused"):
			refused++
		}
	}
	return in, refused
}
