package docs

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// varying is what differs from run to run, and what stands for it.
var varying = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\.\d{3}\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms)|\b\d+\.\d+s\b`), "DURATION"},
	{regexp.MustCompile(`\b[A-Z2-7]{26}\b`), "ID"},
	{regexp.MustCompile(`\b10\.\d+\.\d+\.\d+(:\d+)?\b`), "ADDRESS"},
	{regexp.MustCompile(`-[a-z0-9]{8,10}-[a-z0-9]{5}\b`), "-POD"},
	{regexp.MustCompile(` +`), " "},
	{regexp.MustCompile(`(?m)^ | $`), ""},
}

// plain is a text without what differs from run to run.
func plain(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.name)
	}
	return strings.TrimSpace(text) + "\n"
}

var number = regexp.MustCompile(`\b\d+\b`)

// differs says how a text that was written differs from the one that is shown: "" for not at all. With about, numbers
// may differ by as much as those of a random choice do; with begins, more may follow.
func differs(shown, written string, about, begins bool) string {
	shown, written = plain(shown), plain(written)
	pattern := strings.Builder{}
	pattern.WriteString(`\A`)
	var numbers []int
	for line := range strings.Lines(shown) {
		if line == "...\n" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		for i, part := range strings.Split(strings.TrimSuffix(line, "\n"), "...") {
			if i > 0 {
				pattern.WriteString(`.*?`)
			}
			quoted := regexp.QuoteMeta(part)
			if about {
				for _, n := range number.FindAllString(part, -1) {
					value, err := strconv.Atoi(n)
					if err != nil {
						return err.Error()
					}
					numbers = append(numbers, value)
				}
				quoted = number.ReplaceAllString(quoted, `(\d+)`)
			}
			pattern.WriteString(quoted)
		}
		pattern.WriteString(`\n`)
	}
	if !begins {
		pattern.WriteString(`\z`)
	}
	compiled, err := regexp.Compile(pattern.String())
	if err != nil {
		return err.Error()
	}
	found := compiled.FindStringSubmatch(written)
	if found == nil {
		return fmt.Sprintf("the page shows:\n%s\nwritten is:\n%s", shown, written)
	}
	for i, want := range numbers {
		got, err := strconv.Atoi(found[i+1])
		if err != nil {
			return err.Error()
		}
		if math.Abs(float64(got-want)) > max(10, 0.25*float64(want)) {
			return fmt.Sprintf("%d is not about %d in:\n%s", got, want, written)
		}
	}
	return ""
}
