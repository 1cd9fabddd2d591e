// Package build compiles what the local cluster runs — Kubernetes, etcd, containerd, CoreDNS and the
// conformance programs — from Go modules into a per-user cache, once per version. It installs the
// Debian packages that cannot be built that way. It must not know how a cluster is laid out or run.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"weft.dev/weft/test/cluster/filelock"
)

// Builder compiles targets into a cache directory. The zero value is not usable; see New.
type Builder struct {
	// Checkout is the directory of this repository's go.mod.
	Checkout string
	// Cache is the directory that holds one sub-directory per target and version.
	Cache string
	// Progress receives one line per compiled binary; cached binaries print nothing.
	Progress io.Writer
}

// New returns a Builder for the checkout, with the cache in $XDG_CACHE_HOME/weft or ~/.cache/weft.
func New(checkout string, progress io.Writer) (*Builder, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the cache directory: %w", err)
	}
	return &Builder{Checkout: checkout, Cache: filepath.Join(base, "weft"), Progress: progress}, nil
}

// Build compiles the binaries of t that the cache lacks and returns the directory that holds all of
// them. A binary is moved into place only when it is complete, so an interrupted build is continued,
// never taken for finished.
func (b *Builder) Build(ctx context.Context, t Target) (string, error) {
	key, err := t.key(b.Checkout)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.Cache, fmt.Sprintf("%s-%s-%s", t.Name, t.Version, key))
	if complete(dir, t.Binaries) {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create the cache directory: %w", err)
	}
	release, err := filelock.Acquire(ctx, filepath.Join(b.Cache, "build.lock"))
	if err != nil {
		return "", err
	}
	defer release()
	if err := removePartial(dir); err != nil {
		return "", err
	}
	for _, bin := range t.Binaries {
		if exists(filepath.Join(dir, bin.Name)) {
			continue
		}
		if err := b.compile(ctx, t, bin, dir); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (b *Builder) compile(ctx context.Context, t Target, bin Binary, dir string) error {
	tmp, err := os.MkdirTemp(dir, ".partial-")
	if err != nil {
		return fmt.Errorf("create a directory to build in: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // what is left has no reader; the next build uses another name
	fmt.Fprintf(b.Progress, "building %s %s ... ", bin.Name, t.Version)
	start := time.Now()
	out := filepath.Join(tmp, bin.Name)
	cmd := exec.CommandContext(ctx, "go", t.goArgs(bin, out)...)
	cmd.Dir = filepath.Join(b.Checkout, t.Module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOTOOLCHAIN="+toolchain())
	output, err := cmd.CombinedOutput()
	if err != nil {
		fmt.Fprintln(b.Progress, "failed")
		return fmt.Errorf("build %s: %w\n%s", bin.Name, err, tail(output, 4000))
	}
	if err := os.Rename(out, filepath.Join(dir, bin.Name)); err != nil {
		return fmt.Errorf("keep %s: %w", bin.Name, err)
	}
	fmt.Fprintf(b.Progress, "%.0fs\n", time.Since(start).Seconds())
	return nil
}

// Program compiles a command of this repository into out. It is not cached here: the go command's own
// cache makes a repeat cheap, and only it knows which sources count.
func (b *Builder) Program(ctx context.Context, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = b.Checkout
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN="+toolchain())
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, tail(output, 4000))
	}
	return nil
}

// toolchain names the Go release that compiled this program: it compiles the modules too, whatever the
// installed go command is.
func toolchain() string {
	release, _, _ := strings.Cut(runtime.Version(), " ")
	return release
}

// EnvtestAssets returns a directory with kube-apiserver, etcd and kubectl, as envtest wants it.
// KUBEBUILDER_ASSETS wins when it names a directory that has all three: who has them need not build.
func (b *Builder) EnvtestAssets(ctx context.Context) (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" && complete(dir, Envtest.Binaries) {
		return dir, nil
	}
	return b.Build(ctx, Envtest)
}

// key identifies everything that decides what the binaries contain: the module's own files and the
// recipe. Two targets of one module share a key when they share both.
func (t Target) key(checkout string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(checkout, t.Module, name))
		if err != nil {
			return "", fmt.Errorf("identify the version of %s: %w", t.Name, err)
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(content), content)
	}
	fmt.Fprintf(h, "tags %q ldflags %q", t.Tags, t.LDFlags)
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func (t Target) goArgs(bin Binary, out string) []string {
	args := []string{"build"}
	if bin.Test {
		args = []string{"test", "-c", "-vet=off"}
	}
	args = append(args, "-buildvcs=false", "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+t.LDFlags))
	if t.Tags != "" {
		args = append(args, "-tags", t.Tags)
	}
	return append(args, "-o", out, bin.Package)
}

// removePartial drops what builds that were interrupted left in dir; the lock says that none is running.
func removePartial(dir string) error {
	partial, err := filepath.Glob(filepath.Join(dir, ".partial-*"))
	if err != nil {
		return fmt.Errorf("find interrupted builds: %w", err)
	}
	for _, path := range partial {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove an interrupted build: %w", err)
		}
	}
	return nil
}

func complete(dir string, binaries []Binary) bool {
	for _, bin := range binaries {
		if !exists(filepath.Join(dir, bin.Name)) {
			return false
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func tail(output []byte, n int) string {
	if len(output) > n {
		output = output[len(output)-n:]
	}
	return strings.TrimSpace(string(output))
}
