package olm

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	bundleDir   = "../../../bundle"
	catalogFile = "../../../config/catalog/weft/catalog.yaml"
)

var readCommitted = sync.OnceValues(func() ([]byte, error) {
	b, err := Read(os.DirFS(bundleDir))
	if err != nil {
		return nil, err
	}
	return json.Marshal(b)
})

// committed returns the bundle as it is committed, a copy for each test.
func committed(t *testing.T) *Bundle {
	t.Helper()
	data, err := readCommitted()
	if err != nil {
		t.Fatal(err)
	}
	b := &Bundle{}
	if err := json.Unmarshal(data, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTheBundleBreaksNoRule holds what is committed.
func TestTheBundleBreaksNoRule(t *testing.T) {
	b := committed(t)
	for _, f := range Check(b, false) {
		t.Error(f)
	}
	if got := rulesOf(Check(b, true)); !slices.Equal(got, []string{"digests"}) {
		t.Errorf("as a release it breaks %v, want digests alone", got)
	}
	if got := len(b.CRDs); got != 3 {
		t.Errorf("%d kinds, want 3", got)
	}
}

// TestTheBundleIsWhole: reading loses nothing, and the files that the annotations and the Dockerfile name exist.
func TestTheBundleIsWhole(t *testing.T) {
	files, err := committed(t).Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		there, err := os.ReadFile(bundleDir + "/" + name)
		if err != nil || string(there) != string(content) {
			t.Errorf("%s is not what reading the bundle gives (error %v): run make bundle", name, err)
		}
	}
	labels := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^LABEL (\S+)=(.*)$`).FindAllStringSubmatch(string(files[dockerfile]), -1) {
		labels[match[1]] = match[2]
	}
	for key, value := range annotations() {
		if labels[key] != value {
			t.Errorf("the image's label %s is %q, want the annotation %q", key, labels[key], value)
		}
	}
	for _, copied := range regexp.MustCompile(`(?m)^COPY (\S+)`).FindAllStringSubmatch(string(files[dockerfile]), -1) {
		if _, err := os.Stat(bundleDir + "/" + copied[1]); err != nil {
			t.Error(err)
		}
	}
}

func rulesOf(found []Finding) []string {
	var rules []string
	for _, f := range found {
		if !slices.Contains(rules, f.Rule) {
			rules = append(rules, f.Rule)
		}
	}
	slices.Sort(rules)
	return rules
}

// TestCheckFinds breaks every rule.
func TestCheckFinds(t *testing.T) {
	annotate := func(key, value string) func(*Bundle) {
		return func(b *Bundle) { b.CSV.Metadata.Annotations[key] = value }
	}
	meta := func(key, value string) func(*Bundle) {
		return func(b *Bundle) { b.Annotations["operators.operatorframework.io."+key] = value }
	}
	spec := func(change func(*CSVSpec)) func(*Bundle) { return func(b *Bundle) { change(&b.CSV.Spec) } }
	container := func(change func(*corev1.Container)) func(*Bundle) {
		return func(b *Bundle) { change(&b.CSV.Spec.Install.Spec.Deployments[0].Spec.Template.Spec.Containers[0]) }
	}
	object := func(apiVersion, kind, name, namespace string) func(*Bundle) {
		return func(b *Bundle) {
			u := &unstructured.Unstructured{}
			u.SetAPIVersion(apiVersion)
			u.SetKind(kind)
			u.SetName(name)
			u.SetNamespace(namespace)
			b.Others = append(b.Others, u)
		}
	}
	example := func(change func([]map[string]any) []map[string]any) func(*Bundle) {
		return func(b *Bundle) {
			var objects []map[string]any
			if err := json.Unmarshal([]byte(b.CSV.Metadata.Annotations["alm-examples"]), &objects); err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(change(objects))
			if err != nil {
				t.Fatal(err)
			}
			b.CSV.Metadata.Annotations["alm-examples"] = string(data)
		}
	}
	rights := func(rule rbacv1.PolicyRule) func(*Bundle) {
		return spec(func(s *CSVSpec) {
			p := &s.Install.Spec.ClusterPermissions[0]
			p.Rules = append(p.Rules, rule)
		})
	}
	cases := map[string]struct {
		change func(*Bundle)
		want   []string
	}{
		"another media type":        {meta("bundle.mediatype.v1", "helm"), []string{"metadata"}},
		"another package":           {meta("bundle.package.v1", "other"), []string{"name"}},
		"a channel of no meaning":   {meta("bundle.channels.v1", "alpha,candidate"), []string{"channel names"}},
		"no default channel":        {meta("bundle.channel.default.v1", "stable"), []string{"default channel"}},
		"another name":              {func(b *Bundle) { b.CSV.Metadata.Name = "weft.v9.9.9" }, []string{"name"}},
		"no version":                {spec(func(s *CSVSpec) { s.Version = "first" }), []string{"name", "version"}},
		"a later version replaced":  {spec(func(s *CSVSpec) { s.Replaces = "weft.v9.0.0" }), []string{"replaces"}},
		"no Kubernetes version":     {spec(func(s *CSVSpec) { s.MinKubeVersion = "" }), []string{"minKubeVersion"}},
		"another kind":              {func(b *Bundle) { b.CSV.APIVersion = "operators.coreos.com/v1" }, []string{"csv kind"}},
		"a level of its own":        {annotate("capabilities", "Best"), []string{"capabilities"}},
		"a category of its own":     {annotate("categories", "Networking,Meshes"), []string{"categories"}},
		"a long summary":            {annotate("description", strings.Repeat("a", 136)), []string{"summary"}},
		"no date":                   {annotate("createdAt", "today"), []string{"createdAt"}},
		"no repository":             {annotate("repository", "weft"), []string{"repository"}},
		"nobody to ask":             {annotate("support", ""), []string{"annotations"}},
		"a feature unsaid":          {annotate("features.operators.openshift.io/cni", ""), []string{"features"}},
		"no architecture":           {func(b *Bundle) { b.CSV.Metadata.Labels = nil }, []string{"architectures"}},
		"a CSV in a namespace":      {func(b *Bundle) { b.CSV.Metadata.Namespace = "weft-system" }, []string{"namespace"}},
		"a short display name":      {spec(func(s *CSVSpec) { s.DisplayName = "W" }), []string{"displayName"}},
		"a short description":       {spec(func(s *CSVSpec) { s.Description = "A mesh." }), []string{"description"}},
		"no keywords":               {spec(func(s *CSVSpec) { s.Keywords = nil }), []string{"keywords"}},
		"no maturity":               {spec(func(s *CSVSpec) { s.Maturity = "new" }), []string{"maturity"}},
		"no provider":               {spec(func(s *CSVSpec) { s.Provider = Link{} }), []string{"provider"}},
		"no mail":                   {spec(func(s *CSVSpec) { s.Maintainers[0].Email = "us" }), []string{"maintainers"}},
		"a dead link":               {spec(func(s *CSVSpec) { s.Links[0].URL = "weft" }), []string{"links"}},
		"two icons":                 {spec(func(s *CSVSpec) { s.Icon = append(s.Icon, s.Icon[0]) }), []string{"icon"}},
		"an icon in text":           {spec(func(s *CSVSpec) { s.Icon[0].Data = "<svg/>" }), []string{"icon"}},
		"three install modes":       {spec(func(s *CSVSpec) { s.InstallModes = s.InstallModes[1:] }), []string{"install modes"}},
		"a mesh for one namespace":  {spec(func(s *CSVSpec) { s.InstallModes[0].Supported = true }), []string{"install modes"}},
		"another strategy":          {spec(func(s *CSVSpec) { s.Install.Strategy = "image" }), []string{"install strategy"}},
		"no requests":               {container(func(c *corev1.Container) { c.Resources.Requests = nil }), []string{"requests"}},
		"a wildcard":                {rights(rbacv1.PolicyRule{APIGroups: []string{"*"}}), []string{"rights"}},
		"definitions of others":     {rights(rbacv1.PolicyRule{Resources: []string{"customresourcedefinitions"}, Verbs: []string{"patch"}}), []string{"rights"}},
		"an account without rights": {spec(func(s *CSVSpec) { s.Install.Spec.Deployments[0].Spec.Template.Spec.ServiceAccountName = "default" }), []string{"service account"}},
		"an account made twice":     {object("v1", "ServiceAccount", "weft-operator", ""), []string{"service account"}},
		"an image that no mirror has": {container(func(c *corev1.Container) {
			c.Env = append(c.Env, corev1.EnvVar{Name: "OTHER_IMAGE", Value: "other:v1"})
		}), []string{"related images"}},
		"another container image":   {annotate("containerImage", "other:v1"), []string{"containerImage"}},
		"no Deployment to ask":      {spec(func(s *CSVSpec) { s.WebhookDefinitions[0].DeploymentName = "other" }), []string{"webhooks"}},
		"a port nobody listens on":  {spec(func(s *CSVSpec) { s.WebhookDefinitions[0].TargetPort = 1 }), []string{"webhooks"}},
		"one webhook twice":         {spec(func(s *CSVSpec) { s.WebhookDefinitions = append(s.WebhookDefinitions, s.WebhookDefinitions[0]) }), []string{"webhooks"}},
		"no side effects said":      {spec(func(s *CSVSpec) { s.WebhookDefinitions[0].SideEffects = nil }), []string{"webhooks"}},
		"an old review version":     {spec(func(s *CSVSpec) { s.WebhookDefinitions[0].AdmissionReviewVersions = []string{"v1beta1"} }), []string{"webhooks"}},
		"a kind without definition": {func(b *Bundle) { b.CRDs = b.CRDs[1:] }, []string{"alm-examples", "owned kinds"}},
		"a kind that is not owned":  {spec(func(s *CSVSpec) { o := &s.CustomResourceDefinitions; o.Owned = o.Owned[1:] }), []string{"owned kinds"}},
		"a kind that nobody knows":  {spec(func(s *CSVSpec) { s.CustomResourceDefinitions.Owned[0].Description = "" }), []string{"owned kinds"}},
		"a kind with no resources":  {spec(func(s *CSVSpec) { s.CustomResourceDefinitions.Owned[0].Resources = nil }), []string{"crds have resources"}},
		"another definition":        {func(b *Bundle) { b.CRDs[0].APIVersion = "apiextensions.k8s.io/v1beta1" }, []string{"definitions"}},
		"no status":                 {func(b *Bundle) { b.CRDs[0].Spec.Versions[0].Subresources = nil }, []string{"crds have validation"}},
		"a spec field not described": {spec(func(s *CSVSpec) {
			o := &s.CustomResourceDefinitions.Owned[0]
			o.SpecDescriptors = o.SpecDescriptors[1:]
		}), []string{"spec descriptors"}},
		"a status field that is none": {spec(func(s *CSVSpec) {
			s.CustomResourceDefinitions.Owned[0].StatusDescriptors[0].Path = "phase"
		}), []string{"status descriptors"}},
		"no example":        {example(func(o []map[string]any) []map[string]any { return o[1:] }), []string{"alm-examples"}},
		"a foreign example": {example(func(o []map[string]any) []map[string]any { o[0]["kind"] = "Other"; return o }), []string{"alm-examples"}},
		"an example that is refused": {example(func(o []map[string]any) []map[string]any {
			o[0]["spec"] = map[string]any{"proxy": map[string]any{"replicas": 0}}
			return o
		}), []string{"alm-examples"}},
		"an example of nothing":  {example(func(o []map[string]any) []map[string]any { delete(o[0], "spec"); return o }), []string{"basic check spec"}},
		"no examples":            {annotate("alm-examples", "{"), []string{"alm-examples"}},
		"a network policy":       {object("networking.k8s.io/v1", "NetworkPolicy", "weft-operator", ""), []string{"kinds"}},
		"a DaemonSet":            {object("apps/v1", "DaemonSet", "weft-node", ""), []string{"kinds"}},
		"an API that goes away":  {object("policy/v1beta1", "PodDisruptionBudget", "other", ""), []string{"deprecated APIs"}},
		"an object in its place": {object("v1", "Service", "other", "weft-system"), []string{"namespace"}},
		"too much": {spec(func(s *CSVSpec) {
			noise := make([]byte, 2<<20)
			random := rand.NewChaCha8([32]byte{})
			_, _ = random.Read(noise)
			s.Description = base64.StdEncoding.EncodeToString(noise)
		}), []string{"size"}},
	}
	tried := map[string]bool{"digests": true}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := committed(t)
			tc.change(b)
			if got := rulesOf(Check(b, false)); !slices.Equal(got, tc.want) {
				t.Errorf("breaks %v, want %v", got, tc.want)
			}
		})
		for _, rule := range tc.want {
			tried[rule] = true
		}
	}
	for rule := range judge(committed(t), false).asked {
		if !tried[rule] {
			t.Errorf("no case breaks the rule %q", rule)
		}
	}
}
