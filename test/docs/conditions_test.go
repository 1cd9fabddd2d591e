package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// word is how types and reasons of conditions are written (KEP-1623).
var word = regexp.MustCompile(`^[A-Z][A-Za-z]+$`)

// sources parses the code below a folder of the checkout, without its tests.
func sources(t *testing.T, folder string) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files[path], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// text is the value of a string literal that may be a type or reason of a condition.
func text(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil && word.MatchString(value)
}

// named tells whether an expression is a variable, constant or field for reasons.
func named(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "reason" || strings.HasPrefix(e.Name, "Reason") || strings.HasPrefix(e.Name, "reason")
	case *ast.SelectorExpr:
		return e.Sel.Name == "Reason"
	}
	return false
}

// makers are functions that make a condition or an Event, with the number of the argument that is its reason.
var makers = map[string]int{"condition": 1, "Eventf": 3}

// reasons are those that code gives conditions and Events: values of what is called a reason, arguments of makers, and the
// Gateway API's, whose constants end with their value.
func reasons(file *ast.File) map[string]bool {
	found := map[string]bool{}
	add := func(name, value ast.Expr) {
		if text, ok := text(value); ok && named(name) {
			found[text] = true
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			add(n.Key, n.Value)
		case *ast.ValueSpec:
			for i, value := range n.Values {
				add(n.Names[i], value)
			}
		case *ast.AssignStmt:
			for i, value := range n.Rhs {
				if len(n.Lhs) == len(n.Rhs) {
					add(n.Lhs[i], value)
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok {
				if at, ok := makers[f.Sel.Name]; ok && len(n.Args) > at {
					if text, ok := text(n.Args[at]); ok {
						found[text] = true
					}
				}
			}
		case *ast.SelectorExpr:
			for _, prefix := range []string{"RouteReason", "PolicyReason"} {
				if reason, ok := strings.CutPrefix(n.Sel.Name, prefix); ok && reason != "" {
					found[reason] = true
				}
			}
		}
		return true
	})
	return found
}

// notReasons are values of fields that are called so and tell of something else than a condition of ours.
var notReasons = map[string]bool{
	"ContainerCreating": true, "PodInitializing": true, "NewReplicaSetAvailable": true, // Kubernetes' own
}

// TestConditions: docs/conditions.md has every type and reason of a condition, and every reason of an Event, that code knows, and no others.
func TestConditions(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "conditions.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, cell := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)`.*$").FindAllStringSubmatch(string(page), -1) {
		told[cell[1]] = true
	}
	known := map[string]bool{}
	for _, file := range sources(t, "api") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Type != nil || len(spec.Values) != 1 {
				return true
			}
			if text, ok := text(spec.Values[0]); ok {
				known[text] = true
			}
			return true
		})
	}
	for _, file := range sources(t, "controllers") {
		for reason := range reasons(file) {
			known[reason] = !notReasons[reason]
		}
	}
	for name, is := range known {
		if is && !told[name] {
			t.Errorf("docs/conditions.md does not tell of %s", name)
		}
	}
	for name := range told {
		if !known[name] {
			t.Errorf("docs/conditions.md tells of %s, which no code knows", name)
		}
	}
}
