package reason

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the documentation")

const document = "../../docs/reasons.md"

// TestGoldenDocument holds the documentation to the table.
func TestGoldenDocument(t *testing.T) {
	want := render(All())
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the table; make golden rewrites it", document)
	}
}

func render(entries []Entry) []byte {
	var out bytes.Buffer
	out.WriteString(`<!-- Written by make golden from proxy/reason; edit the table there. -->

# Reasons

A request that a proxy refuses or fails is answered with one reason. It is in the response header
` + "`" + Header + "`" + ` (for a gRPC response that broke off: a trailer), in the label ` + "`weft_reason`" + ` of the metrics
` + "`weft_local_responses_total`, `weft_exchanges_cut_total` and `weft_connections_refused_total`" + `, and in the proxy's log:
of each reason the first line of every second, and at debug level all of them. What an application answers itself
has none. TCP connections and connections without a valid client are closed instead of answered. A response that
has begun can only be cut: HTTP clients see a broken connection or stream.

| reason | status | gRPC status | what it means | what to do |
|---|---|---|---|---|
`)
	for i := range entries {
		e := &entries[i]
		status, code := "as configured", "as configured"
		if e.Status != 0 {
			status = strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
			code = e.GRPC().String()
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", e.Reason, status, code, e.Meaning, e.Remedy)
	}
	return out.Bytes()
}

var (
	name     = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	sentence = regexp.MustCompile(`^[A-Z][^|\n]*\.$`)
)

// TestEntriesAreComplete holds every entry to what clients and documentation need of it.
func TestEntriesAreComplete(t *testing.T) {
	seen := map[Reason]bool{}
	for _, e := range All() {
		if !name.MatchString(string(e.Reason)) || seen[e.Reason] {
			t.Errorf("%q is no name, or there twice", e.Reason)
		}
		seen[e.Reason] = true
		if e.Status != 0 && (http.StatusText(e.Status) == "" || e.Status < 400 || e.GRPC() == 0 || e.Text == "") {
			t.Errorf("%s: answer %d, %s, %q is not complete", e.Reason, e.Status, e.GRPC(), e.Text)
		}
		if !sentence.MatchString(e.Meaning) || !sentence.MatchString(e.Remedy) {
			t.Errorf("%s: meaning %q and remedy %q must be sentences", e.Reason, e.Meaning, e.Remedy)
		}
	}
}

// TestEveryReasonIsKnownAndUsed compares the constants with the table, and with what the proxy's code uses.
func TestEveryReasonIsKnownAndUsed(t *testing.T) {
	declared := constants(t)
	if len(declared) != len(table) {
		t.Errorf("%d reasons are declared, %d are in the table", len(declared), len(table))
	}
	used, made := uses(t, "../engine")
	for _, place := range made {
		t.Errorf("%s makes a reason from something that is no constant", place)
	}
	for name, value := range declared {
		if _, ok := entries[value]; !ok {
			t.Errorf("%s is not in the table", name)
		}
		if !used[name] {
			t.Errorf("%s is not used", name)
		}
	}
}

// constants returns the constants of type Reason in this package.
func constants(t *testing.T) map[string]Reason {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Reason{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Reason" {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			t.Fatalf("%s is no literal", spec.Names[0].Name)
		}
		value, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		found[spec.Names[0].Name] = Reason(value)
		return true
	})
	return found
}

// uses returns which names of this package the code in dir uses, and where it converts to Reason.
func uses(t *testing.T, dir string) (used map[string]bool, conversions []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no code in %s: %v", dir, err)
	}
	used = map[string]bool{}
	isReason := func(n ast.Node) (string, bool) {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return "", false
		}
		from, ok := selector.X.(*ast.Ident)
		return selector.Sel.Name, ok && from.Name == "reason"
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if name, ok := isReason(call.Fun); ok && name == "Reason" {
					conversions = append(conversions, files.Position(call.Pos()).String())
				}
			}
			if name, ok := isReason(n); ok {
				used[name] = true
			}
			return true
		})
	}
	return used, conversions
}
