//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// verdict is what becomes of a call.
type verdict byte

const (
	// served: by the application.
	served verdict = '+'
	// denied: by a proxy that knows the caller.
	denied verdict = '-'
	// reset: by the pod, before a byte of the request.
	reset verdict = 'x'
	// dropped: on the way out of the caller's pod.
	dropped verdict = '.'
)

// mode is a column of the matrix.
type mode int

const (
	allowFrom mode = iota
	strictly
	allow
	deny
	audit
	permissive
	modes
)

var modeNames = [modes]string{"strict with allowFrom", "strict", "allow", "deny", "audit", "permissive"}

// verdicts are those of every caller in every mode, in the order of modes. "allow" and "deny" are
// authorizations, which make their target strict, beside a policy with allowFrom; "audit" is the first of them
// with mode Audit. The callers are:
var verdicts = map[string]string{
	// By the name of the Service.
	"the ServiceAccount that is meant":                "+++" + "+++",
	"another ServiceAccount":                          "++-" + "-++",
	"a ServiceAccount of that name in a third place":  "++-" + "+++",
	"another pod of the namespace":                    "++-" + "+++",
	"a pod outside the mesh":                          "xxx" + "x++",
	"the API server, as a proxy":                      "+x+" + "+++",
	"the API server on its way to a webhook":          "+x+" + "+++",
	"a pod of the mesh by the address of the pod":     "xxx" + "x++",
	"a pod with a forged address, that of a proxy":    "..." + "...",
	"the same pod with its own address":               "xxx" + "x++",
	"whoever has the address of a scraper that ended": "xxx" + "x++",
	"whoever has the address of a completed Job":      "xxx" + "x++",
	"a scraper, Prometheus say":                       "+x+" + "+++",
	"a peer of a headless Service in the namespace":   "+++" + "+++",
}

// matrix is the site of the identity matrix.
type matrix struct {
	t                           *testing.T
	home, abroad, third, beside string
	server                      *testbed.Pod
	// ready is when the server became so.
	ready   time.Time
	callers map[string]func() verdict
	// pods are those of the callers without an identity, by row.
	pods map[string]*testbed.Pod
	// scraper reads the operator's metrics.
	scraper *testbed.Scraper
}

// TestIdentityMatrix states the verdict for every kind of caller in every mode, and what metrics and status say
// of it. Each call is made several times, each time on a new connection.
func TestIdentityMatrix(t *testing.T) {
	m := newMatrix(t)
	api := m.apiServer()
	policy := testbed.MeshPolicy(t, m.home, fmt.Sprintf(`
metadata: {name: matrix}
spec:
  mtls:
    mode: Strict
    allowFrom: {serviceAccounts: [{namespace: %s, name: scraper}]}
`, m.beside))
	policy.Spec.MTLS.AllowFrom.CIDRs = api
	bed.Create(t, policy)
	enforced(t, policy)
	m.inherit()
	m.judge(allowFrom)

	testbed.Update(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) { p.Spec.MTLS.AllowFrom = &meshv1alpha1.MTLSAllowFrom{} })
	enforced(t, policy)
	m.becomes("a scraper, Prometheus say", reset)
	m.judge(strictly)

	testbed.Update(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) {
		p.Spec.MTLS.Mode = meshv1alpha1.MTLSPermissive
		p.Spec.MTLS.AllowFrom = &meshv1alpha1.MTLSAllowFrom{
			CIDRs:           api,
			ServiceAccounts: []meshv1alpha1.ServiceAccountReference{{Namespace: gwv1.Namespace(m.beside), Name: "scraper"}},
		}
	})
	authorization := testbed.MeshAuthorization(t, m.home, fmt.Sprintf(`
metadata: {name: matrix}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: Allow
  rules: [{from: [{serviceAccounts: [{namespace: %s, name: meant}]}]}]
`, m.abroad))
	bed.Create(t, authorization)
	m.settled(authorization)
	m.judge(allow)

	testbed.Update(t, bed, authorization, func(a *meshv1alpha1.MeshAuthorization) {
		a.Spec.Action = meshv1alpha1.AuthorizationDeny
		a.Spec.Rules[0].From[0].ServiceAccounts[0].Name = "other"
	})
	m.settled(authorization)
	m.becomes("another ServiceAccount", denied)
	m.judge(deny)

	testbed.Update(t, bed, authorization, func(a *meshv1alpha1.MeshAuthorization) {
		a.Spec.Action, a.Spec.Mode = meshv1alpha1.AuthorizationAllow, meshv1alpha1.AuthorizationAudit
		a.Spec.Rules[0].From[0].ServiceAccounts[0].Name = "meant"
	})
	testbed.Await(t, bed, authorization, programmed)
	m.becomes("a pod outside the mesh", served)
	m.becomes("another ServiceAccount", served)
	m.judge(audit)

	for _, o := range []client.Object{authorization, policy} {
		if err := bed.Client.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	m.judge(permissive)
	m.probed()
	m.announced()
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	const near, far = "node1", "node2"
	m := &matrix{t: t, pods: map[string]*testbed.Pod{}}
	m.home, m.abroad, m.third, m.beside = bed.Namespace(t, true), bed.Namespace(t, true), bed.Namespace(t, true), bed.Namespace(t, false)
	accounts := map[string][]string{m.abroad: {"meant", "other"}, m.third: {"meant"}, m.beside: {"scraper", "stranger"}}
	for namespace, names := range accounts {
		for _, name := range names {
			bed.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: m.home, Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: onlyV1, Ports: []corev1.ServicePort{{Name: "http", Port: testbed.PortHTTP, TargetPort: intstr.FromInt32(8080)}},
	}}
	peers := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: m.home, Name: "peers"}, Spec: corev1.ServiceSpec{
		Selector: onlyV1, ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "peer", Port: testbed.PortServerFirst}},
	}}
	bed.Create(t, service, peers)
	m.server = m.serve(far)
	home := bed.Run(t, m.home, testbed.App{Name: "client", Node: near})[0]
	abroad := bed.Run(t, m.abroad,
		testbed.App{Name: "meant", ServiceAccount: "meant", Node: near}, testbed.App{Name: "other", ServiceAccount: "other", Node: far})
	third := bed.Run(t, m.third, testbed.App{Name: "meant", ServiceAccount: "meant", Node: near})[0]
	beside := bed.Run(t, m.beside, testbed.App{Name: "stranger", ServiceAccount: "stranger", Node: near},
		testbed.App{Name: "scraper", ServiceAccount: "scraper", Node: near})
	for _, namespace := range []string{m.home, m.abroad, m.third} {
		bed.Proxies(t, namespace)
	}
	byName, peer := traffic.Request{URL: "http://web." + m.home}, traffic.Request{
		URL: fmt.Sprintf("peers.%s:%d", m.home, testbed.PortServerFirst), Protocol: traffic.TCP, ServerFirst: true, Body: "a line",
	}
	for _, p := range []*testbed.Pod{home, abroad[0], abroad[1], third} {
		captured(t, p, byName)
	}
	m.callers = map[string]func() verdict{
		"the ServiceAccount that is meant":               m.by(abroad[0], byName),
		"another ServiceAccount":                         m.by(abroad[1], byName),
		"a ServiceAccount of that name in a third place": m.by(third, byName),
		"another pod of the namespace":                   m.by(home, byName),
		"a pod outside the mesh":                         m.by(beside[0], byName),
		"a pod of the mesh by the address of the pod":    m.by(abroad[0], m.direct()),
		"a scraper, Prometheus say":                      m.by(beside[1], m.direct()),
		"a peer of a headless Service in the namespace":  m.by(home, peer),
		"the API server, as a proxy":                     m.byAPIServer,
		"the API server on its way to a webhook":         m.byWebhook(),
	}
	m.scraper = bed.Scraper(t, beside[1], "scraper")
	m.pods["a pod outside the mesh"], m.pods["a pod of the mesh by the address of the pod"] = beside[0], abroad[0]
	m.pods["a scraper, Prometheus say"] = beside[1]
	return m
}

// serve runs the backend, whose kubelet probes the port that is to be strict.
func (m *matrix) serve(node string) *testbed.Pod {
	m.t.Helper()
	pod := bed.Object(m.home, testbed.App{Name: "v1", Version: "v1", Node: node}, "serve")
	m.reviews(pod)
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}
	// Who is refused learns it at once: only a busy machine takes longer, and that is no failure.
	const patience = 60
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: patience}
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 1, FailureThreshold: 3, TimeoutSeconds: patience}
	bed.Create(m.t, pod)
	testbed.Await(m.t, bed, pod, ready)
	m.ready = readySince(pod)
	out := &testbed.Pod{
		Namespace: pod.Namespace, Name: pod.Name, Node: node, UID: pod.UID, Beside: pod.Labels[meshv1alpha1.SidecarLabel] == "true",
	}
	for _, ip := range pod.Status.PodIPs {
		out.Addresses = append(out.Addresses, netip.MustParseAddr(ip.IP))
	}
	return out
}

func ready(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return "not ready"
}

// readySince is when the pod became ready.
func readySince(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// probed holds the kubelet's probes to having passed all the time.
func (m *matrix) probed() {
	m.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.home, Name: m.server.Name}}
	testbed.Await(m.t, bed, pod, ready)
	if since := readySince(pod); !since.Equal(m.ready) {
		m.t.Errorf("the pod is ready since %s and was before, since %s, so that a probe has failed in between", since, m.ready)
	}
	if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
		m.t.Errorf("the container was restarted %d times, so that probes have failed", n)
	}
}

func (m *matrix) direct() traffic.Request {
	return traffic.Request{URL: "http://" + address(m.server.Addresses[0].String(), 8080)}
}

// by sends a request from a pod.
func (m *matrix) by(p *testbed.Pod, r traffic.Request) func() verdict {
	return func() verdict {
		m.t.Helper()
		a := p.Send(m.t, r)
		return m.read(&a)
	}
}

// read tells what an answer is. What is none of the verdicts ends the test.
func (m *matrix) read(a *traffic.Answer) verdict {
	m.t.Helper()
	switch {
	case from("v1")(a) == "":
		return served
	case local(403, "authorization_denied")(a) == "":
		return denied
	case refused(a) == "":
		return reset
	case strings.Contains(a.Error, "timeout") || strings.Contains(a.Error, "deadline exceeded") || strings.Contains(a.Error, "no route to host"):
		return dropped
	}
	m.t.Fatalf("no verdict: %s", show(a))
	return 0
}

// byAPIServer has the API server find an endpoint of the Service and connect to it.
func (m *matrix) byAPIServer() verdict {
	m.t.Helper()
	data, err := bed.Clientset.CoreV1().Services(m.home).ProxyGet("http", "web", "http", "/", nil).DoRaw(m.t.Context())
	switch {
	case err == nil:
		return served
	case strings.Contains(string(data), "connection refused"):
		return reset
	}
	m.t.Fatalf("no verdict: %v: %s", err, data)
	return 0
}

// apiServer are the addresses that the API server comes from, as networks: as a proxy, and to a webhook, for which
// it is a client of the Service like others. They have to be let in.
func (m *matrix) apiServer() []meshv1alpha1.CIDR {
	m.t.Helper()
	var echo traffic.Echo
	testbed.Eventually(m.t, func(ctx context.Context) error {
		data, err := bed.Clientset.CoreV1().Services(m.home).ProxyGet("http", "web", "http", "/", nil).DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &echo)
	})
	var networks []meshv1alpha1.CIDR
	for _, text := range []string{echo.Peer, m.reviewer()} {
		peer := netip.MustParseAddr(text).Unmap()
		networks = append(networks, meshv1alpha1.CIDR(netip.PrefixFrom(peer, peer.BitLen()).String()))
	}
	slices.Sort(networks)
	return slices.Compact(networks)
}

// inherit runs two callers that are let in, a scraper and a Job, and gives their addresses to others.
func (m *matrix) inherit() {
	m.t.Helper()
	const node = "node1"
	first := bed.Run(m.t, m.beside, testbed.App{Name: "scraper-2", ServiceAccount: "scraper", Node: node})[0]
	eventually(m.t, first, m.direct(), from("v1"))
	heir := successor(m.t, first, testbed.App{Name: "heir", Version: "none", ServiceAccount: "stranger", Node: node})
	row := "whoever has the address of a scraper that ended"
	m.pods[row], m.callers[row] = heir, m.by(heir, m.direct())

	job := bed.Object(m.beside, testbed.App{Name: "job", Version: "none", ServiceAccount: "scraper", Node: node}, "once", m.direct().URL)
	job.Spec.RestartPolicy = corev1.RestartPolicyOnFailure // whether its address is known in time is not the matter here
	bed.Create(m.t, job)
	testbed.Await(m.t, bed, job, func(p *corev1.Pod) string {
		if p.Status.Phase != corev1.PodSucceeded {
			return "has not completed"
		}
		return ""
	})
	var addresses []netip.Addr
	for _, ip := range job.Status.PodIPs {
		addresses = append(addresses, netip.MustParseAddr(ip.IP))
	}
	after := m.at(node, addresses)
	row = "whoever has the address of a completed Job"
	m.pods[row], m.callers[row] = after, m.by(after, m.direct())
}

// at runs a stranger with given addresses, which a pod that still exists has had.
func (m *matrix) at(node string, addresses []netip.Addr) *testbed.Pod {
	m.t.Helper()
	for n := range 5 {
		if err := testbed.ReuseAddresses(node, addresses); err != nil {
			m.t.Fatal(err)
		}
		p := bed.Run(m.t, m.beside, testbed.App{Name: fmt.Sprintf("after-%d", n), Version: "none", ServiceAccount: "stranger", Node: node})[0]
		if slices.Equal(p.Addresses, addresses) {
			return p
		}
	}
	m.t.Fatalf("no pod got the addresses %v", addresses)
	return nil
}

// settled waits until an authorization is in force in proxies and pods.
func (m *matrix) settled(a *meshv1alpha1.MeshAuthorization) {
	m.t.Helper()
	testbed.Await(m.t, bed, a, programmed)
	testbed.Await(m.t, bed, a, func(a *meshv1alpha1.MeshAuthorization) string { return inForce(a.Status.Conditions, a.Generation) })
}

// becomes waits for a verdict that a change leads to which no status speaks of.
func (m *matrix) becomes(row string, want verdict) {
	m.t.Helper()
	testbed.Eventually(m.t, func(context.Context) error {
		if got := m.callers[row](); got != want {
			return fmt.Errorf("%s: %c, want %c", row, got, want)
		}
		return nil
	})
}

// judge holds every caller to its verdict in a mode, and metrics and status to saying the same.
func (m *matrix) judge(in mode) {
	m.t.Helper()
	proxies := bed.ProxiesOf(m.t, m.server)
	decisions := func(verdict string) int {
		return bed.Metric(m.t, proxies, "weft_authorization_decisions_total", map[string]string{
			"weft_destination_namespace": m.home, "weft_destination_service": "web", "weft_authorization_verdict": verdict,
		})
	}
	before := map[string]int{"denied": decisions("denied"), "would_deny": decisions("would_deny")}
	plain := m.plain()
	resets := m.counted("weft_node_refused_connections_total")
	letIn := m.counted("weft_node_plain_connections_total")

	want := map[verdict]int{}
	m.forged(in)
	for row, call := range m.callers {
		for range tries {
			verdict := verdict(verdicts[row][in])
			want[verdict]++
			if got := call(); got != verdict {
				m.t.Errorf("%s, %s: %c, want %c", modeNames[in], row, got, verdict)
				break
			}
		}
	}
	if len(m.callers)+2 != len(verdicts) {
		m.t.Errorf("%d callers and two by a forger have been judged, of %d", len(m.callers), len(verdicts))
	}

	for verdict, n := range map[string]int{"denied": decisions("denied"), "would_deny": decisions("would_deny")} {
		least := want[denied]
		if verdict == "would_deny" {
			least = 0
			if in == audit {
				least = 3 * tries // all but the one that is meant
			}
		}
		// The figures of an authorization end with it, which may be only now.
		if n >= before[verdict] {
			n -= before[verdict]
		}
		if n < least || least == 0 && n > 0 {
			m.t.Errorf("%s: %d decisions %s have been counted, want at least %d", modeNames[in], n, verdict, least)
		}
	}
	m.grows(in, "weft_node_refused_connections_total", resets, want[reset])
	if want[reset] == 0 {
		m.grows(in, "weft_node_plain_connections_total", letIn, tries)
	}
	m.told(in, plain)
	for row, p := range m.pods {
		if row != "a scraper, Prometheus say" || verdict(verdicts[row][in]) == reset {
			m.named(in, row, p, verdict(verdicts[row][in]) == reset)
		}
	}
}

// forged judges the two rows of a pod that takes the address of a proxy, which every port of the namespace lets in.
func (m *matrix) forged(in mode) {
	m.t.Helper()
	proxy := bed.Proxies(m.t, m.home)[0]
	f := forge(m.t, m.beside, fmt.Sprintf("forger-%d", in), proxy.Addresses[0].String(), m.direct().URL)
	for row, a := range map[string]*traffic.Answer{
		"a pod with a forged address, that of a proxy": &f.Forged, "the same pod with its own address": &f.Own,
	} {
		if got, want := m.read(a), verdict(verdicts[row][in]); got != want {
			m.t.Errorf("%s, %s: %c, want %c", modeNames[in], row, got, want)
		}
	}
}

// counted is the sum of a metric of the node agents for the namespace that is called.
func (m *matrix) counted(name string) int {
	m.t.Helper()
	return bed.Metric(m.t, agents(m.t), name, map[string]string{"weft_destination_namespace": m.home})
}

// grows waits until a metric has grown by at least so much: agents look at the kernel's counters every few seconds.
func (m *matrix) grows(in mode, name string, from, least int) {
	m.t.Helper()
	testbed.Eventually(m.t, func(context.Context) error {
		if n := m.counted(name) - from; n < least {
			return fmt.Errorf("%s: %s has grown by %d, want at least %d", modeNames[in], name, n, least)
		}
		return nil
	})
}

// named waits until the Mesh names a caller past the mesh, and how often it was refused if it was.
func (m *matrix) named(in mode, row string, p *testbed.Pod, refused bool) {
	m.t.Helper()
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(m.t, bed, mesh, func(mesh *meshv1alpha1.Mesh) string {
		for _, n := range mesh.Status.PlainCallers {
			for _, c := range n.Top {
				enough := !refused || c.Refused != nil && *c.Refused >= tries
				if n.Namespace == m.home && c.Caller == p.Namespace+"/"+p.Name && c.Service == "web:80" && enough {
					return ""
				}
			}
		}
		return fmt.Sprintf("%s, %s: %s/%s is not named: %+v", modeNames[in], row, p.Namespace, p.Name, mesh.Status.PlainCallers)
	})
}
