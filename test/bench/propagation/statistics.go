package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// goalDifference is how much later than a bare watch a request may see an edit, at the median.
const goalDifference = 50 * time.Millisecond

// goalSpacing is how far apart the probes may be, on average.
const goalSpacing = time.Millisecond

// edit is what was measured of one edit. Durations count from the start of its write.
type edit struct {
	// effect is when the first request with the edit's effect was answered, everywhere when each
	// connection had such an answer, watch when the bare watch had the write, programmed when it had a
	// status that says Programmed for it. Zero means never.
	effect, everywhere, watch, programmed time.Duration
	// gap is the time between the first answer with the effect and the answer before it.
	gap time.Duration
}

// measurement is a whole run.
type measurement struct {
	edits []edit
	// requests were answered within elapsed.
	requests int
	elapsed  time.Duration
	// failed counts answers other than 200, and none; wrong those by a backend that the edit does not
	// name.
	failed, wrong int
}

// row is a distribution, in the order in which it was measured.
type row struct {
	name   string
	values []time.Duration
}

// percentile returns the smallest value that at least the share p of all values does not exceed (nearest
// rank), and zero if there are none. values need no order.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// rows are the distributions over all edits. What never came is in none of them.
func (m *measurement) rows() []row {
	effect, watch, difference := row{name: "effect"}, row{name: "watch"}, row{name: "difference"}
	everywhere, programmed, gap := row{name: "everywhere"}, row{name: "programmed"}, row{name: "probe gap"}
	add := func(r *row, value time.Duration) {
		if value > 0 {
			r.values = append(r.values, value)
		}
	}
	for _, e := range m.edits {
		add(&effect, e.effect)
		add(&watch, e.watch)
		if e.effect > 0 && e.watch > 0 {
			difference.values = append(difference.values, e.effect-e.watch)
		}
		add(&everywhere, e.everywhere)
		add(&programmed, e.programmed)
		add(&gap, e.gap)
	}
	return []row{effect, watch, difference, everywhere, programmed, gap}
}

// never counts the edits without an effect.
func (m *measurement) never() int {
	n := 0
	for _, e := range m.edits {
		if e.effect == 0 {
			n++
		}
	}
	return n
}

// quantiles are the columns of the table.
var quantiles = []struct {
	name string
	p    float64
}{{"p50", 0.50}, {"p90", 0.90}, {"p99", 0.99}, {"max", 1}}

// table formats distributions in milliseconds.
func table(rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %6s", "ms", "n")
	for _, q := range quantiles {
		fmt.Fprintf(&b, " %9s", q.name)
	}
	b.WriteByte('\n')
	for _, r := range rows {
		fmt.Fprintf(&b, "%-12s %6d", r.name, len(r.values))
		for _, q := range quantiles {
			fmt.Fprintf(&b, " %9.2f", milliseconds(percentile(r.values, q.p)))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// results are the goals first, then every distribution.
func (m *measurement) results(rows []row) []figures.Figure {
	difference := figures.Figure{Name: "effect p50 minus watch p50", Unit: "ms"}
	if effect, watch := rows[0].values, rows[1].values; len(effect) > 0 && len(watch) > 0 {
		difference = figures.New(difference.Name, milliseconds(percentile(effect, 0.5)-percentile(watch, 0.5)), difference.Unit)
	}
	spacing := figures.Figure{Name: "mean time between probes", Unit: "ms"}
	if m.requests > 0 {
		spacing = figures.New(spacing.Name, milliseconds(m.elapsed)/float64(m.requests), spacing.Unit)
	}
	out := []figures.Figure{
		difference.AtMost(milliseconds(goalDifference)),
		spacing.AtMost(milliseconds(goalSpacing)),
		figures.New("edits without effect", float64(m.never()), "edits").AtMost(0),
		figures.New("answers other than 200", float64(m.failed), "answers").AtMost(0),
		figures.New("answers from the wrong backend", float64(m.wrong), "answers").AtMost(0),
		figures.New("edits", float64(len(m.edits)), "edits"),
		figures.New("requests", float64(m.requests), "requests"),
	}
	for _, r := range rows {
		for _, q := range quantiles {
			if len(r.values) > 0 {
				out = append(out, figures.New(r.name+" "+q.name, milliseconds(percentile(r.values, q.p)), "ms"))
			}
		}
	}
	return out
}
