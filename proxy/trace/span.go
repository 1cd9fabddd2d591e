package trace

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"weft.dev/weft/proxy/attribute"
)

// Kind says which side of a call a span is.
type Kind int

// The kinds, with their numbers in the protocol.
const (
	Server Kind = 2
	Client Kind = 3
)

// Span is one piece of work that has ended.
type Span struct {
	Trace  ID
	Span   SpanID
	Parent SpanID
	// Remote tells that the parent is somebody else's.
	Remote bool
	State  string
	Kind   Kind
	Name   string
	// Start and End are on one clock.
	Start, End time.Time
	Attributes []attribute.Attribute
	// Failed tells that the work has failed, Message what there is to say about it beside the attributes.
	Failed  bool
	Message string
}

// Numbers of fields in opentelemetry/proto/trace/v1, resource/v1 and common/v1.
const (
	requestResourceSpans = 1

	resourceSpansResource = 1
	resourceSpansScope    = 2

	resourceAttributes = 1

	scopeSpansScope = 1
	scopeSpansSpan  = 2

	scopeName    = 1
	scopeVersion = 2

	spanTrace      = 1
	spanSpan       = 2
	spanState      = 3
	spanParent     = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanStatus     = 15
	spanFlags      = 16

	statusMessage = 2
	statusCode    = 3
	statusFailed  = 2

	keyValueKey   = 1
	keyValueValue = 2
	valueString   = 1
	valueInt      = 3
)

// Flags of a span: that it is sampled, and whether its parent is remote is known, and so.
const (
	flagSampled     = 0x001
	flagKnowsRemote = 0x100
	flagRemote      = 0x200
)

// appendMessage appends a field that holds what fill appends.
func appendMessage(b []byte, number protowire.Number, fill func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	start := len(b)
	b = fill(b)
	var length [10]byte
	return slices.Insert(b, start, protowire.AppendVarint(length[:0], uint64(len(b)-start))...)
}

func appendText(b []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
}

func appendBytes(b []byte, number protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), data)
}

func appendVarint(b []byte, number protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), n)
}

func appendTime(b []byte, number protowire.Number, t time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, number, protowire.Fixed64Type), uint64(t.UnixNano()))
}

func appendAttributes(b []byte, number protowire.Number, attributes []attribute.Attribute) []byte {
	for i := range attributes {
		a := &attributes[i]
		b = appendMessage(b, number, func(b []byte) []byte {
			b = appendText(b, keyValueKey, a.Key)
			return appendMessage(b, keyValueValue, func(b []byte) []byte {
				if a.Numeric {
					return appendVarint(b, valueInt, uint64(a.Number))
				}
				// The member says which it is, so that an empty text is written too.
				return protowire.AppendString(protowire.AppendTag(b, valueString, protowire.BytesType), valid(a.Text))
			})
		})
	}
	return b
}

// maxState is how much of a tracestate everybody must take (W3C Trace Context section 3.3.1.5). A longer one is passed
// on with its request, but fills no spans: it comes from a client.
const maxState = 512

// append appends the span as a field of a list of spans.
func (s *Span) append(b []byte) []byte {
	return appendMessage(b, scopeSpansSpan, func(b []byte) []byte {
		b = appendBytes(b, spanTrace, s.Trace[:])
		b = appendBytes(b, spanSpan, s.Span[:])
		if len(s.State) <= maxState {
			b = appendText(b, spanState, valid(s.State))
		}
		flags := uint32(flagSampled | flagKnowsRemote)
		if s.Parent != (SpanID{}) {
			b = appendBytes(b, spanParent, s.Parent[:])
			if s.Remote {
				flags |= flagRemote
			}
		}
		b = appendText(b, spanName, valid(s.Name))
		b = appendVarint(b, spanKind, uint64(s.Kind))
		b = appendTime(b, spanStart, s.Start)
		b = appendTime(b, spanEnd, s.End)
		b = appendAttributes(b, spanAttributes, s.Attributes)
		if s.Failed {
			b = appendMessage(b, spanStatus, func(b []byte) []byte {
				return appendVarint(appendText(b, statusMessage, valid(s.Message)), statusCode, statusFailed)
			})
		}
		return protowire.AppendFixed32(protowire.AppendTag(b, spanFlags, protowire.Fixed32Type), flags)
	})
}

// request returns the request that hands spans to a collector: those of one resource, which have been appended one
// after the other.
func request(resource []attribute.Attribute, version string, spans []byte) []byte {
	b := make([]byte, 0, len(spans)+1024)
	return appendMessage(b, requestResourceSpans, func(b []byte) []byte {
		b = appendMessage(b, resourceSpansResource, func(b []byte) []byte {
			return appendAttributes(b, resourceAttributes, resource)
		})
		return appendMessage(b, resourceSpansScope, func(b []byte) []byte {
			b = appendMessage(b, scopeSpansScope, func(b []byte) []byte {
				return appendText(appendText(b, scopeName, "weft.dev/weft/proxy"), scopeVersion, version)
			})
			return append(b, spans...)
		})
	})
}
