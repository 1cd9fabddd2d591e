package olm

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Input is what a bundle is made from.
type Input struct {
	// Objects are what config/manifests renders: a CSV with the words for people, what config/default installs,
	// and an example of each kind.
	Objects []*unstructured.Unstructured
	// Version is the release's, such as v0.1.0.
	Version string
	// Icon is an SVG.
	Icon []byte
}

// Bundle is a bundle's content.
type Bundle struct {
	CSV CSV
	// CRDs are the owned kinds.
	CRDs []*apiextensionsv1.CustomResourceDefinition
	// Others are the other manifests.
	Others []*unstructured.Unstructured
	// Annotations are those of metadata/annotations.yaml.
	Annotations map[string]string
}

// Kinds that OLM makes itself from the CSV, or that have no place in a bundle. What installs a bundle makes the
// namespace; OLM knows neither DaemonSets, which the operator deploys therefore, nor quotas; NetworkPolicies are
// refused by the community's catalogs. Who may ask for a pod's own proxy is left out as well: OLM knows no selectors, and the
// operator would be asked about every pod of the cluster.
var left = []string{
	"ClusterRoleBinding", "Deployment", "DaemonSet", "MutatingWebhookConfiguration", "Namespace", "NetworkPolicy", "ResourceQuota", "RoleBinding", "ValidatingWebhookConfiguration",
}

// parts are the objects by what becomes of them.
type parts struct {
	csv        *CSV
	crds       []*apiextensionsv1.CustomResourceDefinition
	deployment *appsv1.Deployment
	agents     *appsv1.DaemonSet
	roles      map[string][]rbacv1.PolicyRule
	bindings   []binding
	webhooks   *admissionregistrationv1.ValidatingWebhookConfiguration
	examples   []*unstructured.Unstructured
	others     []*unstructured.Unstructured
}

type binding struct {
	role     string
	cluster  bool
	accounts []string
}

// Generate makes a bundle.
func Generate(in Input) (*Bundle, error) {
	p, err := sort(in.Objects)
	if err != nil {
		return nil, err
	}
	csv := p.csv
	version := strings.TrimPrefix(in.Version, "v")
	csv.Metadata.Name, csv.Spec.Version = PackageName+".v"+version, version
	csv.Spec.Icon = []Icon{{Data: base64.StdEncoding.EncodeToString(in.Icon), MediaType: "image/svg+xml"}}
	csv.Spec.Install = InstallStrategy{Strategy: "deployment", Spec: InstallSpec{
		ClusterPermissions: p.permissions(true), Permissions: p.permissions(false),
		Deployments: []DeploymentSpec{{Name: p.deployment.Name, Label: p.deployment.Labels, Spec: p.deployment.Spec}},
	}}
	container := &csv.Spec.Install.Spec.Deployments[0].Spec.Template.Spec.Containers[0]
	agents := p.agents.Spec.Template.Spec.Containers[0].Image
	container.Env = append(container.Env, corev1.EnvVar{Name: "WEFT_NODE_IMAGE", Value: agents})
	proxies := ""
	for _, e := range container.Env {
		if e.Name == "WEFT_PROXY_IMAGE" {
			proxies = e.Value
		}
	}
	csv.Metadata.Annotations["containerImage"] = container.Image
	csv.Spec.RelatedImages = []RelatedImage{{"weft-operator", container.Image}, {"weft-proxy", proxies}, {"weft-node", agents}}
	if csv.Metadata.Annotations["alm-examples"], err = examples(p.examples); err != nil {
		return nil, err
	}
	for i := range csv.Spec.CustomResourceDefinitions.Owned {
		owned := &csv.Spec.CustomResourceDefinitions.Owned[i]
		at := slices.IndexFunc(p.crds, func(c *apiextensionsv1.CustomResourceDefinition) bool { return c.Name == owned.Name })
		if at < 0 {
			return nil, fmt.Errorf("the CSV owns %s, of which there is no CustomResourceDefinition", owned.Name)
		}
		describe(owned, p.crds[at])
	}
	csv.Spec.WebhookDefinitions = definitions(p.webhooks, p.deployment.Name)
	return &Bundle{CSV: *csv, CRDs: p.crds, Others: p.otherManifests(), Annotations: annotations()}, nil
}

// sort takes objects apart.
func sort(objects []*unstructured.Unstructured) (*parts, error) {
	p := &parts{roles: map[string][]rbacv1.PolicyRule{}}
	for _, u := range objects {
		var err error
		switch u.GetKind() {
		case CSVKind:
			p.csv, err = convert[CSV](u)
		case "CustomResourceDefinition":
			var crd *apiextensionsv1.CustomResourceDefinition
			crd, err = convert[apiextensionsv1.CustomResourceDefinition](u)
			p.crds = append(p.crds, crd)
		case "Deployment":
			p.deployment, err = convert[appsv1.Deployment](u)
		case "DaemonSet":
			p.agents, err = convert[appsv1.DaemonSet](u)
		case "ClusterRole", "Role":
			var role *rbacv1.ClusterRole
			role, err = convert[rbacv1.ClusterRole](u)
			if err == nil {
				p.roles[u.GetKind()+"/"+role.Name] = role.Rules
			}
			p.others = append(p.others, u)
		case "ClusterRoleBinding", "RoleBinding":
			var b *rbacv1.RoleBinding
			if b, err = convert[rbacv1.RoleBinding](u); err == nil {
				p.bindings = append(p.bindings, bindingOf(b, u.GetKind() == "ClusterRoleBinding"))
			}
		case "ValidatingWebhookConfiguration":
			p.webhooks, err = convert[admissionregistrationv1.ValidatingWebhookConfiguration](u)
		case "Mesh", "MeshPolicy", "MeshAuthorization":
			p.examples = append(p.examples, u)
		default:
			p.others = append(p.others, u)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.csv == nil || p.deployment == nil || p.agents == nil || p.webhooks == nil {
		return nil, fmt.Errorf("a %s, a Deployment, a DaemonSet and a ValidatingWebhookConfiguration are needed", CSVKind)
	}
	return p, nil
}

// convert is strict: a field that the type does not have would be lost.
func convert[T any](u *unstructured.Unstructured) (*T, error) {
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, typed, true); err != nil {
		return nil, fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return typed, nil
}

func bindingOf(b *rbacv1.RoleBinding, cluster bool) binding {
	out := binding{role: b.RoleRef.Kind + "/" + b.RoleRef.Name, cluster: cluster}
	for _, s := range b.Subjects {
		if s.Kind == rbacv1.ServiceAccountKind {
			out.accounts = append(out.accounts, s.Name)
		}
	}
	return out
}

// permissions returns the rules that bindings grant, in the whole cluster or in the operator's namespace.
func (p *parts) permissions(cluster bool) []Permissions {
	var out []Permissions
	for _, b := range p.bindings {
		if b.cluster != cluster {
			continue
		}
		for _, account := range b.accounts {
			at := slices.IndexFunc(out, func(p Permissions) bool { return p.ServiceAccountName == account })
			if at < 0 {
				out = append(out, Permissions{ServiceAccountName: account})
				at = len(out) - 1
			}
			out[at].Rules = append(out[at].Rules, p.roles[b.role]...)
		}
	}
	return out
}

// otherManifests returns what OLM applies as it is: neither bound roles nor accounts with rights, which it makes
// from the CSV, nor the Service of the webhook, which it makes as well. OLM says in which namespace.
func (p *parts) otherManifests() []*unstructured.Unstructured {
	bound := map[string]bool{}
	for _, b := range p.bindings {
		bound[b.role] = true
		for _, account := range b.accounts {
			bound["ServiceAccount/"+account] = true
		}
	}
	for _, w := range p.webhooks.Webhooks {
		bound["Service/"+w.ClientConfig.Service.Name] = true
	}
	var out []*unstructured.Unstructured
	for _, u := range p.others {
		if bound[u.GetKind()+"/"+u.GetName()] || slices.Contains(left, u.GetKind()) {
			continue
		}
		u = u.DeepCopy()
		u.SetNamespace("")
		out = append(out, u)
	}
	return out
}

// examples returns the objects as a list in JSON.
func examples(objects []*unstructured.Unstructured) (string, error) {
	list := make([]map[string]any, len(objects))
	slices.SortFunc(objects, func(a, b *unstructured.Unstructured) int { return cmp.Compare(a.GetKind(), b.GetKind()) })
	for i, u := range objects {
		list[i] = u.Object
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode examples: %w", err)
	}
	return string(data), nil
}

// describe fills in what the schema knows of a kind.
func describe(owned *OwnedKind, crd *apiextensionsv1.CustomResourceDefinition) {
	version := crd.Spec.Versions[0]
	schema := version.Schema.OpenAPIV3Schema
	spec, status := schema.Properties["spec"], schema.Properties["status"]
	owned.Kind, owned.Version = crd.Spec.Names.Kind, version.Name
	owned.Description = sentence(schema)
	owned.SpecDescriptors, owned.StatusDescriptors = descriptors(&spec), descriptors(&status)
}

// definitions describes webhooks. Selectors and conditions have no place in it: the operator itself says
// nothing about what they leave out.
func definitions(c *admissionregistrationv1.ValidatingWebhookConfiguration, deployment string) []WebhookDefinition {
	var out []WebhookDefinition
	for _, w := range c.Webhooks {
		out = append(out, WebhookDefinition{
			Type: "ValidatingAdmissionWebhook", GenerateName: w.Name, DeploymentName: deployment,
			ContainerPort: *w.ClientConfig.Service.Port, TargetPort: WebhookPort, WebhookPath: *w.ClientConfig.Service.Path,
			Rules: w.Rules, AdmissionReviewVersions: w.AdmissionReviewVersions, FailurePolicy: w.FailurePolicy,
			MatchPolicy: w.MatchPolicy, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
		})
	}
	return out
}
