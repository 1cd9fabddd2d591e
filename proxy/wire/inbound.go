package wire

import (
	"net/netip"
	"time"
)

// Inbound says who may open connections to the published ports of one pod. Key: the pod's UID. Its scope is
// always the pod's node. A pod of a namespace that has a Capture has one, with no ports if nothing
// publishes any.
type Inbound struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	// Alone tells that the pod is to have a proxy of its own and has none: strict ports do not let Capture.Admitted in.
	Alone bool `json:"alone,omitempty"`
	// Ports are sorted: every TCP port of the pod that a Service with a cluster IP publishes. Others are open.
	Ports []InboundPort `json:"ports,omitempty"`
}

// InboundPort is a port of a pod, not of a Service.
type InboundPort struct {
	Port uint16 `json:"port"`
	// Strict refuses everybody but Capture.Admitted, the node itself, and Allowed. Otherwise others are counted.
	Strict bool `json:"strict,omitempty"`
	// Allowed are sorted, and none contains another.
	Allowed []netip.Prefix `json:"allowed,omitempty"`
}

// PlainCaller counts the connections that one address has opened to one port of a pod past the mesh: neither
// from Capture.Admitted, nor from the node itself, nor from the pod. Counts grow for as long as the agent
// knows the pod, and begin anew when it restarts.
type PlainCaller struct {
	// UID is the called pod's, Port its port.
	UID  string `json:"uid"`
	Port uint16 `json:"port"`
	// Source is invalid in the entry for all callers of the port that have no room of their own.
	Source netip.Addr `json:"source,omitzero"`
	// Connections were let in, Refused were not.
	Connections uint64    `json:"connections,omitempty"`
	Refused     uint64    `json:"refused,omitempty"`
	Last        time.Time `json:"last"`
}

// PlainKey identifies a PlainCaller.
type PlainKey struct {
	UID    string
	Port   uint16
	Source netip.Addr
}

// Key returns what identifies c.
func (c *PlainCaller) Key() PlainKey { return PlainKey{c.UID, c.Port, c.Source} }
