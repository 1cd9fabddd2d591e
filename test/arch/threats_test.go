package arch_test

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest   = regexp.MustCompile("`([a-z0-9/]+) ((?:Test|Fuzz)[A-Za-z0-9]+)`")
	advisoryRow = regexp.MustCompile(`(CVE-\d{4}-\d+|GO-\d{4}-\d+|golang/go#\d+)`)
)

// TestThreatsAreTested holds the table of advisories to tests that exist.
func TestThreatsAreTested(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, f := range goFiles(t) {
		if !strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		for _, d := range f.syntax.Decls {
			if function, ok := d.(*ast.FuncDecl); ok && function.Recv == nil {
				tests[filepath.ToSlash(filepath.Dir(f.path))+" "+function.Name.Name] = true
			}
		}
	}
	rows := 0
	for line := range strings.Lines(string(document)) {
		for _, match := range namedTest.FindAllStringSubmatch(line, -1) {
			if !tests[match[1]+" "+match[2]] {
				t.Errorf("there is no test %s in %s: %s", match[2], match[1], line)
			}
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !advisoryRow.MatchString(cells[2]) {
			continue
		}
		rows++
		if !namedTest.MatchString(cells[3]) && !strings.HasPrefix(strings.TrimSpace(cells[3]), "none: ") {
			t.Errorf("%s: neither a test nor why there is none", strings.TrimSpace(cells[1]))
		}
	}
	if rows < 36 {
		t.Errorf("%d classes of advisories, want all 36", rows)
	}
}
