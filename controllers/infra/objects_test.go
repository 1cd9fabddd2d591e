package infra_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/infra"
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
	var pod struct {
		Spec struct {
			Template struct{ Spec corev1.PodSpec }
		}
	}
	for _, object := range infra.Objects("shop", params()) {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "kind: Deployment\n") {
			if err := yaml.Unmarshal(data, &pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	spec := pod.Spec.Template.Spec
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
