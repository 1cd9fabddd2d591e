package wire

import (
	"net/netip"
	"time"
)

// Policy is what MeshPolicies and the Mesh's defaults say about traffic, as far as it is said: a field
// that is nil is left to the level below. Levels are laid over each other with Overlay. The operator lays
// those of a Service into its Destination and Backend and those of a rule into its Route; the proxy lays
// the Route's over the Destination's, and both over DefaultPolicy.
//
// Lists that are empty and not nil say that there is nothing, whatever the level below has. In a field marked `inherit:"whole"` the parts belong together and come from one level.
type Policy struct {
	Timeouts           *Timeouts           `json:"timeouts,omitempty"`
	Retry              *Retry              `json:"retry,omitempty"`
	LoadBalancing      *LoadBalancing      `json:"loadBalancing,omitempty"`
	OutlierEjection    *OutlierEjection    `json:"outlierEjection,omitempty"`
	HealthCheck        *HealthCheck        `json:"healthCheck,omitempty" inherit:"whole"`
	CircuitBreaking    *CircuitBreaking    `json:"circuitBreaking,omitempty"`
	RateLimits         []RateLimit         `json:"rateLimits,omitzero"`
	Fault              *Fault              `json:"fault,omitempty" inherit:"whole"`
	SessionPersistence *SessionPersistence `json:"sessionPersistence,omitempty" inherit:"whole"`
	// MTLS is for the operator alone: it becomes Inbound.
	MTLS      *MTLS      `json:"mtls,omitempty"`
	Telemetry *Telemetry `json:"telemetry,omitempty"`
}

// MTLS says who may open connections to the pods of a Service.
type MTLS struct {
	Mode      *MTLSMode  `json:"mode,omitempty"`
	AllowFrom *AllowFrom `json:"allowFrom,omitempty" inherit:"whole"`
}

// MTLSMode says what happens to callers that the mesh has not identified.
type MTLSMode string

// The modes.
const (
	MTLSPermissive MTLSMode = "Permissive"
	MTLSStrict     MTLSMode = "Strict"
)

// AllowFrom are callers that a strict port lets in without an identity.
type AllowFrom struct {
	CIDRs           []netip.Prefix   `json:"cidrs,omitempty"`
	ServiceAccounts []ServiceAccount `json:"serviceAccounts,omitempty"`
}

// Timeouts bound a request. Zero means that there is no bound.
type Timeouts struct {
	// Request covers all tries and the whole response, BackendRequest one try until its response has
	// ended (GEP-1742).
	Request        *Duration `json:"request,omitempty"`
	BackendRequest *Duration `json:"backendRequest,omitempty"`
	// Connect bounds connecting to an endpoint, TLS included.
	Connect *Duration `json:"connect,omitempty"`
	// Idle ends an exchange, or a WebSocket or TCP connection, in which no byte has moved for so long.
	Idle *Duration `json:"idle,omitempty"`
	// Stream bounds WebSocket and TCP connections. If it is set it also takes the place of Request once a
	// response of unknown length has begun (server-sent events, gRPC), counted from the request's start.
	Stream *Duration `json:"stream,omitempty"`
}

// Retry says when a request is sent again.
type Retry struct {
	// Attempts counts the tries after the first; zero disables.
	Attempts *int `json:"attempts,omitempty"`
	// Codes are HTTP statuses and GRPCCodes the names of gRPC statuses ("UNAVAILABLE") to retry on.
	Codes     []int    `json:"codes,omitzero"`
	GRPCCodes []string `json:"grpcCodes,omitzero"`
	// Methods says which requests Codes apply to. gRPC calls are never idempotent by their method.
	Methods *RetryMethods `json:"methods,omitempty"`
	// ConnectFailures is how often a request that provably reached no application is sent elsewhere,
	// whatever its method. It does not count against Attempts or the budget.
	ConnectFailures *int `json:"connectFailures,omitempty"`
	// Backoff is the least time before the first retry; it doubles with each, up to MaxBackoff, and jitter
	// is added.
	Backoff    *Duration `json:"backoff,omitempty"`
	MaxBackoff *Duration `json:"maxBackoff,omitempty"`
	// MaxRetryAfter is the longest Retry-After of a response that is waited for; a longer one ends the
	// retries. Zero ignores Retry-After.
	MaxRetryAfter *Duration    `json:"maxRetryAfter,omitempty"`
	Budget        *RetryBudget `json:"budget,omitempty"`
}

// RetryMethods says which methods a retry on a status applies to.
type RetryMethods string

// The sets of methods.
const (
	RetryIdempotent RetryMethods = "Idempotent"
	RetryAll        RetryMethods = "All"
)

// RetryBudget limits retries to a share of the requests of the last Interval, but always allows MinRetries
// per MinInterval (GEP-3388). It is kept per proxy and Backend. A Percent of 100 does not limit.
type RetryBudget struct {
	Percent     *int      `json:"percent,omitempty"`
	Interval    *Duration `json:"interval,omitempty"`
	MinRetries  *int      `json:"minRetries,omitempty"`
	MinInterval *Duration `json:"minInterval,omitempty"`
}

// Algorithm is how an endpoint is chosen.
type Algorithm string

// The algorithms.
const (
	// PeakEWMA takes the cheaper of two random endpoints by latency and requests in flight.
	PeakEWMA Algorithm = "PeakEWMA"
	// LeastRequest takes the one of two random endpoints with fewer requests in flight.
	LeastRequest   Algorithm = "LeastRequest"
	RoundRobin     Algorithm = "RoundRobin"
	Random         Algorithm = "Random"
	ConsistentHash Algorithm = "ConsistentHash"
)

// LoadBalancing says how an endpoint of a Service is chosen.
type LoadBalancing struct {
	Algorithm *Algorithm `json:"algorithm,omitempty"`
	// Hash is what ConsistentHash hashes. A request that has none of it is balanced by PeakEWMA.
	Hash *HashKey `json:"hash,omitempty" inherit:"whole"`
	// SlowStart is the time in which an endpoint that is new, or back after an ejection, comes to its full
	// share; zero disables.
	SlowStart *Duration `json:"slowStart,omitempty"`
}

// HashType is the part of a request that is hashed.
type HashType string

// The parts of a request. HashSourceAddress is the address of the client's pod.
const (
	HashHeader         HashType = "Header"
	HashCookie         HashType = "Cookie"
	HashSourceAddress  HashType = "SourceAddress"
	HashQueryParameter HashType = "QueryParameter"
)

// HashKey names what is hashed. Name is empty for HashSourceAddress.
type HashKey struct {
	Type HashType `json:"type"`
	Name string   `json:"name,omitempty"`
}

// OutlierEjection takes endpoints out of use that fail or are much slower than the others. A failure is a
// status of 500 or more, for gRPC one of UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS, a
// connection that cannot be made or breaks, or a timeout.
type OutlierEjection struct {
	// ConsecutiveFailures in a row eject, more where the peers fail as well; zero disables.
	ConsecutiveFailures *int `json:"consecutiveFailures,omitempty"`
	// SuccessRatePercent ejects an endpoint whose share of successes within Interval is lower; zero disables.
	SuccessRatePercent *int `json:"successRatePercent,omitempty"`
	// LatencyFactor ejects an endpoint whose mean latency within Interval is more than so many times the
	// median of its peers'; zero disables.
	LatencyFactor *int `json:"latencyFactor,omitempty"`
	// Interval is how often rates and latencies are judged, MinRequests how many requests an endpoint must
	// have had in it to be judged.
	Interval    *Duration `json:"interval,omitempty"`
	MinRequests *int      `json:"minRequests,omitempty"`
	// EjectionTime is the first ejection's; it doubles with each one that follows, up to MaxEjectionTime.
	// After it one request is let through: its success ends the ejection, its failure begins another.
	EjectionTime    *Duration `json:"ejectionTime,omitempty"`
	MaxEjectionTime *Duration `json:"maxEjectionTime,omitempty"`
	// MaxEjectedPercent is how much of a Service's endpoints may be ejected at once; of several endpoints
	// one may always be, and the last is never.
	MaxEjectedPercent *int `json:"maxEjectedPercent,omitempty"`
	// PanicPercent: when fewer of the endpoints are usable than that, because they are ejected or fail
	// their health check, all are used again. Zero disables.
	PanicPercent *int `json:"panicPercent,omitempty"`
}

// HealthCheckType is the protocol of a health check.
type HealthCheckType string

// The protocols of health checks.
const (
	HealthCheckHTTP HealthCheckType = "HTTP"
	HealthCheckGRPC HealthCheckType = "GRPC"
	HealthCheckTCP  HealthCheckType = "TCP"
)

// HealthCheck probes each endpoint of a Service from every proxy of its namespace. Fields are filled in.
type HealthCheck struct {
	Type HealthCheckType `json:"type"`
	// Path is requested by HTTP checks, for which any status of 200 to 399 is healthy; Service is what gRPC
	// checks ask for (grpc.health.v1).
	Path    string `json:"path,omitempty"`
	Service string `json:"service,omitempty"`
	// Port is probed instead of the endpoint's own; zero means that.
	Port     uint16   `json:"port,omitempty"`
	Interval Duration `json:"interval"`
	Timeout  Duration `json:"timeout"`
	// Unhealthy failures in a row take an endpoint out of use, Healthy successes bring it back.
	Unhealthy int `json:"unhealthy"`
	Healthy   int `json:"healthy"`
}

// CircuitBreaking bounds what a Service and each of its endpoints is given at once; zero means no bound.
// Bounds on the Service are divided by the number of ready proxies, at least 1 each. Over a bound the
// answer is 503 with Retry-After.
type CircuitBreaking struct {
	MaxConnections *int `json:"maxConnections,omitempty"`
	MaxRequests    *int `json:"maxRequests,omitempty"`
	// MaxPendingRequests wait for their turn when MaxRequests are under way, each at most PendingTimeout
	// and never past its deadline.
	MaxPendingRequests *int              `json:"maxPendingRequests,omitempty"`
	PendingTimeout     *Duration         `json:"pendingTimeout,omitempty"`
	PerEndpoint        *EndpointBreaking `json:"perEndpoint,omitempty"`
}

// EndpointBreaking bounds what one endpoint is given by one proxy; zero means no bound. When all endpoints
// are full the request waits as MaxPendingRequests allows.
type EndpointBreaking struct {
	MaxConnections *int `json:"maxConnections,omitempty"`
	MaxRequests    *int `json:"maxRequests,omitempty"`
}

// RateLimit is a token bucket: Requests per Interval, up to Burst at once, shared by all ready proxies of
// the namespace (each has its part, at least one). With Keys there is a bucket for each combination of their
// values. Over the limit the answer is 429.
type RateLimit struct {
	Requests int            `json:"requests"`
	Interval Duration       `json:"interval"`
	Burst    int            `json:"burst"`
	Keys     []RateLimitKey `json:"keys,omitempty"`
}

// RateLimitKeyType is the part of a request that a bucket is for.
type RateLimitKeyType string

// The parts of a request. RateLimitIdentity is the caller's SPIFFE ID.
const (
	RateLimitIdentity RateLimitKeyType = "Identity"
	RateLimitHeader   RateLimitKeyType = "Header"
	RateLimitPath     RateLimitKeyType = "Path"
)

// RateLimitKey is one part of a request; Name is a header's. A request without that header has a bucket
// with all others that have none.
type RateLimitKey struct {
	Type RateLimitKeyType `json:"type"`
	Name string           `json:"name,omitempty"`
}

// Fault delays or aborts requests for tests. It applies to those that have all Headers.
type Fault struct {
	Headers []NamedMatch `json:"headers,omitempty"`
	Delay   *FaultDelay  `json:"delay,omitempty"`
	Abort   *FaultAbort  `json:"abort,omitempty"`
}

// FaultDelay holds Percent of requests back for Duration before they are sent.
type FaultDelay struct {
	Duration Duration `json:"duration"`
	Percent  int      `json:"percent"`
}

// FaultAbort answers Percent of requests with Status, gRPC ones with GRPCStatus, instead of sending them.
type FaultAbort struct {
	Status     int    `json:"status"`
	GRPCStatus string `json:"grpcStatus,omitempty"`
	Percent    int    `json:"percent"`
}

// SessionType is how a client names its session.
type SessionType string

// The ways to name a session.
const (
	SessionCookie SessionType = "Cookie"
	SessionHeader SessionType = "Header"
)

// SessionPersistence keeps a client's requests on one endpoint (GEP-1619). Set on a route it keeps them on
// one backend of the rule as well.
type SessionPersistence struct {
	Type SessionType `json:"type"`
	// Name is that of the cookie or header.
	Name string `json:"name"`
	// Path is the cookie's. Permanent gives it AbsoluteTimeout as its Max-Age.
	Path      string `json:"path,omitempty"`
	Permanent bool   `json:"permanent,omitempty"`
	// AbsoluteTimeout ends a session; zero means never.
	AbsoluteTimeout Duration `json:"absoluteTimeout,omitzero"`
}

// DefaultPolicy is the lowest level: what is in force where nobody says anything. It retries only what
// provably reached no application, ejects endpoints that fail again and again, and limits nothing.
func DefaultPolicy() *Policy {
	return &Policy{
		Timeouts: &Timeouts{
			Request:        new(Duration),
			BackendRequest: new(Duration),
			Connect:        new(Duration(2 * time.Second)),
			Idle:           new(Duration),
			Stream:         new(Duration),
		},
		Retry: &Retry{
			Attempts:        new(int),
			Methods:         new(RetryIdempotent),
			ConnectFailures: new(3),
			Backoff:         new(Duration(25 * time.Millisecond)),
			MaxBackoff:      new(Duration(time.Second)),
			MaxRetryAfter:   new(Duration(time.Second)),
			Budget: &RetryBudget{
				Percent:     new(20),
				Interval:    new(Duration(10 * time.Second)),
				MinRetries:  new(10),
				MinInterval: new(Duration(time.Second)),
			},
		},
		LoadBalancing: &LoadBalancing{
			Algorithm: new(PeakEWMA),
			SlowStart: new(Duration),
		},
		OutlierEjection: &OutlierEjection{
			ConsecutiveFailures: new(5),
			SuccessRatePercent:  new(int),
			LatencyFactor:       new(int),
			Interval:            new(Duration(10 * time.Second)),
			MinRequests:         new(20),
			EjectionTime:        new(Duration(5 * time.Second)),
			MaxEjectionTime:     new(Duration(5 * time.Minute)),
			MaxEjectedPercent:   new(50),
			PanicPercent:        new(30),
		},
		CircuitBreaking: &CircuitBreaking{
			MaxConnections:     new(int),
			MaxRequests:        new(int),
			MaxPendingRequests: new(int),
			PendingTimeout:     new(Duration(time.Second)),
			PerEndpoint: &EndpointBreaking{
				MaxConnections: new(int),
				MaxRequests:    new(int),
			},
		},
		MTLS: &MTLS{Mode: new(MTLSPermissive)},
		Telemetry: &Telemetry{
			Tracing: &Tracing{
				SamplingRate:        &Fraction{Numerator: 1, Denominator: 100},
				ParentBasedSampling: new(SamplingEnabled),
			},
			AccessLog: &AccessLog{},
		},
	}
}
