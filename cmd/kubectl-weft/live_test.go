package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
)

// fakeWay leads to proxies of this process. Those that it does not know answer with an error.
type fakeWay struct {
	servers map[string]*httptest.Server
	// answered, if set, is called when the head of an answer is there.
	answered func()
}

// Get implements proxies.Way.
func (f *fakeWay) Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error) {
	server := f.servers[fmt.Sprintf("%s:%d", pod, port)]
	if server == nil {
		return nil, errors.New("lost connection to pod")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := server.Client().Do(req)
	if err != nil {
		return nil, err
	}
	if f.answered != nil {
		f.answered()
	}
	return res.Body, nil
}

// closedWay is what somebody without rights meets.
type closedWay struct{}

// Get implements proxies.Way.
func (closedWay) Get(context.Context, types.NamespacedName, int, string) (io.ReadCloser, error) {
	return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods/portforward"}, "weft-proxy-1", errors.New("no"))
}

// partWay is what somebody meets who has no right to one of the proxies.
type partWay struct {
	proxies.Way
	closed string
}

// Get implements proxies.Way.
func (p partWay) Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error) {
	if pod.Name == p.closed {
		return closedWay{}.Get(ctx, pod, port, path)
	}
	return p.Way.Get(ctx, pod, port, path)
}

// fakeProxy is a proxy of the tests.
type fakeProxy struct {
	inventory *admin.Inventory
	exchanges *admin.Exchanges
	metrics   *telemetry.Metrics
	connected bool
}

// proxyPod adds a proxy that runs to a world, with what it has.
func (w *world) proxyPod(t *testing.T, name string, delta wire.Delta, rejected ...wire.Rejection) *fakeProxy {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: named("shop", name), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	pod.Labels = map[string]string{meshv1alpha1.ComponentLabel: compile.ComponentProxy}
	w.objects = append(w.objects, pod)
	p := &fakeProxy{exchanges: admin.NewExchanges(), metrics: telemetry.New(0), connected: true}
	p.inventory = &admin.Inventory{
		Build: "v1", Namespace: "shop", Pod: name, Ready: func() bool { return true }, Connected: func() bool { return p.connected },
	}
	p.inventory.Watch(func(wire.Delta) []wire.Rejection { return rejected })(delta)
	if w.way == nil {
		w.way = &fakeWay{servers: map[string]*httptest.Server{}}
	}
	way, ok := w.way.(*fakeWay)
	if !ok {
		t.Fatal("the way is closed")
	}
	for port, handler := range map[int]http.Handler{wire.PortAdmin: admin.Handler(p.inventory, p.exchanges), wire.PortMetrics: p.metrics.Handler()} {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		way.servers[fmt.Sprintf("shop/%s:%d", name, port)] = server
	}
	return p
}

// answered makes something happen whenever a proxy has begun to answer.
func (w *world) answered(t *testing.T, f func()) {
	t.Helper()
	way, ok := w.way.(*fakeWay)
	if !ok {
		t.Fatal("the way is closed")
	}
	way.answered = f
}

// compiled is what the operator makes of a world's objects.
func (w *world) compiled(t *testing.T) []wire.Resource {
	t.Helper()
	w.client = nil
	c := w.newClient(t)
	m, err := mesh.Cluster(t.Context(), c, "weft-system")
	if err != nil {
		t.Fatal(err)
	}
	return m.Compiled.Resources
}

func liveWorld() *world {
	return &world{objects: append(installed(), webService(), webRoute("web", "web"))}
}

func TestProxyStatus(t *testing.T) {
	w := liveWorld()
	resources := w.compiled(t)
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 7, Upserted: resources})
	var fewer []wire.Resource
	for _, r := range resources {
		if r.Route == nil {
			fewer = append(fewer, r)
		}
	}
	w.proxyPod(t, "weft-proxy-2", wire.Delta{Seq: 6, Upserted: fewer})
	route := wire.Ref{Kind: wire.KindRoute, Key: "HTTPRoute/shop/web/0"}
	w.proxyPod(t, "weft-proxy-3", wire.Delta{Seq: 7, Upserted: resources}, wire.Rejection{Ref: route, Version: "x", Reason: "no\nsuch"})
	w.proxyPod(t, "weft-proxy-4", wire.Delta{Seq: 7, Upserted: resources}).connected = false
	gone := w.objects[len(w.objects)-1].DeepCopyObject().(client.Object)
	gone.SetName("weft-proxy-5")
	w.objects = append(w.objects, gone)
	got := w.run(t, "proxy", "status", "-o", "json")
	var all []proxyStatus
	if err := json.Unmarshal([]byte(got.out), &all); err != nil {
		t.Fatalf("%v in %s%s", err, got.out, got.err)
	}
	var states []string
	for _, s := range all {
		states = append(states, fmt.Sprintf("%s %s %d", s.Pod, s.Sync, s.Differs))
	}
	want := []string{"weft-proxy-1 synced 0", "weft-proxy-2 stale 1", "weft-proxy-3 rejected 1", "weft-proxy-4 stale 0", "weft-proxy-5 unreachable 0"}
	if diff := cmp.Diff(want, states); diff != "" || got.code != exitNo {
		t.Errorf("exit code %d, states (-want +got):\n%s", got.code, diff)
	}
	text := w.run(t, "proxy", "status").out
	for _, want := range []string{
		"shop        weft-proxy-1   synced        connected   v1",
		"shop/weft-proxy-3 rejects Route/HTTPRoute/shop/web/0: no such\n",
		"shop/weft-proxy-5: proxy shop/weft-proxy-5: lost connection to pod\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestProxyDiff(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 7, Upserted: w.compiled(t)})
	if got := w.run(t, "proxy", "diff", "shop"); got.code != exitOK || got.out != "proxy shop/weft-proxy-1 has what is declared\n" {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	w.objects = append(w.objects, webRoute("more", "web"))
	w.client = nil
	got := w.run(t, "proxy", "diff", "shop/weft-proxy-1")
	if got.code != exitNo || got.out != "Route/HTTPRoute/shop/more/0: missing\n" {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	if got := w.run(t, "proxy", "diff", "shop/nobody"); got.code != exitAbsent || got.err != "error: no proxy shop/nobody runs: see kubectl weft proxy status\n" {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
}

func certificateOf(account string, end time.Time) wire.Resource {
	return wire.New("shop/"+account, wire.ScopeNamespace("shop"), wire.Origin{}, &wire.Certificate{
		Namespace: "shop", ServiceAccount: account, SPIFFEID: "spiffe://cluster.local/ns/shop/sa/" + account, Key: "private", NotAfter: end,
	})
}

func TestProxyConfig(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 7, Upserted: append(w.compiled(t), certificateOf("web", today))})
	got := w.run(t, "proxy", "config", "shop", "--kind", "route")
	if got.code != exitOK || !strings.Contains(got.out, "Proxy shop/weft-proxy-1, version v1, change 7\n") ||
		!strings.Contains(got.out, "HTTPRoute shop/web\n") || strings.Contains(got.out, "Destination") {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	got = w.run(t, "proxy", "config", "shop", "-o", "yaml")
	if strings.Contains(got.out, "private") || !strings.Contains(got.out, "spiffe://cluster.local/ns/shop/sa/web") {
		t.Errorf("with certificates: %s%s", got.out, got.err)
	}
}

func TestCerts(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 7, Upserted: []wire.Resource{certificateOf("web", today.Add(5*time.Hour)), certificateOf("late", today.Add(-time.Hour))}})
	got := w.run(t, "certs", "--expiring", "5000h")
	if spelled := w.run(t, "certs", "--expiring=5000h"); spelled != got {
		t.Errorf("with an equals sign: %v, want %v", spelled, got)
	}
	want := `WHAT           IDENTITY                                 ENDS                  LEFT
workload       spiffe://cluster.local/ns/shop/sa/late   2026-11-30 11:00:00   ended
workload       spiffe://cluster.local/ns/shop/sa/web    2026-11-30 17:00:00   5h0m0s
intermediate   sha256 cd                                2027-06-18 12:00:00   200 days
Exchange of the root: Steady
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitOK {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
}

// Alone the flag shows what the alerts are about.
func TestCertsThatEndSoon(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 7, Upserted: []wire.Resource{certificateOf("web", today.Add(5*time.Hour)), certificateOf("late", today.Add(3*time.Hour))}})
	for _, o := range w.objects {
		if m, ok := o.(*meshv1alpha1.Mesh); ok {
			m.Status.CertificateAuthority.Intermediates[0].NotAfter.Time = today.AddDate(0, 0, 29)
		}
	}
	got := w.run(t, "certs", "--expiring", "-o", "json")
	var all certificates
	if err := json.Unmarshal([]byte(got.out), &all); err != nil || len(all.Certificates) != 2 ||
		!strings.HasSuffix(all.Certificates[0].Identity, "/sa/late") || all.Certificates[1].What != "intermediate" {
		t.Errorf("exit code %d, %v: %s%s", got.code, err, got.out, got.err)
	}
}

func TestRotateRoot(t *testing.T) {
	w := liveWorld()
	if got := w.run(t, "certs", "rotate-root"); got.code != exitOK {
		t.Fatalf("exit code %d, %s", got.code, got.err)
	}
	m := &meshv1alpha1.Mesh{}
	if err := w.client.Get(t.Context(), types.NamespacedName{Name: "default"}, m); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Annotations[meshv1alpha1.RotateRootAnnotation], strconv.FormatInt(today.Unix(), 10); got != want {
		t.Errorf("annotation = %q, want %q", got, want)
	}
	m.Status.CertificateAuthority.Rotation = "DistributingTrust"
	if err := w.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := w.run(t, "certs", "rotate-root"); got.code != exitNo || !strings.HasPrefix(got.err, "error: an exchange is under way, in phase DistributingTrust; wait for it") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
}

func TestNoRightToProxies(t *testing.T) {
	for _, args := range []string{"proxy status", "proxy config shop", "proxy diff shop", "certs", "stat", "why x", "tap shop/web"} {
		w := liveWorld()
		w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
		w.way = closedWay{}
		got := w.run(t, strings.Fields(args)...)
		if got.code != exitForbidden || !strings.HasSuffix(got.err, "; ask for the ClusterRole weft-debugger in the namespace\n") || got.out != "" {
			t.Errorf("%s: exit code %d, %s%s", args, got.code, got.out, got.err)
		}
	}
}

// Who may look into some of the proxies alone is told so at once, and does not wait for requests that others have.
func TestTapWithoutRightToAll(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	w.proxyPod(t, "weft-proxy-2", wire.Delta{Seq: 1})
	w.way = partWay{w.way, "weft-proxy-2"}
	if wrong := w.run(t, "tap", "shop/web").oneLine(exitForbidden, "; ask for the ClusterRole weft-debugger in the namespace"); wrong != "" {
		t.Error(wrong)
	}
}

func TestStat(t *testing.T) {
	w := liveWorld()
	p := w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	series := p.metrics.Series(telemetry.Labels{Listener: "captured", Destination: "shop/web:80"})
	request := &telemetry.Outcome{Status: 200, Took: time.Millisecond}
	series.Request(request)
	w.answered(t, func() { series.Request(request) })
	got := w.run(t, "stat", "--window", "1ms")
	if got.code != exitOK || !strings.HasPrefix(got.out, "SERVICE") || !strings.Contains(got.out, "\nshop/web:80 ") || !strings.Contains(got.out, "100.00 %") {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	for args, want := range map[string]string{
		"stat --by pod":     `error: --by "pod" is not one of service, backend, route, namespace (of the caller) or caller`,
		"stat --window 0s":  "error: --window must be longer than 0",
		"top --window -1ms": "error: --window must be longer than 0",
	} {
		if got := w.run(t, strings.Fields(args)...); got.code != exitUsage || !strings.HasPrefix(got.err, want) {
			t.Errorf("%s: exit code %d, %s", args, got.code, got.err)
		}
	}
}

// failedExchange is a request that has failed at a proxy.
func failedExchange() admin.Exchange {
	return admin.Exchange{
		ID: "r1", Time: today, Duration: 12 * time.Millisecond, Listener: "captured", Source: "spiffe://cluster.local/ns/shop/sa/front", Client: netip.MustParseAddrPort("10.0.0.1:4000"),
		Method: "GET", Authority: "web", Path: "/a", Destination: "shop/web:80", Route: "HTTPRoute/shop/web", Rule: "0", Backend: "shop/web:80",
		Endpoint: netip.MustParseAddrPort("10.0.0.2:8080"), Tries: 3, Status: 503, Reason: "connect_failure", Header: []string{"accept: */*"},
	}
}

func TestWhy(t *testing.T) {
	w := liveWorld()
	p := w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	p.exchanges.Add(failedExchange())
	p.exchanges.Add(admin.Exchange{ID: "r2", Time: today, Listener: "captured", Method: "GET", Path: "/", Status: 200})
	got := w.run(t, "why", "r1")
	want := `2026-11-30T12:00:00Z GET web/a
  at the proxy of the caller, shop/weft-proxy-1
  from spiffe://cluster.local/ns/shop/sa/front 10.0.0.1:4000
  for shop/web:80, by rule 0 of HTTPRoute/shop/web
  sent to shop/web:80, 3 times, the last to 10.0.0.2:8080
  answered 503 after 12ms by the proxy: connect_failure
  No connection could be made to any of the endpoints that were tried.
  Check that the pods listen on the Service's target port.
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitNo {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
	if got := w.run(t, "why", "r2"); got.code != exitOK {
		t.Errorf("of one that went well: exit code %d, %s", got.code, got.err)
	}
	over := failedExchange()
	over.ID, over.Reason, over.Endpoint = "r4", "", netip.AddrPortFrom(netip.MustParseAddr("10.0.0.3"), wire.PortHop)
	p.exchanges.Add(over)
	if got := w.run(t, "why", "r4", "-n", "shop"); got.code != exitNo || !strings.Contains(got.out, "answered 503 after 12ms by the callee's namespace, whose proxies know why: leave out -n to ask them\n") {
		t.Errorf("of one that another proxy has answered: exit code %d, %s%s", got.code, got.out, got.err)
	}
	beside := failedExchange()
	beside.ID, beside.Reason = "r5", ""
	p.exchanges.Add(beside)
	if got := w.run(t, "why", "r5"); got.code != exitNo || !strings.Contains(got.out, "answered 503 after 12ms by the application: ") {
		t.Errorf("of one that no proxy has answered: exit code %d, %s%s", got.code, got.out, got.err)
	}
	beside.Listener, beside.Reason = "hop", "connect_failure"
	p.exchanges.Add(beside)
	if got := w.run(t, "why", "r5"); strings.Contains(got.out, "by the application") ||
		!strings.Contains(got.out, "by the callee's namespace, whose proxies know why\n") || !strings.Contains(got.out, "by the proxy: connect_failure\n") {
		t.Errorf("of one that the proxy beside a pod has answered: exit code %d, %s%s", got.code, got.out, got.err)
	}
	beside.Listener, beside.Reason, beside.ID, beside.Backend = "captured", "", "r6", "stock/api:80"
	p.exchanges.Add(beside)
	if got := w.run(t, "why", "r6", "-n", "shop"); !strings.Contains(got.out, "whose proxies know why: leave out -n to ask them\n") {
		t.Errorf("of one to a namespace that was not asked: exit code %d, %s%s", got.code, got.out, got.err)
	}
	if got := w.run(t, "why", "r3"); got.code != exitAbsent || !strings.HasPrefix(got.err, `error: no proxy remembers request "r3"`) {
		t.Errorf("of an unknown one: exit code %d, %s", got.code, got.err)
	}
}

func TestTap(t *testing.T) {
	w := liveWorld()
	p := w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	w.answered(t, func() {
		other := failedExchange()
		other.Destination, other.Backend = "shop/other:80", ""
		p.exchanges.Add(other)
		p.exchanges.Add(failedExchange())
		p.exchanges.Add(failedExchange())
	})
	got := w.run(t, "tap", "shop/web", "--limit", "2", "-o", "wide")
	one := "12:00:00.000 captured 503 GET web/a 12ms connect_failure -> shop/web:80 from spiffe://cluster.local/ns/shop/sa/front id r1\n    accept: */*\n"
	if got.code != exitOK || got.out != one+one {
		t.Errorf("exit code %d, %q%s", got.code, got.out, got.err)
	}
	got = w.run(t, "tap", "web", "-n", "shop", "--limit", "1", "-o", "json")
	var s seen
	if err := json.Unmarshal([]byte(got.out), &s); err != nil || s.ID != "r1" || s.Pod != "weft-proxy-1" {
		t.Errorf("as JSON: %+v, %v%s", s, err, got.err)
	}
	if got := w.run(t, "tap", "shop/nobody"); got.code != exitAbsent || got.err != "error: Service shop/nobody does not exist\n" {
		t.Errorf("of nobody: exit code %d, %s", got.code, got.err)
	}
}

// onceLost loses one proxy the first time.
type onceLost struct {
	*fakeWay
	pod  string
	lost atomic.Bool
}

// Get implements proxies.Way.
func (o *onceLost) Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error) {
	if pod.Name == o.pod && !o.lost.Swap(true) {
		return nil, errors.New("lost connection to pod")
	}
	return o.fakeWay.Get(ctx, pod, port, path)
}

// A tap that misses a proxy says so, and comes back to it.
func TestTapOfALostProxy(t *testing.T) {
	w := liveWorld()
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	lost := w.proxyPod(t, "weft-proxy-2", wire.Delta{Seq: 1})
	w.answered(t, func() {
		if lost.exchanges.Listening() {
			lost.exchanges.Add(failedExchange())
		}
	})
	way, _ := w.way.(*fakeWay)
	w.way = &onceLost{fakeWay: way, pod: "weft-proxy-2"}
	got := w.run(t, "tap", "shop/web", "--limit", "1")
	const want = "proxy shop/weft-proxy-2: lost connection to pod; its requests are not shown until it is reached again\n"
	if got.code != exitOK || !strings.Contains(got.out, "503 GET") || got.err != want {
		t.Errorf("exit code %d, %q%q", got.code, got.out, got.err)
	}
}
