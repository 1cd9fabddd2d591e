package telemetry

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/attribute"
)

// Labels that several metrics share with spans and the access log. All values come from configuration or from fixed
// sets, never from a request.
var (
	labelListener       = attribute.Label(attribute.Listener)
	labelSourceNS       = attribute.Label(attribute.SourceNamespace)
	labelSourceAccount  = attribute.Label(attribute.SourceAccount)
	labelDestinationNS  = attribute.Label(attribute.DestinationNamespace)
	labelDestination    = attribute.Label(attribute.DestinationService)
	labelPort           = attribute.Label(attribute.DestinationPort)
	labelRouteKind      = attribute.Label(attribute.RouteKind)
	labelRouteNamespace = attribute.Label(attribute.RouteNamespace)
	labelRoute          = attribute.Label(attribute.RouteName)
	labelRule           = attribute.Label(attribute.Rule)
	labelBackend        = attribute.Label(attribute.Backend)
	labelTLS            = attribute.Label(attribute.TLS)
	labelStatus         = attribute.Label(attribute.Status)
	labelRPCStatus      = attribute.Label(attribute.RPCStatus)
	labelError          = attribute.Label(attribute.ErrorType)
	labelReason         = attribute.Label(attribute.Reason)
	labelRetryReason    = attribute.Label(attribute.RetryReason)
	labelProtocol       = attribute.Label(attribute.ProtocolName)
	labelVerdict        = attribute.Label(attribute.AuthorizationVerdict)
	labelPolicy         = attribute.Label(attribute.AuthorizationPolicy)
	labelPolicyRule     = attribute.Label(attribute.AuthorizationRule)
)

// family is one of the metrics that grow with configuration and traffic.
type family uint8

const (
	httpServer family = iota
	rpcServer
	httpClient
	rpcClient
	retries
	tcpConnections
	tcpActive
	tcpSent
	tcpReceived
	families // how many there are
)

// definition says what a family is called and has.
type definition struct {
	name, help string
	valueType  prometheus.ValueType // histograms have none
	histogram  bool
	// caller tells that callers are told apart.
	caller bool
	// more are the labels beyond those of the rule.
	more []string
}

var ruleLabelNames = []string{
	labelListener, labelDestinationNS, labelDestination, labelPort,
	labelRouteKind, labelRouteNamespace, labelRoute, labelRule, labelBackend,
}

var callerLabelNames = []string{labelSourceNS, labelSourceAccount}

var definitions = [families]definition{
	httpServer: {
		name: "http_server_request_duration_seconds", histogram: true, caller: true,
		help: "Time from a request's head to the end of its answer; of one that switches protocols, to the switch. gRPC calls are in rpc_server_call_duration_seconds.",
		more: []string{labelTLS, labelStatus, labelError},
	},
	rpcServer: {
		name: "rpc_server_call_duration_seconds", histogram: true, caller: true,
		help: "Time from a gRPC call's head to the end of its answer.",
		more: []string{labelTLS, labelRPCStatus, labelError},
	},
	httpClient: {
		name: "http_client_request_duration_seconds", histogram: true,
		help: "Time from sending a request to a backend, or to the proxy in front of it, to the head of its response or the failure: one try. gRPC calls are in rpc_client_call_duration_seconds.",
		more: []string{labelTLS, labelStatus, labelError},
	},
	rpcClient: {
		name: "rpc_client_call_duration_seconds", histogram: true,
		help: "Time from sending a gRPC call to a backend, or to the proxy in front of it, to the head of its response or the failure: one try.",
		more: []string{labelTLS, labelStatus, labelError},
	},
	retries: {
		name: "weft_upstream_retries_total", valueType: prometheus.CounterValue,
		help: "Tries that repeat another one, by the reason that it was not enough.",
		more: []string{labelRetryReason},
	},
	tcpConnections: {
		name: "weft_tcp_connections_total", valueType: prometheus.CounterValue, caller: true,
		help: "Connections of opaque bytes that have ended, TCP and upgraded ones, and those that were refused; error_type says why they ended if neither side had ended them.",
		more: []string{labelTLS, labelProtocol, labelError},
	},
	tcpActive: {
		name: "weft_tcp_connections_active", valueType: prometheus.GaugeValue, caller: true,
		help: "Connections of opaque bytes that are open now.",
		more: []string{labelTLS, labelProtocol},
	},
	tcpSent: {
		name: "weft_tcp_sent_bytes_total", valueType: prometheus.CounterValue, caller: true,
		help: "Bytes that clients have sent over connections of opaque bytes; counted when a connection ends.",
		more: []string{labelTLS, labelProtocol},
	},
	tcpReceived: {
		name: "weft_tcp_received_bytes_total", valueType: prometheus.CounterValue, caller: true,
		help: "Bytes that clients have received over connections of opaque bytes; counted when a connection ends.",
		more: []string{labelTLS, labelProtocol},
	},
}

// descs are what Prometheus' library knows of the families.
var descs = func() (descs [families]*prometheus.Desc) {
	for f, d := range definitions {
		labels := slices.Clone(ruleLabelNames)
		if d.caller {
			labels = append(labels, callerLabelNames...)
		}
		descs[f] = prometheus.NewDesc(d.name, d.help, append(labels, d.more...), nil)
	}
	return descs
}()

// cost is how many series one set of labels makes.
func (f family) cost() int {
	if definitions[f].histogram {
		return histogramSeries
	}
	return 1
}
