package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

type entry struct {
	Mode    int64
	Content string
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "program")
	if err := os.WriteFile(binary, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		spec      func() Spec
		wantUser  string
		wantFiles map[string]entry
	}{
		"a binary": {
			spec:     func() Spec { return Static("weft.dev/program:v1", binary) },
			wantUser: "65532:65532",
			wantFiles: map[string]entry{
				"tmp/": {Mode: 0o1777}, "usr/": {Mode: 0o755}, "usr/local/": {Mode: 0o755}, "usr/local/bin/": {Mode: 0o755},
				"usr/local/bin/program": {Mode: 0o755, Content: "binary"},
			},
		},
		"a binary and a file, as root": {
			spec: func() Spec {
				spec := Static("weft.dev/program:v1", binary)
				spec.Root = true
				spec.Files["/cert.crt"] = File{Content: []byte("pem"), Mode: 0o644}
				return spec
			},
			wantUser: "0:0",
			wantFiles: map[string]entry{
				"tmp/": {Mode: 0o1777}, "usr/": {Mode: 0o755}, "usr/local/": {Mode: 0o755}, "usr/local/bin/": {Mode: 0o755},
				"usr/local/bin/program": {Mode: 0o755, Content: "binary"},
				"cert.crt":              {Mode: 0o644, Content: "pem"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := filepath.Join(t.TempDir(), "images", "a.tar"), filepath.Join(t.TempDir(), "b.tar")
			for _, out := range []string{first, second} {
				if err := Write(tc.spec(), out); err != nil {
					t.Fatal(err)
				}
			}
			user, entrypoint, files := read(t, first, "weft.dev/program:v1")
			if user != tc.wantUser {
				t.Errorf("user = %q, want %q", user, tc.wantUser)
			}
			if diff := cmp.Diff([]string{"/usr/local/bin/program"}, entrypoint); diff != "" {
				t.Errorf("entrypoint (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantFiles, files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if !bytes.Equal(content(t, first), content(t, second)) {
				t.Error("two archives of the same files differ")
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, spec := range map[string]Spec{
		"a name that is no tag":   Static("Not A Name", "/bin/sh"),
		"a file that is not here": Static("weft.dev/program:v1", "/does/not/exist"),
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "a.tar")
			if err := Write(spec, out); err == nil {
				t.Error("Write() succeeded")
			}
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Errorf("an archive was left: %v", err)
			}
		})
	}
}

func read(t *testing.T, archive, tag string) (user string, entrypoint []string, files map[string]entry) {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(archive, &ref)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Fatalf("%d layers, want 1", len(layers))
	}
	uncompressed, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer uncompressed.Close()
	files = map[string]entry{}
	for r := tar.NewReader(uncompressed); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return cfg.Config.User, cfg.Config.Entrypoint, files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = entry{Mode: header.Mode, Content: string(body)}
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
