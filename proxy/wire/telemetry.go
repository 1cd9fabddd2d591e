package wire

// Collector takes traces in OpenTelemetry's protocol.
type Collector struct {
	// Endpoint is a URL with http or https. With CollectorHTTP it names the path as well.
	Endpoint string            `json:"endpoint"`
	Protocol CollectorProtocol `json:"protocol"`
}

// CollectorProtocol is how OTLP travels.
type CollectorProtocol string

// The protocols. Both carry protobuf.
const (
	CollectorGRPC CollectorProtocol = "GRPC"
	CollectorHTTP CollectorProtocol = "HTTP"
)

// Telemetry says what is told about requests. Of a Service, the proxy that matches the route has all of it, and the
// one that picks the endpoint the AccessLog.
type Telemetry struct {
	Tracing   *Tracing   `json:"tracing,omitempty"`
	AccessLog *AccessLog `json:"accessLog,omitempty" inherit:"whole"`
}

// Tracing says which requests are traced.
type Tracing struct {
	// SamplingRate is the share of requests that begin a trace.
	SamplingRate *Fraction `json:"samplingRate,omitempty" inherit:"whole"`
	// ParentBasedSampling says whether the decision holds that comes with a request.
	ParentBasedSampling *ParentBasedSampling `json:"parentBasedSampling,omitempty"`
}

// ParentBasedSampling says whether a caller's decision to sample holds.
type ParentBasedSampling string

// Whether it holds.
const (
	SamplingEnabled  ParentBasedSampling = "Enabled"
	SamplingDisabled ParentBasedSampling = "Disabled"
)

// Fraction is a share of all. Denominator is at least 1 and Numerator between 0 and that.
type Fraction struct {
	Numerator   int `json:"numerator"`
	Denominator int `json:"denominator"`
}

// AccessLog says which requests a line is written about: the first rule that is for a request decides, and what no
// rule is for is not written.
type AccessLog struct {
	Rules []AccessLogRule `json:"rules,omitempty"`
}

// AccessLogRule is for requests for which all conditions hold that are not zero.
type AccessLogRule struct {
	// MinStatus is the least status; requests that nobody was left to answer, which have none, are over each. Of a
	// gRPC call it is what its status amounts to in HTTP.
	MinStatus   int      `json:"minStatus,omitempty"`
	MinDuration Duration `json:"minDuration,omitzero"`
	// Reasons are sorted.
	Reasons []string `json:"reasons,omitempty"`
	// SamplingRate is the share that is written; nil means all.
	SamplingRate *Fraction `json:"samplingRate,omitempty"`
}
