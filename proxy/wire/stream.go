package wire

import (
	"net/netip"
	"time"
)

// The gRPC method of the stream: bidirectional, ClientMessage up, ServerMessage down. Messages are
// JSON, marked with the content-subtype Codec.
const (
	Codec         = "weft-json"
	ServiceName   = "weft.config.v1alpha1.Config"
	StreamName    = "Stream"
	StreamMethod  = "/" + ServiceName + "/" + StreamName
	TokenAudience = "weft"
)

// ClientMessage is what a proxy or node agent sends; exactly one field is set. The first message of a
// stream is Hello.
type ClientMessage struct {
	Hello *Hello      `json:"hello,omitempty"`
	Ack   *Ack        `json:"ack,omitempty"`
	Node  *NodeReport `json:"node,omitempty"`
}

// Hello opens a stream with the versions that the client already holds, so that only differences
// follow. Who the client is comes from its token, never from here.
type Hello struct {
	Held []Held `json:"held,omitempty"`
	// Build is the client's version, for people.
	Build string `json:"build,omitempty"`
	// Revision is the client's: what it does not know it leaves out.
	Revision int `json:"revision,omitempty"`
}

// Held is a resource the client has.
type Held struct {
	Ref     `json:",inline"`
	Version string `json:"version"`
}

// Ack says that the delta with this sequence number is in force, except for what was rejected: those
// resources keep their previous version.
type Ack struct {
	Seq      uint64      `json:"seq"`
	Rejected []Rejection `json:"rejected,omitempty"`
}

// Rejection names a resource that the client cannot use and why.
type Rejection struct {
	Ref     `json:",inline"`
	Version string `json:"version"`
	Reason  string `json:"reason"`
}

// ServerMessage is what the operator sends.
type ServerMessage struct {
	Delta *Delta `json:"delta,omitempty"`
}

// Delta brings a client from its previous state to the state of Seq in one step: it spans all kinds
// and is applied as one swap. Seq grows with every publication. The first delta of a stream completes
// the client's state; from then on the client may be ready.
type Delta struct {
	Seq      uint64     `json:"seq"`
	Upserted []Resource `json:"upserted,omitempty"`
	Removed  []Ref      `json:"removed,omitempty"`
}

// NodeReport is sent by node agents: all pods on connect, then changes, and the proof of capture.
type NodeReport struct {
	// Full tells that Pods are all sandboxes of the node, not only changes.
	Full   bool          `json:"full,omitempty"`
	Pods   []PodReport   `json:"pods,omitempty"`
	Canary *CanaryReport `json:"canary,omitempty"`
	// Plain are callers whose counts have changed, all of them in a Full report.
	Plain []PlainCaller `json:"plain,omitempty"`
}

// PodReport is one sandbox's start or end as the container runtime told it.
type PodReport struct {
	UID       string       `json:"uid"`
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Ended     bool         `json:"ended,omitempty"`
	// Captured tells that the pod's rules are in force; Reason says why not.
	Captured bool   `json:"captured,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Late tells that containers ran before the rules were in force, for at most Gap.
	Late bool     `json:"late,omitempty"`
	Gap  Duration `json:"gap,omitzero"`
	// Inbound is the version of the Inbound whose rules are in force in the pod; empty if none is.
	Inbound string `json:"inbound,omitempty"`
}

// CanaryReport is what an agent has proven on its own node, in a network namespace made for it.
type CanaryReport struct {
	Time time.Time `json:"time"`
	// Captured: a connection to a cluster IP arrived at the proxy with the right number.
	Captured bool `json:"captured"`
	// Guarded: packets with a forged source address did not leave.
	Guarded bool `json:"guarded"`
	// StrictEnforced: the strict filter refused a foreign caller and let an allowed one in.
	StrictEnforced bool   `json:"strictEnforced"`
	Reason         string `json:"reason,omitempty"`
}
