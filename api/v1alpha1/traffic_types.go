package v1alpha1

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// TrafficPolicy says how requests are treated. Every field that is not set is inherited: Mesh, namespace,
// Service, route, rule, from the most general to the most specific.
type TrafficPolicy struct {
	// timeouts bound requests.
	// +optional
	Timeouts *Timeouts `json:"timeouts,omitempty"`

	// retry says when a request is sent again.
	// +optional
	Retry *Retry `json:"retry,omitempty"`

	// loadBalancing says how an instance of a Service is chosen.
	// +optional
	LoadBalancing *LoadBalancing `json:"loadBalancing,omitempty"`

	// outlierEjection takes instances of a Service out of use that fail or are much slower than the others.
	// +optional
	OutlierEjection *OutlierEjection `json:"outlierEjection,omitempty"`

	// healthCheck probes every instance of a Service. It is inherited as a whole.
	// +optional
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"` //nolint:kubeapilinter // absent is not the same as empty

	// circuitBreaking bounds what a Service is given at once.
	// +optional
	CircuitBreaking *CircuitBreaking `json:"circuitBreaking,omitempty"`

	// rateLimits bound requests over time; each of them applies. They are inherited as a whole, and an empty
	// list ends what is inherited.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	RateLimits []RateLimit `json:"rateLimits,omitzero"` //nolint:kubeapilinter // an empty list is not the same as none

	// fault delays or aborts requests, for tests of what depends on them. It is inherited as a whole.
	// +optional
	Fault *Fault `json:"fault,omitempty"`

	// sessionPersistence keeps the requests of a client on one instance, in the shape of GEP-1619. It is
	// inherited as a whole.
	// +optional
	SessionPersistence *SessionPersistence `json:"sessionPersistence,omitempty"`

	// mtls says who may open connections to the pods of a Service.
	// +optional
	MTLS *MTLS `json:"mtls,omitempty"`

	// telemetry says what is told about requests.
	// +optional
	Telemetry *Telemetry `json:"telemetry,omitempty"`
}

// MTLS says who may open connections to the pods of a Service, on the ports that Services with a cluster IP
// publish. A port that several Services publish is strict if it is for one of them.
type MTLS struct {
	// mode Strict refuses callers that the mesh has not identified: all connections but those of the proxies of
	// the pod's own namespace, of its own node, such as kubelet probes, and of allowFrom; connections that were
	// open before are ended. Permissive, the default, counts them (status.plainCallers of the Mesh).
	// +optional
	Mode MTLSMode `json:"mode,omitempty"`

	// allowFrom are callers that are let in all the same, without an identity and past every authorization:
	// scrapers, ingress, the API server on its way to a webhook. It is inherited as a whole, and {} ends what is
	// inherited.
	// +optional
	AllowFrom *MTLSAllowFrom `json:"allowFrom,omitempty"`
}

// MTLSMode says what happens to callers that the mesh has not identified.
// +kubebuilder:validation:Enum=Permissive;Strict
type MTLSMode string

// The modes.
const (
	MTLSPermissive MTLSMode = "Permissive"
	MTLSStrict     MTLSMode = "Strict"
)

// MTLSAllowFrom are callers by their addresses.
type MTLSAllowFrom struct {
	// cidrs are networks.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	CIDRs []CIDR `json:"cidrs,omitempty"`

	// serviceAccounts stand for the addresses of the pods that run as them, in any namespace, whether it is
	// enrolled or not. Pods on the network of their node have none of their own: name the node's address in
	// cidrs.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	ServiceAccounts []ServiceAccountReference `json:"serviceAccounts,omitempty"`
}

// Timeouts bound requests. A value of "0s" means that there is no bound. What an HTTPRoute says in its own
// timeouts goes first.
type Timeouts struct {
	// request bounds a request with all its tries, until its response has ended.
	// +optional
	Request *gwv1.Duration `json:"request,omitempty"`

	// backendRequest bounds one try.
	// +optional
	BackendRequest *gwv1.Duration `json:"backendRequest,omitempty"`

	// connect bounds connecting to an instance. The default is 2s; it cannot be turned off.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="connect must be longer than 0s"
	Connect *gwv1.Duration `json:"connect,omitempty"`

	// idle ends an exchange or connection in which no byte has moved for so long.
	// +optional
	Idle *gwv1.Duration `json:"idle,omitempty"`

	// stream bounds WebSocket and TCP connections. Where it is set it also takes the place of request once a
	// response of unknown length has begun, such as server-sent events or a gRPC stream.
	// +optional
	Stream *gwv1.Duration `json:"stream,omitempty"`
}

// GRPCCode is the name of a gRPC status.
// +kubebuilder:validation:Enum=CANCELLED;UNKNOWN;DEADLINE_EXCEEDED;RESOURCE_EXHAUSTED;ABORTED;INTERNAL;UNAVAILABLE;DATA_LOSS
type GRPCCode string

// RetryMethods says which requests are retried on a status.
// +kubebuilder:validation:Enum=Idempotent;All
type RetryMethods string

// Retry says when a request is sent again, each time to another instance if there is one. What an HTTPRoute
// says in its own retry goes first. A request that may have reached an application is sent again only if
// its method is idempotent or its status is listed for All methods.
type Retry struct {
	// attempts is how many tries may follow the first. The default is 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=20
	Attempts *int32 `json:"attempts,omitempty"`

	// codes are the HTTP statuses to retry on.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Minimum=400
	// +kubebuilder:validation:items:Maximum=599
	Codes []int32 `json:"codes,omitzero"` //nolint:kubeapilinter // an empty list is not the same as none

	// grpcCodes are the gRPC statuses to retry on, as long as no message of the response has been passed on.
	// No gRPC method is known to be idempotent: to list a code is the word that calls may be repeated.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	GRPCCodes []GRPCCode `json:"grpcCodes,omitzero"` //nolint:kubeapilinter // an empty list is not the same as none

	// methods says which requests codes apply to: those with an idempotent method, or All. The default is
	// Idempotent.
	// +optional
	Methods RetryMethods `json:"methods,omitempty"`

	// connectFailures is how often a request that provably reached no application is sent to another
	// instance, whatever its method. The default is 3.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=20
	ConnectFailures *int32 `json:"connectFailures,omitempty"`

	// backoff between two tries.
	// +optional
	Backoff *Backoff `json:"backoff,omitempty"`

	// budget bounds how much of a Service's load may be retries.
	// +optional
	Budget *RetryBudget `json:"budget,omitempty"`
}

// Backoff is the wait before a retry. It doubles with each retry, and up to half of it is added at random.
// +kubebuilder:validation:XValidation:rule="!has(self.base) || !has(self.max) || duration(self.base) <= duration(self.max)",message="base cannot be longer than max"
type Backoff struct {
	// base is the least wait before the first retry. The default is 25ms.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="base must be longer than 0s"
	Base *gwv1.Duration `json:"base,omitempty"`

	// max bounds the wait. The default is 1s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="max must be longer than 0s"
	Max *gwv1.Duration `json:"max,omitempty"`

	// maxRetryAfter is the longest Retry-After of a response that is waited for; a response that asks for
	// more is not retried. "0s" ignores Retry-After. The default is 1s.
	// +optional
	MaxRetryAfter *gwv1.Duration `json:"maxRetryAfter,omitempty"`
}

// RetryBudget bounds retries to a share of the requests to a Service, in the shape of GEP-3388. Each proxy
// keeps its own.
type RetryBudget struct {
	// percent of the requests within interval may be retries; 100 does not limit. The default is 20.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`

	// interval in which requests count. The default is 10s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="interval must be between 1s and 1h"
	Interval *gwv1.Duration `json:"interval,omitempty"`

	// minRetryRate is allowed whatever the share.
	// +optional
	MinRetryRate *RequestRate `json:"minRetryRate,omitempty"`
}

// RequestRate is a number of requests in a time.
type RequestRate struct {
	// count of requests. The default is 10.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Count *int32 `json:"count,omitempty"`

	// interval in which they may be sent. The default is 1s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('1h')",message="interval must be between 100ms and 1h"
	Interval *gwv1.Duration `json:"interval,omitempty"`
}

// Algorithm is how an instance is chosen.
// +kubebuilder:validation:Enum=PeakEWMA;LeastRequest;RoundRobin;Random;ConsistentHash
type Algorithm string

// LoadBalancing says how an instance of a Service is chosen. Which zone is preferred is said by the
// Service's trafficDistribution.
// +kubebuilder:validation:XValidation:rule="!has(self.consistentHash) || !has(self.algorithm) || self.algorithm == 'ConsistentHash'",message="consistentHash goes with algorithm ConsistentHash"
// +kubebuilder:validation:XValidation:rule="!has(self.algorithm) || self.algorithm != 'ConsistentHash' || has(self.consistentHash)",message="algorithm ConsistentHash needs consistentHash"
type LoadBalancing struct {
	// algorithm of the choice. PeakEWMA takes the one of two random instances that is likely to answer first, by its
	// latency and the requests it has; LeastRequest the one with fewer requests; ConsistentHash keeps equal
	// requests on one instance. The default is PeakEWMA.
	// +optional
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// consistentHash says what ConsistentHash hashes. A request without it is balanced by PeakEWMA.
	// +optional
	ConsistentHash *HashKey `json:"consistentHash,omitempty"` //nolint:kubeapilinter // absent is not the same as empty

	// slowStart is the time in which an instance that is new, or back after an ejection, comes to its full
	// share. "0s", the default, turns it off.
	// +optional
	SlowStart *gwv1.Duration `json:"slowStart,omitempty"`
}

// HashType is the part of a request that is hashed.
// +kubebuilder:validation:Enum=Header;Cookie;SourceAddress;QueryParameter
type HashType string

// HashKey names what is hashed.
// +kubebuilder:validation:XValidation:rule="self.type == 'SourceAddress' ? !has(self.name) : has(self.name)",message="name is for Header, Cookie and QueryParameter, which need it"
type HashKey struct {
	// type of what is hashed. SourceAddress is the address of the client's pod.
	// +required
	Type HashType `json:"type,omitempty"`

	// name of the header, cookie or query parameter.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9!#$%&\\'*+\\\\-.^_\\x60|~]+$')",message="name must be a token: letters, digits and !#$%&'*+-.^_`|~"
	Name string `json:"name,omitempty"`
}

// OutlierEjection takes instances out of use for a while. A failure is a status of 500 or more, a gRPC
// status of UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS, a connection that cannot be made
// or breaks, and a timeout.
// +kubebuilder:validation:XValidation:rule="!has(self.ejectionTime) || !has(self.maxEjectionTime) || duration(self.ejectionTime) <= duration(self.maxEjectionTime)",message="ejectionTime cannot be longer than maxEjectionTime"
type OutlierEjection struct {
	// consecutiveFailures eject an instance. It takes more of them where the other instances fail as well:
	// an overload of all is the fault of none. 0 turns it off. The default is 5.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	ConsecutiveFailures *int32 `json:"consecutiveFailures,omitempty"`

	// successRatePercent is the least share of successes within interval. 0, the default, turns it off.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	SuccessRatePercent *int32 `json:"successRatePercent,omitempty"`

	// latencyFactor ejects an instance whose mean latency within interval is more than so many times the
	// median of the others. 0, the default, turns it off.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +kubebuilder:validation:XValidation:rule="self != 1",message="latencyFactor must be 0 or at least 2"
	LatencyFactor *int32 `json:"latencyFactor,omitempty"`

	// interval in which success rates and latencies are judged. The default is 10s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="interval must be between 1s and 1h"
	Interval *gwv1.Duration `json:"interval,omitempty"`

	// minRequests an instance must have had within interval to be judged by its success rate or latency. The
	// default is 20.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MinRequests int32 `json:"minRequests,omitempty"`

	// ejectionTime of the first ejection; it doubles with each one that follows. When it is over, one
	// request is let through and decides. The default is 5s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms')",message="ejectionTime must be at least 100ms"
	EjectionTime *gwv1.Duration `json:"ejectionTime,omitempty"`

	// maxEjectionTime bounds an ejection. The default is 5m.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms')",message="maxEjectionTime must be at least 100ms"
	MaxEjectionTime *gwv1.Duration `json:"maxEjectionTime,omitempty"`

	// maxEjectedPercent of a Service's instances are ejected at once at most; one of several always may be,
	// and the last is never. The default is 50.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxEjectedPercent *int32 `json:"maxEjectedPercent,omitempty"`

	// panicPercent is the least share of usable instances. When more of them are ejected or fail their health
	// check, all are used again: it is better to try than to overload the rest. 0 turns it off. The default
	// is 30.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	PanicPercent *int32 `json:"panicPercent,omitempty"`
}

// HealthCheckType is the protocol of a health check.
// +kubebuilder:validation:Enum=HTTP;GRPC;TCP
type HealthCheckType string

// HealthCheck probes every instance of a Service from each proxy of its namespace.
// +kubebuilder:validation:XValidation:rule="!has(self.path) || self.type == 'HTTP'",message="path is for type HTTP"
// +kubebuilder:validation:XValidation:rule="!has(self.service) || self.type == 'GRPC'",message="service is for type GRPC"
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || !has(self.interval) || duration(self.timeout) <= duration(self.interval)",message="timeout cannot be longer than interval"
type HealthCheck struct {
	// type of the check. HTTP expects a status of 200 to 399, GRPC the answer SERVING of grpc.health.v1, TCP
	// a connection.
	// +required
	Type HealthCheckType `json:"type,omitempty"`

	// path that HTTP checks request. The default is /.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[!-~]*$`
	Path string `json:"path,omitempty"`

	// service that GRPC checks ask for; the default asks for the server as a whole.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Service string `json:"service,omitempty"`

	// port to probe instead of the one that requests go to.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// interval between two checks of an instance. The default is 5s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('1h')",message="interval must be between 100ms and 1h"
	Interval *gwv1.Duration `json:"interval,omitempty"`

	// timeout of a check. The default is 1s, or interval if that is shorter.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="timeout must be longer than 0s"
	Timeout *gwv1.Duration `json:"timeout,omitempty"`

	// unhealthyThreshold failures in a row take an instance out of use. The default is 3.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	UnhealthyThreshold int32 `json:"unhealthyThreshold,omitempty"`

	// healthyThreshold successes in a row bring it back. The default is 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	HealthyThreshold int32 `json:"healthyThreshold,omitempty"`
}

// CircuitBreaking bounds what a Service is given at once. What exceeds a bound is answered 503 with
// Retry-After at once. 0, the default of each, means no bound. The bounds of a Service are divided by the
// number of ready proxies of its namespace; each proxy has at least 1.
type CircuitBreaking struct {
	// maxConnections to the Service.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxConnections *int32 `json:"maxConnections,omitempty"`

	// maxRequests under way.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`

	// maxPendingRequests may wait when maxRequests are under way or every instance is full.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxPendingRequests *int32 `json:"maxPendingRequests,omitempty"`

	// pendingTimeout bounds that wait, which never goes beyond a request's deadline. The default is 1s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="pendingTimeout must be longer than 0s"
	PendingTimeout *gwv1.Duration `json:"pendingTimeout,omitempty"`

	// perEndpoint bounds what one proxy gives to one instance.
	// +optional
	PerEndpoint *EndpointLimits `json:"perEndpoint,omitempty"`
}

// EndpointLimits bound what one proxy gives to one instance at once; 0, the default of each, means no bound.
type EndpointLimits struct {
	// maxConnections to the instance.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxConnections *int32 `json:"maxConnections,omitempty"`

	// maxRequests under way there.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
}
