package compile

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// compileTimeouts reads a rule's timeouts. Zero and absent both mean none (GEP-1742).
func compileTimeouts(t *gwv1.HTTPRouteTimeouts) (wire.Timeouts, *fault) {
	if t == nil {
		return wire.Timeouts{}, nil
	}
	request, ok := parseDuration(t.Request)
	if !ok {
		return wire.Timeouts{}, unsupported("request", "%q is not a duration", *t.Request)
	}
	backend, ok := parseDuration(t.BackendRequest)
	if !ok {
		return wire.Timeouts{}, unsupported("backendRequest", "%q is not a duration", *t.BackendRequest)
	}
	if request > 0 && backend > request {
		return wire.Timeouts{}, unsupported("backendRequest", "it cannot be longer than the timeout of the whole request")
	}
	return wire.Timeouts{Request: wire.Duration(request), BackendRequest: wire.Duration(backend)}, nil
}

// defaultRetryAttempts is how often a rule with a retry stanza retries that does not say (GEP-1731).
const defaultRetryAttempts = 1

// compileRetry reads a rule's retries.
func compileRetry(r *gwv1.HTTPRouteRetry) (*wire.Retry, *fault) {
	if r == nil {
		return nil, nil
	}
	out := &wire.Retry{Attempts: valueOr(r.Attempts, defaultRetryAttempts)}
	if out.Attempts < 0 {
		return nil, unsupported("attempts", "%d is negative", out.Attempts)
	}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			return nil, unsupported(fmt.Sprintf("codes[%d]", i), "%d is not the status of an error", code)
		}
		out.Codes = append(out.Codes, int(code))
	}
	// The API says that the codes are a set.
	slices.Sort(out.Codes)
	out.Codes = slices.Compact(out.Codes)
	backoff, ok := parseDuration(r.Backoff)
	if !ok {
		return nil, unsupported("backoff", "%q is not a duration", *r.Backoff)
	}
	out.Backoff = wire.Duration(backoff)
	return out, nil
}
