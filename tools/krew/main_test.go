package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"weft.dev/weft/test/archive"
)

// plugin is what krew reads of a manifest (its API v1alpha2); other fields are an error.
type plugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string `json:"version"`
		Homepage         string `json:"homepage"`
		ShortDescription string `json:"shortDescription"`
		Description      string `json:"description"`
		Platforms        []struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
			URI    string `json:"uri"`
			SHA256 string `json:"sha256"`
			Bin    string `json:"bin"`
		} `json:"platforms"`
	} `json:"spec"`
}

// The manifest is one that krew takes, and its checksums are those of the archives.
func TestManifest(t *testing.T) {
	binaries, out := t.TempDir(), t.TempDir()
	for _, platform := range platforms {
		name := filepath.Join(binaries, platform, "kubectl-weft")
		if strings.HasPrefix(platform, "windows") {
			name += ".exe"
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(platform), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(options{version: "v1.2.3", binaries: binaries, license: "../../LICENSE", base: "https://example.com/v1.2.3/", out: out}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(out, "weft.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var p plugin
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		t.Fatal(err)
	}
	if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" || p.Metadata.Name != "weft" ||
		!regexp.MustCompile(`^v\d+\.\d+\.\d+`).MatchString(p.Spec.Version) || p.Spec.Homepage == "" || p.Spec.Description == "" {
		t.Errorf("manifest:\n%s", data)
	}
	if short := p.Spec.ShortDescription; short == "" || len(short) > 50 || strings.ContainsAny(short, "\n\r") || strings.HasSuffix(short, ".") {
		t.Errorf("short description %q", short)
	}
	seen := map[string]bool{}
	for _, platform := range p.Spec.Platforms {
		seen[platform.Selector.MatchLabels["os"]+"-"+platform.Selector.MatchLabels["arch"]] = true
		packed, err := os.ReadFile(filepath.Join(out, path.Base(platform.URI)))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(packed); platform.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has another checksum", platform.URI)
		}
		if !regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(platform.SHA256) || !strings.HasPrefix(platform.URI, "https://example.com/v1.2.3/") {
			t.Errorf("%s, %s", platform.URI, platform.SHA256)
		}
		// krew unpacks all of it, and wants the binary where the manifest says, with what may be run.
		files := archive.Unpack(t, packed)
		name := platform.Selector.MatchLabels["os"] + "-" + platform.Selector.MatchLabels["arch"]
		if bin := files[platform.Bin]; bin.Content != name || bin.Mode&0o111 != 0o111 || len(files) != 2 || !strings.Contains(files["LICENSE"].Content, "Apache License") {
			t.Errorf("%s holds %v", platform.URI, files)
		}
		if windows := platform.Selector.MatchLabels["os"] == "windows"; strings.HasSuffix(platform.Bin, ".exe") != windows {
			t.Errorf("binary %s for %v", platform.Bin, platform.Selector.MatchLabels)
		}
	}
	for _, platform := range platforms {
		if !seen[platform] {
			t.Errorf("no %s", platform)
		}
	}
}
