package compile

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// ownLevel is what a rule itself says. What is at fault must not be used.
func (r *route) ownLevel(in *rule) (level, []fault) {
	var faults []fault
	timeouts, f := compileTimeouts(in.timeouts)
	faults = f.under("timeouts").appendTo(faults)
	retry, f := compileRetry(in.retry)
	faults = f.under("retry").appendTo(faults)
	own := level{origin: r.String(), said: &meshv1alpha1.TrafficPolicy{}}
	if s := in.session; s != nil {
		own.said.SessionPersistence = &meshv1alpha1.SessionPersistence{
			Type: valueOr(s.Type, ""), AbsoluteTimeout: s.AbsoluteTimeout, Cookie: s.Cookie, Header: s.Header,
		}
	}
	var reader policyReader
	session := reader.session("sessionPersistence", own.said.SessionPersistence)
	own.policy = orNil(&wire.Policy{Timeouts: timeouts, Retry: retry, SessionPersistence: session})
	return own, append(faults, reader.faults...)
}

// compileTimeouts reads a rule's timeouts. Zero means none (GEP-1742); what is absent is left to policies.
func compileTimeouts(t *gwv1.HTTPRouteTimeouts) (*wire.Timeouts, *fault) {
	if t == nil || t.Request == nil && t.BackendRequest == nil {
		return nil, nil
	}
	request, ok := parseDuration(t.Request)
	if !ok {
		return nil, unsupported("request", "%q is not a duration", *t.Request)
	}
	backend, ok := parseDuration(t.BackendRequest)
	if !ok {
		return nil, unsupported("backendRequest", "%q is not a duration", *t.BackendRequest)
	}
	if request > 0 && backend > request {
		return nil, unsupported("backendRequest", "it cannot be longer than the timeout of the whole request")
	}
	var out wire.Timeouts
	if t.Request != nil {
		out.Request = new(wire.Duration(request))
	}
	if t.BackendRequest != nil {
		out.BackendRequest = new(wire.Duration(backend))
	}
	return &out, nil
}

// defaultRetryAttempts is how often a rule with a retry stanza retries that does not say (GEP-1731).
const defaultRetryAttempts = 1

// compileRetry reads a rule's retries. Its codes are retried whatever the method (GEP-1731): to list them is
// the user's word that it is safe.
func compileRetry(r *gwv1.HTTPRouteRetry) (*wire.Retry, *fault) {
	if r == nil {
		return nil, nil
	}
	attempts := valueOr(r.Attempts, defaultRetryAttempts)
	if attempts < 0 {
		return nil, unsupported("attempts", "%d is negative", attempts)
	}
	out := &wire.Retry{Attempts: &attempts}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			return nil, unsupported(fmt.Sprintf("codes[%d]", i), "%d is not the status of an error", code)
		}
		out.Codes = append(out.Codes, int(code))
	}
	// The API says that the codes are a set.
	slices.Sort(out.Codes)
	out.Codes = slices.Compact(out.Codes)
	if len(out.Codes) > 0 {
		out.Methods = new(wire.RetryAll)
	}
	backoff, ok := parseDuration(r.Backoff)
	if !ok {
		return nil, unsupported("backoff", "%q is not a duration", *r.Backoff)
	}
	if r.Backoff != nil {
		out.Backoff = new(wire.Duration(backoff))
	}
	return out, nil
}
