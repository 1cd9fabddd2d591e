package compile

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// policyReader reads a TrafficPolicy. It checks again what the API's schema refuses, since objects may come
// from files or from an API server whose schema is older, and gathers what cannot be put into force.
type policyReader struct{ faults []fault }

// readPolicy returns what a policy says, nil if it says nothing. What is at fault must not be used.
func readPolicy(in *meshv1alpha1.TrafficPolicy) (*wire.Policy, []fault) {
	if in == nil {
		return nil, nil
	}
	var r policyReader
	out := &wire.Policy{
		Timeouts:           r.timeouts(in.Timeouts),
		Retry:              r.retry(in.Retry),
		LoadBalancing:      r.loadBalancing(in.LoadBalancing),
		OutlierEjection:    r.outlierEjection(in.OutlierEjection),
		HealthCheck:        r.healthCheck(in.HealthCheck),
		CircuitBreaking:    r.circuitBreaking(in.CircuitBreaking),
		RateLimits:         r.rateLimits(in.RateLimits),
		Fault:              r.fault(in.Fault),
		SessionPersistence: r.session("sessionPersistence", in.SessionPersistence),
		MTLS:               r.mtls(in.MTLS),
		Telemetry:          r.telemetry(in.Telemetry),
	}
	return orNil(out), r.faults
}

// orNil returns nil for a part that says nothing.
func orNil[T any](part *T) *T {
	if reflect.ValueOf(part).Elem().IsZero() {
		return nil
	}
	return part
}

func (r *policyReader) refuse(field, format string, args ...any) {
	r.faults = append(r.faults, *unsupported(field, format, args...))
}

// instant is the shortest duration that is not zero: the form has milliseconds.
const instant = time.Millisecond

// unbounded is longer than any duration of the form.
const unbounded = time.Duration(math.MaxInt64)

func (r *policyReader) duration(field string, d *gwv1.Duration, least, most time.Duration) *wire.Duration {
	if d == nil {
		return nil
	}
	v, ok := parseDuration(d)
	switch {
	case !ok:
		r.refuse(field, "%q is not a duration", *d)
	case v < least && most == unbounded:
		r.refuse(field, "%s is shorter than %s", *d, least)
	case v < least || v > most:
		r.refuse(field, "%s is not between %s and %s", *d, least, most)
	}
	return new(wire.Duration(v))
}

// number reads a number from zero on.
func (r *policyReader) number(field string, n *int32, most int32) *int {
	if n == nil {
		return nil
	}
	return new(r.count(field, *n, 0, most))
}

func (r *policyReader) count(field string, n, least, most int32) int {
	if n < least || n > most {
		r.refuse(field, "%d is not between %d and %d", n, least, most)
	}
	return int(n)
}

// countOr is count with a fallback for a field that is not set.
func (r *policyReader) countOr(field string, n, fallback, least, most int32) int {
	if n == 0 {
		n = fallback
	}
	return r.count(field, n, least, most)
}

func (r *policyReader) percentOr(field string, n *int32, fallback int32) int {
	return r.count(field, valueOr(n, fallback), 0, 100)
}

// ordered refuses a pair of durations of which the first is longer.
func (r *policyReader) ordered(field string, short *wire.Duration, than string, long *wire.Duration) {
	if short != nil && long != nil && *short > *long {
		r.refuse(field, "%s is longer than %s, %s", time.Duration(*short), than, time.Duration(*long))
	}
}

// oneOf refuses a value that the API does not know.
func oneOf[T ~string](r *policyReader, field string, value T, known ...T) {
	if !slices.Contains(known, value) {
		r.refuse(field, "%q is not supported", value)
	}
}

func (r *policyReader) timeouts(in *meshv1alpha1.Timeouts) *wire.Timeouts {
	if in == nil {
		return nil
	}
	return orNil(&wire.Timeouts{
		Request:        r.duration("timeouts.request", in.Request, 0, unbounded),
		BackendRequest: r.duration("timeouts.backendRequest", in.BackendRequest, 0, unbounded),
		Connect:        r.duration("timeouts.connect", in.Connect, instant, unbounded),
		Idle:           r.duration("timeouts.idle", in.Idle, 0, unbounded),
		Stream:         r.duration("timeouts.stream", in.Stream, 0, unbounded),
	})
}

// maxRetries is the largest number of retries of one request.
const maxRetries = 20

// grpcCodes are the statuses that the API knows as errors.
var grpcCodes = []meshv1alpha1.GRPCCode{
	"CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
}

func (r *policyReader) retry(in *meshv1alpha1.Retry) *wire.Retry {
	if in == nil {
		return nil
	}
	out := &wire.Retry{
		Attempts:        r.number("retry.attempts", in.Attempts, maxRetries),
		ConnectFailures: r.number("retry.connectFailures", in.ConnectFailures, maxRetries),
		Budget:          r.budget(in.Budget),
	}
	if in.Codes != nil {
		out.Codes = make([]int, len(in.Codes))
		for i, code := range in.Codes {
			out.Codes[i] = r.count(fmt.Sprintf("retry.codes[%d]", i), code, 400, 599)
		}
		// The API says that the codes are a set.
		slices.Sort(out.Codes)
		out.Codes = slices.Compact(out.Codes)
	}
	if in.GRPCCodes != nil {
		out.GRPCCodes = make([]string, len(in.GRPCCodes))
		for i, code := range in.GRPCCodes {
			oneOf(r, fmt.Sprintf("retry.grpcCodes[%d]", i), code, grpcCodes...)
			out.GRPCCodes[i] = string(code)
		}
		slices.Sort(out.GRPCCodes)
		out.GRPCCodes = slices.Compact(out.GRPCCodes)
	}
	if in.Methods != "" {
		oneOf(r, "retry.methods", string(in.Methods), string(wire.RetryIdempotent), string(wire.RetryAll))
		out.Methods = new(wire.RetryMethods(in.Methods))
	}
	if b := in.Backoff; b != nil {
		out.Backoff = r.duration("retry.backoff.base", b.Base, instant, unbounded)
		out.MaxBackoff = r.duration("retry.backoff.max", b.Max, instant, unbounded)
		out.MaxRetryAfter = r.duration("retry.backoff.maxRetryAfter", b.MaxRetryAfter, 0, unbounded)
		r.ordered("retry.backoff.base", out.Backoff, "max", out.MaxBackoff)
	}
	return orNil(out)
}

// maxRate is the largest number of retries that a budget always allows.
const maxRate = 1_000_000

func (r *policyReader) budget(in *meshv1alpha1.RetryBudget) *wire.RetryBudget {
	if in == nil {
		return nil
	}
	out := &wire.RetryBudget{
		Percent:  r.number("retry.budget.percent", in.Percent, 100),
		Interval: r.duration("retry.budget.interval", in.Interval, time.Second, time.Hour),
	}
	if rate := in.MinRetryRate; rate != nil {
		out.MinRetries = r.number("retry.budget.minRetryRate.count", rate.Count, maxRate)
		out.MinInterval = r.duration("retry.budget.minRetryRate.interval", rate.Interval, 100*time.Millisecond, time.Hour)
	}
	return orNil(out)
}

func (r *policyReader) loadBalancing(in *meshv1alpha1.LoadBalancing) *wire.LoadBalancing {
	if in == nil {
		return nil
	}
	out := &wire.LoadBalancing{SlowStart: r.duration("loadBalancing.slowStart", in.SlowStart, 0, unbounded)}
	if in.Algorithm != "" {
		algorithm := wire.Algorithm(in.Algorithm)
		oneOf(r, "loadBalancing.algorithm", algorithm,
			wire.PeakEWMA, wire.LeastRequest, wire.RoundRobin, wire.Random, wire.ConsistentHash)
		out.Algorithm = &algorithm
		switch hashes := algorithm == wire.ConsistentHash; {
		case hashes && in.ConsistentHash == nil:
			r.refuse("loadBalancing.algorithm", "ConsistentHash needs consistentHash")
		case !hashes && in.ConsistentHash != nil:
			r.refuse("loadBalancing.consistentHash", "it goes with algorithm ConsistentHash")
		}
	}
	if key := in.ConsistentHash; key != nil {
		out.Hash = &wire.HashKey{Type: wire.HashType(key.Type), Name: key.Name}
		oneOf(r, "loadBalancing.consistentHash.type", out.Hash.Type,
			wire.HashHeader, wire.HashCookie, wire.HashSourceAddress, wire.HashQueryParameter)
		r.keyName("loadBalancing.consistentHash.name", key.Name, string(key.Type), out.Hash.Type != wire.HashSourceAddress)
	}
	return orNil(out)
}

// keyName refuses a name where none belongs, and none, or no token, where one does.
func (r *policyReader) keyName(field, name, of string, needed bool) {
	switch {
	case !needed && name != "":
		r.refuse(field, "%s has no name", of)
	case needed && name == "":
		r.refuse(field, "%s needs a name", of)
	case needed && !isToken(name):
		r.refuse(field, "%q is not a valid name", name)
	}
}

func (r *policyReader) outlierEjection(in *meshv1alpha1.OutlierEjection) *wire.OutlierEjection {
	if in == nil {
		return nil
	}
	out := &wire.OutlierEjection{
		ConsecutiveFailures: r.number("outlierEjection.consecutiveFailures", in.ConsecutiveFailures, 10_000),
		SuccessRatePercent:  r.number("outlierEjection.successRatePercent", in.SuccessRatePercent, 100),
		LatencyFactor:       r.number("outlierEjection.latencyFactor", in.LatencyFactor, 1000),
		Interval:            r.duration("outlierEjection.interval", in.Interval, time.Second, time.Hour),
		EjectionTime:        r.duration("outlierEjection.ejectionTime", in.EjectionTime, 100*time.Millisecond, unbounded),
		MaxEjectionTime:     r.duration("outlierEjection.maxEjectionTime", in.MaxEjectionTime, 100*time.Millisecond, unbounded),
		MaxEjectedPercent:   r.number("outlierEjection.maxEjectedPercent", in.MaxEjectedPercent, 100),
		PanicPercent:        r.number("outlierEjection.panicPercent", in.PanicPercent, 100),
	}
	if in.MinRequests != 0 {
		out.MinRequests = new(r.count("outlierEjection.minRequests", in.MinRequests, 1, maxRate))
	}
	if valueOr(in.LatencyFactor, 0) == 1 {
		r.refuse("outlierEjection.latencyFactor", "it must be 0 or at least 2")
	}
	r.ordered("outlierEjection.ejectionTime", out.EjectionTime, "maxEjectionTime", out.MaxEjectionTime)
	return orNil(out)
}
