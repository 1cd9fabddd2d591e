package webhooks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// decodeObject reads one YAML document strictly. It returns nil for a kind that is not part of a snapshot's
// objects.
func decodeObject(t testing.TB, document string) metav1.Object {
	t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		t.Fatalf("%v in:\n%s", err, document)
	}
	kinds := map[string]metav1.Object{
		"Mesh": &meshv1alpha1.Mesh{}, "MeshPolicy": &meshv1alpha1.MeshPolicy{}, "MeshAuthorization": &meshv1alpha1.MeshAuthorization{}, "Namespace": &corev1.Namespace{}, "Service": &corev1.Service{},
		"HTTPRoute": &gwv1.HTTPRoute{}, "GRPCRoute": &gwv1.GRPCRoute{},
	}
	object, ok := kinds[head.Kind]
	if !ok {
		return nil
	}
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		t.Fatalf("%v in:\n%s", err, document)
	}
	return object
}

// readSnapshot reads YAML documents. Of two objects of one kind and name the later counts.
func readSnapshot(t testing.TB, documents ...string) compile.Snapshot {
	t.Helper()
	s := compile.Snapshot{SystemNamespace: "weft-system"}
	for _, document := range documents {
		for text := range strings.SplitSeq(document, "\n---\n") {
			switch o := decodeObject(t, text).(type) {
			case *meshv1alpha1.Mesh:
				s.Mesh = o
			case *meshv1alpha1.MeshPolicy:
				s.MeshPolicies = put(s.MeshPolicies, o)
			case *meshv1alpha1.MeshAuthorization:
				s.MeshAuthorizations = put(s.MeshAuthorizations, o)
			case *corev1.Namespace:
				s.Namespaces = put(s.Namespaces, o)
			case *corev1.Service:
				s.Services = put(s.Services, o)
			case *gwv1.HTTPRoute:
				s.HTTPRoutes = put(s.HTTPRoutes, o)
			case *gwv1.GRPCRoute:
				s.GRPCRoutes = put(s.GRPCRoutes, o)
			}
		}
	}
	return s
}

// TestReducedSnapshotsSayTheSame holds for every route and policy of every golden case of package compile:
// what is said about it does not change when only what reduceToRoute and reduceToPolicy keep is compiled. All
// cases together are one more snapshot, in which many routes and policies share a few Services.
func TestReducedSnapshotsSayTheSame(t *testing.T) {
	const golden = "../controllers/compile/testdata/"
	files, err := filepath.Glob(golden + "[^_]*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	defaults, err := os.ReadFile(golden + "_defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	together := readSnapshot(t, string(defaults))
	for i, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		input, _, _ := strings.Cut(string(content), "\n--- # compiled\n")
		s := readSnapshot(t, string(defaults), input)
		compareReduced(t, file, s)
		for _, r := range s.HTTPRoutes {
			r = r.DeepCopy()
			r.Name = fmt.Sprintf("%s-%d", r.Name, i)
			together.HTTPRoutes = append(together.HTTPRoutes, r)
		}
		for _, r := range s.GRPCRoutes {
			r = r.DeepCopy()
			r.Name = fmt.Sprintf("%s-%d", r.Name, i)
			together.GRPCRoutes = append(together.GRPCRoutes, r)
		}
		for _, p := range s.MeshPolicies {
			p = p.DeepCopy()
			p.Name = fmt.Sprintf("%s-%d", p.Name, i)
			together.MeshPolicies = append(together.MeshPolicies, p)
		}
		for _, a := range s.MeshAuthorizations {
			a = a.DeepCopy()
			a.Name = fmt.Sprintf("%s-%d", a.Name, i)
			together.MeshAuthorizations = append(together.MeshAuthorizations, a)
		}
		for _, service := range s.Services {
			together.Services = put(together.Services, service)
		}
	}
	compareReduced(t, "all cases", together)
}

// compareReduced compares what is said about every route of a snapshot.
func compareReduced(t *testing.T, name string, s compile.Snapshot) {
	t.Helper()
	var routes []metav1.Object
	for _, r := range s.HTTPRoutes {
		routes = append(routes, r)
	}
	for _, r := range s.GRPCRoutes {
		routes = append(routes, r)
	}
	all := compile.Compile(s)
	for _, policy := range s.MeshPolicies {
		want := verdictOn(all.Policies, policy)
		got := verdictOn(compile.Compile(reduceToPolicy(policy, s)).Policies, policy)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: MeshPolicy %s (-whole +reduced):\n%s", name, nameOf(policy), diff)
		}
	}
	for _, authorization := range s.MeshAuthorizations {
		i := slices.IndexFunc(all.Authorizations, func(a compile.AuthorizationStatus) bool { return a.Name == nameOf(authorization) })
		want, got := all.Authorizations[i], compile.Compile(reduceToAuthorization(authorization, s)).Authorizations[0]
		for _, status := range []*compile.AuthorizationStatus{&want, &got} {
			for j := range status.Targets {
				status.Targets[j].Awaited = nil // nobody is told
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: MeshAuthorization %s (-whole +reduced):\n%s", name, nameOf(authorization), diff)
		}
	}
	for _, route := range routes {
		want := conditionsOf(all.Routes, route)
		got := conditionsOf(compile.Compile(reduceToRoute(route, s)).Routes, route)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s (-whole +reduced):\n%s", name, nameOf(route), diff)
		}
	}
}

func conditionsOf(routes []compile.RouteStatus, route metav1.Object) [][]metav1.Condition {
	var conditions [][]metav1.Condition
	for _, r := range routes {
		if _, grpc := route.(*gwv1.GRPCRoute); grpc == (r.Kind == wire.RouteGRPC) && r.Name == nameOf(route) {
			for _, p := range r.Parents {
				conditions = append(conditions, p.Conditions)
			}
		}
	}
	return conditions
}

// verdict is what Validate makes use of.
type verdict struct {
	Faults    []compile.FieldFault
	Accepted  []metav1.Condition
	Effective []meshv1alpha1.EffectivePolicy
}

func verdictOn(policies []compile.PolicyStatus, policy *meshv1alpha1.MeshPolicy) []verdict {
	var found []verdict
	for _, p := range policies {
		if p.Name != nameOf(policy) {
			continue
		}
		v := verdict{Faults: p.Faults, Accepted: []metav1.Condition{p.Accepted}, Effective: p.Effective}
		for _, target := range p.Targets {
			v.Accepted = append(v.Accepted, target.Accepted)
		}
		found = append(found, v)
	}
	return found
}
