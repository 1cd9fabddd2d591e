package wire

import (
	"net/netip"
	"time"
)

// Mesh is what every proxy and node agent shares. Key: "mesh".
type Mesh struct {
	// TrustDomain is the SPIFFE trust domain.
	TrustDomain string `json:"trustDomain"`
	// TrustBundle holds the PEM certificates of all roots that are trusted now.
	TrustBundle string `json:"trustBundle"`
	// MaxConnectionAge ends captured connections gracefully (GOAWAY, Connection: close), so that they
	// converge on the present proxies.
	MaxConnectionAge Duration `json:"maxConnectionAge,omitzero"`
	// Removed tells node agents that Weft is being removed from the cluster: nothing of theirs must stay.
	Removed bool `json:"removed,omitempty"`
	// Traces is where proxies send spans; nil if nothing is traced.
	Traces *Collector `json:"traces,omitempty"`
}

// Workload joins a pod's address with its ServiceAccount. Key: the address. A connection from an
// address without a Workload is not admitted; an address that two pods claim has none.
type Workload struct {
	Address        netip.Addr `json:"address"`
	Pod            string     `json:"pod"`
	UID            string     `json:"uid"`
	Namespace      string     `json:"namespace"`
	ServiceAccount string     `json:"serviceAccount"`
	// Node is where the pod runs, Zone where that node is; empty if it has no zone.
	Node string `json:"node,omitempty"`
	Zone string `json:"zone,omitempty"`
}

// ProxyAccount is the ServiceAccount that the proxies of a namespace run as.
const ProxyAccount = "weft-proxy"

// Sidecar is what the proxy beside one pod is told of its own pod. Key: "namespace/pod". Its scope is always the pod,
// which is to say its proxy.
type Sidecar struct {
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	UID            string `json:"uid"`
	ServiceAccount string `json:"serviceAccount"`
	// Addresses are the pod's, sorted; empty until they are known.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Node is where the pod runs, Zone where that node is; empty if it has no zone.
	Node string `json:"node,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Ports are what Services publish of the pod, sorted by Backend.
	Ports []SidecarPort `json:"ports,omitempty"`
}

// SidecarPort is the port of a pod that serves a Backend.
type SidecarPort struct {
	// Backend is the Backend's key.
	Backend string `json:"backend"`
	Port    uint16 `json:"port"`
}

// Certificate is a key pair that the namespace's proxies present for one ServiceAccount, and the proxy beside a pod of
// that ServiceAccount.
// Key: "namespace/serviceaccount". The private key is a secret: its scope is always the namespace, of whose proxies
// beside pods only those of the ServiceAccount receive it.
type Certificate struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	// SPIFFEID is "spiffe://<trust domain>/ns/<namespace>/sa/<serviceaccount>".
	SPIFFEID string `json:"spiffeID"`
	// Chain holds PEM certificates, the leaf first, then the intermediates; Key is PKCS #8 in PEM.
	Chain    string    `json:"chain"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"notAfter"`
	// Proxy marks the certificate of the namespace's own proxies, which they present as servers.
	Proxy bool `json:"proxy,omitempty"`
}

// Capture tells node agents what the pods of one namespace send to which proxies.
// Key: the namespace. An agent that has no Capture for a namespace leaves its pods alone.
type Capture struct {
	// Ports are sorted by address and port. They hold only destinations that every ready proxy of the
	// namespace has acknowledged.
	Ports []CapturedPort `json:"ports,omitempty"`
	// Proxies are those ready to accept; the agent probes them at PortHealth itself as well.
	Proxies []Proxy `json:"proxies,omitempty"`
	// Admitted are the addresses of all proxies of the namespace, ready or not, sorted. They get through to
	// every port.
	Admitted []netip.Addr `json:"admitted,omitempty"`
	// Strict tells that some port of the namespace is strict. A pod whose Inbound has not come is then open to
	// Admitted and to its own node alone.
	Strict bool `json:"strict,omitempty"`
}

// CapturedPort maps a cluster IP and port to a destination number.
type CapturedPort struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Number  uint16     `json:"number"`
	// Routed tells that a route or an authorization decides what happens to the connection. While no proxy
	// is ready a routed port is refused; others go to the Service as they would without the mesh.
	Routed bool `json:"routed,omitempty"`
}
