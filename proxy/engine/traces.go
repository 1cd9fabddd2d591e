package engine

import (
	"net/http"
	"strconv"
	"time"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/trace"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// traced is the span of a sampled exchange.
type traced struct {
	// own is what the exchange's spans are in, and its own span; parent is what that was asked by, if anything.
	own    trace.Context
	parent trace.SpanID
	// forms are those in which the request carries context.
	forms trace.Forms
}

// traces returns the span of the exchange, nil if it is not traced. That is decided when it is called first, which
// must not be before the policy of the exchange is known.
//
// The proxy that a request comes to first decides for all that follow, since it alone has the policies of the
// client's side; over the hop its word is taken, and no trace is begun.
func (x *exchange) traces() *traced {
	if x.config.mesh.Traces == nil || x.traceDecided {
		return x.traced
	}
	x.traceDecided = true
	parent, forms := trace.Extract(x.head.Header)
	policy := x.policy.Telemetry.Tracing
	follow := x.overHop || *policy.ParentBasedSampling == wire.SamplingEnabled
	sampled := parent.Decision == trace.Sampled
	switch {
	case follow && parent.Decision != trace.Undecided:
	case x.overHop:
		sampled = false
	case parent.Valid():
		sampled = within(policy.SamplingRate, parent.Trace.Random())
	default:
		sampled = within(policy.SamplingRate, x.engine.options.Random())
	}
	if !sampled {
		if !follow && parent.Decision == trace.Sampled {
			x.unsample(parent, forms)
		}
		return nil
	}
	x.traced = &traced{own: parent, parent: parent.Span, forms: forms}
	if !parent.Valid() {
		x.traced.own = trace.Context{Trace: trace.NewID(x.engine.options.Random)}
		x.traced.parent = trace.SpanID{}
	}
	x.traced.own.Decision = trace.Sampled
	x.traced.own.Span = trace.NewSpanID(x.engine.options.Random)
	return x.traced
}

// unsample tells all that follow that the trace which the request is in does not go on.
func (x *exchange) unsample(parent trace.Context, forms trace.Forms) {
	parent.Decision = trace.NotSampled
	if parent.Valid() {
		// The decision may be changed by a new span alone (W3C Trace Context section 3.5).
		parent.Span = trace.NewSpanID(x.engine.options.Random)
		trace.Inject(&x.head.Header, &parent, forms)
	}
}

// within tells whether a number that is uniformly distributed over all its values is in a share of them.
func within(share *wire.Fraction, number uint64) bool {
	return number%uint64(share.Denominator) < uint64(share.Numerator)
}

// tryTrace is the span of one try.
type tryTrace struct {
	span  trace.SpanID
	begun time.Time
	// resent is how many tries have gone before; why says for what reason this one was made.
	resent int
	why    string
	// status is the response's, failed why there is none.
	status int
	failed string
}

// beginTry puts the context of a span of its own into the request of a try, if that is traced.
func (t *tries) beginTry(a *attempt) {
	traced := t.traces()
	if traced == nil {
		return
	}
	a.trace = &tryTrace{
		span: trace.NewSpanID(t.engine.options.Random), begun: time.Now(),
		resent: t.received.Attempt + t.made, why: t.retried,
	}
	context := traced.own
	context.Span = a.trace.span
	trace.Inject(&t.head.Header, &context, traced.forms)
}

// answeredTry notes what a try has come to.
func (a *attempt) answeredTry() {
	switch {
	case a.trace == nil:
	case a.response != nil:
		a.trace.status = a.response.StatusCode
	case a.failure != nil:
		a.trace.failed = string(failureReason(a.failure))
	}
}

// endTry hands over the span of a try that is over.
func (t *tries) endTry(a *attempt) {
	if a.trace == nil {
		return
	}
	method := attribute.KnownMethod(t.head.Method)
	s := trace.Span{
		Trace: t.traced.own.Trace, Span: a.trace.span, Parent: t.traced.own.Span, State: t.traced.own.State,
		Kind: trace.Client, Name: spanName(method, t.key), Start: a.trace.begun, End: time.Now(),
	}
	s.Attributes = append(make([]attribute.Attribute, 0, 16),
		attribute.String(attribute.Method, method),
		attribute.String(attribute.Path, attribute.Bound(t.head.Path)),
		attribute.String(attribute.Scheme, "http"),
		attribute.String(attribute.Backend, t.key),
		attribute.String(attribute.TLS, attribute.Protection(a.to.Hop())),
		attribute.String(attribute.PeerAddress, a.to.Address().Addr().String()),
		attribute.Int(attribute.PeerPort, int64(a.to.Address().Port())),
	)
	s.Attributes = appendAuthority(s.Attributes, t.head.Authority)
	if a.to.Kind() == upstream.KindHop {
		namespace, _, _, _ := wire.ParseServicePortKey(t.key)
		s.Attributes = append(s.Attributes, attribute.String(attribute.Hop, namespace))
	}
	if a.trace.resent > 0 {
		s.Attributes = append(s.Attributes, attribute.Int(attribute.ResendCount, int64(a.trace.resent)))
	}
	if a.trace.why != "" {
		s.Attributes = append(s.Attributes, attribute.String(attribute.RetryReason, a.trace.why))
	}
	failed := a.trace.failed
	if a.trace.status > 0 {
		s.Attributes = append(s.Attributes, attribute.Int(attribute.Status, int64(a.trace.status)))
		if a.trace.status >= http.StatusBadRequest {
			failed = strconv.Itoa(a.trace.status)
		}
	}
	if a.far != "" {
		failed = string(a.far)
	}
	if failed == "" && t.why != "" {
		failed = string(t.why) // the answer was cut
	}
	if failed == "" && a.trace.status == 0 {
		failed = telemetry.ErrorClientGone // its client has gone, or its time is over
	}
	if failed != "" {
		s.Failed = true
		s.Attributes = append(s.Attributes, attribute.String(attribute.ErrorType, failed))
	}
	t.engine.spans.End(&s)
}

// spanName is bounded by the configuration.
func spanName(method, of string) string {
	if method == attribute.Other {
		method = "HTTP" // as OpenTelemetry's conventions ask
	}
	if of == "" {
		return method
	}
	return method + " " + of
}
