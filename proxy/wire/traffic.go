package wire

import (
	"fmt"
	"net/netip"
	"slices"
)

// The ports of a proxy pod. Destination numbers never fall below MinNumber, so a captured connection
// can never be taken for one to the proxy itself.
const (
	// PortCaptured is the one listener for captured connections; the redirect in the proxy's own
	// network namespace brings every destination number here.
	PortCaptured = 15001
	// PortHop accepts mutual TLS from the proxies of other namespaces.
	PortHop = 15002
	// PortAdmin is on loopback alone: what a proxy has and does, for people who may forward a port to its pod.
	PortAdmin = 15019
	// PortMetrics serves Prometheus metrics in plain text.
	PortMetrics = 15020
	// PortHealth serves /healthz, /readyz and, for node agents, /accepting.
	PortHealth = 15021

	// MinNumber and MaxNumber bound destination numbers.
	MinNumber = 16384
	MaxNumber = 65535
)

// Protocol says how bytes of a port are understood.
type Protocol string

const (
	// ProtocolHTTP accepts HTTP/1.1 and HTTP/2 with prior knowledge on a destination, and means
	// HTTP/1.1 towards a backend.
	ProtocolHTTP Protocol = "HTTP"
	// ProtocolH2C is HTTP/2 with prior knowledge; gRPC uses it.
	ProtocolH2C Protocol = "H2C"
	// ProtocolTCP relays opaque bytes.
	ProtocolTCP Protocol = "TCP"
)

// ServicePortKey is the key of Destination, Backend and Endpoints resources: "namespace/name:port". A
// Service outside the mesh that only consumer routes concern has a copy of its resources for each such
// namespace, whose key ends with "@" and that namespace.
func ServicePortKey(namespace, name string, port uint16) string {
	return fmt.Sprintf("%s/%s:%d", namespace, name, port)
}

// Destination is one port of a captured Service as clients address it. Key: ServicePortKey. Of a Service
// whose namespace is not enrolled there is one for each namespace with a consumer route on it, in that
// namespace's scope, with the suffix "@<that namespace>"; all of them have the same Number.
// Routes point at it; without any it is served by the Backend of the same key.
type Destination struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	// Number is how a captured connection names this destination: it arrives at the proxy as the
	// original destination port. Zero where nothing is captured (weft run, tests).
	Number uint16 `json:"number,omitempty"`
	// Addresses are the Service's cluster IPs, primary family first.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Protocol  Protocol     `json:"protocol"`
	// Policy is that of the Service, its namespace and the Mesh.
	Policy *Policy `json:"policy,omitempty"`
}

// Backend is one Service port as a place to send requests to. Key: ServicePortKey, with the suffix
// "@<namespace>" where a consumer route of that namespace refers to a Service that is not meshed.
type Backend struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	// Protocol is spoken to the endpoints.
	Protocol Protocol `json:"protocol"`
	// Meshed tells that the Service's namespace is enrolled: proxies of that namespace pick the
	// endpoint themselves, all others send the request over the hop to that namespace's Proxies.
	// Endpoints of a Service that is not meshed are dialled directly, in plain text.
	Meshed bool `json:"meshed,omitempty"`
	// Addresses are the Service's cluster IPs: the last resort when the stream to the operator is
	// lost and every known endpoint refuses.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Policy is that of the Service, its namespace and the Mesh; whoever chooses the endpoint applies its
	// load balancing, ejection, health check, circuit breaking and rate limits.
	Policy *Policy `json:"policy,omitempty"`
	// Zone tells that endpoints in the caller's zone are preferred, Node those on its node
	// (Service.spec.trafficDistribution).
	Zone bool `json:"zone,omitempty"`
	Node bool `json:"node,omitempty"`
}

// Endpoints are the addresses behind a Backend of the same key. They come from EndpointSlices on a
// side path, so that churn never rebuilds a route. A Backend without Endpoints answers 503.
type Endpoints struct {
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// Endpoint is one pod's target port, in the order of its address.
type Endpoint struct {
	Address netip.AddrPort `json:"address"`
	Zone    string         `json:"zone,omitempty"`
	Node    string         `json:"node,omitempty"`
	// Terminating endpoints that still serve are used only when no other endpoint is left
	// (EndpointSlice conditions serving and terminating).
	Terminating bool `json:"terminating,omitempty"`
	// ServiceAccount, if set, tells that the pod has a proxy of its own, which accepts the hop at PortHop of the same
	// address and presents the certificate of this ServiceAccount of the Backend's namespace. A proxy that does not
	// know the field reaches the pod's port in plain text.
	ServiceAccount string `json:"serviceAccount,omitempty"`
}

// SpeakHop tells that all endpoints have proxies of their own, and that there are some: whoever has them sends to them
// and not to the Proxies of their namespace.
func (e *Endpoints) SpeakHop() bool {
	return e != nil && len(e.Endpoints) > 0 &&
		!slices.ContainsFunc(e.Endpoints, func(e Endpoint) bool { return e.ServiceAccount == "" })
}

// Speaking is how many endpoints are not terminating, if all of them SpeakHop.
func (e *Endpoints) Speaking() int {
	if !e.SpeakHop() {
		return 0
	}
	n := 0
	for i := range e.Endpoints {
		if !e.Endpoints[i].Terminating {
			n++
		}
	}
	return n
}

// Proxies are the ready proxies of one enrolled namespace that accept the hop. Key: the namespace.
type Proxies struct {
	Proxies []Proxy `json:"proxies,omitempty"`
}

// Proxy is one proxy pod; the hop goes to Addresses at PortHop.
type Proxy struct {
	Pod string `json:"pod"`
	// Addresses holds at most one address per family, the pod's primary first.
	Addresses []netip.Addr `json:"addresses"`
	Zone      string       `json:"zone,omitempty"`
	Node      string       `json:"node,omitempty"`
}
