package http

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// methodIndex finds the candidates of GRPCRoutes.
type methodIndex struct {
	// exact is keyed by service and method, either of which may be empty: not named by the match.
	exact   map[grpcMethod]*candidates
	regexes candidates
	any     candidates
}

type grpcMethod struct{ service, method string }

func (x *methodIndex) add(c *candidate) {
	switch {
	case c.serviceRE != nil || c.rpcRE != nil:
		x.regexes.add(c)
	case c.grpc == grpcMethod{}:
		x.any.add(c)
	default:
		if x.exact == nil {
			x.exact = map[grpcMethod]*candidates{}
		}
		cs := x.exact[c.grpc]
		if cs == nil {
			cs = &candidates{}
			x.exact[c.grpc] = cs
		}
		cs.add(c)
	}
}

func (x *methodIndex) finish() {
	for _, cs := range x.exact {
		cs.finish()
	}
	x.regexes.finish()
	x.any.finish()
}

// find tries the longest service, then the longest method. Of the exact matches for one request there
// are four kinds only: both named, service, method, none.
func (x *methodIndex) find(req *Request) *candidate {
	if m, ok := splitGRPC(req.Path); ok && len(x.exact) > 0 {
		for _, key := range [...]grpcMethod{m, {service: m.service}, {method: m.method}} {
			if c := x.exact[key].find(req); c != nil {
				return c
			}
		}
	}
	if c := x.regexes.find(req); c != nil {
		return c
	}
	return x.any.find(req)
}

// splitGRPC separates service and method of a gRPC path, "/package.Service/Method".
func splitGRPC(path string) (m grpcMethod, ok bool) {
	m.service, m.method, ok = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return m, ok && m.service != "" && m.method != "" && !strings.Contains(m.method, "/")
}

// setGRPC compiles a gRPC method match; none matches every request.
func (c *candidate) setGRPC(m *wire.GRPCMatch) error {
	switch {
	case m == nil:
		return nil
	case m.Service == "" && m.Method == "":
		return errors.New("gRPC match names neither service nor method")
	case m.Type == wire.MatchExact:
		c.grpc = grpcMethod{service: m.Service, method: m.Method}
		return nil
	case m.Type != wire.MatchRegex:
		return errMatchType(m.Type)
	}
	for _, part := range []struct {
		name, expr string
		compiled   **regexp.Regexp
	}{{"service", m.Service, &c.serviceRE}, {"method", m.Method, &c.rpcRE}} {
		if part.expr == "" {
			continue
		}
		re, err := compileRegex(part.expr)
		if err != nil {
			return fmt.Errorf("gRPC %s %q: %w", part.name, part.expr, err)
		}
		*part.compiled = re
	}
	return nil
}

// matchesGRPC tells whether the path satisfies the expressions for service and method.
func (c *candidate) matchesGRPC(path string) bool {
	if c.serviceRE == nil && c.rpcRE == nil {
		return true
	}
	m, ok := splitGRPC(path)
	return ok && (c.serviceRE == nil || c.serviceRE.MatchString(m.service)) &&
		(c.rpcRE == nil || c.rpcRE.MatchString(m.method))
}

// GRPCCode is a gRPC status code (grpc/doc/statuscodes.md).
type GRPCCode int

// The status codes.
const (
	GRPCOK GRPCCode = iota
	GRPCCancelled
	GRPCUnknown
	GRPCInvalidArgument
	GRPCDeadlineExceeded
	GRPCNotFound
	GRPCAlreadyExists
	GRPCPermissionDenied
	GRPCResourceExhausted
	GRPCFailedPrecondition
	GRPCAborted
	GRPCOutOfRange
	GRPCUnimplemented
	GRPCInternal
	GRPCUnavailable
	GRPCDataLoss
	GRPCUnauthenticated
)

var grpcNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// String returns the code's name, such as "DEADLINE_EXCEEDED", or its number if it has none.
func (c GRPCCode) String() string {
	if c < 0 || int(c) >= len(grpcNames) {
		return strconv.Itoa(int(c))
	}
	return grpcNames[c]
}

// ParseGRPCCode returns the code of that name.
func ParseGRPCCode(name string) (code GRPCCode, ok bool) {
	i := slices.Index(grpcNames[:], name)
	return GRPCCode(i), i >= 0
}

// GRPCCodeOf returns what a gRPC client makes of an HTTP status without grpc-status
// (grpc/doc/http-grpc-status-mapping.md).
func GRPCCodeOf(status int) GRPCCode {
	switch status {
	case 400:
		return GRPCInternal
	case 401:
		return GRPCUnauthenticated
	case 403:
		return GRPCPermissionDenied
	case 404:
		return GRPCUnimplemented
	case 429, 502, 503, 504:
		return GRPCUnavailable
	default:
		return GRPCUnknown
	}
}

// GRPCResponse returns the answer of a proxy to a gRPC request: a trailers-only response, whose one
// header block ends the stream (grpc/doc/PROTOCOL-HTTP2.md). The engine sends it without a body.
func GRPCResponse(code GRPCCode, message string) *Response {
	h := Header{
		{Name: "content-type", Value: "application/grpc"},
		{Name: "grpc-status", Value: strconv.Itoa(int(code))},
	}
	if message != "" {
		h.Add("grpc-message", encodeGRPCMessage(message))
	}
	return &Response{Status: 200, Header: h}
}

// IsGRPC tells whether a request is a gRPC call, by its content type.
func (r *Request) IsGRPC() bool {
	const grpc = "application/grpc"
	ct := r.Header.Get("content-type")
	return hasPrefixFold(ct, grpc) && (len(ct) == len(grpc) || ct[len(grpc)] == '+' || ct[len(grpc)] == ';')
}

// encodeGRPCMessage escapes all but printable ASCII, and '%' itself (PROTOCOL-HTTP2.md, Percent-Encoded).
func encodeGRPCMessage(message string) string {
	const digits = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(message) {
		if c := message[i]; c >= ' ' && c <= '~' && c != '%' {
			out.WriteByte(c)
		} else {
			out.WriteByte('%')
			out.WriteByte(digits[c>>4])
			out.WriteByte(digits[c&15])
		}
	}
	return out.String()
}
