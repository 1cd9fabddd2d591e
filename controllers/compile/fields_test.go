package compile_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const fieldsFile = "testdata/_fields.txt"

// TestEveryFieldIsKnown lists the fields of the routes in the Gateway API release that Weft builds
// against. Every one of them is either put into force or reported; a release that adds one makes this
// fail until that has been decided. TestEveryFieldOfAPolicyReachesProxies does as much for policies.
func TestEveryFieldIsKnown(t *testing.T) {
	fields := slices.Concat(
		fieldsOf("HTTPRoute.spec", reflect.TypeFor[gwv1.HTTPRouteSpec]()),
		fieldsOf("GRPCRoute.spec", reflect.TypeFor[gwv1.GRPCRouteSpec]()),
	)
	got := strings.Join(fields, "\n") + "\n"
	if *update {
		if err := os.WriteFile(fieldsFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(fieldsFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("fields of the API (-known +found):\n%s", diff)
	}
}

func fieldsOf(path string, of reflect.Type) []string {
	switch of.Kind() {
	case reflect.Pointer:
		return fieldsOf(path, of.Elem())
	case reflect.Slice:
		return fieldsOf(path+"[]", of.Elem())
	case reflect.Struct:
		var fields []string
		for field := range of.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" {
				fields = append(fields, fieldsOf(path, field.Type)...)
			} else {
				fields = append(fields, fieldsOf(path+"."+name, field.Type)...)
			}
		}
		return fields
	default:
		return []string{path}
	}
}
