package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// again decides whether the request is sent once more, for what reason, and how long after.
//
// A request that provably did not reach an application may be repeated whatever its method, and the
// proxy does so unasked. A request that may have reached one is repeated only if its method is
// idempotent (RFC 9110 section 9.2.2) or the user listed the status that the failure amounts to.
func (t *tries) again(a *attempt) (why string, wait time.Duration, again bool) {
	if a.why != "" || t.ctx.Err() != nil || !t.body.possible() {
		return "", 0, false
	}
	if a.failure == nil {
		if t.retries > 0 && t.listed(a.response.StatusCode) {
			return telemetry.RetryStatus, t.backoff(), true
		}
		return "", 0, false
	}
	why, transient := retryReason(a)
	harmless := a.failure.NotSent || idempotent(t.head.Method)
	// An idle connection may be closed by its other end just as it is used again.
	unasked := a.failure.NotSent || harmless && a.failure.Reason == upstream.ReasonStale
	switch {
	case !transient:
		return "", 0, false
	case unasked && t.repairs > 0:
		return why, t.repair(), true
	case t.retries > 0 && (harmless || t.listed(reason.Of(failureReason(a.failure)).Status)):
		return why, t.backoff(), true
	}
	return "", 0, false
}

// repair uses up one of the proxy's own repetitions. The first goes to another endpoint at once.
func (t *tries) repair() time.Duration {
	t.repairs--
	if done := *t.policy.Retry.ConnectFailures - t.repairs; done > 1 {
		return jitter(5 * time.Millisecond << done)
	}
	return 0
}

// backoff uses up one of the rule's repetitions. The wait doubles each time.
func (t *tries) backoff() time.Duration {
	least, most := time.Duration(*t.policy.Retry.Backoff), time.Duration(*t.policy.Retry.MaxBackoff)
	done := *t.policy.Retry.Attempts - t.retries
	t.retries--
	return jitter(max(least, min(least<<min(done, 16), most)))
}

// jitter makes a wait up to half as long again, so that clients which failed together do not come back
// together. It never shortens: a rule's backoff is the least time between two tries.
func jitter(wait time.Duration) time.Duration { return wait + rand.N(wait/2+1) }

// listed tells whether the user wants tries with this status to be repeated, for a request of this method.
func (t *tries) listed(status int) bool {
	retry := t.policy.Retry
	return slices.Contains(retry.Codes, status) && (*retry.Methods == wire.RetryAll || idempotent(t.head.Method))
}

// retryReason names a failure that another try may not meet.
func retryReason(a *attempt) (string, bool) {
	switch a.failure.Reason {
	case upstream.ReasonConnect, upstream.ReasonConnectTimeout, upstream.ReasonIdentity:
		return telemetry.RetryConnect, true
	case upstream.ReasonRefused:
		return telemetry.RetryUnprocessed, true
	case upstream.ReasonStale, upstream.ReasonReset, upstream.ReasonProtocol:
		return telemetry.RetryReset, true
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		return telemetry.RetryTimeout, errors.Is(context.Cause(a.ctx), errBackendTimeout)
	case upstream.ReasonRequestBody, upstream.ReasonRequest:
	}
	return "", false
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
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
