//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/docs"
	"weft.dev/weft/test/e2e/testbed"
)

// trail is pages that are played one after the other because they go on from the first, whose last section, "Undo", comes
// in the end. namespaces are what they make.
type trail struct {
	pages, namespaces []string
	prepare           func(t *testing.T)
}

var trails = map[string]trail{
	"quick start": {
		pages: []string{
			"docs/quickstart.md", "docs/tasks/canary.md", "docs/tasks/authorization.md", "docs/tasks/mtls.md", "docs/tasks/tracing.md",
			"docs/observability.md", "docs/tasks/metrics.md",
		},
		namespaces: []string{"quickstart", "quickstart-outside"},
		prepare: func(t *testing.T) {
			loadBusybox(t)
			definePrometheus(t)
			absentAround(t, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "prometheus-weft"}})
			mesh := theMesh()
			t.Cleanup(func() { forgetTelemetry(t, mesh) })
		},
	},
	"blue-green": {pages: []string{"docs/tasks/blue-green.md"}, namespaces: []string{"release"}},
}

// inPlace are what readers have instead of what pages can name: this cluster has the images without a registry, and the Gateway
// API of a module. Pages are about the placement that a Mesh has unless somebody changes it, and enrol pods that have been
// there before.
func inPlace(t *testing.T) []string {
	t.Helper()
	return []string{
		"mesh.weft.dev/enabled=true", "mesh.weft.dev/enabled=true mesh.weft.dev/placement=namespace",
		"make build\n", "", // it would replace binaries that other tests use
		"registry.example.com/weft/", "",
		"https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.7.0/standard-install.yaml", moduleDir(t, "sigs.k8s.io/gateway-api") + "/config/crd/standard",
	}
}

// TestPages plays the commands of the documentation that are for a cluster.
func TestPages(t *testing.T) {
	t.Parallel()
	root := bed.Path(t)
	pages, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	var inTrails []string
	for name, on := range trails {
		inTrails = append(inTrails, on.pages...)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, namespace := range on.namespaces {
				absentAround(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
			}
			if on.prepare != nil {
				on.prepare(t)
			}
			playTrail(t, on.pages)
		})
	}
	for _, page := range pages {
		blocks, err := docs.Read(root, page)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(blocks, forCluster) && docs.OwnTests[page] == "" && !slices.Contains(inTrails, page) {
			t.Errorf("%s has commands for a cluster, and nobody plays them", page)
		}
	}
}

func forCluster(b *docs.Block) bool { return b.Commands() && b.Is("cluster") }

// playTrail plays pages in one session.
func playTrail(t *testing.T, pages []string) {
	t.Helper()
	s := session(t, bed.Path(t))
	var undo []*docs.Block
	for i, page := range pages {
		blocks, err := docs.Read(bed.Path(t), page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			switch {
			case !forCluster(b):
			case i == 0 && b.Section == "Undo":
				undo = append(undo, b)
			default:
				play(t, s, b)
			}
		}
	}
	for _, b := range undo {
		play(t, s, b)
	}
}

// session runs commands in a directory as a cluster's administrator, until the test ends.
func session(t *testing.T, dir string) *docs.Session {
	t.Helper()
	s := begin(t, dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// begin is session for whoever closes it.
func begin(t *testing.T, dir string) *docs.Session {
	t.Helper()
	s, err := docs.Start(context.WithoutCancel(t.Context()), docs.Setting{
		Dir: dir, Replace: inPlace(t), Patience: testbed.Patience,
		Env: []string{
			"KUBECONFIG=" + bed.Path(t, "build", "cluster", "kubeconfig"),
			"PATH=" + bed.Path(t, "bin") + ":" + bed.Path(t, "build", "cluster") + ":" + os.Getenv("PATH"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func play(t *testing.T, s *docs.Session, b *docs.Block) {
	t.Helper()
	if err := s.Play(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// absentAround takes an object away, when the test begins and when it ends.
func absentAround(t *testing.T, o client.Object) {
	t.Helper()
	remove := func(ctx context.Context) error {
		return testbed.Poll(ctx, func(ctx context.Context) error {
			if err := bed.Client.Delete(ctx, o); !apierrors.IsNotFound(err) {
				return errors.Join(fmt.Errorf("%T %s is still there", o, o.GetName()), err)
			}
			return nil
		})
	}
	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// forgetTelemetry brings the Mesh back to what it was, should the page not have.
func forgetTelemetry(t *testing.T, mesh *meshv1alpha1.Mesh) {
	t.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"telemetry": null, "defaults": {"telemetry": null}}}`))
	if err := bed.Client.Patch(context.Background(), mesh, patch); err != nil {
		t.Error(err)
	}
}

// loadBusybox gives the nodes the image that pages name, with the same program from Debian.
func loadBusybox(t *testing.T) {
	t.Helper()
	archive := filepath.Join("build", "images", "busybox.tar")
	for _, args := range [][]string{
		{"image", "-tag", "docker.io/library/busybox:1.35", "-binary", "/bin/busybox", "-out", archive}, {"load", archive},
	} {
		if err := bed.Cluster(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
}

// definePrometheus makes the kinds of the Prometheus operator, which is not here, as far as naming goes.
func definePrometheus(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"PodMonitor", "ServiceMonitor", "PrometheusRule"} {
		plural := strings.ToLower(kind) + "s"
		crd := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + ".monitoring.coreos.com"},
			"spec": map[string]any{
				"group": "monitoring.coreos.com", "scope": "Namespaced",
				"names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind), "listKind": kind + "List"},
				"versions": []any{map[string]any{
					"name": "v1", "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
				}},
			},
		}}
		absentAround(t, crd.DeepCopy())
		if err := bed.Client.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		testbed.Await(t, bed, crd, func(crd *unstructured.Unstructured) string {
			conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
			if err == nil && slices.ContainsFunc(conditions, func(c any) bool {
				condition, ok := c.(map[string]any)
				return ok && condition["type"] == "Established" && condition["status"] == "True"
			}) {
				return ""
			}
			return fmt.Sprintf("not established: %v, %v", conditions, err)
		})
	}
}

// moduleDir is where the go command keeps a module.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = bed.Path(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
