//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestUnresolvedBackend: the share of a backend that does not exist is answered with 500 (GEP-1294), and
// nothing else.
func TestUnresolvedBackend(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "unresolved")
	bed.Create(t, testbed.NewService(w.home, "unresolved-all", allVersions))
	halved := testbed.HTTPRoute(t, w.home, `
metadata: {name: unresolved}
spec:
  parentRefs: [{group: "", kind: Service, name: unresolved, port: 80}]
  rules:
  - backendRefs: [{name: unresolved-v1, port: 80}, {name: missing, port: 80}]
`)
	whole := testbed.HTTPRoute(t, w.home, `
metadata: {name: unresolved-all}
spec:
  parentRefs: [{group: "", kind: Service, name: unresolved-all, port: 80}]
  rules:
  - backendRefs: [{kind: Deployment, group: apps, name: missing, port: 80}]
`)
	calls := testbed.GRPCRoute(t, w.home, `
metadata: {name: unresolved}
spec:
  parentRefs: [{group: "", kind: Service, name: unresolved, port: 9000}]
  rules:
  - backendRefs: [{name: unresolved-v1, port: 9999}]
`)
	for _, tc := range []struct {
		route  client.Object
		reason string
	}{{halved, "BackendNotFound"}, {whole, "InvalidKind"}, {calls, "BackendNotFound"}} {
		bed.Create(t, tc.route)
		conditions := bed.Settled(t, tc.route)
		for _, wrong := range []string{
			wantCondition(conditions, "Accepted", metav1.ConditionTrue, "Accepted"),
			wantCondition(conditions, "ResolvedRefs", metav1.ConditionFalse, tc.reason),
		} {
			if wrong != "" {
				t.Errorf("%T %s: %s", tc.route, tc.route.GetName(), wrong)
			}
		}
	}
	expect(t, w.client, traffic.Request{URL: "http://unresolved-all"}, local(500, "invalid_backend"))
	expect(t, w.client, traffic.Request{Protocol: traffic.GRPC, URL: "unresolved:9000"}, local(int(codes.Unavailable), "invalid_backend"))

	request := traffic.Request{URL: "http://unresolved"}
	captured(t, w.client, request)
	load := w.client.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 4})
	load.More(400)
	counts := map[string]int{}
	p := load.Stop()
	for _, s := range p.Samples {
		kind := s.Version
		if strings.HasPrefix(s.Failure, "status 500 invalid_backend") {
			kind = "500"
		}
		counts[kind]++
	}
	if share := float64(counts["500"]) / float64(p.Sent); share < 0.35 || share > 0.65 || counts["500"]+counts["v1"] != p.Sent {
		t.Errorf("of %d requests: %v, want v1 and 500 in halves", p.Sent, counts)
	}
}

// TestNoRuleMatched: what matches no rule of an attached route is not forwarded (GEP-1294).
func TestNoRuleMatched(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "unmatched")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: unmatched}
spec:
  parentRefs: [{group: "", kind: Service, name: unmatched, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /known}}]
    backendRefs: [{name: unmatched-v1, port: 80}]
`))
	bed.Program(t, testbed.GRPCRoute(t, w.home, `
metadata: {name: unmatched}
spec:
  parentRefs: [{group: "", kind: Service, name: unmatched, port: 9000}]
  rules:
  - matches: [{method: {service: weft.e2e.Echo, method: Known}}]
    backendRefs: [{name: unmatched-v1, port: 9000}]
`))
	expect(t, w.client, traffic.Request{URL: "http://unmatched/known"}, from("v1"))
	expect(t, w.client, traffic.Request{URL: "http://unmatched/unknown?key=unmatched"}, local(404, "no_rule_matched"))
	expect(t, w.client, traffic.Request{Protocol: traffic.GRPC, URL: "unmatched:9000", Method: "/weft.e2e.Echo/Known"}, from("v1"))
	expect(t, w.client, traffic.Request{
		Protocol: traffic.GRPC, URL: "unmatched:9000", Method: "/weft.e2e.Echo/Unknown", Header: map[string]string{"e2e-key": "unmatched"},
	}, local(int(codes.Unimplemented), "no_rule_matched"))
	if seen := w.v1.Seen(t, "unmatched") + w.v2.Seen(t, "unmatched"); seen != 0 {
		t.Errorf("%d requests have been forwarded, want none", seen)
	}
}

// TestRefusedParents: a route is not accepted for what cannot be its parent (GEP-1294).
func TestRefusedParents(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	outside := bed.Namespace(t, false)
	service := testbed.NewService(w.home, "refused", allVersions)
	headless := testbed.NewService(w.home, "refused-headless", allVersions)
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	external := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.home, Name: "refused-external"}}
	external.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	bed.Create(t, service, headless, external)
	tests := map[string]struct {
		namespace, parent string
		wantReason        string
		wantMessage       string
	}{
		"missing":           {w.home, `{group: "", kind: Service, name: nowhere}`, "NoMatchingParent", "does not exist"},
		"headless":          {w.home, `{group: "", kind: Service, name: refused-headless}`, "NoMatchingParent", "headless"},
		"ExternalName":      {w.home, `{group: "", kind: Service, name: refused-external}`, "NoMatchingParent", "ExternalName"},
		"missing port":      {w.home, `{group: "", kind: Service, name: refused, port: 81}`, "NoMatchingParent", "no port 81"},
		"missing name":      {w.home, `{group: "", kind: Service, name: refused, sectionName: web}`, "NoMatchingParent", `no port named "web"`},
		"not HTTP":          {w.home, `{group: "", kind: Service, name: refused, port: 9090}`, "NoMatchingParent", "is not HTTP"},
		"not enrolled":      {outside, `{group: "", kind: Service, name: nowhere}`, "NamespaceNotEnrolled", "is not enrolled"},
		"the API server":    {w.home, `{group: "", kind: Service, namespace: default, name: kubernetes}`, "NoMatchingParent", "never captured"},
		"the alias of core": {w.home, `{group: core, kind: Service, name: nowhere}`, "NoMatchingParent", "does not exist"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			route := testbed.HTTPRoute(t, tc.namespace, fmt.Sprintf(`
metadata: {name: refused-%s}
spec:
  parentRefs: [%s]
  rules:
  - backendRefs: [{name: refused, port: 80}]
`, strings.ToLower(strings.ReplaceAll(name, " ", "-")), tc.parent))
			bed.Create(t, route)
			conditions := bed.Settled(t, route)
			if wrong := wantCondition(conditions, "Accepted", metav1.ConditionFalse, tc.wantReason); wrong != "" {
				t.Fatal(wrong)
			}
			if wrong := wantCondition(conditions, "Programmed", metav1.ConditionFalse, "NotAccepted"); wrong != "" {
				t.Error(wrong)
			}
			if message := conditions[0].Message; !strings.Contains(message, tc.wantMessage) {
				t.Errorf("message %q, want it to say %q", message, tc.wantMessage)
			}
		})
	}
}

// TestConflictOfKinds: where a GRPCRoute and an HTTPRoute are attached to the same port, the GRPCRoute is
// in force and the other says so (GEP-1294). Other ports are not concerned.
func TestConflictOfKinds(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "conflict")
	calls := testbed.GRPCRoute(t, w.home, `
metadata: {name: conflict}
spec:
  parentRefs: [{group: "", kind: Service, name: conflict, port: 9000}]
  rules:
  - backendRefs: [{name: conflict-v1, port: 9000}]
`)
	bed.Program(t, calls)
	route := testbed.HTTPRoute(t, w.home, `
metadata: {name: conflict}
spec:
  parentRefs: [{group: "", kind: Service, name: conflict, port: 9000}]
  rules:
  - backendRefs: [{name: conflict-v2, port: 9000}]
`)
	bed.Create(t, route)
	if wrong := wantCondition(bed.Settled(t, route), "Accepted", metav1.ConditionFalse, "Conflicted"); wrong != "" {
		t.Error(wrong)
	}
	call := traffic.Request{Protocol: traffic.GRPC, URL: "conflict:9000"}
	expect(t, w.client, call, from("v1"))

	testbed.Update(t, bed, route, func(route *gwv1.HTTPRoute) {
		route.Spec.ParentRefs[0].Port = nil
		port := gwv1.PortNumber(testbed.PortHTTP)
		route.Spec.Rules[0].BackendRefs[0].Port = &port
	})
	bed.AwaitProgrammed(t, route)
	expect(t, w.client, call, from("v1"))
	expect(t, w.client, traffic.Request{URL: "http://conflict"}, from("v2"))

	if err := bed.Client.Delete(t.Context(), calls); err != nil {
		t.Fatal(err)
	}
	// With the GRPCRoute gone the HTTPRoute has port 9000 too.
	eventually(t, w.client, traffic.Request{Protocol: traffic.H2C, URL: "http://conflict:9000"}, from("v2"))
}

// TestHostnamesIgnored: a mesh infers nothing from a route's hostnames, and addresses decide, whatever
// Host a client claims (GEP-1294).
func TestHostnamesIgnored(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	all, _, _ := w.services(t, "hostnames")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: hostnames}
spec:
  parentRefs: [{group: "", kind: Service, name: hostnames, port: 80}]
  hostnames: [elsewhere.example]
  rules:
  - backendRefs: [{name: hostnames-v2, port: 80}]
`))
	expect(t, w.client, traffic.Request{URL: "http://hostnames"}, from("v2"))
	expect(t, w.client, traffic.Request{URL: "http://hostnames", Host: "split"}, from("v2"))
	expect(t, w.client, traffic.Request{URL: "http://" + address(all.Spec.ClusterIPs[1], testbed.PortHTTP)}, from("v2"))
}

// TestMerging: the rules of several routes on one parent are one list, in the order of precedence of the
// API: more specific matches first, then the older route.
func TestMerging(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "merging")
	route := func(name, rules string) {
		bed.Program(t, testbed.HTTPRoute(t, w.home, fmt.Sprintf(`
metadata: {name: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: merging, port: 80}]
  rules: %s
`, name, rules)))
	}
	// The names sort the other way than the ages.
	route("merging-z", `[{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: merging-v1, port: 80}]},
    {matches: [{path: {type: PathPrefix, value: /long/er}}], backendRefs: [{name: merging-v1, port: 80}]}]`)
	// Ages are told apart by the second.
	begin := time.Now().Unix()
	testbed.Eventually(t, func(context.Context) error {
		if time.Now().Unix() == begin {
			return errors.New("the clock stands still")
		}
		return nil
	})
	route("merging-a", `[{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: merging-v2, port: 80}]},
    {matches: [{path: {type: PathPrefix, value: /long}}], backendRefs: [{name: merging-v2, port: 80}]},
    {matches: [{path: {type: Exact, value: /long/er/exact}}], backendRefs: [{name: merging-v2, port: 80}]},
    {matches: [{headers: [{name: canary, value: "yes"}]}], backendRefs: [{name: merging-v2, port: 80}]}]`)
	for _, tc := range []struct{ path, header, want string }{
		{"/", "", "v1"},
		{"/", "yes", "v2"},
		{"/other", "", "v1"},
		{"/long", "", "v2"},
		{"/longer", "", "v1"},
		{"/long/er", "", "v1"},
		{"/long/er/more", "yes", "v1"},
		{"/long/er/exact", "", "v2"},
	} {
		r := traffic.Request{URL: "http://merging" + tc.path, Header: map[string]string{}}
		if tc.header != "" {
			r.Header["Canary"] = tc.header
		}
		expect(t, w.client, r, from(tc.want))
	}
}

// TestMethodMatch: rules of a Service's route can tell methods apart.
func TestMethodMatch(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "method")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: method}
spec:
  parentRefs: [{group: "", kind: Service, name: method, port: 80}]
  rules:
  - matches: [{method: POST}, {method: PATCH}]
    backendRefs: [{name: method-v2, port: 80}]
  - matches: [{method: GET}]
    backendRefs: [{name: method-v1, port: 80}]
`))
	expect(t, w.client, traffic.Request{URL: "http://method", Method: http.MethodGet}, from("v1"))
	expect(t, w.client, traffic.Request{URL: "http://method", Method: http.MethodPost, Body: "a body"}, func(a *traffic.Answer) string {
		if wrong := from("v2")(a); wrong != "" || a.Echo.Body != "a body" {
			return wrong + ", or the body got lost"
		}
		return ""
	})
	expect(t, w.client, traffic.Request{URL: "http://method", Method: http.MethodPatch}, from("v2"))
	expect(t, w.client, traffic.Request{URL: "http://method", Method: http.MethodPut}, local(404, "no_rule_matched"))
}

// TestParentPorts: a parentRef means the port of its number, or of its name, or all of them.
func TestParentPorts(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	service := testbed.NewService(w.home, "ports", onlyV1)
	plain := "http"
	service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
		Name: "second", Port: 81, TargetPort: service.Spec.Ports[0].TargetPort, AppProtocol: &plain,
	})
	bed.Create(t, service, testbed.NewService(w.home, "ports-v2", onlyV2))
	tests := []struct{ parent, want80, want81 string }{
		{`{group: "", kind: Service, name: ports, port: 80}`, "v2", "v1"},
		{`{group: "", kind: Service, name: ports, port: 81}`, "v1", "v2"},
		{`{group: "", kind: Service, name: ports, sectionName: second}`, "v1", "v2"},
		{`{group: "", kind: Service, name: ports, sectionName: http, port: 80}`, "v2", "v1"},
		{`{group: core, kind: Service, name: ports}`, "v2", "v2"},
	}
	for _, tc := range tests {
		route := testbed.HTTPRoute(t, w.home, fmt.Sprintf(`
metadata: {generateName: ports-}
spec:
  parentRefs: [%s]
  rules:
  - backendRefs: [{name: ports-v2, port: 80}]
`, tc.parent))
		bed.Program(t, route)
		expect(t, w.client, traffic.Request{URL: "http://ports:80"}, from(tc.want80))
		expect(t, w.client, traffic.Request{URL: "http://ports:81"}, from(tc.want81))
		if err := bed.Client.Delete(t.Context(), route); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{"http://ports:80", "http://ports:81"} {
			eventually(t, w.client, traffic.Request{URL: url}, from("v1"))
		}
	}
}
