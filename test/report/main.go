// Command report turns the output of `go test -json` on its standard input into a readable log, a
// file with one line a test, and an exit code.
//
//	go test -json ./... | go run ./test/report -name unit -out build/test/unit.txt
//
// Without -expect every test must pass, none may be skipped, and there must be at least one. With
// -expect FILE only the tests that the file lists must pass: what it lists is what has been seen to
// work, so the list only grows and work in progress can land beside it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	name := flag.String("name", "tests", "name of this run, for the summary and the count file")
	out := flag.String("out", "", "file that receives a line for each test: PASS, FAIL or SKIP and its name")
	expect := flag.String("expect", "", "file that lists the tests which must pass; empty means all")
	children := flag.String("children", "", "count the direct subtests of this test and nothing else")
	flag.Parse()
	if err := run(*name, *out, *expect, *children); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(name, out, expect, parent string) error {
	results, err := Read(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	if parent != "" {
		results = results.Children(parent)
	} else {
		results = results.Leaves()
	}
	if out != "" {
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(out, []byte(results.Lines()), 0o644); err != nil {
			return err
		}
	}
	var expected []string
	if expect != "" {
		data, err := os.ReadFile(expect)
		if err != nil {
			return err
		}
		expected = ParseExpected(string(data))
	}
	problems := results.Problems(expect != "", expected)
	passed, failed, skipped := results.Count()
	fmt.Printf("%s: %d passed, %d failed, %d skipped\n", name, passed, failed, skipped)
	if len(problems) > 0 {
		return fmt.Errorf("%s:\n  %s", name, strings.Join(problems, "\n  "))
	}
	return nil
}
