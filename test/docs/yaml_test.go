package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// schemas judge objects by kind, as an API server does that has our CustomResourceDefinitions and those of the Gateway
// API's standard channel.
type schemas map[string]func(t *testing.T, object map[string]any) error

func load(t *testing.T) schemas {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	list.Dir = root
	gatewayAPI, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := schemas{}
	for _, dir := range []string{filepath.Join(root, "config/crd/bases"), filepath.Join(strings.TrimSpace(string(gatewayAPI)), "config/crd/standard")} {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no definitions in %s: %v", dir, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.Unmarshal(data, &crd); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if crd.Kind != "CustomResourceDefinition" {
				continue
			}
			for i := range crd.Spec.Versions {
				version := &crd.Spec.Versions[i]
				all[crd.Spec.Group+"/"+version.Name+" "+crd.Spec.Names.Kind] = judge(t, version.Schema.OpenAPIV3Schema)
			}
		}
	}
	return all
}

// judge returns what refuses an object that does not have a schema: because of a field that does not exist, or of a value
// or rule.
func judge(t *testing.T, openAPI *apiextensionsv1.JSONSchemaProps) func(*testing.T, map[string]any) error {
	t.Helper()
	var properties apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(openAPI, &properties, nil); err != nil {
		t.Fatal(err)
	}
	structural, err := schema.NewStructural(&properties)
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, object map[string]any) error {
		validator, _, err := validation.NewSchemaValidator(&properties)
		if err != nil {
			return err
		}
		var refused []error
		for _, field := range pruning.PruneWithOptions(object, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
			refused = append(refused, fmt.Errorf("unknown field %s", field))
		}
		defaulting.Default(object, structural)
		errs, _ := cel.NewValidator(structural, true, celconfig.PerCallLimit).Validate(t.Context(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
		for _, err := range append(validation.ValidateCustomResource(nil, object, validator), errs...) {
			refused = append(refused, err)
		}
		return errors.Join(refused...)
	}
}

// foreign are groups of kinds that belong to tools which examples are for.
var foreign = map[string]bool{"flagger.app": true, "argoproj.io": true}

// check refuses what an API server would refuse of an object.
func (s schemas) check(t *testing.T, document []byte) error {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	// Not the standard library's, for which every number is a float64.
	var object map[string]any
	if err := utiljson.Unmarshal(text, &object); err != nil || len(object) == 0 {
		return err
	}
	version, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	if valid := s[version+" "+kind]; valid != nil {
		return valid(t, object)
	}
	if group, _, _ := strings.Cut(version, "/"); foreign[group] {
		return nil
	}
	_, _, err = serializer.NewCodecFactory(clientscheme.Scheme, serializer.EnableStrict).UniversalDeserializer().Decode(document, nil, nil)
	return err
}

// complete makes an object of a part of one, whose kind the page tells.
func complete(kind, text string) ([]byte, error) {
	var part map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &part); err != nil {
		return nil, err
	}
	spec, ok := part["spec"].(map[string]any)
	if !ok {
		spec = part
	}
	if kind == "MeshAuthorization" && spec["action"] == nil {
		spec = maps.Clone(spec)
		spec["action"] = "Allow"
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": meshv1alpha1.GroupVersion.String(), "kind": kind, "metadata": map[string]any{"namespace": "shop", "name": "part"}, "spec": spec,
	})
}

// TestYAML: every object that a page shows or an example holds would be taken by an API server, and the configuration of
// Prometheus by that.
func TestYAML(t *testing.T) {
	known := load(t)
	documents := func(where string, text []byte) {
		for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
			if err := known.check(t, document); err != nil {
				t.Errorf("%s: %v", where, err)
			}
		}
	}
	for _, blocks := range pages(t) {
		for _, b := range blocks {
			switch {
			case b.Language == "json":
				if !json.Valid([]byte(b.Text)) {
					t.Errorf("%s: this is no JSON", b)
				}
			case b.Language != "yaml":
			case b.Is("prometheus"):
				checkPrometheus(t, b)
			case len(b.Words) > 0:
				text, err := complete(b.Words[0], b.Text)
				if err != nil {
					t.Errorf("%s: %v", b, err)
				}
				documents(b.String(), text)
			default:
				documents(b.String(), []byte(b.Text))
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(root, "examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || entry.Name() == "argocd-cm.yaml" {
			return err // that one is a patch
		}
		text, err := os.ReadFile(path)
		if err == nil {
			documents(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{
		"apiVersion: mesh.weft.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: a, namespace: b}\nspec: {timeouts: {requests: 1s}}",
		"apiVersion: mesh.weft.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: a, namespace: b}\nspec: {timeouts: {request: soon}}",
		"apiVersion: mesh.weft.dev/v1alpha1\nkind: Mesh\nmetadata: {name: other}",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {rules: [{backendRef: []}]}",
		"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}",
		"apiVersion: mesh.weft.dev/v1\nkind: Mesh\nmetadata: {name: default}",
	} {
		if known.check(t, []byte(wrong)) == nil {
			t.Errorf("this is taken:\n%s", wrong)
		}
	}
}

// discovery is what Debian's Prometheus is built without.
var discovery = regexp.MustCompile(`kubernetes_sd_configs: .*`)

func checkPrometheus(t *testing.T, b *Block) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(discovery.ReplaceAllString(b.Text, "static_configs: []")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "config", "--syntax-only", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", b, err, out)
	}
}
