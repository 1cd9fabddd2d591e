package engine

import (
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
)

// fault delays or aborts requests for tests.
type fault struct {
	headers phttp.HeaderMatches
	// delay is zero if nothing is delayed.
	delay        time.Duration
	delayPercent int
	// abort is the answer, used if abortPercent is not zero.
	abort        reason.Entry
	abortPercent int
}

// newFault compiles a fault; nil stays nil.
func newFault(f *wire.Fault) (*fault, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // there is nothing to inject
	}
	headers, err := phttp.NewHeaderMatches(f.Headers)
	if err != nil {
		return nil, fmt.Errorf("fault.headers: %w", err)
	}
	compiled := &fault{headers: headers, abort: reason.Of(reason.FaultInjected)}
	if f.Delay != nil {
		compiled.delay, compiled.delayPercent = time.Duration(f.Delay.Duration), f.Delay.Percent
		if compiled.delay <= 0 {
			return nil, fmt.Errorf("fault.delay.duration is %s", compiled.delay)
		}
	}
	if f.Abort != nil {
		compiled.abort.Status, compiled.abortPercent = f.Abort.Status, f.Abort.Percent
		if f.Abort.Status < http.StatusOK || f.Abort.Status > 599 {
			return nil, fmt.Errorf("fault.abort.status is no final status: %d", f.Abort.Status)
		}
		if f.Abort.GRPCStatus != "" {
			code, ok := phttp.ParseGRPCCode(f.Abort.GRPCStatus)
			if !ok || code == phttp.GRPCOK {
				return nil, fmt.Errorf("fault.abort.grpcStatus is no failure: %q", f.Abort.GRPCStatus)
			}
			compiled.abort.Code = code
		}
	}
	if compiled.delayPercent < 0 || compiled.delayPercent > 100 || compiled.abortPercent < 0 || compiled.abortPercent > 100 {
		return nil, errors.New("percent of fault must be 0 to 100")
	}
	return compiled, nil
}

// faulted injects a fault and tells whether the request has been answered by it. Delay and abort are drawn
// apart, so that one request may have both.
func (x *exchange) faulted(f *fault) bool {
	if f == nil || !f.headers.Hold(x.asked()) {
		return false
	}
	if x.drawn(f.delayPercent) {
		x.engine.metrics.Fault(telemetry.FaultDelay)
		if !x.holdBack(f.delay) {
			x.answer(reason.DeadlineExceeded)
			return true
		}
	}
	if x.drawn(f.abortPercent) {
		x.engine.metrics.Fault(telemetry.FaultAbort)
		x.say(&f.abort)
		return true
	}
	return false
}

// drawn tells whether a request is among so many of a hundred.
func (x *exchange) drawn(percent int) bool {
	if percent == 0 {
		return false
	}
	point, _ := bits.Mul64(x.engine.options.Random(), 100)
	return point < uint64(percent)
}

// holdBack waits. It is false if the request's deadline is first.
func (x *exchange) holdBack(delay time.Duration) bool {
	inTime := true
	if deadline := x.deadlines().whole; !deadline.IsZero() {
		if left := time.Until(deadline); left <= delay {
			delay, inTime = max(left, 0), false
		}
	}
	x.detach()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return inTime
	case <-x.r.Context().Done():
		// The client has gone. net/http would answer 200 otherwise.
		panic(http.ErrAbortHandler)
	}
}
