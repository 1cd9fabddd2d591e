package engine

import (
	"fmt"
	"strconv"
	"time"
)

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
	for _, unit := range []byte("numSMH") {
		if n := (max(d, 1)-1)/grpcUnits[unit] + 1; n < limit {
			return strconv.FormatInt(int64(n), 10) + string(unit)
		}
	}
	// No Duration has so many hours.
	return "99999999H"
}
