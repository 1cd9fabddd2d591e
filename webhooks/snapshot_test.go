package webhooks

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
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

// TestPartsOfGoldenCases: what is said about the objects of the golden cases of package compile depends on nothing but
// what readPart reads. All cases together are one more mesh, in which many routes and policies share a few Services;
// there some objects are looked at.
func TestPartsOfGoldenCases(t *testing.T) {
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
		compareParts(t, file, s, objectsOf(s))
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
	some := objectsOf(together)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	compareParts(t, "all cases", together, some[:min(len(some), 20)])
}
