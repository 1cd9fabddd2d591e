//go:build e2e

package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"weft.dev/weft/test/docs"
	"weft.dev/weft/test/e2e/testbed"
)

// TestInstallPage does what docs/install.md says: it installs by the manifests, installs them again as an upgrade would,
// and removes everything.
func TestInstallPage(t *testing.T) {
	bed := connected(t)
	must(t)(kubectl(must(t)(manifests()), "delete", "--ignore-not-found", "-f", "-"))
	must(t)(command(nil, "make", "--no-print-directory", "build-installer"))
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := docs.Start(context.WithoutCancel(t.Context()), docs.Setting{
		Dir: dir, Patience: 2 * testbed.Patience,
		Env: []string{"KUBECONFIG=build/cluster/kubeconfig", "PATH=" + filepath.Join(dir, "build", "cluster") + ":" + os.Getenv("PATH")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	blocks, err := docs.Read(root, "docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	var w *town
	for _, b := range blocks {
		if !b.Commands() || !b.Is("cluster") {
			continue
		}
		if err := s.Play(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if w == nil { // it is installed
			w = newTown(t, bed)
		}
	}
	w.nothingRemains(t, bed, true)
}
