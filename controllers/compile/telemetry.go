package compile

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// tracesPath is where a collector takes traces over HTTP (OpenTelemetry protocol, OTLP/HTTP request).
const tracesPath = "/v1/traces"

// collector reads where proxies send spans. What is at fault is left out, so that nothing is traced.
func collector(in *meshv1alpha1.TraceCollector) (*wire.Collector, []fault) {
	var r policyReader
	const at = "telemetry.tracing"
	if *in == (meshv1alpha1.TraceCollector{}) {
		return nil, nil
	}
	out := &wire.Collector{Protocol: wire.CollectorProtocol(cmp.Or(in.Protocol, meshv1alpha1.TraceGRPC))}
	oneOf(&r, at+".protocol", out.Protocol, wire.CollectorGRPC, wire.CollectorHTTP)
	u, err := url.Parse(in.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !validPort(u.Port()):
		r.refuse(at+".endpoint", "%q is not a URL with http or https and a host, such as http://otel-collector.observability:4317", in.Endpoint)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		r.refuse(at+".endpoint", "%q has a user, query or fragment", in.Endpoint)
	case out.Protocol == wire.CollectorGRPC && u.Path != "" && u.Path != "/":
		r.refuse(at+".endpoint", "%q has a path, which protocol GRPC has no use for: leave it out, or set protocol to HTTP", in.Endpoint)
	case out.Protocol == wire.CollectorHTTP && (u.Path == "" || u.Path == "/"):
		u.Path = tracesPath
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	out.Endpoint = u.String()
	return out, nil
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (r *policyReader) telemetry(in *meshv1alpha1.Telemetry) *wire.Telemetry {
	if in == nil {
		return nil
	}
	out := &wire.Telemetry{}
	if t := in.Tracing; t != nil {
		tracing := &wire.Tracing{SamplingRate: r.fraction("telemetry.tracing.samplingRate", t.SamplingRate)}
		if t.ParentBasedSampling != "" {
			tracing.ParentBasedSampling = new(wire.ParentBasedSampling(t.ParentBasedSampling))
			oneOf(r, "telemetry.tracing.parentBasedSampling", *tracing.ParentBasedSampling, wire.SamplingEnabled, wire.SamplingDisabled)
		}
		out.Tracing = orNil(tracing)
	}
	if in.AccessLog != nil {
		out.AccessLog = r.accessLog(in.AccessLog)
	}
	return orNil(out)
}

func (r *policyReader) fraction(field string, in *meshv1alpha1.Fraction) *wire.Fraction {
	if in == nil {
		return nil
	}
	out := &wire.Fraction{Denominator: r.countOr(field+".denominator", in.Denominator, 100, 1, math.MaxInt32)}
	if in.Numerator == nil {
		r.refuse(field+".numerator", "it is required")
		return nil
	}
	out.Numerator = r.count(field+".numerator", *in.Numerator, 0, int32(max(out.Denominator, 0)))
	return out
}

// accessLog reads what is written. Without rules it says that nothing is, so it is something.
func (r *policyReader) accessLog(in *meshv1alpha1.AccessLog) *wire.AccessLog {
	out := &wire.AccessLog{}
	for i := range in.Rules {
		at, rule := fmt.Sprintf("telemetry.accessLog.rules[%d]", i), &in.Rules[i]
		read := wire.AccessLogRule{
			MinDuration:  valueOr(r.duration(at+".minDuration", rule.MinDuration, instant, unbounded), 0),
			SamplingRate: r.fraction(at+".samplingRate", rule.SamplingRate),
		}
		if rule.MinStatus != 0 {
			read.MinStatus = r.count(at+".minStatus", rule.MinStatus, 100, 599)
		}
		for j, why := range rule.Reasons {
			oneOf(r, fmt.Sprintf("%s.reasons[%d]", at, j), why, meshv1alpha1.Reasons...)
			read.Reasons = append(read.Reasons, string(why))
		}
		slices.Sort(read.Reasons)
		out.Rules = append(out.Rules, read)
	}
	return out
}
