package infra_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/controllers/preflight"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func params() infra.Params {
	return infra.Params{
		Image:           "weft-proxy:v1",
		Replicas:        2,
		OperatorAddress: "weft-config.weft-system.svc:15010",
		Operator:        types.NamespacedName{Namespace: "weft-system", Name: "weft-operator"},
		TrustBundle:     "-----BEGIN CERTIFICATE-----\n",
	}
}

func render(t *testing.T, objects []runtime.ApplyConfiguration) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return out.Bytes()
}

// TestGolden shows what an enrolled namespace gets.
func TestGolden(t *testing.T) {
	full := params()
	full.Replicas = 5
	full.HTTPEngine = "std"
	full.Image = "registry.example/mesh/proxy@sha256:0123"
	full.Resources = &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")},
	}
	unlimited := params()
	unlimited.Resources = &corev1.ResourceRequirements{}

	for name, p := range map[string]infra.Params{"default": params(), "configured": full, "unlimited": unlimited} {
		t.Run(name, func(t *testing.T) {
			got := render(t, infra.Objects("shop", p))
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got), rewrite it with make golden:\n%s", file, diff)
			}
		})
	}
}

// TestNetworkPolicyAdmitsTheMesh: with it nothing blocks meshed traffic at the proxies, whatever other policies
// there are; without it, the same policies do.
func TestNetworkPolicyAdmitsTheMesh(t *testing.T) {
	c := preflight.Cluster{System: "weft-system", Enrolled: []string{"bank", "shop"}}
	var ours, others []*networkingv1.NetworkPolicy
	for _, namespace := range c.Enrolled {
		deployment := decode[appsv1.Deployment](t, "Deployment", infra.Objects(namespace, params()))
		c.Pods = append(c.Pods,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "proxy", Labels: deployment.Spec.Template.Labels}, Spec: deployment.Spec.Template.Spec},
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: map[string]string{"app": "web"}}})
		c.Exposures = append(c.Exposures, compile.Exposure{
			ServicePort: compile.ServicePort{Namespace: namespace, Service: "web", Port: 80}, Selector: map[string]string{"app": "web"}, Target: intstr.FromInt32(8080),
		})
		ours = append(ours, decode[networkingv1.NetworkPolicy](t, "NetworkPolicy", infra.Objects(namespace, params())))
		others = append(others, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny"},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpDoesNotExist}}},
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			},
		})
	}
	c.Policies = others
	if found := preflight.Find(c); len(found) != 12 {
		t.Errorf("without our policy %d findings, want 6 for each namespace: %v", len(found), found)
	}
	c.Policies = slices.Concat(others, ours)
	for _, f := range preflight.Find(c) {
		t.Errorf("%s %s", f.Policy, f.String())
	}
	c.Pods = nil // and proxies that are yet to come have the same labels
	c.Policies = ours
	for _, f := range preflight.Find(c) {
		t.Errorf("before there are proxies: %s %s", f.Policy, f.String())
	}
}

// decode returns the object of a kind.
func decode[T any](t *testing.T, kind string, objects []runtime.ApplyConfiguration) *T {
	t.Helper()
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "kind: "+kind+"\n") {
			typed := new(T)
			if err := yaml.UnmarshalStrict(data, typed); err != nil {
				t.Fatal(err)
			}
			return typed
		}
	}
	t.Fatalf("there is no %s", kind)
	return nil
}

func TestObjectsKeepTheirParameters(t *testing.T) {
	p := params()
	p.Resources = &corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")},
	}
	want := p.Resources.DeepCopy()
	infra.Objects("shop", p)
	if diff := cmp.Diff(want, p.Resources); diff != "" {
		t.Errorf("the resources of the Mesh were changed (-want +got):\n%s", diff)
	}
}

// TestProxiesAreRestricted holds the proxies to what the Pod Security Standard "restricted" demands, and
// to having no credentials for the API server.
func TestProxiesAreRestricted(t *testing.T) {
	spec := decode[appsv1.Deployment](t, "Deployment", infra.Objects("shop", params())).Spec.Template.Spec
	if len(spec.Containers) != 1 {
		t.Fatalf("the proxy's pod has %d containers, want 1", len(spec.Containers))
	}
	c := spec.Containers[0].SecurityContext
	checks := map[string]bool{
		"no namespace of the host":      !spec.HostNetwork && !spec.HostPID && !spec.HostIPC,
		"not root":                      *spec.SecurityContext.RunAsNonRoot && *spec.SecurityContext.RunAsUser != 0,
		"default seccomp profile":       spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"no privilege escalation":       !*c.AllowPrivilegeEscalation,
		"no capabilities":               cmp.Equal(c.Capabilities, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}),
		"read-only file system":         *c.ReadOnlyRootFilesystem,
		"no token for the API server":   !*spec.AutomountServiceAccountToken,
		"requests and limits":           len(spec.Containers[0].Resources.Requests) == 2 && len(spec.Containers[0].Resources.Limits) == 2,
		"time to drain before the kill": *spec.TerminationGracePeriodSeconds >= 60,
	}
	for name, ok := range checks {
		if !ok {
			t.Errorf("violated: %s", name)
		}
	}
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			t.Errorf("volume %s is the host's", v.Name)
		}
		if v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumMemory {
			t.Errorf("volume %s could write keys to a disk", v.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience != "weft" {
				t.Errorf("volume %s has a token for audience %q", v.Name, s.ServiceAccountToken.Audience)
			}
		}
	}
}
