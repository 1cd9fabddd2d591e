package mesh

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// write makes a directory of files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const service = `# the app
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports:
  - {name: http, port: 80}
`

const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - backendRefs: [{name: web, port: 80}]
`

func TestFilesAreCompiled(t *testing.T) {
	dir := write(t, map[string]string{
		"app.yaml":       service + "---\n# nothing here\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {template: {spec: {serviceAccountName: web, containers: []}}}\n",
		"deep/route.yml": route,
		"list.json":      `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}]}`,
		"README.md":      "{{{",
	})
	m, err := Files([]string{dir}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop"}, m.Compiled.Enrolled); diff != "" {
		t.Errorf("enrolled (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"shop"}, m.Assumed); diff != "" {
		t.Errorf("assumed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Object{{Kind: "ConfigMap", Name: "c"}}, m.Ignored); diff != "" {
		t.Errorf("ignored (-want +got):\n%s", diff)
	}
	if got := m.Compiled.Routes[0].Parents[0].Conditions[0]; got.Status != "True" {
		t.Errorf("the route has %s=%s: %s", got.Type, got.Status, got.Message)
	}
	if pod := m.Pod(types.NamespacedName{Namespace: "shop", Name: "web"}); pod == nil || pod.Spec.ServiceAccountName != "web" {
		t.Errorf("pod of the Deployment = %v", pod)
	}
	want := Position{File: filepath.Join(dir, "app.yaml"), Line: 2, Column: 1}
	if got := m.At(Object{"Service", "shop", "web"}); got != want {
		t.Errorf("position of the Service = %v, want %v", got, want)
	}
}

func TestLaterFilesReplace(t *testing.T) {
	dir := write(t, map[string]string{"1.yaml": service, "2.yaml": strings.Replace(service, "port: 80", "port: 81", 1)})
	m, err := Files([]string{dir}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Snapshot.Services) != 1 || m.Snapshot.Services[0].Spec.Ports[0].Port != 81 {
		t.Errorf("services = %v, want the second alone", m.Snapshot.Services)
	}
}

func TestNamespaceOfTheCommand(t *testing.T) {
	text := strings.Replace(route, ", namespace: shop", "", 1)
	m, err := Files([]string{"-"}, FileOptions{Namespace: "store", Stdin: strings.NewReader(text)})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Snapshot.HTTPRoutes[0].Namespace; got != "store" {
		t.Errorf("namespace = %q, want store", got)
	}
}

func TestErrorsNameTheirPlace(t *testing.T) {
	tests := map[string]struct{ content, want string }{
		"no YAML":            {service + "\t- x\n", `f.yaml:8:1: found character that cannot start any token`},
		"an open bracket":    {"a: [1,\nb: c\n", `f.yaml:3:1: did not find expected ',' or ']'`},
		"a key twice":        {route + "  rules: []\n", `f.yaml:8:3: mapping key "rules" already defined at line 6`},
		"an unknown field":   {strings.Replace(route, "port: 80", "prt: 80", 1), `f.yaml:7:31: unknown field "spec.rules[0].backendRefs[0].prt"`},
		"a wrong type":       {strings.Replace(route, "port: 80", "port: eighty", 1), `f.yaml:7:37: spec.rules.backendRefs.port cannot be of type string`},
		"an object for list": {strings.Replace(route, "[{name: web, port: 80}]", "{name: web}", 1), `f.yaml:7:18: spec.rules.backendRefs cannot be of type object`},
		"a boolean label":    {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {mesh.weft.dev/enabled: yes}\n", `f.yaml:5:35: metadata.labels cannot be of type bool`},
		"no object":          {"- a\n", `f.yaml:1:1: this is no Kubernetes object`},
		"no kind":            {"a: b\n", `f.yaml:1:1: this is no Kubernetes object`},
		"no name":            {strings.Replace(route, "name: web, ", "", 1), `f.yaml:3:1: HTTPRoute has no metadata.name`},
		"another version":    {strings.Replace(route, "/v1", "/v1alpha2", 1), `f.yaml:1:1: HTTPRoute of apiVersion "gateway.networking.k8s.io/v1alpha2" is not known here: use gateway.networking.k8s.io/v1`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"f.yaml": tc.content})
			_, err := Files([]string{filepath.Join(dir, "f.yaml")}, FileOptions{})
			if _, ok := errors.AsType[*FileError](err); !ok {
				t.Fatalf("error = %v, want one that names the place", err)
			}
			if got := strings.TrimPrefix(err.Error(), dir+"/"); !strings.HasPrefix(got, tc.want) {
				t.Errorf("error = %q, want %q", got, tc.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has several lines: %q", err)
			}
		})
	}
}

func TestNothingToRead(t *testing.T) {
	dir := write(t, map[string]string{"README.md": ""})
	for path, want := range map[string]string{
		dir:                             "holds no file that ends with .yaml",
		filepath.Join(dir, "none.yaml"): "no such file",
		filepath.Join(dir, "README.md"): "no object of a mesh in",
	} {
		if _, err := Files([]string{path}, FileOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %q", path, err, want)
		}
	}
}
