package v1alpha1_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// admission treats an object as an API server that has the CustomResourceDefinition of Mesh would: it
// returns the object with its defaults, and what is refused about it. before is the object that it
// replaces, or nil.
type admission func(t *testing.T, object, before map[string]any) (admitted map[string]any, refused []string)

func newAdmission(t *testing.T) admission {
	t.Helper()
	data, err := os.ReadFile("../../config/crd/bases/mesh.weft.dev_meshes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		t.Fatal(err)
	}
	var properties apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		crd.Spec.Versions[0].Schema.OpenAPIV3Schema, &properties, nil); err != nil {
		t.Fatal(err)
	}
	structural, err := schema.NewStructural(&properties)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(&properties)
	if err != nil {
		t.Fatal(err)
	}
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	return func(t *testing.T, object, before map[string]any) (map[string]any, []string) {
		t.Helper()
		admitted := runtime.DeepCopyJSON(object)
		defaulting.Default(admitted, structural)
		var old any
		if before != nil {
			old = before
		}
		errs, _ := rules.Validate(t.Context(), nil, structural, admitted, old, celconfig.RuntimeCELCostBudget)
		var refused []string
		for _, err := range append(validation.ValidateCustomResource(nil, admitted, validator), errs...) {
			refused = append(refused, err.Error())
		}
		return admitted, refused
	}
}

// mesh returns a Mesh with a spec in YAML.
func mesh(t *testing.T, name, spec string) map[string]any {
	t.Helper()
	object := map[string]any{
		"apiVersion": meshv1alpha1.GroupVersion.String(), "kind": "Mesh",
		"metadata": map[string]any{"name": name},
	}
	if spec == "" {
		return object
	}
	var content map[string]any
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	object["spec"] = content
	return object
}

func TestMeshDefaults(t *testing.T) {
	admit := newAdmission(t)
	admitted, refused := admit(t, mesh(t, "default", ""), nil)
	if len(refused) > 0 {
		t.Fatalf("an empty Mesh is refused: %v", refused)
	}
	var want map[string]any
	if err := yaml.Unmarshal([]byte(`{trustDomain: cluster.local, certificates: {lifetime: 24h}, proxy: {replicas: 2, maxConnectionAge: 10m, networkPolicy: Managed, placement: namespace}}`), &want); err != nil {
		t.Fatal(err)
	}
	normalize := func(v any) map[string]any {
		data, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := yaml.Unmarshal(data, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if diff := cmp.Diff(want, normalize(admitted["spec"])); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

func TestMeshValidation(t *testing.T) {
	admit := newAdmission(t)
	const domain = "trustDomain must be a SPIFFE trust domain"
	cases := map[string]struct {
		name, spec string
		// before is the spec that is replaced; nil means that there was no Mesh.
		before *string
		// want is part of the only complaint; empty means that the Mesh is accepted.
		want string
	}{
		"another name":                       {name: "second", want: "the only Mesh is named default"},
		"a trust domain":                     {spec: "trustDomain: prod_1.example-mesh.com"},
		"upper case in the trust domain":     {spec: "trustDomain: Example.com", want: domain},
		"a path in the trust domain":         {spec: "trustDomain: example.com/ns", want: domain},
		"a scheme in the trust domain":       {spec: "trustDomain: spiffe://example.com", want: domain},
		"a dot at the trust domain's end":    {spec: "trustDomain: example.com.", want: domain},
		"a line break in the trust domain":   {spec: `trustDomain: "example.com\n"`, want: domain},
		"a trust domain that is too long":    {spec: "trustDomain: " + strings.Repeat("a", 256), want: "Too long"},
		"the same trust domain":              {spec: "trustDomain: example.com", before: new("trustDomain: example.com")},
		"another trust domain":               {spec: "trustDomain: example.com", before: new("trustDomain: example.org"), want: "cannot be changed"},
		"another than the default":           {spec: "trustDomain: example.com", before: new(""), want: "cannot be changed"},
		"no trust domain any more":           {spec: "proxy: {replicas: 3}", before: new("trustDomain: example.com"), want: "cannot be changed"},
		"the default written out":            {spec: "trustDomain: cluster.local", before: new("")},
		"the shortest lifetime":              {spec: "certificates: {lifetime: 10s}"},
		"a shorter lifetime":                 {spec: "certificates: {lifetime: 9s999ms}", want: "lifetime must be between 10s and 8760h"},
		"the longest lifetime":               {spec: "certificates: {lifetime: 8760h}"},
		"a longer lifetime":                  {spec: "certificates: {lifetime: 8760h1ms}", want: "lifetime must be between 10s and 8760h"},
		"a connection age":                   {spec: "proxy: {maxConnectionAge: 1h30m}"},
		"a connection age that is too short": {spec: "proxy: {maxConnectionAge: 9s}", want: "maxConnectionAge must be at least 10s"},
		"no replicas":                        {spec: "proxy: {replicas: 0}", want: "should be greater than or equal to 1"},
		"no network policy":                  {spec: "proxy: {networkPolicy: None}"},
		"another network policy":             {spec: "proxy: {networkPolicy: Open}", want: "Unsupported value"},
		"too many replicas":                  {spec: "proxy: {replicas: 101}", want: "should be less than or equal to 100"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			called := "default"
			if tc.name != "" {
				called = tc.name
			}
			var before map[string]any
			if tc.before != nil {
				before, _ = admit(t, mesh(t, called, *tc.before), nil)
			}
			_, refused := admit(t, mesh(t, called, tc.spec), before)
			switch {
			case tc.want == "" && len(refused) > 0:
				t.Errorf("refused: %v", refused)
			case tc.want != "" && (len(refused) != 1 || !strings.Contains(refused[0], tc.want)):
				t.Errorf("refused: %q, want %q alone", refused, tc.want)
			}
		})
	}
}

func TestDurationsAreThoseOfTheGatewayAPI(t *testing.T) {
	admit := newAdmission(t)
	for _, text := range []string{"1d", "1.5h", "-10s", "10", "", "1h1h1h1h1h"} {
		if _, refused := admit(t, mesh(t, "default", "certificates: {lifetime: \""+text+"\"}"), nil); len(refused) == 0 {
			t.Errorf("lifetime %q is accepted", text)
		}
	}
}
