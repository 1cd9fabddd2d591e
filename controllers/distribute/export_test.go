package distribute

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/wire"
)

// JoinNode lets a node agent without a stream join and report; it returns how to leave.
func JoinNode(t *testing.T, h *Hub, node string, report wire.NodeReport) (leave func()) {
	t.Helper()
	c := h.join(Identity{Kind: ClientNode, Namespace: "weft-system", Pod: "agent-" + node, Node: node}, &wire.Hello{})
	if err := h.report(c, &report); err != nil {
		t.Fatal(err)
	}
	return func() { h.leave(c) }
}

// NewLagAt is NewLag with another clock.
func NewLagAt(hub *Hub, now func() time.Time) prometheus.Collector {
	return &lag{hub: hub, now: now, behind: map[slot]behind{}}
}
