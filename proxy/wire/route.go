package wire

import (
	"strconv"
	"time"
)

// RouteKind is the API kind of a route.
type RouteKind string

// The kinds of routes.
const (
	RouteHTTP RouteKind = "HTTPRoute"
	RouteGRPC RouteKind = "GRPCRoute"
)

// Route is one rule of an HTTPRoute or GRPCRoute as it is attached to Destinations.
// Key: "Kind/namespace/name/rule" with the suffix "@consumer" for consumer routes.
// A rule without Matches matches nothing: a GRPCRoute without rules is attached all the same, and
// requests that match no rule of an attached route are refused (GEP-1294).
type Route struct {
	Kind      RouteKind `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	// Rule is the index in spec.rules, RuleName its name if it has one.
	Rule     int    `json:"rule"`
	RuleName string `json:"ruleName,omitempty"`
	// Consumer routes apply to clients of Namespace alone and hide all producer routes of their
	// destinations from them (GEP-1294).
	Consumer bool `json:"consumer,omitempty"`
	// Destinations are the keys this rule is attached to, sorted.
	Destinations []string `json:"destinations"`
	// Created is the route's creationTimestamp: of equally specific matches the older route's wins,
	// then the first by "namespace/name", then the first rule, then the first match.
	Created time.Time `json:"created"`

	Matches  []Match           `json:"matches,omitempty"`
	Filters  []Filter          `json:"filters,omitempty"`
	Backends []WeightedBackend `json:"backends,omitempty"`
	// Policy holds what the rule itself says of timeouts and retries, over the policies of the rule, the
	// route and, for a consumer route, its namespace. It is laid over that of the Destination.
	Policy *Policy `json:"policy,omitempty"`
}

// Key returns the key of r's resource.
func (r *Route) Key() string {
	key := string(r.Kind) + "/" + r.Namespace + "/" + r.Name + "/" + strconv.Itoa(r.Rule)
	if r.Consumer {
		key += "@consumer"
	}
	return key
}

// MatchType says how a value is compared. Regular expressions are RE2, matched against the whole value.
type MatchType string

// The ways to compare. Prefix compares path segments ("/a" matches "/a" and "/a/b", not "/ab").
const (
	MatchExact  MatchType = "Exact"
	MatchPrefix MatchType = "Prefix"
	MatchRegex  MatchType = "Regex"
)

// Match holds conditions that must all be true. Path and GRPC exclude each other.
type Match struct {
	Path    *ValueMatch  `json:"path,omitempty"`
	GRPC    *GRPCMatch   `json:"grpc,omitempty"`
	Method  string       `json:"method,omitempty"`
	Headers []NamedMatch `json:"headers,omitempty"`
	Query   []NamedMatch `json:"query,omitempty"`
}

// ValueMatch compares one value.
type ValueMatch struct {
	Type  MatchType `json:"type"`
	Value string    `json:"value"`
}

// NamedMatch compares a header (names are case-insensitive) or a query parameter (names are not).
type NamedMatch struct {
	Name  string    `json:"name"`
	Type  MatchType `json:"type"`
	Value string    `json:"value"`
}

// GRPCMatch compares the two segments of a gRPC path; an empty one matches any.
type GRPCMatch struct {
	Type    MatchType `json:"type"`
	Service string    `json:"service,omitempty"`
	Method  string    `json:"method,omitempty"`
}

// Filter is one filter of a rule or a backend; exactly one field is set. Filters apply in order.
type Filter struct {
	RequestHeaders  *HeaderModifier `json:"requestHeaders,omitempty"`
	ResponseHeaders *HeaderModifier `json:"responseHeaders,omitempty"`
	Redirect        *Redirect       `json:"redirect,omitempty"`
	URLRewrite      *URLRewrite     `json:"urlRewrite,omitempty"`
	Mirror          *Mirror         `json:"mirror,omitempty"`
	CORS            *CORS           `json:"cors,omitempty"`
}

// HeaderModifier sets, adds and removes fields, in that order.
type HeaderModifier struct {
	Set    []HeaderField `json:"set,omitempty"`
	Add    []HeaderField `json:"add,omitempty"`
	Remove []string      `json:"remove,omitempty"`
}

// HeaderField is a header's name and value.
type HeaderField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Redirect answers with a redirection. An absent part keeps the request's own.
type Redirect struct {
	Scheme   string        `json:"scheme,omitempty"`
	Hostname string        `json:"hostname,omitempty"`
	Port     uint16        `json:"port,omitempty"`
	Path     *PathModifier `json:"path,omitempty"`
	Status   int           `json:"status"`
}

// URLRewrite changes what is forwarded.
type URLRewrite struct {
	Hostname string        `json:"hostname,omitempty"`
	Path     *PathModifier `json:"path,omitempty"`
}

// PathModifier replaces the path or the matched prefix of it; exactly one field is set. The prefix
// replaced is that of the rule's PathPrefix match, which the compiler has checked to exist.
type PathModifier struct {
	ReplaceFullPath    *string `json:"replaceFullPath,omitempty"`
	ReplacePrefixMatch *string `json:"replacePrefixMatch,omitempty"`
}

// Mirror sends a copy of the request to a backend and ignores the answer. Of Denominator requests
// Numerator are mirrored; Denominator is never zero.
type Mirror struct {
	Backend     string `json:"backend"`
	Numerator   int32  `json:"numerator"`
	Denominator int32  `json:"denominator"`
}

// CORS answers preflight requests and marks responses, as the Gateway API defines it (GEP-1767).
type CORS struct {
	AllowOrigins     []string `json:"allowOrigins,omitempty"`
	AllowCredentials bool     `json:"allowCredentials,omitempty"`
	AllowMethods     []string `json:"allowMethods,omitempty"`
	AllowHeaders     []string `json:"allowHeaders,omitempty"`
	ExposeHeaders    []string `json:"exposeHeaders,omitempty"`
	// MaxAge is in seconds.
	MaxAge int32 `json:"maxAge,omitempty"`
}

// WeightedBackend takes Weight out of the sum of a rule's weights. If all are zero, or there is no
// backend and no redirect, the rule answers 500.
type WeightedBackend struct {
	// Backend is the key of a Backend; empty if the reference could not be resolved, in which case
	// its share of requests is answered with 500 (GEP-1294).
	Backend string   `json:"backend,omitempty"`
	Weight  int32    `json:"weight"`
	Filters []Filter `json:"filters,omitempty"`
}
