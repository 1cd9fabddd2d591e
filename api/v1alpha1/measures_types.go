package v1alpha1

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// RateLimit is a token bucket. What exceeds it is answered 429 with the RateLimit fields. The limit is
// divided by the number of ready proxies that apply it; each has at least one request per interval.
type RateLimit struct {
	// requests per interval.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	Requests int32 `json:"requests,omitempty"`

	// interval in which they may come. The default is 1s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('24h')",message="interval must be between 100ms and 24h"
	Interval *gwv1.Duration `json:"interval,omitempty"`

	// burst may come at once. The default is requests.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	Burst int32 `json:"burst,omitempty"`

	// keys give each combination of their values a limit of its own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Keys []RateLimitKey `json:"keys,omitempty"`
}

// RateLimitKeyType is the part of a request that has a limit of its own.
// +kubebuilder:validation:Enum=Identity;Header;Path
type RateLimitKeyType string

// RateLimitKey is one part of a request.
// +kubebuilder:validation:XValidation:rule="self.type == 'Header' ? has(self.name) : !has(self.name)",message="name is for Header, which needs it"
type RateLimitKey struct {
	// type of the key. Identity is the ServiceAccount of the caller.
	// +required
	Type RateLimitKeyType `json:"type,omitempty"`

	// name of the header.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9!#$%&\\'*+\\\\-.^_\\x60|~]+$')",message="name must be a token: letters, digits and !#$%&'*+-.^_`|~"
	Name string `json:"name,omitempty"`
}

// Fault delays or aborts requests.
// +kubebuilder:validation:XValidation:rule="has(self.delay) || has(self.abort)",message="fault needs delay or abort"
type Fault struct {
	// headers that a request must have for the fault to apply; without them it applies to all.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []gwv1.HTTPHeaderMatch `json:"headers,omitempty"`

	// delay holds requests back.
	// +optional
	Delay *FaultDelay `json:"delay,omitempty"` //nolint:kubeapilinter // absent is not the same as empty

	// abort answers requests instead of sending them.
	// +optional
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay holds requests back.
type FaultDelay struct {
	// duration of the delay.
	// +required
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('1h')",message="duration must be longer than 0s and at most 1h"
	Duration gwv1.Duration `json:"duration,omitempty"` //nolint:kubeapilinter // the pattern of its type refuses ""

	// percent of requests that are delayed. The default is 100.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}

// FaultAbort answers requests instead of sending them.
type FaultAbort struct {
	// status of the answer. The default is 503.
	// +optional
	// +kubebuilder:validation:Minimum=200
	// +kubebuilder:validation:Maximum=599
	Status int32 `json:"status,omitempty"`

	// grpcStatus of the answer to a gRPC call. The default is UNAVAILABLE.
	// +optional
	GRPCStatus GRPCCode `json:"grpcStatus,omitempty"`

	// percent of requests that are aborted. The default is 100.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}

// SessionPersistence keeps the requests of a client on one instance for as long as that is usable. On a
// route it keeps them on one backend of the rule as well. Its shape is that of GEP-1619.
// +kubebuilder:validation:XValidation:rule="!has(self.cookie) || !has(self.type) || self.type == 'Cookie'",message="cookie is for type Cookie"
// +kubebuilder:validation:XValidation:rule="has(self.type) && self.type == 'Header' ? has(self.header) : !has(self.header)",message="header is for type Header, which needs it"
// +kubebuilder:validation:XValidation:rule="!has(self.cookie) || !has(self.cookie.lifetimeType) || self.cookie.lifetimeType != 'Permanent' || has(self.absoluteTimeout)",message="a Permanent cookie needs absoluteTimeout"
type SessionPersistence struct {
	// type says how a client names its session. The default is Cookie.
	// +optional
	// +kubebuilder:validation:Enum=Cookie;Header
	Type gwv1.SessionPersistenceType `json:"type,omitempty"`

	// absoluteTimeout ends a session; by default it does not end.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="absoluteTimeout must be at least 1s"
	AbsoluteTimeout *gwv1.Duration `json:"absoluteTimeout,omitempty"`

	// cookie configures type Cookie.
	// +optional
	Cookie *gwv1.CookieConfig `json:"cookie,omitempty"`

	// header configures type Header: the response carries it, and the client repeats it.
	// +optional
	Header *gwv1.HeaderConfig `json:"header,omitempty"`
}
