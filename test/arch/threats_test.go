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
	namedTest   = regexp.MustCompile("`([a-z0-9/-]+) ((?:Test|Fuzz)[A-Za-z0-9]+)`")
	advisoryRow = regexp.MustCompile(`(CVE-\d{4}-\d+|GO-\d{4}-\d+|golang/go#\d+)`)
)

// TestThreatsAreTested holds the table of advisories to tests that exist.
func TestThreatsAreTested(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	rows := 0
	for line := range strings.Lines(string(document)) {
		checkNamed(t, tests, line)
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

// badInputRow is a row of the table of what is wrong with pods, and what comes of it.
var badInputRow = regexp.MustCompile(`^\|[^|]+\|[^|]+\|([^|]+)\|$`)

// TestBadInputOfPlacementsIsTested holds the table of what may be wrong with pods that are to have proxies of their own to
// tests that exist.
func TestBadInputOfPlacementsIsTested(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(root, "docs", "placement.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(document), "| what | what comes of it | test |\n|---|---|---|\n")
	if !found {
		t.Fatal("docs/placement.md has no such table")
	}
	tests, rows := testNames(t), 0
	for line := range strings.Lines(table) {
		row := badInputRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			break
		}
		rows++
		if !namedTest.MatchString(row[1]) {
			t.Errorf("without a test: %s", line)
		}
		checkNamed(t, tests, line)
	}
	if rows < 11 {
		t.Errorf("%d rows, want all 11", rows)
	}
}

// testNames are all tests, as "package name".
func testNames(t *testing.T) map[string]bool {
	t.Helper()
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
	return tests
}

// checkNamed finds tests in a line that do not exist.
func checkNamed(t *testing.T, tests map[string]bool, line string) {
	t.Helper()
	for _, match := range namedTest.FindAllStringSubmatch(line, -1) {
		if !tests[match[1]+" "+match[2]] {
			t.Errorf("there is no test %s in %s: %s", match[2], match[1], line)
		}
	}
}
