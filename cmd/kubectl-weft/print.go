package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// print writes a value in the format of -o; without one it is text's turn. Only what text writes is for people
// and may change.
func (a *app) print(value any, text func(w io.Writer) error) error {
	switch a.output {
	case outputJSON:
		encoder := json.NewEncoder(a.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(value)
	case outputYAML:
		data, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	default:
		return text(a.out)
	}
}

// begin begins the next of several values that are shown one after the other: on a terminal it takes the place of the
// one before it.
func (a *app) begin() {
	switch {
	case a.output == outputYAML:
		fmt.Fprintln(a.out, "---")
	case a.terminal && a.output != outputJSON:
		fmt.Fprint(a.out, "\x1b[H\x1b[2J")
	}
}

func (a *app) wide() bool { return a.output == outputWide }

// table writes aligned columns.
func table(w io.Writer, head []string, rows [][]string) error {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 3, ' ', 0)
	if len(head) > 0 {
		fmt.Fprintln(t, strings.Join(head, "\t"))
	}
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for text := range strings.Lines(aligned.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(text, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// Colours of marks.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colours text on a terminal.
func (a *app) paint(colour, text string) string {
	if !a.terminal || a.noColor {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// line makes one line of any text.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }
