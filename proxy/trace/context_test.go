package trace

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
)

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	halfID  = "0000000000000000a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

// say writes a context down.
func say(c Context, forms Forms) string {
	if c == (Context{}) {
		return "none"
	}
	out := [...]string{"undecided", "not sampled", "sampled"}[c.Decision]
	if c.Valid() {
		out = c.Trace.String() + " " + c.Span.String() + " " + out
	}
	if c.State != "" {
		out += " " + c.State
	}
	return out + " " + [...]string{"", "w3c", "b3", "w3c+b3", "multi", "w3c+multi", "b3+multi", "all"}[forms]
}

func TestExtract(t *testing.T) {
	const parent = "00-" + traceID + "-" + spanID + "-01"
	tests := map[string]struct {
		header []string
		want   string
	}{
		"nothing":                    {nil, "none"},
		"others":                     {[]string{"b4: 1", "user-agent: x", "x-b3-nothing: 1", "content-type: y"}, "none"},
		"sampled":                    {[]string{"Traceparent: " + parent}, traceID + " " + spanID + " sampled w3c"},
		"not sampled":                {[]string{"traceparent: 00-" + traceID + "-" + spanID + "-00"}, traceID + " " + spanID + " not sampled w3c"},
		"other flags":                {[]string{"traceparent: 00-" + traceID + "-" + spanID + "-02"}, traceID + " " + spanID + " not sampled w3c"},
		"with a state":               {[]string{"TraceState: a=1", "traceparent: " + parent}, traceID + " " + spanID + " sampled a=1 w3c"},
		"a state alone":              {[]string{"tracestate: a=1"}, "none"},
		"a version to come":          {[]string{"traceparent: 01-" + traceID + "-" + spanID + "-01-more"}, traceID + " " + spanID + " sampled w3c"},
		"a version to come, glued":   {[]string{"traceparent: 01-" + traceID + "-" + spanID + "-01more"}, "none"},
		"this version, longer":       {[]string{"traceparent: " + parent + "-more"}, "none"},
		"version ff":                 {[]string{"traceparent: ff-" + traceID + "-" + spanID + "-01"}, "none"},
		"capitals":                   {[]string{"traceparent: 00-" + strings.ToUpper(traceID) + "-" + spanID + "-01"}, "none"},
		"no trace":                   {[]string{"traceparent: 00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"}, "none"},
		"no span":                    {[]string{"traceparent: 00-" + traceID + "-" + strings.Repeat("0", 16) + "-01"}, "none"},
		"short":                      {[]string{"traceparent: 00-" + traceID}, "none"},
		"no digits":                  {[]string{"traceparent: 00-" + traceID + "-" + spanID + "-0x"}, "none"},
		"two parents":                {[]string{"traceparent: " + parent, "traceparent: " + parent, "tracestate: a=1"}, "none"},
		"b3":                         {[]string{"B3: " + traceID + "-" + spanID + "-1-" + spanID}, traceID + " " + spanID + " sampled b3"},
		"b3, debug":                  {[]string{"b3: " + traceID + "-" + spanID + "-d"}, traceID + " " + spanID + " sampled b3"},
		"b3, not sampled":            {[]string{"b3: " + traceID + "-" + spanID + "-0"}, traceID + " " + spanID + " not sampled b3"},
		"b3, undecided":              {[]string{"b3: " + traceID + "-" + spanID}, traceID + " " + spanID + " undecided b3"},
		"b3, half of the digits":     {[]string{"b3: " + traceID[16:] + "-" + spanID + "-1"}, halfID + " " + spanID + " sampled b3"},
		"b3, a decision alone":       {[]string{"b3: 0"}, "not sampled b3"},
		"b3, neither":                {[]string{"b3: x"}, "none"},
		"b3, no decision":            {[]string{"b3: " + traceID + "-" + spanID + "-x"}, "none"},
		"b3, several fields":         {[]string{"X-B3-TraceId: " + traceID, "X-B3-SpanId: " + spanID, "X-B3-ParentSpanId: " + spanID, "X-B3-Sampled: 1"}, traceID + " " + spanID + " sampled multi"},
		"b3, several fields, debug":  {[]string{"x-b3-traceid: " + traceID, "x-b3-spanid: " + spanID, "x-b3-flags: 1"}, traceID + " " + spanID + " sampled multi"},
		"b3, several, decision only": {[]string{"x-b3-sampled: 0"}, "not sampled multi"},
		"b3, several, no span":       {[]string{"x-b3-traceid: " + traceID, "x-b3-sampled: true"}, "sampled multi"},
		"traceparent goes first":     {[]string{"b3: 0", "traceparent: " + parent}, traceID + " " + spanID + " sampled w3c+b3"},
		"b3 if there is no other":    {[]string{"b3: " + traceID + "-" + spanID + "-1", "traceparent: x"}, traceID + " " + spanID + " sampled w3c+b3"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var h phttp.Header
			for _, line := range tc.header {
				field, value, _ := strings.Cut(line, ": ")
				h.Add(field, value)
			}
			if got := say(Extract(h)); got != tc.want {
				t.Errorf("context = %s, want %s", got, tc.want)
			}
			if allocated := testing.AllocsPerRun(10, func() { Extract(h) }); allocated != 0 {
				t.Errorf("%v allocations", allocated)
			}
		})
	}
}

func TestInject(t *testing.T) {
	var c Context
	c.parent("00-" + traceID + "-" + spanID + "-01")
	other := phttp.Header{
		{Name: "Accept", Value: "*/*"}, {Name: "Traceparent", Value: "old"}, {Name: "tracestate", Value: "old"},
		{Name: "b3", Value: "old"}, {Name: "X-B3-TraceId", Value: "old"}, {Name: "X-B3-SpanId", Value: "old"},
		{Name: "X-B3-ParentSpanId", Value: "old"}, {Name: "X-B3-Flags", Value: "1"},
	}
	want := phttp.Header{
		{Name: "Accept", Value: "*/*"}, {Name: "traceparent", Value: "00-" + traceID + "-" + spanID + "-01"},
		{Name: "b3", Value: traceID + "-" + spanID + "-1"}, {Name: "x-b3-traceid", Value: traceID},
		{Name: "x-b3-spanid", Value: spanID}, {Name: "x-b3-sampled", Value: "1"},
	}
	got := other.Clone()
	Inject(&got, &c, W3C|B3Single|B3Multi)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if back, forms := Extract(got); back != c || forms != W3C|B3Single|B3Multi {
		t.Errorf("read back: %s", say(back, forms))
	}
	c.State, c.Decision = "a=1", NotSampled
	got = phttp.Header{{Name: "tracestate", Value: "a=1"}}
	Inject(&got, &c, 0)
	want = phttp.Header{{Name: "tracestate", Value: "a=1"}, {Name: "traceparent", Value: "00-" + traceID + "-" + spanID + "-00"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// Names are never zero, which would mean that there is none.
func TestNames(t *testing.T) {
	numbers := []uint64{0, 0, 0, 7, 0, 9}
	random := func() uint64 {
		n := numbers[0]
		numbers = numbers[1:]
		return n
	}
	if got := NewID(random); got.Random() != 7 {
		t.Errorf("trace %s", got)
	}
	if got := NewSpanID(random); got.String() != "0000000000000009" {
		t.Errorf("span %s", got)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add("00-"+traceID+"-"+spanID+"-01", traceID+"-"+spanID+"-1", traceID, spanID, "1")
	f.Fuzz(func(t *testing.T, parent, single, trace, span, sampled string) {
		h := phttp.Header{
			{Name: "traceparent", Value: parent}, {Name: "b3", Value: single}, {Name: "x-b3-traceid", Value: trace},
			{Name: "x-b3-spanid", Value: span}, {Name: "x-b3-sampled", Value: sampled},
		}
		c, _ := Extract(h)
		if (c.Trace == ID{}) != (c.Span == SpanID{}) {
			t.Errorf("half a context: %s", say(c, 0))
		}
		if !c.Valid() {
			return
		}
		if c.Decision == Undecided {
			c.Decision = NotSampled
		}
		Inject(&h, &c, 0)
		if back, _ := Extract(h); back != c {
			t.Errorf("%s became %s", say(c, 0), say(back, 0))
		}
	})
}

func TestSampledParent(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for traceparent, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01":                  id,
		"00-" + id + "-b7ad6b7169203331-03":                  id,
		"cc-" + id + "-b7ad6b7169203331-01-later":            id,
		"00-" + id + "-b7ad6b7169203331-00":                  "",
		"00-" + id + "-b7ad6b7169203331-01-later":            "",
		"ff-" + id + "-b7ad6b7169203331-01":                  "",
		"00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01": "",
		"00-" + id + "-b7ad6b7169203331-0":                   "",
		"00_" + id + "-b7ad6b7169203331-01":                  "",
		"":                                                   "",
	} {
		got := SampledParent(traceparent)
		if got == (ID{}) != (want == "") || want != "" && got.String() != want {
			t.Errorf("%q: %s, want %q", traceparent, got, want)
		}
	}
}
