package main

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft.dev/weft/test/feature/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// examples returns the files that the command reads.
func examples(t *testing.T) fstest.MapFS {
	t.Helper()
	dir := os.DirFS("../../examples/canary")
	files := fstest.MapFS{}
	for _, name := range []string{"app.yaml", "httproute.yaml", "grpcroute.yaml", "standalone/endpointslices.yaml"} {
		content, err := fs.ReadFile(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: content}
	}
	return files
}

// summary is a line that says how a step went. What was observed is left out: the step has judged it.
var summary = regexp.MustCompile(`(?m)^(try: ok declared=\S+) observed=\d+\.\d/\d+\.\d( requests=\d+ failed=\d+)$`)

func TestStory(t *testing.T) {
	var out strings.Builder
	r := try{out: &out, requests: 1000, random: harness.Even()}
	if err := r.run(t.Context(), examples(t)); err != nil {
		t.Fatalf("run: %v\n%s", err, &out)
	}
	var got []string
	for _, line := range summary.FindAllStringSubmatch(out.String(), -1) {
		got = append(got, line[1]+line[2])
	}
	want := []string{
		"try: ok declared=90/10 requests=1000 failed=0",
		"try: ok declared=50/50 requests=1000 failed=0",
		"try: ok declared=0/100 requests=1000 failed=0",
		"try: ok declared=90/10 requests=1000 failed=0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summaries (-want +got):\n%s\n%s", diff, &out)
	}
}

func TestStoryFails(t *testing.T) {
	tests := map[string]struct {
		// edit replaces old by new in a file.
		file, old, new string
		want           string
	}{
		"when requests fail": {
			file: "httproute.yaml", old: "name: web-v2", new: "name: nobody",
			want: "requests failed",
		},
		"when the split is off": {
			file: "httproute.yaml", old: "name: web-v2", new: "name: web-v1",
			want: "the split is off",
		},
		"when a file has an unknown field": {
			file: "httproute.yaml", old: "weight: 10", new: "wait: 10",
			want: `unknown field`,
		},
		"when no route applies": {
			file: "httproute.yaml", old: "name: web\n    port: 80", new: "name: web\n    port: 81",
			want: "the split is off",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			files := examples(t)
			text := string(files[tc.file].Data)
			if !strings.Contains(text, tc.old) {
				t.Fatalf("%s does not hold %q", tc.file, tc.old)
			}
			files[tc.file] = &fstest.MapFile{Data: []byte(strings.Replace(text, tc.old, tc.new, 1))}
			var out strings.Builder
			r := try{out: &out, requests: 500, random: harness.Even()}
			err := r.run(t.Context(), files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("run: %v, want %q", err, tc.want)
			}
			if strings.Contains(out.String(), "try: ok") {
				t.Errorf("it says ok although it failed:\n%s", &out)
			}
		})
	}
}
