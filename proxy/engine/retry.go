package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// minTry is the least time in which a try can have an answer. With less left none is made.
const minTry = time.Millisecond

// validateRetry refuses what cannot decide about a retry.
func validateRetry(r *wire.Retry) error {
	if r == nil {
		return nil
	}
	for i, code := range r.Codes {
		if code < 100 || code > 599 {
			return fmt.Errorf("retry.codes[%d] is no status: %d", i, code)
		}
	}
	for i, name := range r.GRPCCodes {
		if code, ok := phttp.ParseGRPCCode(name); !ok || code == phttp.GRPCOK {
			return fmt.Errorf("retry.grpcCodes[%d] is no failure: %q", i, name)
		}
	}
	if r.Methods != nil && *r.Methods != wire.RetryIdempotent && *r.Methods != wire.RetryAll {
		return fmt.Errorf("retry.methods is not known: %q", *r.Methods)
	}
	if b := r.Budget; b != nil {
		switch {
		case b.Percent != nil && *b.Percent > 100:
			return fmt.Errorf("retry.budget.percent is over 100: %d", *b.Percent)
		case b.Interval != nil && *b.Interval == 0:
			return errors.New("retry.budget.interval is zero")
		case b.MinInterval != nil && *b.MinInterval == 0:
			return errors.New("retry.budget.minInterval is zero")
		}
	}
	return nil
}

// outcome is what a try has come to, as far as it decides about another one. Its zero value is one that
// another try would not change.
type outcome struct {
	// why names the reason for another try in metrics.
	why string
	// sent tells that an application may have seen the request.
	sent bool
	// unasked tells that the proxy repeats such a request by itself, as far as that is harmless.
	unasked bool
	// answered tells that it is repeated only if the status is listed.
	answered bool
	// status is what the outcome amounts to, code the same for a gRPC call and GRPCOK for anything else.
	status int
	code   phttp.GRPCCode
}

// step is what follows a try.
type step uint8

const (
	// stepConclude passes on what the try has come to.
	stepConclude step = iota
	// stepRepair sends the request again because the proxy may do so by itself, stepRetry because policy
	// allows it.
	stepRepair
	stepRetry
)

// next decides whether a request is sent again; repairs and retries are how many of either kind are left.
//
// A request that provably did not reach an application may be repeated whatever its method, and the
// proxy does so unasked. A request that may have reached one is repeated only if its method is
// idempotent (RFC 9110 section 9.2.2) or the user listed the status that its outcome amounts to.
func next(o outcome, method string, policy *wire.Retry, repairs, retries int) step {
	harmless := !o.sent || idempotent(method)
	listed := slices.Contains(policy.Codes, o.status) && (harmless || *policy.Methods == wire.RetryAll) ||
		o.code != phttp.GRPCOK && slices.Contains(policy.GRPCCodes, o.code.String())
	switch {
	case o.why == "":
		return stepConclude
	case o.unasked && harmless && repairs > 0:
		return stepRepair
	case retries > 0 && (listed || harmless && !o.answered):
		return stepRetry
	}
	return stepConclude
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// again decides whether the request is sent once more, and how long after.
func (t *tries) again(a *attempt) (wait time.Duration, again bool) {
	if t.ctx.Err() != nil || !t.body.possible() {
		return 0, false
	}
	o := t.outcome(a)
	way := next(o, t.head.Method, t.policy.Retry, t.repairs, t.retries)
	switch way {
	case stepConclude:
		return 0, false
	case stepRepair:
		wait = t.repairWait()
	case stepRetry:
		var patient bool
		if wait, patient = t.retryWait(a); !patient {
			return 0, false
		}
	}
	if !t.timeFor(wait) {
		// What the backend has answered is worth more than what there is no time to find out.
		if a.response == nil {
			a.why = reason.DeadlineExceeded
		}
		return 0, false
	}
	if way == stepRetry && !t.budget.retry(time.Now(), t.policy.Retry.Budget) {
		// GEP-3388 answers 503 whatever the backend has said.
		a.discard()
		a.response, a.why = nil, reason.RetryBudgetExhausted
		return 0, false
	}
	if !t.body.rewind() {
		return 0, false
	}
	if way == stepRepair {
		t.repairs--
	} else {
		t.retries--
	}
	t.leave(a)
	t.retried = o.why
	t.series.at(t.backend).Retry(o.why)
	return wait, true
}

// outcome says what an attempt has come to.
func (t *tries) outcome(a *attempt) outcome {
	var o outcome
	switch {
	case a.why != "":
		// Nothing was sent, and neither the configuration that the request pinned nor its time will change.
		return o
	case a.failure != nil:
		o = failed(a)
	case a.far != "":
		o = madeAnswer(a)
	default:
		o = outcome{
			why: telemetry.RetryStatus, sent: a.told.NotProcessed == "", answered: true,
			status: a.response.StatusCode, code: a.code,
		}
	}
	if !t.grpc {
		o.code = phttp.GRPCOK
	}
	return o
}

// failed says what a try that had no response has come to.
func failed(a *attempt) outcome {
	said := reason.Of(failureReason(a.failure))
	o := outcome{sent: !a.failure.NotSent, status: said.Status, code: said.GRPC()}
	switch a.failure.Reason {
	case upstream.ReasonConnect, upstream.ReasonConnectTimeout, upstream.ReasonIdentity:
		o.why, o.unasked = telemetry.RetryConnect, !o.sent
	case upstream.ReasonRefused:
		if said.Reason == reason.AuthorizationDenied {
			return outcome{} // as every other proxy there would say
		}
		o.why, o.unasked = telemetry.RetryUnprocessed, !o.sent
	case upstream.ReasonStale:
		// An idle connection may be closed by its other end just as it is used again.
		o.why, o.unasked = telemetry.RetryReset, true
	case upstream.ReasonReset, upstream.ReasonProtocol:
		o.why, o.unasked = telemetry.RetryReset, !o.sent
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		if errors.Is(context.Cause(a.ctx), errBackendTimeout) {
			o.why, o.unasked = telemetry.RetryTimeout, !o.sent
		}
	case upstream.ReasonEndpointFull:
		o.why, o.unasked = telemetry.RetryUnprocessed, true
	case upstream.ReasonRequestBody, upstream.ReasonRequest, upstream.ReasonFull:
	}
	return o
}

// madeAnswers is what it means that the proxy at the other end of the hop has answered instead of a backend.
// What is not listed is an answer like any other.
var madeAnswers = map[reason.Reason]outcome{
	// It has repeated these by itself, as often as it may.
	reason.Connect:            {why: telemetry.RetryConnect},
	reason.NotProcessed:       {why: telemetry.RetryUnprocessed},
	reason.ResetBeforeHeaders: {why: telemetry.RetryReset},
	reason.Protocol:           {why: telemetry.RetryReset},
	// Another proxy or a later time may do better, but only who has listed the status wants more load where
	// there may be too much of it.
	reason.NoEndpoints:        {why: telemetry.RetryStatus, answered: true},
	reason.NoHealthyEndpoints: {why: telemetry.RetryStatus, answered: true},
	reason.CircuitOpen:        {why: telemetry.RetryStatus, answered: true},
	reason.RateLimited:        {why: telemetry.RetryStatus, answered: true},

	// The request, or the time that it has, is the same for every other try.
	reason.BadRequest:         {},
	reason.HeaderTooLarge:     {},
	reason.VersionUnsupported: {},
	reason.ExpectationFailed:  {},
	reason.CodingUnsupported:  {},
	reason.MethodUnsupported:  {},
	reason.UnknownBackend:     {},
	reason.Unsendable:         {},
	reason.DeadlineExceeded:   {},

	// So are the policies.
	reason.AuthorizationDenied: {},
	reason.TokenRequired:       {},
	reason.InvalidToken:        {},
}

// madeAnswer says what an answer that the other proxy has made itself has come to.
func madeAnswer(a *attempt) outcome {
	o, known := madeAnswers[a.far]
	if !known {
		o = outcome{why: telemetry.RetryStatus, answered: true}
	}
	o.sent, o.status, o.code = a.told.NotProcessed == "", a.response.StatusCode, a.code
	return o
}

// leave remembers where an attempt ended, if it began, so that the next one goes elsewhere.
func (t *tries) leave(a *attempt) {
	if a.to == (upstream.Endpoint{}) {
		return
	}
	if a.to.Kind() == upstream.KindHop {
		t.far = append(t.far, a.told.Tried...)
		t.far = t.far[max(0, len(t.far)-upstream.MaxAvoid):]
		if a.response != nil && a.told.NotProcessed == "" {
			// The proxy is well, only the pod that it has tried is to be avoided.
			return
		}
	}
	t.avoid = append(slices.Clip(t.avoid), a.to.Address())
}

// timeFor tells whether a try can have an answer after a wait.
func (t *tries) timeFor(wait time.Duration) bool {
	return t.due.whole.IsZero() || time.Until(t.due.whole)-wait >= minTry
}

// repairWait is how long the next repair waits. The first goes to another endpoint at once.
func (t *tries) repairWait() time.Duration {
	if done := *t.policy.Retry.ConnectFailures - t.repairs; done > 0 {
		return jitter(5 * time.Millisecond << min(done+1, 16))
	}
	return 0
}

// retryWait is how long the next retry waits: the backoff, which doubles each time, or what the backend
// asks for if that is longer. It is false if the backend asks for more than policy allows, or for no retry
// at all.
func (t *tries) retryWait(a *attempt) (time.Duration, bool) {
	retry := t.policy.Retry
	base, most := time.Duration(*retry.Backoff), time.Duration(*retry.MaxBackoff)
	done := *retry.Attempts - t.retries
	wait := jitter(max(base, min(base<<min(done, 16), most)))
	if a.response == nil {
		return wait, true
	}
	asked := retryAfter(a.response, time.Now())
	longest := time.Duration(*retry.MaxRetryAfter)
	switch {
	case asked < 0:
		return 0, false
	case longest == 0:
		return wait, true
	}
	return max(wait, asked), asked <= longest
}

// jitter makes a wait up to half as long again, so that clients which failed together do not come back
// together. It never shortens: a rule's backoff is the least time between two tries.
func jitter(wait time.Duration) time.Duration { return wait + rand.N(wait/2+1) }

// retryAfter is how long a response asks its client to wait before it comes again, zero if it does not,
// negative if it is not to come again.
func retryAfter(res *http.Response, now time.Time) time.Duration {
	const pushback = "Grpc-Retry-Pushback-Ms"
	for _, fields := range []http.Header{res.Header, res.Trailer} {
		if values := fields[pushback]; len(values) > 0 {
			// gRFC A6: what is negative or no number means that there must be no retry.
			n, err := strconv.ParseInt(values[0], 10, 32)
			if err != nil {
				n = -1
			}
			return time.Duration(n) * time.Millisecond
		}
	}
	// RFC 9110 section 10.2.3.
	value := res.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, math.MaxInt64/uint64(time.Second))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// pause waits before the next try. It is false if the request ended meanwhile.
func (t *tries) pause(wait time.Duration) bool {
	if wait == 0 {
		return t.ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}
