// Package figures is the form in which benches leave what they have measured: a list of named figures, some
// of them with a goal and whether the run met it.
package figures

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Figure is one result. Value is nil if nothing was measured, and no goal is met then.
type Figure struct {
	Name  string   `json:"name"`
	Value *float64 `json:"value"`
	Unit  string   `json:"unit"`
	Goal  string   `json:"goal,omitempty"`
	// Met tells whether this run met the goal; nil without one.
	Met *bool `json:"met,omitempty"`
}

// New returns a figure without a goal.
func New(name string, value float64, unit string) Figure {
	return Figure{Name: name, Value: &value, Unit: unit}
}

// AtMost gives a figure its goal and says whether it meets it.
func (f Figure) AtMost(limit float64) Figure {
	met := f.Value != nil && *f.Value <= limit
	f.Goal, f.Met = fmt.Sprintf("<= %g", limit), &met
	return f
}

// AtLeast is AtMost for a figure that is to be high.
func (f Figure) AtLeast(limit float64) Figure {
	met := f.Value != nil && *f.Value >= limit
	f.Goal, f.Met = fmt.Sprintf(">= %g", limit), &met
	return f
}

// String formats a figure for people.
func (f Figure) String() string {
	text := f.Name + ": none"
	if f.Value != nil {
		text = fmt.Sprintf("%s: %.2f %s", f.Name, *f.Value, f.Unit)
	}
	switch {
	case f.Met == nil:
		return text
	case *f.Met:
		return fmt.Sprintf("%s, goal %s: met", text, f.Goal)
	}
	return fmt.Sprintf("%s, goal %s: not met", text, f.Goal)
}

// Median returns the middle of values, of which there is one.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// Table formats figures for people, one in a line.
func Table(figures []Figure) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	// A strings.Builder takes everything.
	_, _ = fmt.Fprintln(w, "figure\tvalue\tgoal\tmet")
	for _, f := range figures {
		value, met := "none", ""
		if f.Value != nil {
			value = fmt.Sprintf("%.2f %s", *f.Value, f.Unit)
		}
		if f.Met != nil {
			met = map[bool]string{true: "yes", false: "no"}[*f.Met]
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, value, f.Goal, met)
	}
	_ = w.Flush()
	return b.String()
}

// Write writes figures to a file as JSON and makes the folder that it is in.
func Write(path string, figures []Figure) error {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetIndent("", "  ")
	// Goals hold comparison signs, and people read them.
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(figures); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.WriteFile(path, data.Bytes(), 0o644); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	return nil
}
