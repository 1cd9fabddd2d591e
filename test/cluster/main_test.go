package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/cluster/image"
)

func TestRunRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"an unknown verb":            {args: []string{"upp"}, want: `unknown verb "upp"`},
		"an unknown target":          {args: []string{"build", "everything"}, want: `"everything" is none of conformance, containerd`},
		"an image without a binary":  {args: []string{"image", "-tag", "a:b", "-out", "x"}, want: "-binary"},
		"an image with a rest":       {args: []string{"image", "-tag", "a:b", "-out", "x", "-binary", "y", "z"}, want: "no other arguments"},
		"a file without a path":      {args: []string{"image", "-file", "main.go"}, want: "source=/path"},
		"a file at a relative path":  {args: []string{"image", "-file", "main.go=x"}, want: "source=/path"},
		"a file that does not exist": {args: []string{"image", "-file", "nowhere=/x"}, want: "find the file"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			err := run(t.Context(), tc.args, &stdout, &stderr)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("run(%q) = %v, want an error with %q", tc.args, err, tc.want)
			}
		})
	}
}

func TestRunPrintsEveryVerb(t *testing.T) {
	var stdout strings.Builder
	if err := run(t.Context(), nil, &stdout, &stdout); err != nil {
		t.Fatal(err)
	}
	for verb := range needRoot {
		if !strings.Contains(stdout.String(), "\n  "+verb) {
			t.Errorf("the usage does not name %s", verb)
		}
	}
}

func TestParseFile(t *testing.T) {
	path, file, err := parseFile("main.go=/etc/source")
	if err != nil {
		t.Fatal(err)
	}
	if path != "/etc/source" {
		t.Errorf("path = %q", path)
	}
	if diff := cmp.Diff(image.File{Source: "main.go", Mode: 0o644}, file); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
}

func TestFindCheckout(t *testing.T) {
	want, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	got, err := findCheckout()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("findCheckout() = %s, want %s", got, want)
	}
	t.Chdir(t.TempDir())
	if got, err := findCheckout(); err == nil {
		t.Errorf("findCheckout() outside a checkout = %s", got)
	}
}
