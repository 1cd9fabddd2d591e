package compile_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/ratelimit"
	"weft.dev/weft/proxy/session"
	"weft.dev/weft/proxy/wire"
)

// goldenSnapshots are the inputs of the golden cases by name, on top of the defaults and as files have
// them, without what an API server fills in.
func goldenSnapshots(t testing.TB) map[string]compile.Snapshot {
	t.Helper()
	files, err := filepath.Glob("testdata/[^_]*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base := defaults(t)
	snapshots := make(map[string]compile.Snapshot)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		input, _, _ := strings.Cut(string(content), separator)
		snapshots[filepath.Base(file)], err = readSnapshot(slices.Concat(base, splitDocuments([]byte(input)))...)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return snapshots
}

// TestResultsHoldTogether checks what every result promises, whatever was compiled.
func TestResultsHoldTogether(t *testing.T) {
	for name, snapshot := range goldenSnapshots(t) {
		t.Run(name, func(t *testing.T) { checkResult(t, compile.Compile(snapshot)) })
	}
}

func checkResult(t *testing.T, result compile.Result) {
	t.Helper()
	resources := make(map[wire.Ref]wire.Resource)
	for i, r := range result.Resources {
		if err := r.Valid(); err != nil {
			t.Errorf("%s: %v", r.Ref, err)
		}
		if i > 0 && result.Resources[i-1].String() >= r.String() {
			t.Errorf("%s does not come after %s, or is there twice", r.Ref, result.Resources[i-1].Ref)
		}
		if again := wire.New(r.Key, r.Scope, r.Origin, r.Content()); again.Version != r.Version {
			t.Errorf("%s was changed after its version was computed", r.Ref)
		}
		if r.Origin == (wire.Origin{}) {
			t.Errorf("%s has no origin", r.Ref)
		}
		resources[r.Ref] = r
	}
	numbers := make(map[uint16]string)
	for _, r := range result.Resources {
		switch {
		case r.Backend != nil:
			checkUsable(t, r.Ref, r.Backend.Policy)
		case r.Destination != nil:
			checkDestination(t, r, resources, numbers)
			checkUsable(t, r.Ref, r.Destination.Policy)
		case r.Route != nil:
			checkRoute(t, r, resources)
		case r.Authorization != nil:
			checkAuthorization(t, r)
		}
	}
	for _, route := range result.Routes {
		checkStatus(t, route, resources, result.Enrolled)
	}
	for _, policy := range result.Policies {
		checkPolicy(t, policy, resources, result.Enrolled)
	}
	for _, authorization := range result.Authorizations {
		checkPolicy(t, compile.PolicyStatus{
			Name: authorization.Name, Generation: authorization.Generation, Target: authorization.Target, Targets: authorization.Targets, Accepted: authorization.Accepted,
		}, resources, result.Enrolled)
	}
}

// checkAuthorization: proxies of its namespace, and of no other, receive an authorization that they can use.
func checkAuthorization(t *testing.T, r wire.Resource) {
	t.Helper()
	if _, err := authz.Compile(r.Authorization); err != nil {
		t.Errorf("%s cannot be used: %v", r.Ref, err)
	}
	if r.Key != r.Authorization.Key() || r.Scope != wire.ScopeNamespace(r.Authorization.Namespace) {
		t.Errorf("%s is for %s and goes to %s", r.Ref, r.Authorization.Key(), r.Scope)
	}
}

// checkPolicy: a policy's status fits into the API, and waits for what there is, once for each proxy.
func checkPolicy(t *testing.T, s compile.PolicyStatus, resources map[wire.Ref]wire.Resource, enrolled []string) {
	t.Helper()
	if len(s.Target) > 1024 || len(s.Effective) > 16 {
		t.Errorf("MeshPolicy %s: its target is %q with %d effective policies", s.Name, s.Target, len(s.Effective))
	}
	conditions := []metav1.Condition{s.Accepted}
	for _, target := range s.Targets {
		conditions = append(conditions, target.Accepted)
		if s.Accepted.Status == metav1.ConditionTrue && target.Accepted.Status != metav1.ConditionTrue {
			t.Errorf("MeshPolicy %s is accepted, and not for %v", s.Name, target.Ref)
		}
		seen := map[string]bool{}
		for _, awaited := range target.Awaited {
			if len(awaited.Resources) == 0 || target.Accepted.Status != metav1.ConditionTrue {
				t.Errorf("MeshPolicy %s waits for %v, accepted: %s", s.Name, awaited, target.Accepted.Status)
			}
			for _, held := range awaited.Resources {
				r := resources[held.Ref]
				visible := r.Scope == wire.ScopeMesh || slices.Equal(awaited.Audience, []string{s.Name.Namespace})
				if r.Version != held.Version || !visible {
					t.Errorf("MeshPolicy %s waits for version %s of %s at %q", s.Name, held.Version, held.Ref, awaited.Audience)
				}
			}
			for _, namespace := range awaited.Audience {
				if seen[namespace] || !slices.Contains(enrolled, namespace) {
					t.Errorf("MeshPolicy %s waits for proxies of %s, not enrolled or twice", s.Name, namespace)
				}
				seen[namespace] = true
			}
		}
	}
	for _, c := range conditions {
		if c.Reason == "" || c.Message == "" || len(c.Message) > maxMessage || c.ObservedGeneration != s.Generation {
			t.Errorf("MeshPolicy %s: condition %s is incomplete: %+v", s.Name, c.Type, c)
		}
	}
	for _, effective := range s.Effective {
		seen := map[string]bool{}
		for _, f := range effective.Fields {
			if seen[f.Field] || f.Value == "" || len(f.Value) > 1024 || f.From == "" || len(f.From) > 512 {
				t.Errorf("MeshPolicy %s: %s: a field is incomplete or there twice: %+v", s.Name, effective.Target, f)
			}
			seen[f.Field] = true
		}
		if len(effective.Target) > 1024 || len(seen) > 128 {
			t.Errorf("MeshPolicy %s: the effective policy of %q has %d fields", s.Name, effective.Target, len(seen))
		}
	}
}

// checkDestination: a number means one Service port, and the destination can be served without a route.
func checkDestination(t *testing.T, r wire.Resource, resources map[wire.Ref]wire.Resource, numbers map[uint16]string) {
	t.Helper()
	d := r.Destination
	if d.Number < wire.MinNumber {
		t.Errorf("%s has number %d", r.Ref, d.Number)
	}
	name := wire.ServicePortKey(d.Namespace, d.Service, d.Port)
	if other, taken := numbers[d.Number]; taken && other != name {
		t.Errorf("%s and %s share number %d", name, other, d.Number)
	}
	numbers[d.Number] = name
	if backend := resources[wire.Ref{Kind: wire.KindBackend, Key: r.Key}]; backend.Scope != r.Scope {
		t.Errorf("%s has no backend of its own in scope %q", r.Ref, r.Scope)
	}
}

// checkRoute: whoever receives a route receives what it points at, and proxies can use it.
func checkRoute(t *testing.T, r wire.Resource, resources map[wire.Ref]wire.Resource) {
	t.Helper()
	visible := func(kind wire.Kind, key string) {
		if target := resources[wire.Ref{Kind: kind, Key: key}]; target.Scope != wire.ScopeMesh && target.Scope != r.Scope {
			t.Errorf("%s in scope %q points at %s %q in scope %q", r.Ref, r.Scope, kind, key, target.Scope)
		}
	}
	for _, key := range r.Route.Destinations {
		visible(wire.KindDestination, key)
		if d := resources[wire.Ref{Kind: wire.KindDestination, Key: key}].Destination; d != nil && d.Protocol != wire.ProtocolHTTP {
			t.Errorf("%s is attached to %s, which is %s", r.Ref, key, d.Protocol)
		}
	}
	if len(r.Route.Destinations) == 0 || !slices.IsSorted(r.Route.Destinations) {
		t.Errorf("%s has destinations %q", r.Ref, r.Route.Destinations)
	}
	filters := slices.Clone(r.Route.Filters)
	for _, b := range r.Route.Backends {
		filters = append(filters, b.Filters...)
		if b.Backend != "" {
			visible(wire.KindBackend, b.Backend)
		}
	}
	for _, f := range filters {
		if f.Mirror != nil {
			visible(wire.KindBackend, f.Mirror.Backend)
		}
	}
	if r.Key != r.Route.Key() {
		t.Errorf("%s is filed under %q", r.Route.Key(), r.Key)
	}
	if err := phttp.Check(r.Route); err != nil {
		t.Errorf("proxies reject %s: %v", r.Ref, err)
	}
	checkUsable(t, r.Ref, r.Route.Policy)
}

// checkUsable: a proxy that could not use a policy would keep the resource that it had before.
func checkUsable(t *testing.T, ref wire.Ref, p *wire.Policy) {
	t.Helper()
	if p == nil {
		return
	}
	if len(p.Fields()) == 0 {
		t.Errorf("%s has a policy that says nothing", ref)
	}
	errs := []error{ratelimit.Check(p.RateLimits), session.Check(p.SessionPersistence)}
	if p.Fault != nil {
		_, err := phttp.NewHeaderMatches(p.Fault.Headers)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("proxies reject %s: %v", ref, err)
	}
}

// maxMessage is the largest length of a condition's message.
const maxMessage = 32768

func checkStatus(t *testing.T, s compile.RouteStatus, resources map[wire.Ref]wire.Resource, enrolled []string) {
	t.Helper()
	if len(s.Parents) == 0 {
		t.Errorf("%s %s has no parents", s.Kind, s.Name)
	}
	for _, p := range s.Parents {
		seen := make(map[string]metav1.ConditionStatus)
		for _, c := range p.Conditions {
			if c.Reason == "" || c.Message == "" || len(c.Message) > maxMessage || c.ObservedGeneration != s.Generation {
				t.Errorf("%s %s: condition %s is incomplete: %+v", s.Kind, s.Name, c.Type, c)
			}
			if _, twice := seen[c.Type]; twice {
				t.Errorf("%s %s: condition %s is there twice", s.Kind, s.Name, c.Type)
			}
			seen[c.Type] = c.Status
		}
		accepted := seen[string(gwv1.RouteConditionAccepted)] == metav1.ConditionTrue
		if accepted != (len(p.Resources) > 0) || accepted != (len(p.Audience) > 0) {
			t.Errorf("%s %s: accepted is %v with %d resources for %q", s.Kind, s.Name, accepted, len(p.Resources), p.Audience)
		}
		if partly, ok := seen[string(gwv1.RouteConditionPartiallyInvalid)]; ok && (partly != metav1.ConditionTrue || !accepted) {
			t.Errorf("%s %s: PartiallyInvalid is %s and Accepted %v", s.Kind, s.Name, partly, accepted)
		}
		for _, held := range p.Resources {
			if resources[held.Ref].Version != held.Version {
				t.Errorf("%s %s waits for version %s of %s", s.Kind, s.Name, held.Version, held.Ref)
			}
		}
		for _, namespace := range p.Audience {
			if !slices.Contains(enrolled, namespace) {
				t.Errorf("%s %s waits for proxies of %s, which is not enrolled", s.Kind, s.Name, namespace)
			}
		}
	}
}

// simple is a snapshot with one enrolled namespace and Services with one HTTP port each.
func simple(services ...string) compile.Snapshot {
	s := compile.Snapshot{Namespaces: []*corev1.Namespace{{
		ObjectMeta: metav1.ObjectMeta{Name: "demo", Labels: map[string]string{"mesh.weft.dev/enabled": "true"}},
	}}}
	for _, name := range services {
		s.Services = append(s.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID(name)},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		})
	}
	return s
}

func routeTo(parent, backend string, rules ...gwv1.HTTPRouteRule) *gwv1.HTTPRoute {
	if len(rules) == 0 {
		rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backendRef(backend)}}}
	}
	return &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: parent},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{
				Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: gwv1.ObjectName(parent),
			}}},
			Rules: rules,
		},
	}
}

func backendRef(name string) gwv1.HTTPBackendRef {
	return gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
		Name: gwv1.ObjectName(name), Port: new(gwv1.PortNumber(80)),
	}}}
}

// When numbers run out, the destinations that have none are left out and their routes say so; all
// others are not disturbed.
func TestNumbersExhausted(t *testing.T) {
	snapshot := simple("first", "second")
	snapshot.HTTPRoutes = []*gwv1.HTTPRoute{routeTo("first", "second"), routeTo("second", "first")}
	snapshot.Numbers = compile.Numbers{}
	for number := wire.MinNumber + 1; number <= wire.MaxNumber; number++ {
		snapshot.Numbers[compile.NumberKey{UID: types.UID(fmt.Sprint("gone-", number)), Port: 80}] = uint16(number)
	}
	given := maps.Clone(snapshot.Numbers)

	result := compile.Compile(snapshot)
	checkResult(t, result)
	if !maps.Equal(given, snapshot.Numbers) {
		t.Error("Compile changed the given numbers")
	}
	if got := result.Numbers[compile.NumberKey{UID: "first", Port: 80}]; got != wire.MinNumber {
		t.Errorf("first has number %d, want the last free one, %d", got, wire.MinNumber)
	}
	if got, ok := result.Numbers[compile.NumberKey{UID: "second", Port: 80}]; ok {
		t.Errorf("second has number %d, though none was free", got)
	}
	for i, want := range []string{string(gwv1.RouteReasonAccepted), string(compile.ReasonNumbersExhausted)} {
		if got := result.Routes[i].Parents[0].Conditions[0].Reason; got != want {
			t.Errorf("%s has reason %s, want %s", result.Routes[i].Name, got, want)
		}
	}
	for _, r := range result.Resources {
		if r.Key == "demo/second:80" && r.Kind == wire.KindDestination {
			t.Error("a destination without a number is published")
		}
	}
}

// A route may have 128 matches; each is compiled.
func TestManyMatches(t *testing.T) {
	var rules []gwv1.HTTPRouteRule
	for i := range 16 {
		rule := gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{backendRef("echo")}}
		for j := range 8 {
			path := fmt.Sprintf("/%d/%d", i, j)
			rule.Matches = append(rule.Matches, gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{Value: &path}})
		}
		rules = append(rules, rule)
	}
	snapshot := simple("echo")
	snapshot.HTTPRoutes = []*gwv1.HTTPRoute{routeTo("echo", "", rules...)}
	result := compile.Compile(snapshot)
	checkResult(t, result)
	matches := 0
	for _, r := range result.Resources {
		if r.Route != nil {
			matches += len(r.Route.Matches)
		}
	}
	if matches != 128 {
		t.Errorf("%d matches are compiled, want 128", matches)
	}
}

// However much is wrong with a route, its message stays within what the API takes.
func TestManyFaults(t *testing.T) {
	var rules []gwv1.HTTPRouteRule
	for range 16 {
		var rule gwv1.HTTPRouteRule
		for range 16 {
			rule.BackendRefs = append(rule.BackendRefs, backendRef(strings.Repeat("missing-", 31)))
		}
		rules = append(rules, rule)
	}
	snapshot := simple("echo")
	snapshot.HTTPRoutes = []*gwv1.HTTPRoute{routeTo("echo", "", rules...)}
	result := compile.Compile(snapshot)
	checkResult(t, result)
	if message := result.Routes[0].Parents[0].Conditions[1].Message; !strings.HasSuffix(message, "; 240 more") {
		t.Errorf("the message does not say that 240 faults are left out: ...%s", message[max(0, len(message)-40):])
	}
}
