package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is a line of `go test -json` (cmd/test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// Results are the outcomes of a run: leaf tests by name, and packages that failed as a whole.
type Results struct {
	tests    map[string]string
	packages map[string]string
}

// Read consumes a stream of test events. It writes a line for each package and the full output of
// what failed to log.
func Read(r io.Reader, log io.Writer) (Results, error) {
	res := Results{tests: map[string]string{}, packages: map[string]string{}}
	output := map[string]*strings.Builder{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if json.Unmarshal(scanner.Bytes(), &e) != nil {
			fmt.Fprintln(log, scanner.Text())
			continue
		}
		id := name(e.Package, e.Test)
		switch e.Action {
		case "output", "build-output":
			if e.Action == "build-output" {
				id = e.ImportPath
			}
			if output[id] == nil {
				output[id] = &strings.Builder{}
			}
			output[id].WriteString(e.Output)
		case "build-fail":
			fmt.Fprintf(log, "FAIL  %s does not build\n%s", e.ImportPath, text(output, e.ImportPath))
		case "pass", "fail", "skip":
			if e.Test == "" {
				res.endPackage(log, e, output)
				continue
			}
			res.tests[id] = strings.ToUpper(e.Action)
			if e.Action == "fail" {
				fmt.Fprintf(log, "FAIL  %s\n%s", id, text(output, id))
			}
			delete(output, id)
		}
	}
	return res, scanner.Err()
}

// Leaves drops the outcomes of tests that have subtests, which repeat those of their children, except
// where a parent failed by itself.
func (r Results) Leaves() Results {
	leaves := Results{tests: maps.Clone(r.tests), packages: r.packages}
	for test := range r.tests {
		i := strings.LastIndex(test, "/")
		for ; i >= 0; i = strings.LastIndex(test[:i], "/") {
			parent := test[:i]
			if r.tests[parent] != "FAIL" || r.childFailed(parent) {
				delete(leaves.tests, parent)
			}
		}
	}
	return leaves
}

func (r Results) endPackage(log io.Writer, e event, output map[string]*strings.Builder) {
	switch e.Action {
	case "fail":
		r.packages[e.Package] = "FAIL"
		fmt.Fprintf(log, "FAIL  %s (%.1fs)\n%s", e.Package, e.Elapsed, text(output, e.Package))
	case "pass":
		fmt.Fprintf(log, "ok    %s (%.1fs)\n", e.Package, e.Elapsed)
	}
	delete(output, e.Package)
}

func (r Results) childFailed(parent string) bool {
	for test, outcome := range r.tests {
		if outcome == "FAIL" && strings.HasPrefix(test, parent+"/") {
			return true
		}
	}
	return false
}

func text(output map[string]*strings.Builder, id string) string {
	if output[id] == nil {
		return ""
	}
	return output[id].String()
}

func name(pkg, test string) string {
	if test == "" {
		return pkg
	}
	return pkg + "." + test
}

// Children keeps the direct subtests of one test and names them without it: with a suite whose tests are
// subtests of one function, those are what people call its tests.
func (r Results) Children(parent string) Results {
	kept := Results{tests: map[string]string{}, packages: r.packages}
	for test, outcome := range r.tests {
		if _, rest, found := strings.Cut(test, "."+parent+"/"); found && !strings.Contains(rest, "/") {
			kept.tests[rest] = outcome
		}
	}
	return kept
}

// Lines returns "OUTCOME name" for each test, sorted by name.
func (r Results) Lines() string {
	var b strings.Builder
	for _, test := range slices.Sorted(maps.Keys(r.tests)) {
		fmt.Fprintf(&b, "%s %s\n", r.tests[test], test)
	}
	return b.String()
}

// Count returns how many tests passed, failed (packages that failed without a failing test included)
// and were skipped.
func (r Results) Count() (passed, failed, skipped int) {
	for _, outcome := range r.tests {
		switch outcome {
		case "PASS":
			passed++
		case "FAIL":
			failed++
		case "SKIP":
			skipped++
		}
	}
	if failed == 0 {
		failed = len(r.packages)
	}
	return passed, failed, skipped
}

// Problems says why the run is not good: strictly, or against a list of tests that must pass.
func (r Results) Problems(listed bool, expected []string) []string {
	var problems []string
	if len(r.tests) == 0 {
		problems = append(problems, "no test ran")
	}
	if listed {
		for _, test := range expected {
			if outcome := r.tests[test]; outcome != "PASS" {
				problems = append(problems, fmt.Sprintf("%s is expected to pass: %s", test, orAbsent(outcome)))
			}
		}
		return problems
	}
	for _, test := range slices.Sorted(maps.Keys(r.tests)) {
		if r.tests[test] != "PASS" {
			problems = append(problems, r.tests[test]+" "+test)
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(r.packages)) {
		problems = append(problems, "FAIL "+pkg)
	}
	return problems
}

func orAbsent(outcome string) string {
	if outcome == "" {
		return "did not run"
	}
	return outcome
}

// ParseExpected reads a list of test names, one a line; "PASS " before a name, empty lines and lines
// that begin with # are ignored.
func ParseExpected(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "PASS ")
		if line != "" && !strings.HasPrefix(line, "#") {
			names = append(names, line)
		}
	}
	return names
}
