package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"weft.dev/weft/test/cluster/image"
)

// imageName is what examples/demo calls the application's image.
const imageName = "weft-demo"

// deliver builds the application and brings its image to where the cluster finds it: the local cluster's
// nodes, or a registry. It returns the image's whole name. The tag is the binary's hash, so that what runs
// is what is here.
func deliver(ctx context.Context, registry string, out io.Writer) (string, error) {
	binary, archive := filepath.Join("bin", imageName), filepath.Join("build", "images", imageName+".tar")
	fmt.Fprintln(out, "building the demo's application")
	if err := command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./test/demo/app"); err != nil {
		return "", err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("read the application: %w", err)
	}
	sum := sha256.Sum256(content)
	tag := imageName + ":" + hex.EncodeToString(sum[:6])
	spec := image.Static(tag, binary)
	spec.Entrypoint = []string{"/usr/local/bin/app"}
	spec.Files = map[string]image.File{"/usr/local/bin/app": {Source: binary, Mode: 0o755}}
	if err := image.Write(spec, archive); err != nil {
		return "", err
	}
	if registry != "" {
		return path.Join(registry, tag), pushArchive(ctx, registry, archive, out)
	}
	return tag, command(ctx, "go", "run", "./test/cluster", "load", archive)
}

// command runs a program of the checkout that has nothing to say unless it fails.
func command(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, output)
	}
	return nil
}

// pushArchive pushes the image of an archive under its own name, with a prefix. Credentials are those
// that `docker login` and its like keep.
func pushArchive(ctx context.Context, registry, archive string, out io.Writer) error {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 {
		return fmt.Errorf("%s does not hold one image with one name", archive)
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	ref, err := name.NewTag(path.Join(registry, path.Base(manifest[0].RepoTags[0])))
	if err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	fmt.Fprintln(out, "pushing", ref)
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}
