package v1alpha1

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// MeshTelemetry says where proxies send what they observe.
type MeshTelemetry struct {
	// tracing names the collector of traces. Without it nothing is traced, whatever policies say; trace context
	// that applications send is passed on as it is.
	// +optional
	Tracing TraceCollector `json:"tracing,omitempty,omitzero"`
}

// TraceCollector is a collector that takes traces in OpenTelemetry's protocol (OTLP), such as the OpenTelemetry
// Collector, Jaeger or Tempo. Every proxy sends to it, by the name service of its own pod.
// +kubebuilder:validation:XValidation:rule="has(self.endpoint)",message="endpoint is required"
type TraceCollector struct {
	// endpoint is the URL of the collector, such as http://otel-collector.observability:4317. With https its
	// certificate must lead to a root that the image of the proxy trusts. With protocol HTTP and no path, traces
	// go to /v1/traces below it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'http' || url(self).getScheme() == 'https') && url(self).getHostname() != ''",message="endpoint must be a URL with http or https and a host, such as http://otel-collector.observability:4317"
	// +kubebuilder:validation:XValidation:rule="!self.contains('@') && !self.contains('?') && !self.contains('#')",message="endpoint must have neither user, query nor fragment"
	Endpoint string `json:"endpoint,omitempty"`

	// protocol that the collector takes there: GRPC, whose port is 4317 by custom, or HTTP with protobuf, whose
	// port is 4318.
	// +optional
	// +default="GRPC"
	Protocol TraceProtocol `json:"protocol,omitempty"`
}

// TraceProtocol is how OTLP travels.
// +kubebuilder:validation:Enum=GRPC;HTTP
type TraceProtocol string

// The protocols.
const (
	TraceGRPC TraceProtocol = "GRPC"
	TraceHTTP TraceProtocol = "HTTP"
)

// Telemetry says what is told about requests. Its words are those of GEP-4768.
type Telemetry struct {
	// tracing says which requests are traced.
	// +optional
	Tracing *Tracing `json:"tracing,omitempty"`

	// accessLog says which requests proxies write a line about. It is inherited as a whole; by default nothing is
	// written.
	// +optional
	AccessLog *AccessLog `json:"accessLog,omitempty"`
}

// Tracing says which requests are traced. The proxy that a request comes to first decides, by the policy of the rule
// that takes the request; all that follow do as it has decided.
type Tracing struct {
	// samplingRate is the share of requests that begin a trace. The default is 1 of 100, and a numerator of 0 begins
	// none.
	// +optional
	SamplingRate *Fraction `json:"samplingRate,omitempty"` //nolint:kubeapilinter // absent is not the same as empty

	// parentBasedSampling Enabled, the default, does what the trace context of a request says, if it has one.
	// Disabled has samplingRate decide about those as well; where it decides for it, the trace goes on all the same.
	// +optional
	ParentBasedSampling ParentBasedSampling `json:"parentBasedSampling,omitempty"`
}

// ParentBasedSampling says whether a caller's decision to sample holds.
// +kubebuilder:validation:Enum=Enabled;Disabled
type ParentBasedSampling string

// Fraction is a share of all, in the shape of the Gateway API's type.
// +kubebuilder:validation:XValidation:rule="self.numerator <= self.denominator",message="numerator must be at most denominator"
type Fraction struct {
	// numerator is how many of denominator.
	// +required
	// +kubebuilder:validation:Minimum=0
	Numerator *int32 `json:"numerator,omitempty"`

	// denominator is of how many.
	// +optional
	// +default=100
	// +kubebuilder:validation:Minimum=1
	Denominator int32 `json:"denominator,omitempty"`
}

// AccessLog says which requests proxies write a line about, to their standard output.
type AccessLog struct {
	// rules are tried in their order, and the first that is for a request decides about it. What no rule is for is
	// not written. Without rules nothing is.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Rules []AccessLogRule `json:"rules,omitzero"` //nolint:kubeapilinter // an empty list is not the same as none
}

// AccessLogRule is for the requests for which all of its conditions hold; without conditions it is for all.
type AccessLogRule struct {
	// minStatus holds for answers with this status or a higher one, and for requests that nobody was left to answer.
	// A gRPC call counts as what its status amounts to in HTTP, such as 503 for UNAVAILABLE.
	// +optional
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=599
	MinStatus int32 `json:"minStatus,omitempty"`

	// minDuration holds for requests that took so long, until their answer had ended.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="minDuration must be longer than 0s"
	MinDuration *gwv1.Duration `json:"minDuration,omitempty"`

	// reasons hold for requests that a proxy has answered itself, or whose answer it has cut, for one of these
	// reasons.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Reasons []Reason `json:"reasons,omitempty"`

	// samplingRate is the share that is written of the requests that the rule is for. The default is all.
	// +optional
	SamplingRate *Fraction `json:"samplingRate,omitempty"` //nolint:kubeapilinter // absent is not the same as empty
}

// Reason is why a proxy refuses or fails a request, as in the weft-reason header of its answer.
// +kubebuilder:validation:Enum=bad_request;header_too_large;version_unsupported;expectation_failed;coding_unsupported;method_not_supported;not_captured;unknown_destination;unknown_source;foreign_source;untrusted_peer;no_rule_matched;authorization_denied;token_required;invalid_token;rate_limited;fault_injected;no_backend;invalid_backend;unknown_backend;no_endpoints;no_healthy_endpoints;circuit_open;connect_failure;identity_failure;not_processed;upstream_reset_before_headers;upstream_reset_after_headers;upstream_protocol_error;unsendable;deadline_exceeded;backend_timeout;idle_timeout;retry_budget_exhausted
type Reason string

// Reasons are all that there are.
var Reasons = []Reason{
	"bad_request", "header_too_large", "version_unsupported", "expectation_failed", "coding_unsupported",
	"method_not_supported", "not_captured", "unknown_destination", "unknown_source", "foreign_source", "untrusted_peer",
	"no_rule_matched", "authorization_denied", "token_required", "invalid_token", "rate_limited", "fault_injected",
	"no_backend", "invalid_backend", "unknown_backend", "no_endpoints", "no_healthy_endpoints", "circuit_open",
	"connect_failure", "identity_failure", "not_processed", "upstream_reset_before_headers",
	"upstream_reset_after_headers", "upstream_protocol_error", "unsendable", "deadline_exceeded", "backend_timeout",
	"idle_timeout", "retry_budget_exhausted",
}
