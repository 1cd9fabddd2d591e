// Package image makes container image archives out of static binaries. It runs no container engine,
// reads no registry and builds nothing: its input is finished files.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NonRoot is the user of an image that does not ask for root: the one distroless images use.
const NonRoot = "65532:65532"

// Spec describes an image.
type Spec struct {
	// Tag is the whole reference, such as "weft.dev/proxy:dev".
	Tag string
	// Entrypoint is the command inside the image.
	Entrypoint []string
	// Root runs the image as root instead of NonRoot.
	Root bool
	// Files are the image's files by absolute path inside it.
	Files map[string]File
}

// File is a file of an image: either Source, a path on this machine, or Content.
type File struct {
	Source  string
	Content []byte
	// Mode holds permission bits; directories that lead to a file are 0755 and owned by root.
	Mode int64
}

// Write makes the image of spec and writes it to out as a docker archive, which containerd imports.
// The same files give the same bytes: times are zero and entries sorted.
func Write(spec Spec, out string) error {
	ref, err := name.NewTag(spec.Tag)
	if err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	img, err := Image(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("create the archive's directory: %w", err)
	}
	partial := out + ".partial"
	if err := tarball.WriteToFile(partial, ref, img); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := os.Rename(partial, out); err != nil {
		return fmt.Errorf("keep the archive: %w", err)
	}
	return nil
}

// Image returns the image of spec with one uncompressed layer: archives are read once, on the machine
// that wrote them.
func Image(spec Spec) (v1.Image, error) {
	content, err := layer(spec.Files)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, types.DockerUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config.Entrypoint = spec.Entrypoint
	cfg.Config.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cfg.Config.User = NonRoot
	if spec.Root {
		cfg.Config.User = "0:0"
	}
	img, err = mutate.ConfigFile(img, cfg)
	if err != nil {
		return nil, fmt.Errorf("set the image's configuration: %w", err)
	}
	return img, nil
}

func layer(files map[string]File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range directories(files) {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return nil, fmt.Errorf("add %s: %w", dir, err)
		}
	}
	for _, dst := range sortedKeys(files) {
		file := files[dst]
		content := file.Content
		if file.Source != "" {
			var err error
			if content, err = os.ReadFile(file.Source); err != nil {
				return nil, fmt.Errorf("add %s: %w", dst, err)
			}
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(dst, "/"), Mode: file.Mode, Size: int64(len(content)),
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("add %s: %w", dst, err)
		}
		if _, err := w.Write(content); err != nil {
			return nil, fmt.Errorf("add %s: %w", dst, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("finish the layer: %w", err)
	}
	return buf.Bytes(), nil
}

// directories lists every directory that leads to a file, parents first, plus tmp: Go programs and
// users of an image expect one, and a scratch image has none.
func directories(files map[string]File) []string {
	set := map[string]bool{"tmp": true}
	for dst := range files {
		for dir := path.Dir(strings.TrimPrefix(dst, "/")); dir != "."; dir = path.Dir(dir) {
			set[dir] = true
		}
	}
	return sortedKeys(set)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Static returns the image of one static binary, run without arguments as NonRoot.
func Static(tag, binary string) Spec {
	path := "/usr/local/bin/" + filepath.Base(binary)
	return Spec{
		Tag:        tag,
		Entrypoint: []string{path},
		Files:      map[string]File{path: {Source: binary, Mode: 0o755}},
	}
}
