package distribute

import (
	"fmt"
	"maps"
	"time"

	"weft.dev/weft/proxy/wire"
)

// maxPodsPerNode bounds what one agent can make the operator remember. Kubernetes recommends 110 pods
// on a node and large installations allow a few hundred.
const maxPodsPerNode = 8192

// maxPlainPerNode bounds the callers past the mesh that are remembered of a node. Further ones are not.
const maxPlainPerNode = 1 << 15

// NodeState is the last that a node's agent said. The hub believes none of it: whether a pod is on the
// node and may use an address is for others to check.
type NodeState struct {
	// Connected tells that the agent's stream is up; Since is when that began or ended.
	Connected bool
	Since     time.Time
	Build     string
	// Complete tells that the agent has reported all its pods at least once.
	Complete bool
	// Current tells that the agent is connected and has reported all its pods on this stream: a pod that is not
	// among them has no network. While an agent is away there may be others.
	Current bool
	// Pods are the running sandboxes by UID. The map must not be changed.
	Pods   map[string]wire.PodReport
	Canary *wire.CanaryReport
	// Plain are the callers past the mesh. The map must not be changed.
	Plain map[wire.PlainKey]wire.PlainCaller
}

type node struct {
	state NodeState
	// streams counts those that began, so that a grace period that was cut short ends nothing.
	streams int
}

// Nodes returns the state of every node that has a stream, or had one within the grace period: the pods
// of a node whose agent restarts stay known.
func (h *Hub) Nodes() map[string]NodeState {
	h.mu.RLock()
	defer h.mu.RUnlock()
	nodes := make(map[string]NodeState, len(h.nodes))
	for name, n := range h.nodes {
		nodes[name] = n.state
	}
	return nodes
}

// nodeConnected notes a new stream. The lock is held.
func (h *Hub) nodeConnected(c *client) {
	n := h.nodes[c.identity.Node]
	if n == nil {
		n = &node{state: NodeState{Pods: map[string]wire.PodReport{}}}
		h.nodes[c.identity.Node] = n
	}
	n.streams++
	n.state.Current = false
	n.state.Connected, n.state.Since, n.state.Build = true, c.connected, c.build
}

// nodeDisconnected starts the grace period, unless another agent pod of the node is connected, as
// during a rollout: then it is not away. The lock is held.
func (h *Hub) nodeDisconnected(c *client) (away bool) {
	name := c.identity.Node
	for _, other := range h.clients {
		if other.identity.Kind == ClientNode && other.identity.Node == name {
			return false
		}
	}
	n := h.nodes[name]
	n.state.Connected, n.state.Current, n.state.Since = false, false, time.Now()
	streams := n.streams
	time.AfterFunc(h.grace, func() { h.forgetNode(name, n, streams) })
	return true
}

func (h *Hub) forgetNode(name string, n *node, streams int) {
	h.reports.Lock()
	defer h.reports.Unlock()
	h.mu.Lock()
	over := h.nodes[name] == n && n.streams == streams
	if over {
		delete(h.nodes, name)
		h.notify()
	}
	h.mu.Unlock()
	if over && h.observer != nil {
		h.observer.NodeLost(name)
	}
}

// report takes a node agent's report and tells the observer.
func (h *Hub) report(c *client, report *wire.NodeReport) error {
	if c.identity.Kind != ClientNode {
		return fmt.Errorf("%w: a %s sent a node report", errProtocol, c.identity.Kind)
	}
	h.reports.Lock()
	defer h.reports.Unlock()
	taken, err := h.takeReport(c, report)
	if err != nil || !taken {
		return err
	}
	if h.observer != nil {
		h.observer.NodeReported(c.identity.Node, *report)
	}
	return nil
}

func (h *Hub) takeReport(c *client, report *wire.NodeReport) (taken bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[c.identity.slot()] != c {
		return false, nil
	}
	n := h.nodes[c.identity.Node]
	pods := map[string]wire.PodReport{}
	if !report.Full {
		pods = maps.Clone(n.state.Pods)
	}
	for _, pod := range report.Pods {
		if pod.Ended {
			delete(pods, pod.UID)
		} else {
			pods[pod.UID] = pod
		}
	}
	if len(pods) > maxPodsPerNode {
		return false, fmt.Errorf("%w: node %s reports %d pods, more than %d",
			errProtocol, c.identity.Node, len(pods), maxPodsPerNode)
	}
	n.state.Plain = plainAfter(n.state.Plain, report)
	n.state.Pods = pods
	n.state.Complete = n.state.Complete || report.Full
	n.state.Current = n.state.Current || report.Full
	if report.Canary != nil {
		n.state.Canary = report.Canary
	}
	h.notify()
	return true, nil
}

// plainAfter returns the callers past the mesh that are known after a report. Those of pods that have ended are
// not any more.
func plainAfter(before map[wire.PlainKey]wire.PlainCaller, report *wire.NodeReport) map[wire.PlainKey]wire.PlainCaller {
	ended := map[string]bool{}
	for _, pod := range report.Pods {
		if pod.Ended {
			ended[pod.UID] = true
		}
	}
	if len(report.Plain) == 0 && len(ended) == 0 && !report.Full {
		return before
	}
	after := make(map[wire.PlainKey]wire.PlainCaller, len(before)+len(report.Plain))
	if !report.Full {
		for key, caller := range before {
			if !ended[key.UID] {
				after[key] = caller
			}
		}
	}
	for _, caller := range report.Plain {
		key := caller.Key()
		if _, known := after[key]; known || len(after) < maxPlainPerNode {
			after[key] = caller
		}
	}
	return after
}
