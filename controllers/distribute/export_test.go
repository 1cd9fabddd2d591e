package distribute

import (
	"testing"

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
