// Package attribute owns the names of what is told about a request or a connection, in spans, in the access log and as
// labels of metrics alike. They are those of the Gateway API's dictionary of attributes (GEP-5253), which has them from
// OpenTelemetry's semantic conventions; what neither knows begins with "weft.", since a name outside of the conventions
// needs a namespace that is its application's own (OpenTelemetry, naming; GEP-5253, attributes outside the dictionary).
// In metrics they have the form that Prometheus gives them: see Label. The package looks into no request.
package attribute

import (
	"strconv"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// Keys of the dictionary and of the conventions.
const (
	Method          = "http.request.method"
	MethodOriginal  = "http.request.method_original"
	Status          = "http.response.status_code"
	UserAgent       = "user_agent.original"
	ErrorType       = "error.type"
	Scheme          = "url.scheme"
	Path            = "url.path"
	Query           = "url.query"
	ClientAddress   = "client.address"
	ClientPort      = "client.port"
	ServerAddress   = "server.address"
	ServerPort      = "server.port"
	PeerAddress     = "network.peer.address"
	PeerPort        = "network.peer.port"
	ProtocolName    = "network.protocol.name"
	ProtocolVersion = "network.protocol.version"
	Transport       = "network.transport"
	// ResendCount is how many tries have gone before this one.
	ResendCount = "http.request.resend_count"
	// RPCSystem and RPCStatus are of gRPC calls; the latter is the name of the status.
	RPCSystem = "rpc.system.name"
	RPCStatus = "rpc.response.status_code"
)

// Keys of resources.
const (
	ServiceName      = "service.name"
	ServiceNamespace = "service.namespace"
	ServiceVersion   = "service.version"
	ServiceInstance  = "service.instance.id"
	K8sNamespace     = "k8s.namespace.name"
	K8sPod           = "k8s.pod.name"
	K8sNode          = "k8s.node.name"
)

// Keys of Weft's own. None is the beginning of another one up to a dot: a name must not be a namespace as well.
const (
	// Listener is "captured" where the proxy of the client's namespace tells, "hop" where that of the callee's does.
	Listener = "weft.listener"
	// TLS is how the connection is protected that this is about: "mtls" or "none".
	TLS = "weft.tls"
	// SourceID is the SPIFFE ID of the client, of which the others are parts.
	SourceID        = "weft.source.id"
	SourceNamespace = "weft.source.namespace"
	SourceAccount   = "weft.source.service_account"
	// DestinationNamespace, DestinationService and DestinationPort are the Service port that was called.
	DestinationNamespace = "weft.destination.namespace"
	DestinationService   = "weft.destination.service"
	DestinationPort      = "weft.destination.port"
	// RouteKind, RouteNamespace, RouteName and Rule are what has taken the request, Backend the Service port that it was
	// sent to, as namespace/name:port.
	RouteKind      = "weft.route.kind"
	RouteNamespace = "weft.route.namespace"
	RouteName      = "weft.route.name"
	Rule           = "weft.rule"
	Backend        = "weft.backend"
	// Endpoint is where the last try went, Tries how many there were.
	Endpoint = "weft.endpoint"
	Tries    = "weft.tries"
	// Reason is why the proxy has answered itself, or cut the answer.
	Reason = "weft.reason"
	// AuthorizationPolicy, its rule and its verdict are what has decided who may call.
	AuthorizationPolicy  = "weft.authorization.policy"
	AuthorizationRule    = "weft.authorization.rule"
	AuthorizationVerdict = "weft.authorization.verdict"
	// RetryReason is why a try was made again.
	RetryReason = "weft.retry.reason"
	RequestID   = "weft.request_id"
	// Hop tells that a try went to the proxy of another namespace.
	Hop = "weft.hop"
)

// Attribute is a key with a text or a number.
type Attribute struct {
	Key  string
	Text string
	// Number is the value if Numeric is set.
	Number  int64
	Numeric bool
}

// String returns an attribute with a text.
func String(key, text string) Attribute { return Attribute{Key: key, Text: text} }

// Int returns an attribute with a number.
func Int(key string, n int64) Attribute { return Attribute{Key: key, Number: n, Numeric: true} }

// Value is the text, or the number in decimal digits.
func (a *Attribute) Value() string {
	if a.Numeric {
		return strconv.FormatInt(a.Number, 10)
	}
	return a.Text
}

// Label is what a key is called as a label of a metric, by OpenTelemetry's rules for Prometheus.
func Label(key string) string { return strings.ReplaceAll(key, ".", "_") }

// AppendDestination appends a destination by its key: a Service port, with "@" and a namespace if it is for clients there
// alone (wire.Destination). What is no such key is taken for the name of a Service; empty, it adds nothing.
func AppendDestination(out []Attribute, key string) []Attribute {
	servicePort, _, _ := strings.Cut(key, "@")
	namespace, service, port, ok := wire.ParseServicePortKey(servicePort)
	switch {
	case ok:
		return append(out, String(DestinationNamespace, namespace), String(DestinationService, service), Int(DestinationPort, int64(port)))
	case key != "":
		return append(out, String(DestinationService, key))
	}
	return out
}

// AppendRoute appends a route, written as "kind/namespace/name". What is not adds nothing.
func AppendRoute(out []Attribute, route string) []Attribute {
	kind, rest, ok := strings.Cut(route, "/")
	namespace, name, whole := strings.Cut(rest, "/")
	if !ok || !whole {
		return out
	}
	return append(out, String(RouteKind, kind), String(RouteNamespace, namespace), String(RouteName, name))
}

// Protection is the value of TLS.
func Protection(secure bool) string {
	if secure {
		return "mtls"
	}
	return "none"
}

// Other takes the place of a method that is not known, whose name could be anything.
const Other = "_OTHER"

// KnownMethod returns the method, or Other if it is none of RFC 9110 section 9 or PATCH.
func KnownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return method
	}
	return Other
}

// Redacted takes the place of what may be a secret.
const Redacted = "REDACTED"

// RedactQuery returns a query with the names of its parameters, and Redacted for the value of each. A parameter
// without "=" is all value.
func RedactQuery(query string) string {
	if query == "" {
		return ""
	}
	var out strings.Builder
	for i, part := range strings.Split(query, "&") {
		if i > 0 {
			out.WriteByte('&')
		}
		name, _, named := strings.Cut(part, "=")
		switch {
		case named:
			out.WriteString(name + "=" + Redacted)
		case part != "":
			out.WriteString(Redacted)
		}
	}
	return out.String()
}

// maxText bounds a text that comes from a request.
const maxText = 1024

// Bound shortens a text that comes from a request.
func Bound(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "")
}
