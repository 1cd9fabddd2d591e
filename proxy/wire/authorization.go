package wire

import (
	"strconv"
	"strings"
)

// Authorization is one MeshAuthorization as the proxies of its namespace enforce it: whoever picks the pod
// decides, so that no route of a caller leads past it. Key: "namespace/name". Its scope is always the
// namespace.
type Authorization struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Action is what a rule that matches does. Audit only counts and logs what the policy would deny.
	Action AuthorizationAction `json:"action"`
	Audit  bool                `json:"audit,omitempty"`
	// Targets are what it is for; without any it is for every Service of the namespace.
	Targets []AuthorizationTarget `json:"targets,omitempty"`
	// Tokens say which JSON Web Tokens are believed. One that is presented and cannot be verified is refused,
	// whatever the rules say.
	Tokens *TokenVerification `json:"tokens,omitempty"`
	// Rules match if one of them does.
	Rules []AuthorizationRule `json:"rules,omitempty"`
}

// AuthorizationAction is what a rule that matches does.
type AuthorizationAction string

// The actions.
const (
	AuthorizationAllow AuthorizationAction = "Allow"
	AuthorizationDeny  AuthorizationAction = "Deny"
)

// AuthorizationTarget is a Service of the policy's namespace, or one of its ports if Port is not zero.
type AuthorizationTarget struct {
	Service string `json:"service"`
	Port    uint16 `json:"port,omitempty"`
	// Requests narrow it to those that one of them matches, as the matches of a route do. What may be one of
	// them is subject to the policy; only what certainly is one can be allowed by it.
	Requests []AuthorizationOperation `json:"requests,omitempty"`
}

// AuthorizationRule matches if one of From and one of To do, and all of Conditions; without any of them it does
// not matter.
type AuthorizationRule struct {
	From []AuthorizationSource    `json:"from,omitempty"`
	To   []AuthorizationOperation `json:"to,omitempty"`
	// Conditions are expressions in the Common Expression Language.
	Conditions []string `json:"conditions,omitempty"`
}

// AuthorizationSource matches if every field that is set has a value that does.
type AuthorizationSource struct {
	ServiceAccounts []ServiceAccount `json:"serviceAccounts,omitempty"`
	Namespaces      []string         `json:"namespaces,omitempty"`
	// SPIFFE are patterns "spiffe://<trust domain>/ns/<namespace>/sa/<service account>" in which each of the
	// three may be "*".
	SPIFFE   []string  `json:"spiffe,omitempty"`
	IPBlocks []IPBlock `json:"ipBlocks,omitempty"`
	// Unauthenticated are callers whom the mesh does not know. None of them reaches a proxy; node agents let
	// them in or refuse them (Inbound).
	Unauthenticated bool `json:"unauthenticated,omitempty"`
	// Token matches requests with a token that the policy's Tokens verify.
	Token *TokenMatch `json:"token,omitempty"`
}

// ServiceAccount names an identity of the mesh.
type ServiceAccount struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// IPBlock is a network in CIDR notation, without those in Except.
type IPBlock struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

// AuthorizationOperation matches if every field that is set has a value that does; of Headers all must.
type AuthorizationOperation struct {
	// Ports are those of the Service.
	Ports   []uint16           `json:"ports,omitempty"`
	Methods []string           `json:"methods,omitempty"`
	Paths   []PathPattern      `json:"paths,omitempty"`
	GRPC    []GRPCMethod       `json:"grpc,omitempty"`
	Headers []AuthorizedHeader `json:"headers,omitempty"`
}

// PathPatternType says how a path is compared.
type PathPatternType string

// The ways to compare. PathPrefix compares segments. In a PathTemplate "{*}" stands for one segment that is
// not empty, and "{**}", at the end alone, for any number of segments.
const (
	PathExact    PathPatternType = "Exact"
	PathPrefix   PathPatternType = "Prefix"
	PathTemplate PathPatternType = "Template"
)

// PathPattern is compared with a path.
type PathPattern struct {
	Type  PathPatternType `json:"type"`
	Value string          `json:"value"`
}

// GRPCMethod is compared with the two segments of a path; an empty one matches any.
type GRPCMethod struct {
	Service string `json:"service,omitempty"`
	Method  string `json:"method,omitempty"`
}

// HeaderPatternType says how the values of a header are compared.
type HeaderPatternType string

// The ways to compare. HeaderPresent has no value.
const (
	HeaderExact   HeaderPatternType = "Exact"
	HeaderPrefix  HeaderPatternType = "Prefix"
	HeaderPresent HeaderPatternType = "Present"
)

// AuthorizedHeader is compared with the values of a header, whose name is case-insensitive.
type AuthorizedHeader struct {
	Name  string            `json:"name"`
	Type  HeaderPatternType `json:"type"`
	Value string            `json:"value,omitempty"`
}

// Key returns the key of a's resource.
func (a *Authorization) Key() string { return a.Namespace + "/" + a.Name }

// ParseServicePortKey returns the parts of a key that ServicePortKey has made; it is not ok for others,
// those of copies for one consumer among them.
func ParseServicePortKey(key string) (namespace, name string, port uint16, ok bool) {
	namespace, rest, ok := strings.Cut(key, "/")
	if !ok {
		return "", "", 0, false
	}
	name, digits, ok := strings.Cut(rest, ":")
	if !ok {
		return "", "", 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	return namespace, name, uint16(number), err == nil && namespace != "" && name != ""
}
