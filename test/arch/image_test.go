package arch_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestImagesHaveNoShell: what is shipped is an image without a shell, and one program.
func TestImagesHaveNoShell(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages := regexp.MustCompile(`(?m)^FROM `).Split(string(dockerfile), -1)[2:] // behind the comment and what builds
	if len(stages) != 3 {
		t.Fatalf("%d images, want the operator's, the proxy's and the node agent's", len(stages))
	}
	// Images of distroless/static have no shell but for the tags with "debug".
	from := regexp.MustCompile(`^gcr\.io/distroless/static(:nonroot)? AS (weft-[a-z]+)\n`)
	for _, stage := range stages {
		match := from.FindStringSubmatch(stage)
		if match == nil {
			t.Errorf("an image begins with %q", strings.SplitN(stage, "\n", 2)[0])
			continue
		}
		program := "/usr/local/bin/" + match[2]
		want := []string{"COPY --from=build /out/" + match[2] + " " + program}
		if match[2] != "weft-node" {
			want = append(want, "USER 65532:65532")
		}
		want = append(want, `ENTRYPOINT ["`+program+`"]`)
		var got []string
		for _, line := range strings.Split(stage, "\n")[1:] {
			if line != "" && !strings.HasPrefix(line, "#") {
				got = append(got, line)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is made by %q, want %q", match[2], got, want)
		}
	}
}

// TestTheImageIsBuiltOfWhatItNeeds: a container engine sees only what the Dockerfile copies, of what
// .dockerignore lets through.
func TestTheImageIsBuiltOfWhatItNeeds(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var copied []string
	for _, match := range regexp.MustCompile(`(?m)^COPY (\S+)/ `).FindAllStringSubmatch(string(dockerfile), -1) {
		copied = append(copied, match[1])
		if !slices.Contains(strings.Fields(string(ignore)), "!"+match[1]) {
			t.Errorf(".dockerignore keeps %s out", match[1])
		}
	}
	built := regexp.MustCompile(`\./(cmd/[a-z-]+)`).FindAllStringSubmatch(string(dockerfile), -1)
	if len(built) == 0 {
		t.Fatal("the Dockerfile builds nothing")
	}
	for _, p := range allPackages(t) {
		if !slices.ContainsFunc(built, func(b []string) bool { return p.ImportPath == ours(b[1]) }) {
			continue
		}
		for _, needed := range append(p.Deps, p.ImportPath) {
			path, own := strings.CutPrefix(needed, module+"/")
			if own && !slices.ContainsFunc(copied, func(dir string) bool { return within(path, dir) }) {
				t.Errorf("%s needs %s, which the Dockerfile does not copy", p.ImportPath, path)
			}
		}
	}
}
