package trace

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

// ID names a trace. All zeros means none.
type ID [16]byte

// SpanID names a span of a trace. All zeros means none.
type SpanID [8]byte

// String returns hexadecimal digits.
func (t ID) String() string { return hex.EncodeToString(t[:]) }

// String returns hexadecimal digits.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// NewID returns a trace's name from a source of random numbers.
func NewID(random func() uint64) (id ID) {
	for id == (ID{}) {
		binary.BigEndian.PutUint64(id[:8], random())
		binary.BigEndian.PutUint64(id[8:], random())
	}
	return id
}

// NewSpanID returns a span's name from a source of random numbers.
func NewSpanID(random func() uint64) (id SpanID) {
	for id == (SpanID{}) {
		binary.BigEndian.PutUint64(id[:], random())
	}
	return id
}

// Random is the part of a trace's name that is random if any of it is (W3C Trace Context level 2, section 5.1.4), so
// that all who decide by it decide alike.
func (t ID) Random() uint64 { return binary.BigEndian.Uint64(t[8:]) }

// Decision is what a context says of whether its trace is sampled.
type Decision uint8

// The decisions. B3 can leave it open.
const (
	Undecided Decision = iota
	NotSampled
	Sampled
)

// Context is what a request carries of a trace.
type Context struct {
	Trace    ID
	Span     SpanID
	Decision Decision
	// State is tracestate, which belongs to who has written it and is passed on as it is.
	State string
}

// Names of the fields.
const (
	fieldParent    = "traceparent"
	fieldState     = "tracestate"
	fieldB3        = "b3"
	fieldB3Trace   = "x-b3-traceid"
	fieldB3Span    = "x-b3-spanid"
	fieldB3Parent  = "x-b3-parentspanid"
	fieldB3Sampled = "x-b3-sampled"
	fieldB3Flags   = "x-b3-flags"
)

// Forms are the forms in which a request carries context.
type Forms uint8

// The forms: traceparent (W3C), the one field b3, and the fields x-b3-*.
const (
	W3C Forms = 1 << iota
	B3Single
	B3Multi
)

// Extract returns the context that a request carries, and in which forms it does so; none if it carries none that is
// valid. traceparent goes before b3, and that before x-b3-*. A decision may come without a trace. It does not allocate.
func Extract(h phttp.Header) (c Context, forms Forms) {
	var parent, single, traceID, spanID, sampled, flags string
	parents := 0
	for i := range h {
		name, value := h[i].Name, h[i].Value
		switch len(name) {
		case len(fieldB3):
			if strings.EqualFold(name, fieldB3) {
				single, forms = value, forms|B3Single
			}
		case len(fieldB3Flags): // and tracestate
			switch {
			case strings.EqualFold(name, fieldB3Flags):
				flags, forms = value, forms|B3Multi
			case strings.EqualFold(name, fieldState):
				c.State = value
			}
		case len(fieldParent): // and x-b3-spanid
			switch {
			case strings.EqualFold(name, fieldParent):
				parent, forms = value, forms|W3C
				parents++
			case strings.EqualFold(name, fieldB3Span):
				spanID, forms = value, forms|B3Multi
			}
		case len(fieldB3Trace): // and x-b3-sampled
			switch {
			case strings.EqualFold(name, fieldB3Trace):
				traceID, forms = value, forms|B3Multi
			case strings.EqualFold(name, fieldB3Sampled):
				sampled, forms = value, forms|B3Multi
			}
		}
	}
	if forms == 0 {
		return Context{}, 0
	}
	if parents == 1 && c.parent(parent) {
		return c, forms
	}
	c = Context{} // the state of a context that is not valid is none
	if single != "" && c.single(single) {
		return c, forms
	}
	c = Context{}
	c.multi(traceID, spanID, sampled, flags)
	return c, forms
}

// SampledParent returns the trace that a traceparent names, or none if it is not valid or not sampled: what nobody has
// recorded leads nowhere. It does not allocate.
func SampledParent(traceparent string) ID {
	var c Context
	if !c.parent(traceparent) || c.Decision != Sampled {
		return ID{}
	}
	return c.Trace
}

// parent reads a traceparent (W3C Trace Context section 3.2). Versions to come may have more behind it.
func (c *Context) parent(value string) bool {
	const length = len("00-00000000000000000000000000000000-0000000000000000-00")
	if len(value) < length || value[2] != '-' || value[35] != '-' || value[52] != '-' {
		return false
	}
	var version, flags [1]byte
	if !digits(version[:], value[:2]) || version[0] == 0xff || version[0] == 0 && len(value) != length ||
		len(value) > length && value[length] != '-' {
		return false
	}
	if !digits(c.Trace[:], value[3:35]) || !digits(c.Span[:], value[36:52]) || !digits(flags[:], value[53:55]) {
		return false
	}
	c.Decision = NotSampled
	if flags[0]&1 != 0 {
		c.Decision = Sampled
	}
	return c.Valid()
}

// single reads the one field of B3: "trace-span-sampled-parent", of which the last two may be missing, or "0".
func (c *Context) single(value string) bool {
	if d, ok := b3Decision(value); ok {
		c.Decision = d
		return true
	}
	traceID, rest, ok := strings.Cut(value, "-")
	if !ok {
		return false
	}
	spanID, rest, more := strings.Cut(rest, "-")
	if more {
		said, _, _ := strings.Cut(rest, "-")
		if c.Decision, ok = b3Decision(said); !ok {
			return false
		}
	}
	return c.b3(traceID, spanID)
}

// multi reads the several fields of B3.
func (c *Context) multi(traceID, spanID, sampled, flags string) {
	if !c.b3(traceID, spanID) {
		*c = Context{}
	}
	c.Decision, _ = b3Decision(sampled)
	if flags == "1" { // debug
		c.Decision = Sampled
	}
}

// b3 reads the names of a trace, which may have half of the digits, and a span.
func (c *Context) b3(traceID, spanID string) bool {
	half := c.Trace[8:]
	return (len(traceID) == 32 && digits(c.Trace[:], traceID) || len(traceID) == 16 && digits(half, traceID)) &&
		digits(c.Span[:], spanID) && c.Valid()
}

func b3Decision(said string) (Decision, bool) {
	switch said {
	case "0", "false":
		return NotSampled, true
	case "1", "true", "d":
		return Sampled, true
	}
	return Undecided, false
}

// Valid tells whether it names a trace and a span.
func (c *Context) Valid() bool { return c.Trace != ID{} && c.Span != SpanID{} }

// digits reads hexadecimal digits in lower case, as many as are needed.
func digits(into []byte, text string) bool {
	if len(text) != 2*len(into) {
		return false
	}
	for i := range into {
		high, low := digit(text[2*i]), digit(text[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		into[i] = high<<4 | low
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// Inject puts a context into a request: as traceparent, and in the forms of B3 that the request came with, for
// applications that know no other. The context is valid, and decided.
func Inject(h *phttp.Header, c *Context, forms Forms) {
	decision := "0"
	if c.Decision == Sampled {
		decision = "1"
	}
	h.Set(fieldParent, "00-"+c.Trace.String()+"-"+c.Span.String()+"-0"+decision)
	if c.State == "" {
		h.Del(fieldState)
	}
	if forms&B3Single != 0 {
		h.Set(fieldB3, c.Trace.String()+"-"+c.Span.String()+"-"+decision)
	}
	if forms&B3Multi != 0 {
		h.Set(fieldB3Trace, c.Trace.String())
		h.Set(fieldB3Span, c.Span.String())
		h.Set(fieldB3Sampled, decision)
		h.Del(fieldB3Parent)
		h.Del(fieldB3Flags)
	}
}
