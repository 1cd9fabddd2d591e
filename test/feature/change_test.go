package feature_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/feature/harness"
)

// history is what the generations of a route allow. Generation 0 is a Service without route.
type history struct {
	mu sync.Mutex
	// allowed holds the pods that each generation names.
	allowed []map[string]bool
	// programmed is the latest generation that every proxy has acknowledged.
	programmed int
}

func (h *history) add(pods ...string) (generation int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set := map[string]bool{}
	for _, p := range pods {
		set[p] = true
	}
	h.allowed = append(h.allowed, set)
	return len(h.allowed) - 1
}

func (h *history) program(generation int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.programmed = generation
}

func (h *history) now() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.programmed
}

// judge says what is wrong with an answer to a request that was sent when a generation was programmed:
// it must be by that generation or a later one, and from a pod which that names.
func (h *history) judge(sentAt int, a answer) error {
	if a.status != 200 {
		return fmt.Errorf("failed: status %d %s", a.status, a.header.Get("weft-reason"))
	}
	generation := -1
	if text := a.header.Get("Generation"); text != "" {
		var err error
		if generation, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	latest := len(h.allowed) - 1
	for g := sentAt; g <= latest; g++ {
		routed := !h.allowed[g]["web"]
		if h.allowed[g][a.echo.Pod] && (generation == g || !routed && generation == -1) {
			return nil
		}
	}
	return fmt.Errorf("wrong: sent at generation %d of %d, answered by %q of generation %d", sentAt, latest, a.echo.Pod, generation)
}

// backends are what edits choose from.
var backends = []struct{ name, namespace string }{
	{"web-v1", "shop"}, {"web-v2", "shop"}, {"audit", "shop"}, {"ledger", "bank"},
}

// edit returns another version of the route and the pods that it names; no route for the Service itself.
func edit(rng *rand.Rand, generation int) (route string, pods []string) {
	if rng.IntN(8) == 0 {
		return "", []string{"web"}
	}
	var refs []string
	for _, i := range rng.Perm(len(backends))[:1+rng.IntN(3)] {
		weight := rng.IntN(4)
		if len(refs) == 0 || weight > 0 {
			pods = append(pods, backends[i].name)
			weight = max(weight, 1)
		}
		refs = append(refs, fmt.Sprintf("{name: %s, namespace: %s, port: 80, weight: %d}", backends[i].name, backends[i].namespace, weight))
	}
	filter := fmt.Sprintf(`{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: Generation, value: "%d"}]}}`, generation)
	if rng.IntN(2) == 0 {
		filter += `, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Edited, value: "yes"}]}}`
	}
	return `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{filters: [` + filter + `], backendRefs: [` + strings.Join(refs, ", ") + `]}]
`, pods
}

// TestEditsUnderLoad changes weights, backends and filters of a route, deletes it and makes it again,
// while clients of two namespaces send requests. None may fail, and none that was sent after a version
// was programmed may be answered by an older one.
func TestEditsUnderLoad(t *testing.T) {
	const edits = 200
	m := start(t)
	h := &history{}
	h.add("web")
	apply(t, m, defaults(t))
	l := startLoad(t, 8, func(worker int) func() error {
		client := clientFor(m, enrolled(worker), worker)
		return func() error {
			sentAt := h.now()
			a, err := do(client, post(t, "http://web.shop/", "x"))
			if err != nil {
				return fmt.Errorf("failed: %w", err)
			}
			return h.judge(sentAt, a)
		}
	})
	rng := rand.New(rand.NewPCG(1, 2))
	for generation := 1; generation <= edits; generation++ {
		route, pods := edit(rng, generation)
		h.add(pods...)
		apply(t, m, with(t, route))
		h.program(generation)
		l.await(5)
	}
	l.stop()
}

// TestServiceRecreated: a Service that is deleted and made again, as another object with another cluster
// IP, is served as soon as it is there.
func TestServiceRecreated(t *testing.T) {
	m := start(t)
	all := defaults(t)
	for i := range all.Services {
		all.Services[i].UID = types.UID("first-" + all.Services[i].Name)
	}
	apply(t, m, all)
	client := m.HTTP("shop")
	if a := must(t, client, get(t, "http://web-v1/")); a.echo.Pod != "web-v1" {
		t.Fatalf("answered by %q, want web-v1", a.echo.Pod)
	}
	apply(t, m, without(all, "web-v1"))
	if res, err := do(m.HTTP("shop"), get(t, "http://web-v1/")); err == nil {
		t.Errorf("a Service that is gone answers %d from %q", res.status, res.echo.Pod)
	}
	again := with(t, `
apiVersion: v1
kind: Service
metadata: {name: web-v1, namespace: shop, uid: second}
spec:
  clusterIP: 10.96.0.22
  ports: [{name: http, port: 80}]
`)
	apply(t, m, again)
	for _, url := range []string{"http://web-v1/", "http://10.96.0.22/"} {
		if a := must(t, m.HTTP("shop"), get(t, url)); a.echo.Pod != "web-v1" {
			t.Errorf("%s: answered by %q, want web-v1", url, a.echo.Pod)
		}
	}
}

// without returns a snapshot in which a Service is missing.
func without(s compile.Snapshot, service string) compile.Snapshot {
	services := s.Services
	s.Services = nil
	for _, svc := range services {
		if svc.Name != service {
			s.Services = append(s.Services, svc)
		}
	}
	return s
}

// TestEnrolmentUnderLoad labels a namespace and takes the label away again, while its own clients and
// those of another namespace send requests to its Service.
func TestEnrolmentUnderLoad(t *testing.T) {
	m := startWith(t, harness.Options{LeaveGrace: leaveGrace})
	outside := defaults(t)
	inside := with(t, `
apiVersion: v1
kind: Namespace
metadata: {name: plain, labels: {mesh.weft.dev/enabled: "true"}}
`)
	apply(t, m, outside)
	l := startLoad(t, 8, func(worker int) func() error {
		client := clientFor(m, []string{"plain", "shop"}[worker%2], worker)
		return func() error {
			a, err := do(client, post(t, "http://legacy.plain/", "x"))
			if err != nil {
				return err
			}
			return a.oneOf("legacy")
		}
	})
	for range 3 {
		l.await(50)
		apply(t, m, inside)
		l.await(50)
		apply(t, m, outside)
	}
	l.await(50)
	l.stop()
}

// TestCertificatesRenewedUnderLoad: new certificates take over without a failed request.
func TestCertificatesRenewedUnderLoad(t *testing.T) {
	m := start(t)
	apply(t, m, defaults(t))
	l := startLoad(t, 8, func(worker int) func() error {
		// Every request takes the hop.
		from, to, want := "shop", "http://ledger.bank/", "ledger"
		if worker%2 == 1 {
			from, to, want = "bank", "http://web.shop/", "web"
		}
		client := clientFor(m, from, worker)
		return func() error {
			a, err := do(client, post(t, to, "x"))
			if err != nil {
				return err
			}
			return a.oneOf(want)
		}
	})
	for range 20 {
		if err := m.RenewCertificates(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.await(20)
	}
	l.stop()
}

// TestConnectionsGrowOld: a maximum connection age makes clients connect anew, and costs no request.
func TestConnectionsGrowOld(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {proxy: {maxConnectionAge: 100ms}}
`))
	var opened sync.Map
	l := startLoad(t, 8, func(worker int) func() error {
		client := clientFor(m, enrolled(worker), worker)
		return func() error {
			req := post(t, "http://web.shop/", "x")
			req = req.WithContext(countConnections(req.Context(), &opened))
			a, err := do(client, req)
			if err != nil {
				return err
			}
			return a.oneOf("web")
		}
	})
	for size(&opened) < 40 {
		l.await(10)
	}
	l.stop()
}

// TestDeletedRoute: what a route has changed is as before when it goes.
func TestDeletedRoute(t *testing.T) {
	m := start(t)
	objects := with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{matches: [{path: {value: /only}}], backendRefs: [{name: web-v1, port: 80}]}]
`)
	client := m.HTTP("shop")
	apply(t, m, objects)
	if a := must(t, client, get(t, "http://web/")); a.status != 404 {
		t.Errorf("status %d, want 404 while a route is attached", a.status)
	}
	objects.HTTPRoutes = []*gwv1.HTTPRoute{}
	apply(t, m, objects)
	if a := must(t, client, get(t, "http://web/")); a.echo.Pod != "web" {
		t.Errorf("answered by %q, want the Service's own pod", a.echo.Pod)
	}
}

// TestManyMatches: a route as large as the API allows works like a small one.
func TestManyMatches(t *testing.T) {
	const rules, matches = 16, 8
	var text strings.Builder
	text.WriteString(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
`)
	for i := range rules {
		fmt.Fprintf(&text, "  - backendRefs: [{name: web-v%d, port: 80}]\n    matches:\n", 1+i%2)
		for j := range matches {
			fmt.Fprintf(&text, "    - {path: {value: /r%d/m%d}}\n", i, j)
		}
	}
	m := start(t)
	apply(t, m, with(t, text.String()))
	client := m.HTTP("shop")
	for i := range rules {
		for j := range matches {
			want := fmt.Sprintf("web-v%d", 1+i%2)
			if a := must(t, client, get(t, fmt.Sprintf("http://web/r%d/m%d/x", i, j))); a.echo.Pod != want {
				t.Errorf("rule %d match %d: answered by %q, want %q", i, j, a.echo.Pod, want)
			}
		}
	}
}
