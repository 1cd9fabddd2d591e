package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// newCheckout makes a checkout with one module that needs nothing, and a builder for it.
func newCheckout(t *testing.T) (*Builder, *strings.Builder, Target) {
	t.Helper()
	checkout := t.TempDir()
	for name, content := range map[string]string{
		"module/go.mod":  "module example.test/hello\n\ngo 1.24\n",
		"module/go.sum":  "",
		"module/main.go": "package main\n\nvar greeting = \"unset\"\n\nfunc main() { println(greeting) }\n",
	} {
		write(t, filepath.Join(checkout, name), content)
	}
	progress := &strings.Builder{}
	target := Target{
		Name: "hello", Version: "1.0.0", Module: "module", LDFlags: "-X main.greeting=hello",
		Binaries: []Binary{{Name: "first", Package: "."}, {Name: "second", Package: "."}},
	}
	return &Builder{Checkout: checkout, Cache: t.TempDir(), Progress: progress}, progress, target
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBuildFinishesAnInterruptedBuildAndReusesIt(t *testing.T) {
	b, progress, target := newCheckout(t)
	key, err := target.key(b.Checkout)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.Cache, "hello-1.0.0-"+key)
	// What a build leaves that ended after its first binary: that binary, and a part of the next.
	write(t, filepath.Join(dir, "first"), "built before")
	write(t, filepath.Join(dir, ".partial-1", "second"), "half of it")

	got, err := b.Build(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if got != dir {
		t.Errorf("Build() = %s, want %s", got, dir)
	}
	if strings.Contains(progress.String(), "first") || !strings.Contains(progress.String(), "building second 1.0.0") {
		t.Errorf("progress = %q, want only the second binary", progress)
	}
	output, err := exec.CommandContext(t.Context(), filepath.Join(dir, "second")).CombinedOutput()
	if err != nil || string(output) != "hello\n" {
		t.Errorf("the binary says %q, %v", output, err)
	}
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	partial, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "first"), filepath.Join(dir, "second")}
	if diff := cmp.Diff(want, append(entries, partial...)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	progress.Reset()
	if _, err := b.Build(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	if progress.Len() > 0 {
		t.Errorf("the second build says %q", progress)
	}
}

func TestBuildLeavesNothingOfAFailure(t *testing.T) {
	b, _, target := newCheckout(t)
	write(t, filepath.Join(b.Checkout, "module", "main.go"), "package main\n\nfunc main() { undefined() }\n")
	_, err := b.Build(t.Context(), target)
	if err == nil || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("Build() = %v, want the compiler's words", err)
	}
	files, err := filepath.Glob(filepath.Join(b.Cache, "hello-*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		t.Errorf("a failed build left %v", files)
	}
}

func TestKeyFollowsModuleAndRecipe(t *testing.T) {
	b, _, target := newCheckout(t)
	key := func(target Target) string {
		t.Helper()
		key, err := target.key(b.Checkout)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	original := key(target)
	fewer := target
	fewer.Binaries = target.Binaries[:1]
	if got := key(fewer); got != original {
		t.Error("a part of the binaries has another key, so it would be built twice")
	}
	tagged := target
	tagged.Tags = "other"
	if key(tagged) == original {
		t.Error("other build tags have the same key")
	}
	write(t, filepath.Join(b.Checkout, "module", "go.sum"), "example.test/other v1.0.0 h1:x=\n")
	if key(target) == original {
		t.Error("other modules have the same key")
	}
}

func TestEnvtestAssetsUsesWhatThereIs(t *testing.T) {
	b, _, _ := newCheckout(t)
	dir := t.TempDir()
	for _, name := range []string{"kube-apiserver", "etcd", "kubectl"} {
		write(t, filepath.Join(dir, name), "")
	}
	t.Setenv("KUBEBUILDER_ASSETS", dir)
	got, err := b.EnvtestAssets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got != dir {
		t.Errorf("EnvtestAssets() = %s, want %s", got, dir)
	}
	if err := os.Remove(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	// This checkout has no Kubernetes module: that it is asked for is what counts.
	if got, err := b.EnvtestAssets(t.Context()); err == nil {
		t.Errorf("EnvtestAssets() = %s from a directory without etcd", got)
	}
}

func TestMissingPackages(t *testing.T) {
	for name, tc := range map[string]struct {
		status string
		want   []string
	}{
		"all there":             {status: "runc installed\nnftables installed\n"},
		"one unknown":           {status: "runc installed\n", want: []string{"nftables"}},
		"removed, config there": {status: "runc config-files\nnftables installed\n", want: []string{"runc"}},
		"nothing known":         {want: []string{"runc", "nftables"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, missingPackages([]string{"runc", "nftables"}, tc.status)); diff != "" {
				t.Errorf("missingPackages() (-want +got):\n%s", diff)
			}
		})
	}
}

// The cluster cannot start without the pinned modules, so a target that names none is caught here.
func TestTargetsHaveTheirModules(t *testing.T) {
	checkout := filepath.Join("..", "..", "..")
	for _, target := range []Target{Kubernetes, Envtest, Containerd, CoreDNS, Echo, Conformance} {
		if _, err := target.key(checkout); err != nil {
			t.Errorf("%s: %v", target.Name, err)
		}
		mod, err := os.ReadFile(filepath.Join(checkout, target.Module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if target.Name != "echo" && !strings.Contains(string(mod), " v"+target.Version) {
			t.Errorf("%s: go.mod does not require version %s", target.Name, target.Version)
		}
	}
}
