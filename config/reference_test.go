package config_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const reference = "../docs/api.md"

// TestGoldenReference holds the documented fields to those of the CustomResourceDefinitions.
func TestGoldenReference(t *testing.T) {
	want := referenceOf(definitions(t))
	if *update {
		if err := os.WriteFile(reference, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from config/crd/bases; make golden rewrites it", reference)
	}
}

// TestEveryFieldIsExplained asks for a description of every field of the API that is ours.
func TestEveryFieldIsExplained(t *testing.T) {
	for _, crd := range definitions(t) {
		for _, f := range fieldsOf(schemaOf(crd)) {
			if f.schema.Description == "" {
				t.Errorf("%s: %s has no description", crd.Spec.Names.Kind, f.path)
			}
		}
	}
}

// definitions returns the CustomResourceDefinitions by name.
func definitions(t *testing.T) []*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	files, err := filepath.Glob("crd/bases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("crd/bases: %d files, %v", len(files), err)
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(data, crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		crds = append(crds, crd)
	}
	slices.SortFunc(crds, func(a, b *apiextensionsv1.CustomResourceDefinition) int {
		return strings.Compare(a.Spec.Names.Plural, b.Spec.Names.Plural)
	})
	return crds
}

func schemaOf(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}

func referenceOf(crds []*apiextensionsv1.CustomResourceDefinition) []byte {
	var out bytes.Buffer
	out.WriteString(`<!-- Written by make golden from the types in api/; edit the comments there. -->

# API reference

A list's entries are marked ` + "`[]`" + `, a map's values ` + "`{}`" + `; fields in **bold** are required where their parent is
set. Rules are checked by the API server; what only a whole cluster can tell, the conditions of the object say.
`)
	for _, crd := range crds {
		names, schema := crd.Spec.Names, schemaOf(crd)
		fmt.Fprintf(&out, "\n## %s\n\n`%s/%s`, %s", names.Kind, crd.Spec.Group, crd.Spec.Versions[0].Name, strings.ToLower(string(crd.Spec.Scope)))
		if len(names.ShortNames) > 0 {
			fmt.Fprintf(&out, ", `kubectl get %s`", names.ShortNames[0])
		}
		fmt.Fprintf(&out, "\n\n%s\n", sentences(schema.Description))
		writeRules(&out, schema)
		out.WriteString("\n| field | type | meaning |\n|---|---|---|\n")
		for _, f := range fieldsOf(schema) {
			f.write(&out)
		}
	}
	return out.Bytes()
}

// field is one field of a kind, with its path from the object's root.
type field struct {
	path     string
	required bool
	schema   *apiextensionsv1.JSONSchemaProps
}

// fieldsOf returns the fields of spec and status, parents before children and otherwise by name.
// Conditions are the same in every API and end the walk.
func fieldsOf(schema *apiextensionsv1.JSONSchemaProps) []field {
	var fields []field
	var walk func(path string, parent *apiextensionsv1.JSONSchemaProps)
	walk = func(path string, parent *apiextensionsv1.JSONSchemaProps) {
		for _, name := range slices.Sorted(maps.Keys(parent.Properties)) {
			if path == "" && name != "spec" && name != "status" {
				continue
			}
			child := parent.Properties[name]
			f := field{path: path + name, required: slices.Contains(parent.Required, name), schema: &child}
			fields = append(fields, f)
			if name != "conditions" {
				inner, suffix := innermost(&child)
				walk(f.path+suffix+".", inner)
			}
		}
	}
	walk("", schema)
	return fields
}

// innermost returns what lists and maps hold in the end, and how the way there is written.
func innermost(s *apiextensionsv1.JSONSchemaProps) (inner *apiextensionsv1.JSONSchemaProps, suffix string) {
	for {
		switch {
		case s.Items != nil && s.Items.Schema != nil:
			s, suffix = s.Items.Schema, suffix+"[]"
		case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
			s, suffix = s.AdditionalProperties.Schema, suffix+"{}"
		default:
			return s, suffix
		}
	}
}

func (f field) write(out *bytes.Buffer) {
	inner, suffix := innermost(f.schema)
	name := "`" + f.path + suffix + "`"
	if f.required {
		name = "**" + name + "**"
	}
	kind := inner.Type
	if inner.XIntOrString {
		kind = "integer or string"
	}
	if inner.Format != "" {
		kind += " (" + inner.Format + ")"
	}
	meaning := []string{sentences(f.schema.Description)}
	if inner != f.schema && len(inner.Properties) == 0 && inner.Description != "" {
		meaning = append(meaning, sentences(inner.Description))
	}
	for _, s := range slices.Compact([]*apiextensionsv1.JSONSchemaProps{f.schema, inner}) {
		for _, limit := range limitsOf(s) {
			meaning = append(meaning, limit+".")
		}
	}
	fmt.Fprintf(out, "| %s | %s | %s |\n", name, kind, strings.ReplaceAll(strings.Join(meaning, " "), "|", "\\|"))
}

// limitsOf says what a schema asks of a value beyond its type.
func limitsOf(s *apiextensionsv1.JSONSchemaProps) []string {
	var limits []string
	if s.Default != nil {
		limits = append(limits, "Default: `"+string(s.Default.Raw)+"`")
	}
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, "`"+strings.Trim(string(v.Raw), `"`)+"`")
		}
		limits = append(limits, "One of "+strings.Join(values, ", "))
	}
	number := func(what string, n *int64) {
		if n != nil {
			limits = append(limits, what+" "+strconv.FormatInt(*n, 10))
		}
	}
	if s.Minimum != nil {
		limits = append(limits, fmt.Sprintf("At least %g", *s.Minimum))
	}
	if s.Maximum != nil {
		limits = append(limits, fmt.Sprintf("At most %.0f", *s.Maximum))
	}
	number("Entries: at least", s.MinItems)
	number("Entries: at most", s.MaxItems)
	number("Characters: at least", s.MinLength)
	number("Characters: at most", s.MaxLength)
	if s.Pattern != "" {
		limits = append(limits, "Pattern: `"+s.Pattern+"`")
	}
	for _, rule := range s.XValidations {
		if rule.Message != "" {
			limits = append(limits, "Rule: "+strings.TrimSuffix(rule.Message, "."))
		}
	}
	return limits
}

func writeRules(out *bytes.Buffer, s *apiextensionsv1.JSONSchemaProps) {
	for _, rule := range s.XValidations {
		fmt.Fprintf(out, "\nRule: %s.\n", strings.TrimSuffix(rule.Message, "."))
	}
}

// sentences returns a description as one line that begins with a capital and ends with a full stop.
func sentences(description string) string {
	line := strings.Join(strings.Fields(description), " ")
	if line == "" || strings.HasSuffix(line, ".") {
		return line
	}
	return line + "."
}
