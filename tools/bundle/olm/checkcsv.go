package olm

import (
	"encoding/base64"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// What annotations may say; see operator-framework/api pkg/validation/internal.
var (
	capabilities = []string{"Basic Install", "Seamless Upgrades", "Full Lifecycle", "Deep Insights", "Auto Pilot"}
	categories   = []string{
		"AI/Machine Learning", "Application Runtime", "Big Data", "Cloud Provider", "Developer Tools", "Database", "Integration & Delivery",
		"Logging & Tracing", "Modernization & Migration", "Monitoring", "Networking", "OpenShift Optional", "Security", "Storage", "Streaming & Messaging",
	}
	features = []string{
		"disconnected", "fips-compliant", "proxy-aware", "tls-profiles", "cnf", "cni", "csi", "token-auth-aws", "token-auth-azure", "token-auth-gcp",
	}
	installModes = []string{"OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"}
	iconTypes    = []string{"image/png", "image/jpeg", "image/gif", "image/svg+xml"}
)

// maxSummary is what a hub shows of the annotation description.
const maxSummary = 135

// annotations judges what hubs and consoles read.
func (f *findings) annotations(m Metadata) {
	a := m.Annotations
	f.need(slices.Contains(capabilities, a["capabilities"]), "capabilities", "%q is none of %v", a["capabilities"], capabilities)
	for category := range strings.SplitSeq(a["categories"], ",") {
		f.need(slices.Contains(categories, strings.TrimSpace(category)), "categories", "%q is none of %v", category, categories)
	}
	f.need(len(a["description"]) > 0 && len(a["description"]) <= maxSummary, "summary", "%d characters, want 1 to %d", len(a["description"]), maxSummary)
	_, err := time.Parse(time.RFC3339, a["createdAt"])
	f.need(err == nil, "createdAt", "%q is no time", a["createdAt"])
	f.need(isURL(a["repository"]), "repository", "%q is no address", a["repository"])
	for _, name := range []string{"containerImage", "support", "operators.operatorframework.io/suggested-namespace", "operatorframework.io/suggested-namespace-template"} {
		f.need(a[name] != "", "annotations", "%s is missing", name)
	}
	for _, feature := range features {
		value := a["features.operators.openshift.io/"+feature]
		f.need(value == "true" || value == "false", "features", "%s is %q", feature, value)
	}
	f.need(m.Labels["operatorframework.io/arch.amd64"] == "supported" && m.Labels["operatorframework.io/os.linux"] == "supported",
		"architectures", "labels %v", m.Labels)
	f.need(m.Namespace == "placeholder", "namespace", "the CSV's is %q, want placeholder", m.Namespace)
}

func isURL(text string) bool {
	u, err := url.ParseRequestURI(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

// words judges what people read, and the install modes.
func (f *findings) words(s *CSVSpec) {
	f.need(len(s.DisplayName) >= 3 && len(s.DisplayName) <= 50, "displayName", "%q has not 3 to 50 characters", s.DisplayName)
	f.need(len(s.Description) >= 20, "description", "%q has less than 20 characters", s.Description)
	f.need(len(s.Keywords) > 0 && !slices.Contains(s.Keywords, ""), "keywords", "%v", s.Keywords)
	f.need(slices.Contains([]string{"planning", "pre-alpha", "alpha", "beta", "stable", "mature", "inactive", "deprecated"}, s.Maturity), "maturity", "%q", s.Maturity)
	f.need(len(s.Provider.Name) >= 3, "provider", "%q has less than 3 characters", s.Provider.Name)
	f.need(len(s.Maintainers) > 0, "maintainers", "there are none")
	for _, m := range s.Maintainers {
		_, err := mail.ParseAddress(m.Email)
		f.need(m.Name != "" && err == nil, "maintainers", "%q <%s>", m.Name, m.Email)
	}
	f.need(len(s.Links) > 0, "links", "there are none")
	for _, l := range s.Links {
		f.need(l.Name != "" && isURL(l.URL), "links", "%q: %q is no address", l.Name, l.URL)
	}
	f.need(len(s.Icon) == 1, "icon", "there are %d, want one", len(s.Icon))
	for _, icon := range s.Icon {
		data, err := base64.StdEncoding.DecodeString(icon.Data)
		f.need(err == nil && len(data) > 0, "icon", "it is no base64")
		f.need(slices.Contains(iconTypes, icon.MediaType), "icon", "%q is none of %v", icon.MediaType, iconTypes)
	}
	var modes []string
	supported := map[string]bool{}
	for _, mode := range s.InstallModes {
		modes = append(modes, mode.Type)
		supported[mode.Type] = mode.Supported
	}
	slices.Sort(modes)
	f.need(slices.Equal(modes, slices.Sorted(slices.Values(installModes))), "install modes", "%v are listed, want each of %v once", modes, installModes)
	// A mesh is one for a cluster, and so are its kinds and webhooks.
	f.need(supported["AllNamespaces"] && !supported["OwnNamespace"] && !supported["SingleNamespace"] && !supported["MultiNamespace"],
		"install modes", "%v, want AllNamespaces alone", supported)
}

// install judges what is deployed with which rights.
func (f *findings) install(b *Bundle) {
	spec := b.CSV.Spec.Install.Spec
	f.need(b.CSV.Spec.Install.Strategy == "deployment" && len(spec.Deployments) > 0, "install strategy", "%q with %d Deployments", b.CSV.Spec.Install.Strategy, len(spec.Deployments))
	accounts := map[string]bool{}
	for _, p := range slices.Concat(spec.ClusterPermissions, spec.Permissions) {
		accounts[p.ServiceAccountName] = true
		for _, rule := range p.Rules {
			f.rights(p.ServiceAccountName, rule)
		}
	}
	for _, d := range spec.Deployments {
		pod := d.Spec.Template.Spec
		f.need(accounts[pod.ServiceAccountName], "service account", "Deployment %s runs as %q, which has no permissions", d.Name, pod.ServiceAccountName)
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			_, cpu := c.Resources.Requests[corev1.ResourceCPU]
			_, memory := c.Resources.Requests[corev1.ResourceMemory]
			f.need(cpu && memory, "requests", "container %s of %s requests no cpu or no memory", c.Name, d.Name)
		}
	}
	for _, u := range b.Others {
		f.need(u.GetKind() != rbacv1.ServiceAccountKind || !accounts[u.GetName()], "service account", "%s is in the CSV's permissions and an object as well", u.GetName())
	}
}

func (f *findings) rights(account string, rule rbacv1.PolicyRule) {
	for _, list := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs, rule.ResourceNames, rule.NonResourceURLs} {
		f.need(!slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "*") }), "rights", "%s has a wildcard: %v", account, rule)
	}
	if slices.Contains(rule.Resources, "customresourcedefinitions") {
		for _, verb := range []string{"create", "patch", "update"} {
			f.need(!slices.Contains(rule.Verbs, verb), "rights", "%s may %s CustomResourceDefinitions", account, verb)
		}
	}
}

// images judges relatedImages, which a mirror copies.
func (f *findings) images(b *Bundle, released bool) {
	related := map[string]string{}
	for _, i := range b.CSV.Spec.RelatedImages {
		f.need(i.Name != "" && i.Image != "" && related[i.Image] == "", "related images", "%q %q", i.Name, i.Image)
		related[i.Image] = i.Name
		f.need(!released || strings.Contains(i.Image, "@sha256:"), "digests", "%s is not named by a digest", i.Image)
	}
	f.need(related[b.CSV.Metadata.Annotations["containerImage"]] != "", "containerImage", "%q is not among the related images", b.CSV.Metadata.Annotations["containerImage"])
	for _, d := range b.CSV.Spec.Install.Spec.Deployments {
		for _, c := range slices.Concat(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers) {
			f.need(related[c.Image] != "", "related images", "%s, which %s runs, is not among them", c.Image, d.Name)
			for _, e := range c.Env {
				f.need(!strings.HasSuffix(e.Name, "_IMAGE") || related[e.Value] != "", "related images", "%s=%s is not among them", e.Name, e.Value)
			}
		}
	}
	for name := range map[string]bool{"weft-operator": true, "weft-proxy": true, "weft-node": true} {
		f.need(slices.ContainsFunc(b.CSV.Spec.RelatedImages, func(i RelatedImage) bool { return i.Name == name }), "related images", "%s is missing", name)
	}
}

// webhooks judges webhook definitions.
func (f *findings) webhooks(s *CSVSpec) {
	const rule = "webhooks"
	names := map[string]bool{}
	for _, w := range s.WebhookDefinitions {
		f.need(w.GenerateName != "" && !names[w.GenerateName], rule, "the name %q is empty or there twice", w.GenerateName)
		names[w.GenerateName] = true
		f.need(slices.Contains([]string{"ValidatingAdmissionWebhook", "MutatingAdmissionWebhook", "ConversionWebhook"}, w.Type), rule, "%s: type %q", w.GenerateName, w.Type)
		f.need(strings.HasPrefix(w.WebhookPath, "/"), rule, "%s: path %q", w.GenerateName, w.WebhookPath)
		f.need(slices.Contains(w.AdmissionReviewVersions, "v1"), rule, "%s: review versions %v", w.GenerateName, w.AdmissionReviewVersions)
		f.need(w.SideEffects != nil && (*w.SideEffects == admissionregistrationv1.SideEffectClassNone || *w.SideEffects == admissionregistrationv1.SideEffectClassNoneOnDryRun),
			rule, "%s: side effects", w.GenerateName)
		f.need(w.FailurePolicy != nil, rule, "%s: no failure policy", w.GenerateName)
		f.need(len(w.Rules) > 0, rule, "%s: no rules", w.GenerateName)
		f.need(w.ContainerPort >= 1 && w.ContainerPort <= 65535, rule, "%s: port %d", w.GenerateName, w.ContainerPort)
		at := slices.IndexFunc(s.Install.Spec.Deployments, func(d DeploymentSpec) bool { return d.Name == w.DeploymentName })
		if at < 0 {
			f.add(rule, "%s: there is no Deployment %q", w.GenerateName, w.DeploymentName)
			continue
		}
		f.need(slices.ContainsFunc(s.Install.Spec.Deployments[at].Spec.Template.Spec.Containers, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == w.TargetPort })
		}), rule, "%s: no container of %s listens on %d", w.GenerateName, w.DeploymentName, w.TargetPort)
	}
}
