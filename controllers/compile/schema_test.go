package compile_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"
)

// schemas are those of Weft's own kinds, and of the routes in the standard channel of the Gateway API release
// that Weft builds against, by kind.
var schemas = sync.OnceValues(func() (map[string]*spec.Schema, error) {
	command := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	command.Stderr = os.Stderr
	dir, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("find the Gateway API module: %w", err)
	}
	schemas := make(map[string]*spec.Schema)
	gatewayAPI := filepath.Join(strings.TrimSpace(string(dir)), "config/crd/standard/gateway.networking.k8s.io_")
	for kind, path := range map[string]string{
		"HTTPRoute":  gatewayAPI + "httproutes.yaml",
		"GRPCRoute":  gatewayAPI + "grpcroutes.yaml",
		"Mesh":       "../../config/crd/bases/mesh.weft.dev_meshes.yaml",
		"MeshPolicy": "../../config/crd/bases/mesh.weft.dev_meshpolicies.yaml",

		"MeshAuthorization": "../../config/crd/bases/mesh.weft.dev_meshauthorizations.yaml",
	} {
		if schemas[kind], err = readSchema(path); err != nil {
			return nil, err
		}
	}
	return schemas, nil
})

func readSchema(path string) (*spec.Schema, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(file, &crd); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	version := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return v.Storage
	})
	data, err := yaml.Marshal(crd.Spec.Versions[version].Schema.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	schema := &spec.Schema{}
	return schema, yaml.Unmarshal(data, schema)
}

// admit treats a document as an API server would, except for rules in CEL: it fills in defaults and
// returns what the schema refuses. Documents of kinds without a schema here pass unchanged.
func admit(document []byte) (admitted []byte, refused []string, err error) {
	known, err := schemas()
	if err != nil {
		return nil, nil, err
	}
	var object map[string]any
	if err := yaml.Unmarshal(document, &object); err != nil {
		return nil, nil, err
	}
	kind, _ := object["kind"].(string)
	schema := known[kind]
	if schema == nil {
		return document, nil, nil
	}
	fillDefaults(object, schema)
	for _, err := range validate.NewSchemaValidator(schema, nil, "", strfmt.Default).Validate(object).Errors {
		refused = append(refused, err.Error())
	}
	slices.Sort(refused)
	admitted, err = yaml.Marshal(object)
	return admitted, refused, err
}

func fillDefaults(value any, schema *spec.Schema) {
	switch v := value.(type) {
	case map[string]any:
		for name, property := range schema.Properties {
			if _, ok := v[name]; !ok && property.Default != nil {
				v[name] = property.Default
			}
			if v[name] != nil {
				fillDefaults(v[name], &property)
			}
		}
	case []any:
		if schema.Items != nil && schema.Items.Schema != nil {
			for _, item := range v {
				fillDefaults(item, schema.Items.Schema)
			}
		}
	}
}
