package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	passA    = `{"Action":"run","Package":"p","Test":"A"}` + "\n" + `{"Action":"pass","Package":"p","Test":"A"}` + "\n"
	failSub  = `{"Action":"run","Package":"p","Test":"B"}` + "\n" + `{"Action":"run","Package":"p","Test":"B/x"}` + "\n" + `{"Action":"output","Package":"p","Test":"B/x","Output":"why\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"B/x"}` + "\n" + `{"Action":"fail","Package":"p","Test":"B"}` + "\n"
	failPack = `{"Action":"fail","Package":"p"}` + "\n"
	skipC    = `{"Action":"run","Package":"p","Test":"C"}` + "\n" + `{"Action":"skip","Package":"p","Test":"C"}` + "\n"
)

func TestResults(t *testing.T) {
	cases := map[string]struct {
		stream       string
		listed       bool
		expected     []string
		parent       string
		wantLines    string
		wantProblems []string
	}{
		"all pass":                      {stream: passA, wantLines: "PASS p.A\n"},
		"a failing subtest counts once": {stream: passA + failSub + failPack, wantLines: "PASS p.A\nFAIL p.B/x\n", wantProblems: []string{"FAIL p.B/x", "FAIL p"}},
		"a skipped test is no success":  {stream: passA + skipC, wantLines: "PASS p.A\nSKIP p.C\n", wantProblems: []string{"SKIP p.C"}},
		"a package that dies fails":     {stream: passA + failPack, wantLines: "PASS p.A\n", wantProblems: []string{"FAIL p"}},
		"nothing ran":                   {stream: "", wantProblems: []string{"no test ran"}},
		"only listed tests must pass":   {stream: passA + failSub, listed: true, expected: []string{"p.A"}, wantLines: "PASS p.A\nFAIL p.B/x\n"},
		"a listed test must not fail":   {stream: passA + failSub, listed: true, expected: []string{"p.B/x"}, wantLines: "PASS p.A\nFAIL p.B/x\n", wantProblems: []string{"p.B/x is expected to pass: FAIL"}},
		"a listed test must run":        {stream: passA, listed: true, expected: []string{"p.Z"}, wantLines: "PASS p.A\n", wantProblems: []string{"p.Z is expected to pass: did not run"}},
		"the children of one test":      {stream: passA + failSub, listed: true, parent: "B", wantLines: "FAIL x\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			results, err := Read(strings.NewReader(tc.stream), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if tc.parent != "" {
				results = results.Children(tc.parent)
			} else {
				results = results.Leaves()
			}
			if diff := cmp.Diff(tc.wantLines, results.Lines()); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantProblems, results.Problems(tc.listed, tc.expected)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseExpected(t *testing.T) {
	got := ParseExpected("# seen passing\nPASS p.A\n\np.B\n")
	if diff := cmp.Diff([]string{"p.A", "p.B"}, got); diff != "" {
		t.Error(diff)
	}
}
