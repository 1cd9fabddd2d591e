package arch_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
