package split

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// barWidth is how many characters show both shares.
const barWidth = 40

// plainPause is the least time between two lines where a line cannot be drawn again.
const plainPause = 2 * time.Second

// Meter shows a step while it runs: on a terminal as one line that is drawn again and again, elsewhere as
// a line every other second.
type Meter struct {
	// Out is written to; Terminal tells that a line can be drawn again.
	Out      io.Writer
	Terminal bool
	// Name is what is split, Declared how, Total how many requests will be sent.
	Name     string
	Declared Shares
	Total    int

	last time.Time
}

// Show draws the present counts.
func (m *Meter) Show(c Counts, now time.Time) {
	if !m.Terminal {
		if m.last.IsZero() {
			// There is next to nothing to see at the start.
			m.last = now
		}
		if now.Sub(m.last) < plainPause {
			return
		}
		m.last = now
	}
	m.draw(c)
	if !m.Terminal {
		_, _ = io.WriteString(m.Out, "\n")
	}
}

// End draws the last counts and ends the line.
func (m *Meter) End(c Counts) {
	m.draw(c)
	_, _ = io.WriteString(m.Out, "\n")
}

func (m *Meter) draw(c Counts) {
	begin := ""
	if m.Terminal {
		// Back to the start of the line, and clear it.
		begin = "\r\x1b[K"
	}
	o := c.Observed()
	first := int(o.First*barWidth/100 + 0.5)
	bar := strings.Repeat("#", first) + strings.Repeat("-", barWidth-first)
	// Whoever watches may have gone; the verdict comes at the end.
	_, _ = fmt.Fprintf(m.Out, "%s  %-9s declared %-6s observed %5.1f/%-5.1f [%s] %6d/%d failed %d",
		begin, m.Name, m.Declared, o.First, o.Second, bar, c.Requests, m.Total, c.Failed)
}
