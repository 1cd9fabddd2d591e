package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Fields are what a client is told about the limits that refused its request, in the fields of
// draft-ietf-httpapi-ratelimit-headers and Retry-After (RFC 9110 section 10.2.3).
type Fields struct {
	// Policy is the value of RateLimit-Policy: all limits as they are configured, whatever this proxy's part.
	Policy string
	// State is the value of RateLimit: nothing is left of the limits that refused, until a time.
	State string
	// RetryAfter is a number of seconds.
	RetryAfter string
}

// Fields describes a refusal. name begins the names of the limits and must be a token; the only one is
// called so, of several the first is "name-1".
func (l *Limiter) Fields(name string, exceeded []Exceeded) Fields {
	var policy, state []string
	for i := range l.limits {
		limit := &l.limits[i]
		item := l.name(name, i) + ";q=" + strconv.Itoa(limit.Requests)
		// The draft counts windows in whole seconds and does not ask for one.
		if window := time.Duration(limit.Interval); window%time.Second == 0 {
			item += ";w=" + strconv.FormatInt(int64(window/time.Second), 10)
		}
		policy = append(policy, item)
	}
	var longest int64
	for _, e := range exceeded {
		seconds := int64((e.Wait + time.Second - 1) / time.Second)
		longest = max(longest, seconds)
		state = append(state, l.name(name, e.Limit)+";r=0;t="+strconv.FormatInt(seconds, 10))
	}
	return Fields{
		Policy: strings.Join(policy, ", "), State: strings.Join(state, ", "), RetryAfter: strconv.FormatInt(longest, 10),
	}
}

// name returns the name of a limit as a String of structured fields (RFC 9651 section 3.3.3).
func (l *Limiter) name(name string, i int) string {
	if len(l.limits) > 1 {
		name += "-" + strconv.Itoa(i+1)
	}
	return `"` + name + `"`
}

// Check reports why limits cannot be applied.
func Check(limits []wire.RateLimit) error {
	for i := range limits {
		if err := check(&limits[i]); err != nil {
			return fmt.Errorf("rateLimits[%d]: %w", i, err)
		}
	}
	return nil
}

func check(limit *wire.RateLimit) error {
	switch {
	case limit.Requests < 1:
		return fmt.Errorf("requests is %d", limit.Requests)
	case limit.Burst < 1:
		return fmt.Errorf("burst is %d", limit.Burst)
	case limit.Interval <= 0:
		return fmt.Errorf("interval is %s", time.Duration(limit.Interval))
	}
	for _, key := range limit.Keys {
		switch key.Type {
		case wire.RateLimitHeader:
			if key.Name == "" {
				return errors.New("a header of keys has no name")
			}
		case wire.RateLimitIdentity, wire.RateLimitPath:
		default:
			return fmt.Errorf("key %q is not known", key.Type)
		}
	}
	return nil
}
