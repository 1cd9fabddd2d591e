package olm

import (
	"maps"
	"slices"
	"strings"
	"unicode"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// The hints that consoles know; see
// https://github.com/openshift/console/blob/master/frontend/packages/operator-lifecycle-manager/src/components/descriptors/reference/reference.md
const (
	ui                = "urn:alm:descriptor:com.tectonic.ui:"
	hintConditions    = "urn:alm:descriptor:io.kubernetes.conditions"
	hintResources     = ui + "resourceRequirements"
	hintSwitch        = ui + "booleanSwitch"
	hintNumber        = ui + "number"
	hintText          = ui + "text"
	hintSelect        = ui + "select:"
	hintAdvanced      = ui + "advanced"
	hintFieldGroup    = ui + "fieldGroup:"
	maxDepthInBasics  = 2
	pathOfListElement = "[0]"
)

// descriptors describes every field below a schema, in the order of their paths. What resources are made of
// is Kubernetes' own and not described again.
func descriptors(schema *apiextensionsv1.JSONSchemaProps) []Descriptor {
	var out []Descriptor
	walk("", schema, func(path string, s *apiextensionsv1.JSONSchemaProps) bool {
		d := Descriptor{Path: path, DisplayName: displayName(path), Description: sentence(s), XDescriptors: hints(path, s)}
		out = append(out, d)
		return !slices.Contains(d.XDescriptors, hintResources) && !slices.Contains(d.XDescriptors, hintConditions)
	})
	return out
}

// walk calls visit with every property below a schema, and goes on below those for which it returns true.
func walk(path string, s *apiextensionsv1.JSONSchemaProps, visit func(string, *apiextensionsv1.JSONSchemaProps) bool) {
	if s.Items != nil && s.Items.Schema != nil {
		walk(path+pathOfListElement, s.Items.Schema, visit)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		property := s.Properties[name]
		below := strings.TrimPrefix(path+"."+name, ".")
		if visit(below, &property) {
			walk(below, &property, visit)
		}
	}
}

// displayName makes "Max Connection Age" of proxy.maxConnectionAge.
func displayName(path string) string {
	name := strings.ReplaceAll(path[strings.LastIndex(path, ".")+1:], pathOfListElement, "")
	var out strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case i == 0:
			r = unicode.ToUpper(r)
		case unicode.IsUpper(r) && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			out.WriteByte(' ')
		}
		out.WriteRune(r)
	}
	return out.String()
}

// sentence is the description in the schema, which is the comment in the Go type.
func sentence(s *apiextensionsv1.JSONSchemaProps) string {
	text := s.Description
	if text == "" && s.Items != nil && s.Items.Schema != nil {
		text = s.Items.Schema.Description
	}
	return strings.Join(strings.Fields(text), " ")
}

func hints(path string, s *apiextensionsv1.JSONSchemaProps) []string {
	_, requests := s.Properties["requests"]
	_, limits := s.Properties["limits"]
	switch {
	case path == "conditions":
		return []string{hintConditions}
	case requests && limits:
		return []string{hintResources}
	}
	var out []string
	parts := strings.Split(path, ".")
	if len(parts) > 1 {
		out = append(out, hintFieldGroup+strings.ReplaceAll(parts[0], pathOfListElement, ""))
	}
	if len(parts) > maxDepthInBasics {
		out = append(out, hintAdvanced)
	}
	switch {
	case len(s.Enum) > 0:
		for _, value := range s.Enum {
			out = append(out, hintSelect+strings.Trim(string(value.Raw), `"`))
		}
	case s.Type == "boolean":
		out = append(out, hintSwitch)
	case s.Type == "integer" || s.Type == "number":
		out = append(out, hintNumber)
	case s.Type == "string":
		out = append(out, hintText)
	}
	return out
}
