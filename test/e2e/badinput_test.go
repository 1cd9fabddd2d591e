//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// badRoute is an HTTPRoute on Service NAME with rules to be filled in.
const badRoute = `
metadata: {name: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules: %[2]s
`

// TestRouteRefused: the API server refuses what its schema does not allow, and says why.
func TestRouteRefused(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	match := `{path: {type: PathPrefix, value: /%d}}`
	tests := map[string]struct{ rules, want string }{
		"a redirect and a rewrite": {
			`[{filters: [{type: RequestRedirect, requestRedirect: {hostname: one.example}}, {type: URLRewrite, urlRewrite: {hostname: two.example}}]}]`,
			"May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both",
		},
		"a filter twice": {
			`[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}, {type: RequestHeaderModifier, requestHeaderModifier: {remove: [b]}}]}]`,
			"RequestHeaderModifier filter cannot be repeated",
		},
		"a redirect with backends": {
			`[{filters: [{type: RequestRedirect, requestRedirect: {hostname: one.example}}], backendRefs: [{name: web, port: 80}]}]`,
			"RequestRedirect filter must not be used together with backendRefs",
		},
		"a prefix replaced that is none": {
			`[{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], backendRefs: [{name: web, port: 80}]}]`,
			"When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
		},
		"a filter of another type": {
			`[{filters: [{type: RequestMirror, urlRewrite: {hostname: one.example}}]}]`,
			"filter.urlRewrite must be nil if the filter.type is not URLRewrite",
		},
		"129 matches": {
			"[{matches: [" + repeated(match, 0, 64) + "]}, {matches: [" + repeated(match, 64, 128) + "]}, {matches: [{path: {value: /last}}]}]",
			"total number of matches across all rules in a route must be less than 128",
		},
		"a timeout within a shorter one": {
			`[{timeouts: {request: 1s, backendRequest: 2s}, backendRefs: [{name: web, port: 80}]}]`,
			"backendRequest timeout cannot be longer than request timeout",
		},
		"a negative weight": {
			`[{backendRefs: [{name: web, port: 80, weight: -1}]}]`,
			"should be greater than or equal to 0",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRefused(t, bed.Client.Create(t.Context(), testbed.HTTPRoute(t, w.home, fmt.Sprintf(badRoute, "refused", tc.rules))), tc.want)
		})
	}
}

// repeated formats a list of numbered items.
func repeated(format string, from, to int) string {
	var items []string
	for n := from; n < to; n++ {
		items = append(items, fmt.Sprintf(format, n))
	}
	return strings.Join(items, ", ")
}

// TestBadRules: a rule that cannot be put into force is answered with 500 and named in the status; the
// rules beside it work.
func TestBadRules(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	tests := map[string]struct {
		rule string
		// wantField and wantReason are in the status; want is what is wrong with an answer of the rule.
		wantField, wantReason string
		want                  func(*traffic.Answer) string
	}{
		"a regex that does not compile": {
			`{matches: [{path: {type: RegularExpression, value: "/bad(["}}, {path: {type: Exact, value: /bad}}], backendRefs: [{name: NAME-v1, port: 80}]}`,
			"spec.rules[1].matches[0].path.value", "UnsupportedValue", local(500, "no_backend"),
		},
		"a header set and removed": {
			`{matches: [{path: {type: Exact, value: /bad}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [a]}}], backendRefs: [{name: NAME-v1, port: 80}]}`,
			"spec.rules[1].filters[0].requestHeaderModifier.remove[0]", "UnsupportedValue", local(500, "no_backend"),
		},
		"a filter of nobody": {
			`{matches: [{path: {type: Exact, value: /bad}}], filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Filter, name: some}}], backendRefs: [{name: NAME-v1, port: 80}]}`,
			"spec.rules[1].filters[0].extensionRef", "UnsupportedValue", local(500, "no_backend"),
		},
		"a backend of unknown kind": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{group: example.com, kind: Bucket, name: some}]}`,
			"spec.rules[1].backendRefs[0].kind", "InvalidKind", local(500, "invalid_backend"),
		},
		"a Service that is missing": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{name: missing, port: 80}]}`,
			"spec.rules[1].backendRefs[0].name", "BackendNotFound", local(500, "invalid_backend"),
		},
		"a port that is missing": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{name: NAME-v1, port: 81}]}`,
			"spec.rules[1].backendRefs[0].port", "BackendNotFound", local(500, "invalid_backend"),
		},
		"an ExternalName": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{name: NAME-external, port: 80}]}`,
			"spec.rules[1].backendRefs[0].name", "UnsupportedValue", local(500, "invalid_backend"),
		},
		"a mirror to nowhere": {
			`{matches: [{path: {type: Exact, value: /bad}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 80}}}], backendRefs: [{name: NAME-v1, port: 80}]}`,
			"spec.rules[1].filters[0].requestMirror.backendRef.name", "BackendNotFound", from("v1"),
		},
		"all weights zero": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{name: NAME-v1, port: 80, weight: 0}, {name: NAME-v2, port: 80, weight: 0}]}`,
			"", "", local(500, "no_backend"),
		},
		"no endpoints": {
			`{matches: [{path: {type: Exact, value: /bad}}], backendRefs: [{name: NAME-empty, port: 80}]}`,
			"", "", local(503, "no_endpoints"),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := "bad-" + strings.ReplaceAll(strings.ToLower(name), " ", "-")
			w.services(t, service)
			external := testbed.NewService(w.home, service+"-external", nil)
			external.Spec.Type, external.Spec.ExternalName, external.Spec.IPFamilyPolicy = "ExternalName", "example.com", nil
			bed.Create(t, external, testbed.NewService(w.home, service+"-empty", map[string]string{"role": "nobody"}))
			good := `{matches: [{path: {type: PathPrefix, value: /good}}], backendRefs: [{name: NAME-v2, port: 80}]}`
			rules := strings.ReplaceAll("["+good+", "+tc.rule+"]", "NAME", service)
			route := testbed.HTTPRoute(t, w.home, fmt.Sprintf(badRoute, service, rules))
			bed.Program(t, route)
			conditions := testbed.Parents(route)[0].Conditions
			wrong := wantCondition(conditions, "Accepted", metav1.ConditionTrue, "Accepted")
			switch {
			case wrong != "":
			case tc.wantField == "":
				wrong = wantCondition(conditions, "ResolvedRefs", metav1.ConditionTrue, "ResolvedRefs")
			case tc.wantReason == "UnsupportedValue" && !strings.Contains(tc.wantField, "backendRefs"):
				wrong = wantCondition(conditions, "PartiallyInvalid", metav1.ConditionTrue, tc.wantReason)
			default:
				wrong = wantCondition(conditions, "ResolvedRefs", metav1.ConditionFalse, tc.wantReason)
			}
			if wrong != "" {
				t.Error(wrong)
			}
			if text := testbed.Describe(conditions); !strings.Contains(text, tc.wantField) {
				t.Errorf("want a condition that names %s, have: %s", tc.wantField, text)
			}
			expect(t, w.client, traffic.Request{URL: "http://" + service + "/good"}, from("v2"))
			expect(t, w.client, traffic.Request{URL: "http://" + service + "/bad"}, tc.want)
		})
	}
}

// TestManyMatches: as many matches as the API allows in a route are all in force.
func TestManyMatches(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "many")
	match := `{path: {type: RegularExpression, value: "/%d/[a-z]+"}, headers: [{name: canary, type: RegularExpression, value: "y.s"}]}`
	bed.Program(t, testbed.HTTPRoute(t, w.home, fmt.Sprintf(badRoute, "many",
		"[{matches: ["+repeated(match, 0, 64)+"], backendRefs: [{name: many-v1, port: 80}]},"+
			"{matches: ["+repeated(match, 64, 128)+"], backendRefs: [{name: many-v2, port: 80}]}]")))
	header := map[string]string{"Canary": "yes"}
	expect(t, w.client, traffic.Request{URL: "http://many/0/a", Header: header}, from("v1"))
	for n := range 128 {
		version := "v1"
		if n >= 64 {
			version = "v2"
		}
		a := w.client.Send(t, traffic.Request{URL: fmt.Sprintf("http://many/%d/abc", n), Header: header})
		if wrong := from(version)(&a); wrong != "" {
			t.Fatalf("match %d: %s: %s", n, wrong, show(&a))
		}
	}
	expect(t, w.client, traffic.Request{URL: "http://many/128/abc", Header: header}, local(404, "no_rule_matched"))
}
