// Command krew packs kubectl weft for krew: an archive with the binary and the licence for each platform, and the
// plugin's manifest, which names them by their checksums.
//
//	krew -version v0.1.0 -binaries DIR -license LICENSE -base URL -out DIR
//
// DIR holds the binaries as OS-ARCH/kubectl-weft, with .exe behind it for Windows.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

func main() {
	var o options
	flag.StringVar(&o.version, "version", "", "version, as vX.Y.Z")
	flag.StringVar(&o.binaries, "binaries", "", "directory of the binaries")
	flag.StringVar(&o.license, "license", "LICENSE", "the licence")
	flag.StringVar(&o.base, "base", "", "URL below which the archives will be")
	flag.StringVar(&o.out, "out", "", "directory to write to")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

type options struct{ version, binaries, license, base, out string }

// platforms are those that kubectl is common on.
var platforms = []string{"darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64", "windows-amd64"}

func run(o options) error {
	license, err := os.ReadFile(o.license)
	if err != nil {
		return err
	}
	var all []map[string]any
	for _, platform := range platforms {
		system, machine, _ := strings.Cut(platform, "-")
		name := "kubectl-weft"
		if system == "windows" {
			name += ".exe"
		}
		binary, err := os.ReadFile(filepath.Join(o.binaries, platform, name))
		if err != nil {
			return err
		}
		data, err := pack(map[string][]byte{name: binary, "LICENSE": license}, name, "LICENSE")
		if err != nil {
			return fmt.Errorf("pack %s: %w", platform, err)
		}
		archive := fmt.Sprintf("kubectl-weft-%s-%s.tar.gz", o.version, platform)
		if err := os.WriteFile(filepath.Join(o.out, archive), data, 0o600); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		all = append(all, map[string]any{
			"selector": map[string]any{"matchLabels": map[string]string{"os": system, "arch": machine}},
			"uri":      strings.TrimSuffix(o.base, "/") + "/" + archive, "sha256": hex.EncodeToString(sum[:]), "bin": name,
		})
	}
	manifest, err := yaml.Marshal(map[string]any{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2", "kind": "Plugin",
		"metadata": map[string]string{"name": "weft"},
		"spec": map[string]any{
			"version": o.version, "homepage": "https://weft.dev", "shortDescription": "Look at a Weft service mesh and try changes to it",
			"description": "Checks a Weft mesh, describes Services and routes in plain words, says where a request would go and\n" +
				"why one has failed, and runs the mesh of some files without a cluster.\n",
			"platforms": all,
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.out, "weft.yaml"), manifest, 0o600)
}

// pack writes files in an order. The same files make the same archive.
func pack(files map[string][]byte, order ...string) ([]byte, error) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, name := range order {
		header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
