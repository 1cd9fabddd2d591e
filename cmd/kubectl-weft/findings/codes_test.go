package findings

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const document = "../../../docs/findings.md"

func TestGoldenDocument(t *testing.T) {
	want := page()
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the table; make golden rewrites it", document)
	}
}

// page is what the documentation says of the codes.
func page() string {
	var out strings.Builder
	out.WriteString(`<!-- Written by make golden from cmd/kubectl-weft/findings; edit the table there. -->

# Findings

What ` + "`kubectl weft check` and `kubectl weft analyze`" + ` find has a code. Codes may be added; none is changed or used
again. An error means that something does not work as declared, a warning that it may not be what was meant, an info
what is good to know.
`)
	for _, part := range []struct{ title, prefix string }{
		{"Of the cluster and the installation", "WEFT0"}, {"Of what is declared", "WEFT1"},
	} {
		fmt.Fprintf(&out, "\n## %s\n", part.title)
		for _, e := range Codes() {
			if strings.HasPrefix(string(e.Code), part.prefix) {
				fmt.Fprintf(&out, "\n### %s\n\n%s: %s. %s\n\nWhat to do: %s\n", e.Code, e.Severity, e.Title, e.Meaning, e.Remedy)
			}
		}
	}
	return out.String()
}

// Every constant of type Code is explained, and used by something that finds it.
func TestEveryCodeIsExplainedAndUsed(t *testing.T) {
	parsed, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // build constraints play no part here
	if err != nil {
		t.Fatal(err)
	}
	declared, used := map[string]string{}, map[string]bool{}
	for name, file := range parsed["findings"].Files {
		test := strings.HasSuffix(name, "_test.go")
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "Code" {
					declared[n.Names[0].Name] = strings.Trim(n.Values[0].(*ast.BasicLit).Value, `"`)
					return false
				}
			case *ast.Ident:
				used[n.Name] = used[n.Name] || !test && name != "codes.go"
			}
			return true
		})
	}
	if len(declared) < 30 {
		t.Fatalf("only %d codes are declared", len(declared))
	}
	seen := map[string]bool{}
	for name, code := range declared {
		e := Code(code).Entry()
		if e.Title == "" || e.Meaning == "" || e.Remedy == "" || e.Severity.rank() < 0 {
			t.Errorf("%s (%s) is not explained", name, code)
		}
		if seen[code] {
			t.Errorf("%s is declared twice", code)
		}
		seen[code] = true
		if !used[name] {
			t.Errorf("nothing finds %s (%s)", name, code)
		}
	}
	if len(seen) != len(Codes()) {
		t.Errorf("%d codes are declared and %d explained", len(seen), len(Codes()))
	}
}
