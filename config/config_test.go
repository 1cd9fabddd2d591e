// Package config_test holds the manifests to what they promise: what a user applies is rendered as
// users render it, and then looked at.
package config_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/controllers/preflight"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// render returns what kustomize makes of a directory.
func render(directory string) ([]*unstructured.Unstructured, error) {
	build := exec.Command("go", "tool", "-modfile=tools/kustomize/go.mod", "kustomize", "build", "config/"+directory)
	build.Dir = ".."
	var stderr bytes.Buffer
	build.Stderr = &stderr
	out, err := build.Output()
	if err != nil {
		return nil, fmt.Errorf("kustomize build config/%s: %w\n%s", directory, err, stderr.Bytes())
	}
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(out), 4096); ; {
		u := &unstructured.Unstructured{}
		err := decoder.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("config/%s: %w", directory, err)
		}
		objects = append(objects, u)
	}
}

// renderDefault is what a user installs.
var renderDefault = sync.OnceValues(func() ([]*unstructured.Unstructured, error) { return render("default") })

func installed(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects, err := renderDefault()
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// find returns the object of a kind and name in its Go type.
func find[T any](t *testing.T, kind, name string) *T {
	t.Helper()
	for _, u := range installed(t) {
		if u.GetKind() == kind && u.GetName() == name {
			return convert[T](t, u)
		}
	}
	t.Fatalf("config/default has no %s %s", kind, name)
	return nil
}

// convert is strict: a field that the type does not have is a mistake in the manifest.
func convert[T any](t *testing.T, u *unstructured.Unstructured) *T {
	t.Helper()
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, typed, true); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
	return typed
}

func TestEverythingRenders(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, err := os.Stat(entry.Name() + "/kustomization.yaml"); err != nil {
			continue
		}
		objects, err := render(entry.Name())
		if err != nil {
			t.Error(err)
		} else if len(objects) == 0 {
			t.Errorf("config/%s renders to nothing", entry.Name())
		}
	}
}

// TestGoldenRights lists who may do what, a line for each subject, place, resource and name, so that a
// change of rights can be reviewed in one place. Rights that administrators may give to people are not
// in it.
func TestGoldenRights(t *testing.T) {
	rules := map[string][]rbacv1.PolicyRule{}
	for _, u := range installed(t) {
		switch u.GetKind() {
		case "ClusterRole":
			rules["ClusterRole/"+u.GetName()] = convert[rbacv1.ClusterRole](t, u).Rules
		case "Role":
			rules["Role/"+u.GetNamespace()+"/"+u.GetName()] = convert[rbacv1.Role](t, u).Rules
		}
	}
	var lines []string
	grant := func(place string, ref rbacv1.RoleRef, namespace string, subjects []rbacv1.Subject) {
		key := ref.Kind + "/" + ref.Name
		if ref.Kind == "Role" {
			key = ref.Kind + "/" + namespace + "/" + ref.Name
		}
		granted, ok := rules[key]
		if !ok {
			t.Errorf("a binding refers to %s, which is not installed", key)
		}
		for _, subject := range subjects {
			for _, rule := range granted {
				lines = append(lines, describe(subject.Name, place, rule)...)
			}
		}
	}
	for _, u := range installed(t) {
		switch u.GetKind() {
		case "ClusterRoleBinding":
			b := convert[rbacv1.ClusterRoleBinding](t, u)
			grant("everywhere", b.RoleRef, "", b.Subjects)
		case "RoleBinding":
			b := convert[rbacv1.RoleBinding](t, u)
			grant("in "+b.Namespace, b.RoleRef, b.Namespace, b.Subjects)
		}
	}
	// What infra binds in each enrolled namespace.
	grant("in enrolled namespaces", rbacv1.RoleRef{Kind: "ClusterRole", Name: infra.IdentityRole}, "",
		[]rbacv1.Subject{{Name: "weft-operator"}})
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile("testdata/rights.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/rights.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("rights (-want +got), rewrite them with make golden:\n%s", diff)
	}
}

func describe(subject, place string, rule rbacv1.PolicyRule) []string {
	var lines []string
	verbs := strings.Join(rule.Verbs, ",")
	for _, url := range rule.NonResourceURLs {
		lines = append(lines, fmt.Sprintf("%s %s: %s %s", subject, place, url, verbs))
	}
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{"any"}
	}
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			if group != "" {
				resource += "." + group
			}
			for _, name := range names {
				lines = append(lines, fmt.Sprintf("%s %s: %s %s %s", subject, place, resource, name, verbs))
			}
		}
	}
	return lines
}

// TestRightsAreNarrow: no wildcard anywhere, and no right to Secrets that reaches beyond the operator's
// namespace and the enrolled ones.
func TestRightsAreNarrow(t *testing.T) {
	everywhere := map[string]bool{}
	for _, u := range installed(t) {
		if u.GetKind() == "ClusterRoleBinding" {
			everywhere[convert[rbacv1.ClusterRoleBinding](t, u).RoleRef.Name] = true
		}
	}
	for _, u := range installed(t) {
		var rules []rbacv1.PolicyRule
		switch u.GetKind() {
		case "ClusterRole":
			rules = convert[rbacv1.ClusterRole](t, u).Rules
		case "Role":
			rules = convert[rbacv1.Role](t, u).Rules
		}
		for _, rule := range rules {
			for _, list := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs, rule.ResourceNames, rule.NonResourceURLs} {
				if slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "*") }) {
					t.Errorf("%s %s has a wildcard: %v", u.GetKind(), u.GetName(), rule)
				}
			}
			for _, verb := range []string{"escalate", "impersonate"} {
				if slices.Contains(rule.Verbs, verb) {
					t.Errorf("%s %s may %s", u.GetKind(), u.GetName(), verb)
				}
			}
			if u.GetKind() == "ClusterRole" && everywhere[u.GetName()] && slices.Contains(rule.Resources, "secrets") {
				t.Errorf("ClusterRole %s has rights to Secrets everywhere: %v", u.GetName(), rule)
			}
		}
	}
}

// TestRightsMatchTheCache: a list or watch that RBAC limits by name is allowed only with the selector
// for that name.
func TestRightsMatchTheCache(t *testing.T) {
	names := map[string][]string{}
	for _, rule := range find[rbacv1.ClusterRole](t, "ClusterRole", "weft-operator").Rules {
		if slices.Contains(rule.Verbs, "watch") && len(rule.ResourceNames) > 0 {
			for _, resource := range rule.Resources {
				names[resource] = rule.ResourceNames
			}
		}
	}
	want := map[string][]string{}
	cached := infra.CacheOptions()
	maps.Copy(cached, webhooks.CacheOptions())
	for object, options := range cached {
		name, _ := options.Field.RequiresExactMatch("metadata.name")
		kind := fmt.Sprintf("%T", object)
		want[strings.ToLower(kind[strings.LastIndex(kind, ".")+1:])+"s"] = []string{name}
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("watched by name (-cache +rights):\n%s", diff)
	}
}

func TestPods(t *testing.T) {
	operator := find[appsv1.Deployment](t, "Deployment", "weft-operator").Spec.Template.Spec
	agent := find[appsv1.DaemonSet](t, "DaemonSet", "weft-node").Spec.Template.Spec
	for name, spec := range map[string]corev1.PodSpec{"weft-operator": operator, "weft-node": agent} {
		for _, c := range spec.Containers {
			s := c.SecurityContext
			if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Privileged != nil || !cmp.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s: container %s has more rights than it needs: %+v", name, c.Name, s)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: container %s has no requests or no limit: %+v", name, c.Name, c.Resources)
			}
			if strings.Contains(c.Image, "/") || !strings.Contains(c.Image, ":") {
				t.Errorf("%s: image %q is not a bare name with a version", name, c.Image)
			}
		}
	}
	if s := operator.SecurityContext; !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
		operator.HostNetwork || len(operator.Containers[0].SecurityContext.Capabilities.Add) > 0 {
		t.Errorf("the operator's pod is not restricted: %+v", operator)
	}
	if *agent.AutomountServiceAccountToken {
		t.Error("node agents have a token for the API server")
	}
	if !cmp.Equal(agent.Containers[0].SecurityContext.Capabilities.Add, []corev1.Capability{"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}) {
		t.Errorf("node agents have capabilities %v", agent.Containers[0].SecurityContext.Capabilities.Add)
	}
}

// TestNames: names that the programs and the manifests must agree on.
func TestNames(t *testing.T) {
	service := find[corev1.Service](t, "Service", controllers.ConfigService)
	if len(service.Spec.Selector) != 0 {
		t.Error("the configuration Service has a selector: it would lead to operators that do not serve")
	}
	if port := service.Spec.Ports[0]; port.Name != "config" || port.Port != controllers.ConfigPort {
		t.Errorf("the configuration Service has port %s %d, want config %d", port.Name, port.Port, controllers.ConfigPort)
	}
	find[rbacv1.ClusterRole](t, "ClusterRole", infra.IdentityRole)
	find[schedulingv1.PriorityClass](t, "PriorityClass", infra.PriorityClass)

	volumes := find[appsv1.DaemonSet](t, "DaemonSet", "weft-node").Spec.Template.Spec.Volumes
	sources := volumes[0].Projected.Sources
	if got := sources[0].ServiceAccountToken.Audience; got != wire.TokenAudience {
		t.Errorf("the agents' token is for %q, want %q", got, wire.TokenAudience)
	}
	if got := sources[1].ConfigMap.Name; got != infra.TrustBundleName {
		t.Errorf("the agents read roots from %q, want %q", got, infra.TrustBundleName)
	}

	// The tag of the proxies must move with the operator's.
	c := find[appsv1.Deployment](t, "Deployment", "weft-operator").Spec.Template.Spec.Containers[0]
	for _, e := range c.Env {
		if e.Name == "WEFT_PROXY_IMAGE" && e.Value != strings.Replace(c.Image, "operator", "proxy", 1) {
			t.Errorf("the operator runs %s and deploys %s", c.Image, e.Value)
		}
	}
}

// TestNetworkPolicy: the operator can be asked at each of its ports, from wherever that is done, and can ask.
func TestNetworkPolicy(t *testing.T) {
	policy := find[networkingv1.NetworkPolicy](t, "NetworkPolicy", "weft-operator")
	template := find[appsv1.Deployment](t, "Deployment", "weft-operator").Spec.Template
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	if !selector.Matches(labels.Set(template.Labels)) {
		t.Errorf("the policy is not for the operator's pods: %v", policy.Spec.PodSelector)
	}
	agent := find[appsv1.DaemonSet](t, "DaemonSet", "weft-node").Spec.Template
	if selector.Matches(labels.Set(agent.Labels)) {
		t.Error("the policy is for node agents, and so, in some clusters, for their nodes")
	}
	var open []int32
	for _, rule := range policy.Spec.Ingress {
		if len(rule.From) > 0 {
			t.Errorf("a rule is not for everybody, some of whom no selector covers: %v", rule)
		}
		for _, p := range rule.Ports {
			open = append(open, p.Port.IntVal)
		}
	}
	var want []int32
	for _, p := range template.Spec.Containers[0].Ports {
		want = append(want, p.ContainerPort)
	}
	slices.Sort(open)
	slices.Sort(want)
	if diff := cmp.Diff(want, open); diff != "" {
		t.Errorf("open ports (-operator's +policy's):\n%s", diff)
	}
	for _, f := range preflight.Find(preflight.Cluster{
		System: "weft-system", Enrolled: []string{"shop"}, Policies: []*networkingv1.NetworkPolicy{policy},
		Pods: []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "weft-system", Name: "operator", Labels: template.Labels}, Spec: template.Spec}},
	}) {
		t.Error(f.String())
	}
}

// TestWebhook: API servers find the operator, and are never kept from anything by it.
// TestInjection: pods can be made whatever fails, and nobody is asked about any but those of enrolled namespaces.
func TestInjection(t *testing.T) {
	service := find[corev1.Service](t, "Service", webhooks.ServiceName)
	configuration := find[admissionregistrationv1.MutatingWebhookConfiguration](t, "MutatingWebhookConfiguration", webhooks.ConfigurationName)
	if len(configuration.Webhooks) != 1 {
		t.Fatalf("%d webhooks", len(configuration.Webhooks))
	}
	w := configuration.Webhooks[0]
	ref := w.ClientConfig.Service
	if ref == nil || ref.Name != service.Name || ref.Namespace != service.Namespace || *ref.Path != webhooks.InjectPath || *ref.Port != service.Spec.Ports[0].Port {
		t.Errorf("it is asked at %+v", ref)
	}
	if *w.FailurePolicy != admissionregistrationv1.Ignore || *w.TimeoutSeconds > 3 || *w.SideEffects != admissionregistrationv1.SideEffectClassNone {
		t.Errorf("it may hold up the API server: %+v", w)
	}
	if len(w.Rules) != 1 || !cmp.Equal(w.Rules[0].Resources, []string{"pods"}) || !cmp.Equal(w.Rules[0].Operations, []admissionregistrationv1.OperationType{admissionregistrationv1.Create}) {
		t.Errorf("it is asked about %+v", w.Rules)
	}
	namespaces, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
	if err != nil {
		t.Fatal(err)
	}
	enrolled := map[string]string{meshv1alpha1.EnabledLabel: "true"}
	own := maps.Clone(find[corev1.Namespace](t, "Namespace", "weft-system").Labels)
	own[meshv1alpha1.EnabledLabel] = "true"
	for name, tc := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"enrolled": {enrolled, true}, "not enrolled": {nil, false}, "Weft's own": {own, false},
		"kube-system": {map[string]string{corev1.LabelMetadataName: "kube-system", meshv1alpha1.EnabledLabel: "true"}, false},
	} {
		if got := namespaces.Matches(labels.Set(tc.labels)); got != tc.want {
			t.Errorf("it is asked about a namespace that is %s: %v", name, got)
		}
	}
	pods, err := metav1.LabelSelectorAsSelector(w.ObjectSelector)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"any": {nil, true}, "a proxy": {map[string]string{meshv1alpha1.ComponentLabel: "proxy"}, false},
		"kept out": {map[string]string{meshv1alpha1.EnabledLabel: "false"}, false},
	} {
		if got := pods.Matches(labels.Set(tc.labels)); got != tc.want {
			t.Errorf("it is asked about a pod that is %s: %v", name, got)
		}
	}
}

func TestWebhook(t *testing.T) {
	service := find[corev1.Service](t, "Service", webhooks.ServiceName)
	operator := find[appsv1.Deployment](t, "Deployment", "weft-operator")
	if !cmp.Equal(service.Spec.Selector, operator.Spec.Selector.MatchLabels) {
		t.Errorf("the Service selects %v, the operator has %v", service.Spec.Selector, operator.Spec.Selector.MatchLabels)
	}
	if !slices.ContainsFunc(operator.Spec.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool {
		return p.Name == service.Spec.Ports[0].TargetPort.StrVal && p.ContainerPort == webhooks.Port
	}) {
		t.Errorf("no port of the operator is %d and named %s", webhooks.Port, service.Spec.Ports[0].TargetPort.StrVal)
	}
	configuration := find[admissionregistrationv1.ValidatingWebhookConfiguration](t, "ValidatingWebhookConfiguration", webhooks.ConfigurationName)
	for _, w := range configuration.Webhooks {
		ref := w.ClientConfig.Service
		if ref == nil || ref.Name != service.Name || ref.Namespace != service.Namespace || *ref.Path != webhooks.Path || *ref.Port != service.Spec.Ports[0].Port {
			t.Errorf("%s is asked at %+v", w.Name, ref)
		}
		if *w.FailurePolicy != admissionregistrationv1.Ignore || *w.TimeoutSeconds > 3 || *w.SideEffects != admissionregistrationv1.SideEffectClassNone {
			t.Errorf("%s may hold up the API server: %+v", w.Name, w)
		}
		// Whatever else fails, pods can be made: nobody is asked about them, nor about anything but routes and
		// Weft's own kinds.
		for _, rule := range w.Rules {
			for _, group := range rule.APIGroups {
				if group != meshv1alpha1.GroupVersion.Group && group != gwv1.GroupName {
					t.Errorf("%s is asked about %v of %s", w.Name, rule.Resources, group)
				}
			}
		}
		selector, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
		if err != nil {
			t.Fatal(err)
		}
		for _, namespace := range []map[string]string{
			find[corev1.Namespace](t, "Namespace", "weft-system").Labels,
			{corev1.LabelMetadataName: "kube-system"},
		} {
			namespace = maps.Clone(namespace)
			namespace[meshv1alpha1.EnabledLabel] = "true"
			if selector.Matches(labels.Set(namespace)) {
				t.Errorf("%s is asked about the namespace with labels %v", w.Name, namespace)
			}
		}
	}
}
