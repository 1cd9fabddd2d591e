// Package split judges and shows how requests were split over two versions of a service: what a route
// declares beside what the backends have counted. It sends nothing and waits for nothing.
package split

import (
	"errors"
	"fmt"
	"math"
)

// Tolerance is how far an observed share may be from the declared one, in percentage points.
const Tolerance = 2.0

// Shares are the percentages of two versions. They add up to 100.
type Shares struct{ First, Second float64 }

// Declared returns the shares that two weights declare.
func Declared(first, second int32) Shares {
	sum := float64(first) + float64(second)
	return Shares{First: 100 * float64(first) / sum, Second: 100 * float64(second) / sum}
}

// String returns the shares without decimals where they are whole, as in "90/10".
func (s Shares) String() string { return fmt.Sprintf("%.4g/%.4g", s.First, s.Second) }

// Counts is what is known of the requests of one step.
type Counts struct {
	// First and Second are what the backends of either version have counted.
	First, Second int
	// Requests is how many the client has sent, Failed how many of them had no good answer.
	Requests, Failed int
}

// Observed returns the shares that the backends have counted, zero before there is any.
func (c Counts) Observed() Shares {
	sum := c.First + c.Second
	if sum == 0 {
		return Shares{}
	}
	return Shares{First: 100 * float64(c.First) / float64(sum), Second: 100 * float64(c.Second) / float64(sum)}
}

// Judge says what is wrong with a step that is over: a request that failed or that no backend has
// counted, or a split that is off by more than Tolerance.
func Judge(declared Shares, c Counts) error {
	var errs []error
	if c.Failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d requests failed", c.Failed, c.Requests))
	}
	if counted := c.First + c.Second; counted < c.Requests-c.Failed || counted == 0 {
		errs = append(errs, fmt.Errorf("the backends counted %d of %d requests", counted, c.Requests))
	}
	observed := c.Observed()
	if off := math.Abs(observed.First - declared.First); off > Tolerance {
		errs = append(errs, fmt.Errorf("the split is off by %.1f points", off))
	}
	return errors.Join(errs...)
}

// Summary is the one line that says how a step went.
func Summary(declared Shares, c Counts) string {
	o := c.Observed()
	return fmt.Sprintf("declared=%s observed=%.1f/%.1f requests=%d failed=%d",
		declared, o.First, o.Second, c.Requests, c.Failed)
}
