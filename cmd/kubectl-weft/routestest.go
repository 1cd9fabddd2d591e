package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
)

// routesTests is a file of unit tests for routes.
type routesTests struct {
	// Files hold the mesh, beside the file of the tests; without any -f or the cluster does.
	Files []string    `yaml:"files"`
	Tests []routeTest `yaml:"tests"`
}

type routeTest struct {
	Name    string   `yaml:"name"`
	From    string   `yaml:"from"`
	Request string   `yaml:"request"`
	Headers []string `yaml:"headers"`
	Expect  expected `yaml:"expect"`
}

// expected is what a test asks for. What is not set is not looked at.
type expected struct {
	// Rule is "Kind/namespace/name" with the rule's name or index behind another slash; "none" for no rule.
	Rule string `yaml:"rule"`
	// Backends are all Service ports that may be chosen, with their shares in percent.
	Backends map[string]float64 `yaml:"backends"`
	// Status and Reason are those of the answer that the mesh makes itself.
	Status int    `yaml:"status"`
	Reason string `yaml:"reason"`
	// Target and Headers are what every backend gets; Headers are written as name: value.
	Target  string   `yaml:"target"`
	Headers []string `yaml:"headers"`
	// Allowed tells whether every backend's namespace lets the caller in.
	Allowed *bool `yaml:"allowed"`
}

// tested is one test and what it has found.
type tested struct {
	Name   string   `json:"name"`
	Passed bool     `json:"passed"`
	Wrong  []string `json:"wrong,omitempty"`
}

func (a *app) routesTestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test FILE", Short: "Run unit tests for routes",
		Long: `Run unit tests for routes: requests, and what should become of them, by the code that proxies match and decide with.
Nothing is sent. The mesh is read from the files that the test file names, from -f, or from the cluster. The exit code
is 1 if a test fails.

  files: [routes.yaml]                  # beside this file
  tests:
  - name: one of ten goes to v2
    from: front/sa/web                  # as in routes explain --from
    request: GET http://cart.shop/cart/7
    headers: ["x-preview: false"]
    expect:                             # what is not named is not looked at
      rule: HTTPRoute/shop/cart/everybody
      backends: {"shop/cart-v1:80": 90, "shop/cart-v2:80": 10}
      target: /api/7
      headers: ["x-version: v2"]
      allowed: true
  - name: nobody else
    from: front
    request: GET http://cart.shop/other
    expect: {rule: none, status: 404, reason: no_rule_matched}`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			tests, err := readTests(args[0])
			if err != nil {
				return err
			}
			if len(a.files) == 0 {
				for _, file := range tests.Files {
					a.files = append(a.files, filepath.Join(filepath.Dir(args[0]), file))
				}
			}
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			all := make([]tested, len(tests.Tests))
			for i := range tests.Tests {
				all[i] = a.testRoute(m, &tests.Tests[i])
			}
			if err := a.print(all, func(w io.Writer) error { return a.showTested(w, all) }); err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(t tested) bool { return !t.Passed }) {
				return errNo
			}
			return nil
		},
	}
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	return cmd
}

func readTests(path string) (routesTests, error) {
	var tests routesTests
	data, err := os.ReadFile(path)
	if err != nil {
		return tests, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&tests); err != nil && !errors.Is(err, io.EOF) {
		return tests, mesh.Located(path, err)
	}
	if len(tests.Tests) == 0 {
		return tests, wrong("%s holds no tests: see kubectl weft routes test --help", path)
	}
	return tests, nil
}

func (a *app) testRoute(m *mesh.Mesh, t *routeTest) tested {
	out := tested{Name: t.Name}
	if out.Name == "" {
		out.Name = t.Request
	}
	caller, err := a.callerOr(m, t.From)
	var q query
	if err == nil {
		q, err = parseQuery(m, caller, t.Request, t.Headers)
	}
	if err != nil {
		out.Wrong = []string{line(err.Error())}
		return out
	}
	e := a.explain(m, q)
	out.Wrong = t.Expect.wrong(&e)
	out.Passed = len(out.Wrong) == 0
	return out
}

// wrong says where an outcome is not what is expected.
func (x *expected) wrong(e *explanation) []string {
	var wrong []string
	differs := func(what, want, got string) {
		if want != got {
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", what, got, want))
		}
	}
	if x.Rule != "" {
		rule := "none"
		if e.Rule != nil {
			rule = fmt.Sprintf("%s/%s/%s/%d", e.Rule.Kind, e.Rule.Namespace, e.Rule.Route, e.Rule.Index)
			if named := fmt.Sprintf("%s/%s/%s/%s", e.Rule.Kind, e.Rule.Namespace, e.Rule.Route, e.Rule.Name); named == x.Rule {
				rule = named
			}
		}
		differs("rule", x.Rule, rule)
	}
	if x.Backends != nil {
		got := map[string]float64{}
		for _, b := range e.Backends {
			got[b.Key] += b.Percent
		}
		differs("backends", shares(x.Backends), shares(got))
	}
	answer := e.Answer
	if answer == nil && len(e.Backends) == 1 {
		answer = e.Backends[0].Answer
	}
	if answer == nil {
		answer = &trial.Answer{}
	}
	if x.Status != 0 {
		differs("status", strconv.Itoa(x.Status), strconv.Itoa(answer.Status))
	}
	if x.Reason != "" {
		differs("reason", x.Reason, string(answer.Reason))
	}
	for _, b := range e.Backends {
		if x.Target != "" {
			differs("target at "+b.Key, x.Target, b.Request.Target)
		}
		for _, h := range x.Headers {
			if !slices.ContainsFunc(b.Request.Header, func(got string) bool { return strings.EqualFold(got, h) }) {
				wrong = append(wrong, b.Key+" does not get header "+h)
			}
		}
		if x.Allowed != nil && b.Verdict.Allowed != *x.Allowed {
			wrong = append(wrong, fmt.Sprintf("at %s the call is %s", b.Key, b.Verdict.Decision))
		}
	}
	if len(e.Backends) == 0 && (x.Target != "" || len(x.Headers) > 0 || x.Allowed != nil) {
		wrong = append(wrong, "no backend gets the request")
	}
	return wrong
}

// shares writes backends with what they get, sorted.
func shares(of map[string]float64) string {
	var texts []string
	for key, share := range of {
		texts = append(texts, trial.PercentText(share)+" "+key)
	}
	slices.Sort(texts)
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}

func (a *app) showTested(w io.Writer, all []tested) error {
	failed := 0
	for _, t := range all {
		if t.Passed {
			fmt.Fprintf(w, "%s: %s\n", a.paint(green, "ok"), t.Name)
			continue
		}
		failed++
		fmt.Fprintf(w, "%s: %s\n", a.paint(red, "failed"), t.Name)
		for _, text := range t.Wrong {
			fmt.Fprintf(w, "    %s\n", text)
		}
	}
	_, err := fmt.Fprintf(w, "%s, %d failed\n", plural(len(all), "test"), failed)
	return err
}
