package compile

import (
	"regexp"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// durationForm is the syntax of GEP-2257, a subset of what time.ParseDuration reads.
var durationForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// parseDuration reads a duration of the Gateway API. Absent is zero.
func parseDuration(d *gwv1.Duration) (time.Duration, bool) {
	if d == nil {
		return 0, true
	}
	if !durationForm.MatchString(string(*d)) {
		return 0, false
	}
	v, err := time.ParseDuration(string(*d))
	return v, err == nil
}
