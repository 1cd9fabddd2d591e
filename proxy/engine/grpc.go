package engine

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The gRPC status codes that the proxy answers with itself
// (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md).
const (
	grpcUnknown           = 2
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
)

// isGRPC tells whether a content type is that of gRPC: "application/grpc", alone or followed by a
// message format or a parameter. "application/grpc-web" is another protocol.
func isGRPC(contentType string) bool {
	const grpc = "application/grpc"
	if len(contentType) < len(grpc) || !strings.EqualFold(contentType[:len(grpc)], grpc) {
		return false
	}
	rest := contentType[len(grpc):]
	return rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == ' '
}

// grpcStatus maps an HTTP status to the gRPC code that a client would derive from it
// (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
func grpcStatus(httpStatus int) int {
	switch httpStatus {
	case http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge:
		return grpcInternal
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcUnimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return grpcUnavailable
	case http.StatusGatewayTimeout:
		return grpcDeadlineExceeded
	default:
		return grpcUnknown
	}
}

// maxGRPCTimeoutDigits is how many digits the value of a grpc-timeout may have.
const maxGRPCTimeoutDigits = 8

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second,
	'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// parseGRPCTimeout reads the value of a grpc-timeout header.
func parseGRPCTimeout(value string) (time.Duration, error) {
	if len(value) < 2 || len(value) > maxGRPCTimeoutDigits+1 {
		return 0, fmt.Errorf("grpc-timeout %q has the wrong length", value)
	}
	unit, ok := grpcUnits[value[len(value)-1]]
	if !ok {
		return 0, fmt.Errorf("grpc-timeout %q has no known unit", value)
	}
	n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("grpc-timeout %q: %w", value, err)
	}
	if d := time.Duration(n); d > time.Duration(1<<63-1)/unit {
		return 1<<63 - 1, nil
	}
	return time.Duration(n) * unit, nil
}

// formatGRPCTimeout writes d in the finest unit that fits, rounded up, so that a deadline never
// shrinks by being passed on; at least 1n, since zero is not a timeout.
func formatGRPCTimeout(d time.Duration) string {
	const limit = 100_000_000
	for _, unit := range []byte("numSM") {
		if n := (max(d, 1) + grpcUnits[unit] - 1) / grpcUnits[unit]; n < limit {
			return strconv.FormatInt(int64(n), 10) + string(unit)
		}
	}
	return strconv.FormatInt(int64(d/time.Hour), 10) + "H"
}
