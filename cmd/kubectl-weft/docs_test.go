package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const document = "../../docs/cli.md"

func TestGoldenReference(t *testing.T) {
	want := reference((&app{}).root())
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the commands; make golden rewrites it", document)
	}
}

// reference is the page about all commands.
func reference(root *cobra.Command) string {
	var out strings.Builder
	out.WriteString("<!-- Written by make golden from cmd/kubectl-weft; edit the commands there. -->\n\n# kubectl weft\n\n" + root.Long + "\n")
	out.WriteString(`
` + "`make build`" + ` makes ` + "`bin/kubectl-weft`" + `. Put it on the PATH, and kubectl finds it as ` + "`kubectl weft`" + `;
` + "`make krew`" + ` packs it for krew. For completion of
commands, flags and names of Services, routes, policies, pods and proxies put a script named ` + "`kubectl_complete-weft`" + ` beside it that runs
` + "`kubectl-weft __complete \"$@\"`" + `. ` + "`kubectl-weft completion bash`" + ` (or zsh, fish, powershell) writes what a shell needs to complete
` + "`kubectl-weft`" + ` itself.

Errors are one line that says what to do. Output with ` + "`-o json` and `-o yaml`" + ` is meant for scripts: fields may be added.
Colours are for terminals, and none are used where NO_COLOR is set.

| exit code | means |
|---|---|
`)
	for _, e := range exitCodes {
		fmt.Fprintf(&out, "| %d | %s |\n", e.code, e.means)
	}
	out.WriteString("\n## Flags of all commands\n\n")
	writeFlags(&out, root.PersistentFlags())
	for _, cmd := range everyCommand(root) {
		if !cmd.HasParent() || cmd.Annotations[holderAnnotation] != "" || cmd.Name() == "help" || cmd.Parent().Name() == "completion" {
			continue
		}
		fmt.Fprintf(&out, "\n## %s\n\n%s\n", display(cmd), strings.TrimSpace(coalesce(cmd.Long, cmd.Short)))
		fmt.Fprintf(&out, "\n```\n%s\n```\n", strings.Replace(cmd.UseLine(), "kubectl-weft", "kubectl weft", 1))
		if cmd.Example != "" {
			fmt.Fprintf(&out, "\n```sh cluster\n%s\n```\n", unindent(cmd.Example))
		}
		if cmd.LocalNonPersistentFlags().HasAvailableFlags() {
			out.WriteString("\n")
			writeFlags(&out, cmd.LocalNonPersistentFlags())
		}
	}
	return out.String()
}

func coalesce(long, short string) string {
	if long != "" {
		return long
	}
	return short + "."
}

func unindent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

func writeFlags(out *strings.Builder, flags *pflag.FlagSet) {
	out.WriteString("| flag | default | |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		fallback := f.DefValue
		if fallback == "[]" || fallback == "false" {
			fallback = ""
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", name, fallback, f.Usage)
	})
}

// What help lists works: every command does something and is described.
func TestEveryCommandIsComplete(t *testing.T) {
	for _, cmd := range everyCommand((&app{}).root()) {
		if cmd.Short == "" || cmd.RunE == nil && cmd.Run == nil {
			t.Errorf("%s has no description or does nothing", display(cmd))
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: the short description is no sentence: %q", display(cmd), cmd.Short)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s is not described", display(cmd), f.Name)
			}
		})
	}
}
