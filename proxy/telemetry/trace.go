package telemetry

import "encoding/hex"

// TraceID is the trace that a request belongs to; its zero value is none.
type TraceID [16]byte

// String returns 32 lower-case hexadecimal digits, as in a traceparent.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// SampledTrace returns the trace of a traceparent (W3C Trace Context), or none if it is not valid or not sampled:
// an example that nobody has recorded leads nowhere.
func SampledTrace(traceparent string) TraceID {
	const (
		head    = len("00-")
		length  = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
		flags   = length - 2
		sampled = 1
	)
	var none, id TraceID
	// Later versions may have more behind the flags; ff is none.
	if len(traceparent) < length || len(traceparent) > length && (traceparent[:2] == "00" || traceparent[length] != '-') ||
		traceparent[:2] == "ff" || traceparent[head-1] != '-' || traceparent[flags-1] != '-' {
		return none
	}
	for i := range id {
		high, low := digit(traceparent[head+2*i]), digit(traceparent[head+2*i+1])
		if high|low > 0xf {
			return none
		}
		id[i] = high<<4 | low
	}
	if f := digit(traceparent[flags+1]); f > 0xf || f&sampled == 0 {
		return none
	}
	return id
}

// digit returns the value of a lower-case hexadecimal digit, and more than 15 for anything else.
func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
