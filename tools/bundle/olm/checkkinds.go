package olm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// kinds judges owned kinds: each in the bundle and in the CSV, described for people down to every field.
func (f *findings) kinds(b *Bundle) {
	owned := map[string]OwnedKind{}
	for _, o := range b.CSV.Spec.CustomResourceDefinitions.Owned {
		_, twice := owned[o.Name]
		f.need(!twice, "owned kinds", "%s is listed twice", o.Name)
		owned[o.Name] = o
		f.need(slices.ContainsFunc(b.CRDs, func(c *apiextensionsv1.CustomResourceDefinition) bool { return c.Name == o.Name }),
			"owned kinds", "%s is owned and not in the bundle", o.Name)
	}
	for _, crd := range b.CRDs {
		o, ok := owned[crd.Name]
		if !ok {
			f.add("owned kinds", "%s is in the bundle and not owned", crd.Name)
			continue
		}
		f.need(crd.APIVersion == apiextensionsv1.SchemeGroupVersion.String() && crd.Name == crd.Spec.Names.Plural+"."+crd.Spec.Group, "definitions", "%s %s", crd.APIVersion, crd.Name)
		f.need(o.Description != "" && o.DisplayName != "", "owned kinds", "%s has no description or no display name", crd.Name)
		f.need(len(o.Resources) > 0, "crds have resources", "%s lists none", crd.Name)
		at := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == o.Version && v.Served })
		if at < 0 || crd.Spec.Names.Kind != o.Kind {
			f.add("owned kinds", "%s does not serve %s %s", crd.Name, o.Kind, o.Version)
			continue
		}
		f.schema(o, crd.Spec.Versions[at])
	}
}

// schema judges the descriptors of a kind by its schema.
func (f *findings) schema(o OwnedKind, v apiextensionsv1.CustomResourceDefinitionVersion) {
	f.need(v.Subresources != nil && v.Subresources.Status != nil, "crds have validation", "%s has no subresource status", o.Name)
	for part, given := range map[string][]Descriptor{"spec": o.SpecDescriptors, "status": o.StatusDescriptors} {
		schema := v.Schema.OpenAPIV3Schema.Properties[part]
		f.need(len(schema.Properties) > 0, "crds have validation", "%s has no schema of %s", o.Name, part)
		wanted := map[string]bool{}
		for _, d := range descriptors(&schema) {
			wanted[d.Path] = true
		}
		found := map[string]bool{}
		for _, d := range given {
			f.need(wanted[d.Path], part+" descriptors", "%s: there is no field %s.%s", o.Name, part, d.Path)
			f.need(d.DisplayName != "" && d.Description != "", part+" descriptors", "%s: %s.%s has no display name or no description", o.Name, part, d.Path)
			found[d.Path] = true
		}
		for path := range wanted {
			f.need(found[path], part+" descriptors", "%s: nothing describes %s.%s", o.Name, part, path)
		}
	}
}

// examples judges alm-examples: one of each owned kind, which the API server would accept.
func (f *findings) examples(b *Bundle) {
	const rule = "alm-examples"
	var objects []map[string]any
	if err := json.Unmarshal([]byte(b.CSV.Metadata.Annotations["alm-examples"]), &objects); err != nil {
		f.add(rule, "no list in JSON: %v", err)
		return
	}
	shown := map[string]bool{}
	for _, content := range objects {
		u := &unstructured.Unstructured{Object: content}
		at := slices.IndexFunc(b.CRDs, func(c *apiextensionsv1.CustomResourceDefinition) bool {
			return c.Spec.Names.Kind == u.GetKind() && c.Spec.Group == u.GroupVersionKind().Group
		})
		if at < 0 {
			f.add(rule, "%s %s is of no owned kind", u.GetAPIVersion(), u.GetKind())
			continue
		}
		shown[u.GetKind()] = true
		f.need(u.Object["spec"] != nil, "basic check spec", "the example %s has no spec", u.GetKind())
		if err := valid(u, b.CRDs[at]); err != nil {
			f.add(rule, "%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	for _, crd := range b.CRDs {
		f.need(shown[crd.Spec.Names.Kind], rule, "there is none of %s", crd.Spec.Names.Kind)
	}
}

// valid judges an object by the schema of its version.
func valid(u *unstructured.Unstructured, crd *apiextensionsv1.CustomResourceDefinition) error {
	at := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return v.Name == u.GroupVersionKind().Version
	})
	if at < 0 {
		return fmt.Errorf("%s is no version of it", u.GroupVersionKind().Version)
	}
	var schema apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[at].Schema.OpenAPIV3Schema, &schema, nil); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	validator, _, err := validation.NewSchemaValidator(&schema)
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	return validation.ValidateCustomResource(nil, u.Object, validator).ToAggregate()
}

// supported are the kinds that OLM takes beside CSV and CRDs (operator-registry pkg/lib/bundle), without
// NetworkPolicy, which the community's pipelines refuse, and those that need further kinds in the cluster.
var supported = []string{
	"Secret", "ConfigMap", "Service", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "PodDisruptionBudget", "PriorityClass",
}

// manifests judges the other objects.
func (f *findings) manifests(b *Bundle) {
	names := map[string]bool{}
	for _, u := range b.Others {
		name := u.GetKind() + " " + u.GetName()
		f.need(slices.Contains(supported, u.GetKind()), "kinds", "%s: OLM takes %v", name, supported)
		f.need(!strings.Contains(u.GetAPIVersion(), "alpha") && !strings.Contains(u.GetAPIVersion(), "beta"), "deprecated APIs", "%s is of %s", name, u.GetAPIVersion())
		f.need(u.GetNamespace() == "", "namespace", "%s names namespace %s, which OLM chooses", name, u.GetNamespace())
		f.need(!names[name], "kinds", "%s is there twice", name)
		names[name] = true
	}
}
