package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each file of testdata/commands is a session: command lines that begin with "$ ", and what they print. Those that
// read files read testdata/shop.yaml.
func TestGoldenCommands(t *testing.T) {
	files, err := filepath.Glob("testdata/commands/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, text := range strings.Split(string(want), "\n") {
				command, ok := strings.CutPrefix(text, "$ kubectl weft ")
				if !ok {
					continue
				}
				fmt.Fprintln(&got, text)
				r := (&world{}).run(t, words(t, command)...)
				got.WriteString(r.out + r.err)
				if r.code != exitOK {
					fmt.Fprintf(&got, "(exit code %d)\n", r.code)
				}
				fmt.Fprintln(&got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got), rewrite it with make golden:\n%s", diff)
			}
		})
	}
}

// words splits a command line as a shell does, as far as the sessions need it.
func words(t *testing.T, line string) []string {
	t.Helper()
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quoted {
		t.Fatalf("no closing quote in %s", line)
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}
