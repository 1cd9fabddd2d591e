// Package accesslog owns the lines that a proxy writes about requests: their form, and their way out. It decides
// nothing about which requests there are lines of.
//
// Nothing of it delays a request: a line is kept within a bound until it has been written, and what finds no room is
// dropped and counted.
package accesslog

import (
	"context"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/spool"
)

const (
	// room is how many bytes of lines wait at most.
	room = 1 << 20
	// linger is how long lines wait for others to be written with.
	linger = 100 * time.Millisecond
)

// Names of what a line has beside attributes.
const (
	KeyTime     = "time"
	KeyDuration = "duration_ms"
	// KeyUpstream is how long the last try waited for the head of the answer.
	KeyUpstream = "upstream_ms"
	// KeyTrace and KeySpan are as OpenTelemetry has them in JSON logs.
	KeyTrace = "trace_id"
	KeySpan  = "span_id"
)

// Line is what there is to say about one request.
type Line struct {
	Start time.Time
	// Duration is that of the exchange, Upstream how long the last try waited for an answer; zero if there was none.
	Duration, Upstream time.Duration
	// Trace and Span are empty if the request was not traced.
	Trace, Span string
	Attributes  []attribute.Attribute
}

// Log writes lines in the background. It is safe for concurrent use.
type Log struct {
	w       io.Writer
	spool   *spool.Spool
	start   sync.Once
	ended   chan struct{}
	base    context.Context
	cancel  context.CancelFunc
	written atomic.Uint64
	failed  atomic.Uint64
}

// New returns a Log that costs nothing until the first line.
func New(w io.Writer) *Log {
	l := &Log{w: w, spool: spool.New(room), ended: make(chan struct{})}
	l.base, l.cancel = context.WithCancel(context.Background())
	return l
}

// buffers hold a line each while it is being made.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }}

// Write writes a line, at some time. It does not wait, and keeps nothing of the line.
func (l *Log) Write(line *Line) {
	l.start.Do(func() { go l.run() })
	buf, _ := buffers.Get().(*[]byte)
	*buf = line.append((*buf)[:0])
	l.spool.Add(*buf)
	buffers.Put(buf)
}

// Stats tell how many lines were written, and how many were dropped: for want of room, or because they could not be
// written.
func (l *Log) Stats() (written, overflowed, failed uint64) {
	return l.written.Load(), l.spool.Dropped(), l.failed.Load()
}

// Close writes what is left, and waits for that until the end of ctx.
func (l *Log) Close(ctx context.Context) {
	l.start.Do(func() { close(l.ended) })
	l.cancel()
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
}

func (l *Log) run() {
	defer close(l.ended)
	for {
		lines, n := l.spool.Next(l.base, linger)
		last := n == 0
		if last {
			lines, n = l.spool.Take()
		}
		if n > 0 {
			if _, err := l.w.Write(lines); err != nil {
				// Where this is written is where errors are written.
				l.failed.Add(uint64(n))
			} else {
				l.written.Add(uint64(n))
			}
		}
		if last {
			return
		}
	}
}

// append appends the line, one JSON object with an end of line.
func (l *Line) append(b []byte) []byte {
	b = append(b, `{"`+KeyTime+`":"`...)
	b = l.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","`+KeyDuration+`":`...)
	b = appendMilliseconds(b, l.Duration)
	if l.Upstream > 0 {
		b = append(b, `,"`+KeyUpstream+`":`...)
		b = appendMilliseconds(b, l.Upstream)
	}
	for i := range l.Attributes {
		a := &l.Attributes[i]
		b = append(append(append(b, `,"`...), a.Key...), `":`...)
		if a.Numeric {
			b = strconv.AppendInt(b, a.Number, 10)
		} else {
			b = appendText(b, a.Text)
		}
	}
	if l.Trace != "" {
		b = append(append(b, `,"`+KeyTrace+`":"`...), l.Trace...)
		b = append(append(b, `","`+KeySpan+`":"`...), l.Span...)
		b = append(b, '"')
	}
	return append(b, "}\n"...)
}

func appendMilliseconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', -1, 64)
}

// appendText appends a string of JSON. Everything that could end a line or move a cursor is escaped, so that what a
// client sends can be taken neither for another line nor for a command to a terminal: control characters of C0 and C1,
// DEL, and the separators of lines and paragraphs. Bytes that are no UTF-8 become U+FFFD.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = appendEscape(b, rune(c))
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, `\ufffd`...)
		case r < 0xa0 || r == 0x2028 || r == 0x2029 || isBidi(r):
			b = appendEscape(b, r)
		default:
			b = append(b, text[i:i+size]...)
		}
		i += size
	}
	return append(b, '"')
}

// isBidi tells whether a character changes the direction in which others are shown.
func isBidi(r rune) bool {
	return r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

func appendEscape(b []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
