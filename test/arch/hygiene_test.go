package arch_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// maxLines is how long a file that tells one story may become.
const maxLines = 500

// goFile is one Go file of the module.
type goFile struct {
	path      string
	content   []byte
	syntax    *ast.File
	generated bool
}

// parsed are all Go files of the module, whatever their build constraints.
var parsed = sync.OnceValues(func() ([]goFile, error) {
	all, err := packages()
	if err != nil {
		return nil, err
	}
	checkout, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	var files []goFile
	for _, p := range all {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles, p.IgnoredGoFiles) {
			path := filepath.Join(p.Dir, name)
			content, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			syntax, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			short, err := filepath.Rel(checkout, path)
			if err != nil {
				return nil, err
			}
			files = append(files, goFile{short, content, syntax, ast.IsGenerated(syntax)})
		}
	}
	return files, nil
})

func goFiles(t *testing.T) []goFile {
	t.Helper()
	files, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("only %d Go files were found", len(files))
	}
	return files
}

func TestFilesStayShort(t *testing.T) {
	for _, f := range goFiles(t) {
		if lines := bytes.Count(f.content, []byte{'\n'}); lines > maxLines && !f.generated {
			t.Errorf("%s has %d lines, more than %d: it tells more than one story", f.path, lines, maxLines)
		}
	}
}

func TestPackagesSayWhatTheyOwn(t *testing.T) {
	described := map[string]bool{}
	for _, f := range goFiles(t) {
		dir := filepath.Dir(f.path)
		// A comment that only describes a build tag or a directive is none.
		described[dir] = described[dir] || f.syntax.Doc != nil && strings.Contains(f.syntax.Doc.Text(), " ")
	}
	for dir, ok := range described {
		if !ok {
			t.Errorf("package %s has no comment that says what it owns", dir)
		}
	}
}

// unfinished matches marks that somebody meant to come back to.
var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestNothingIsLeftUnfinished(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, group := range f.syntax.Comments {
			if mark := unfinished.FindString(group.Text()); mark != "" {
				t.Errorf("%s has a comment with %s", f.path, mark)
			}
		}
	}
}

// skipping matches calls that leave a test out.
var skipping = regexp.MustCompile(`\b[tbf]\.(Skip|Skipf|SkipNow)\(|\b(PIt|XIt|FIt|PDescribe|XDescribe|FDescribe|Skip)\(`)

func TestNoTestIsSkipped(t *testing.T) {
	for _, f := range goFiles(t) {
		if !strings.HasSuffix(f.path, "_test.go") || strings.HasPrefix(f.path, "test/arch/") {
			continue
		}
		if call := skipping.Find(f.content); call != nil {
			t.Errorf("%s leaves a test out: %s", f.path, call)
		}
	}
}
