package olm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// dockerfile builds the bundle's image, which holds nothing but these files.
func (b *Bundle) dockerfile() []byte {
	var out strings.Builder
	out.WriteString(generated)
	out.WriteString("#\n#   docker build -f bundle.Dockerfile -t example/weft-bundle:v" + b.CSV.Spec.Version + " .\nFROM scratch\n\n")
	for _, key := range slices.Sorted(maps.Keys(b.Annotations)) {
		fmt.Fprintf(&out, "LABEL %s=%s\n", key, b.Annotations[key])
	}
	out.WriteString("\nCOPY manifests /manifests/\nCOPY metadata /metadata/\nCOPY tests/scorecard /tests/scorecard/\n")
	return []byte(out.String())
}

// scorecardImage runs the scorecard's own tests. Each of them is a rule in Check as well.
const scorecardImage = "quay.io/operator-framework/scorecard-test:v1.42.0"

// scorecardTests are the scorecard's tests by suite.
var scorecardTests = []struct{ suite, test string }{
	{"basic", "basic-check-spec"},
	{"olm", "olm-bundle-validation"},
	{"olm", "olm-crds-have-validation"},
	{"olm", "olm-crds-have-resources"},
	{"olm", "olm-spec-descriptors"},
	{"olm", "olm-status-descriptors"},
}

func scorecard() map[string]any {
	tests := []any{}
	for _, t := range scorecardTests {
		tests = append(tests, map[string]any{
			"entrypoint": []any{"scorecard-test", t.test}, "image": scorecardImage,
			"labels": map[string]any{"suite": t.suite, "test": t.test + "-test"},
		})
	}
	return map[string]any{
		"apiVersion": "scorecard.operatorframework.io/v1alpha3", "kind": "Configuration",
		"metadata": map[string]any{"name": "config"},
		"stages":   []any{map[string]any{"parallel": true, "tests": tests}},
	}
}
