package attribute

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// keys are all that the package names, from its source.
func keys(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "attribute.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if key, err := strconv.Unquote(lit.Value); err == nil && strings.Contains(key, ".") {
					all[key] = true
				}
			}
		}
		return true
	})
	if len(all) < 30 {
		t.Fatalf("only %d keys were found", len(all))
	}
	return all
}

// TestNamesAreWellFormed: by OpenTelemetry's rules for names, and so that they are told apart as labels of metrics.
func TestNamesAreWellFormed(t *testing.T) {
	form := regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
	labels := map[string]string{}
	all := keys(t)
	for key := range all {
		if !form.MatchString(key) {
			t.Errorf("%s is no name: lower-case words between dots", key)
		}
		if other, taken := labels[Label(key)]; taken {
			t.Errorf("%s and %s are the same label", key, other)
		}
		labels[Label(key)] = key
		for namespace := key; ; {
			at := strings.LastIndexByte(namespace, '.')
			if at < 0 {
				break
			}
			namespace = namespace[:at]
			if all[namespace] {
				t.Errorf("%s is a name and the namespace of %s", namespace, key)
			}
		}
	}
}

func TestDestinationsAndRoutes(t *testing.T) {
	for _, tc := range []struct {
		destination, route string
		want               []Attribute
	}{
		{"shop/cart:80", "HTTPRoute/shop/cart", []Attribute{
			String(DestinationNamespace, "shop"), String(DestinationService, "cart"), Int(DestinationPort, 80),
			String(RouteKind, "HTTPRoute"), String(RouteNamespace, "shop"), String(RouteName, "cart"),
		}},
		{"shop/cart:80@front", "", []Attribute{String(DestinationNamespace, "shop"), String(DestinationService, "cart"), Int(DestinationPort, 80)}},
		{"_other", "cart", []Attribute{String(DestinationService, "_other")}},
		{"", "", nil},
	} {
		if diff := cmp.Diff(tc.want, AppendRoute(AppendDestination(nil, tc.destination), tc.route)); diff != "" {
			t.Errorf("%s, %s (-want +got):\n%s", tc.destination, tc.route, diff)
		}
	}
}
