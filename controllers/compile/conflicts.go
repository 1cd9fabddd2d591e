package compile

import (
	"strconv"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// leaveUnnumbered takes away the ports that cannot be captured because numbers have run out.
func (c *Compiler) leaveUnnumbered(u *unit) {
	for _, p := range u.parents() {
		p.leaveAll(ReasonNumbersExhausted, func(at place) string {
			if c.numberOf[at] != 0 {
				return ""
			}
			return "cannot be captured: all " + strconv.Itoa(wire.MaxNumber-wire.MinNumber+1) + " destination numbers are in use"
		})
	}
}

// leaveUndeclared takes away the ports that declare nothing and that no route which may speak for them
// makes HTTP: otherwise a consumer could change a port for the clients of all namespaces.
func (c *Compiler) leaveUndeclared(u *unit) {
	for _, p := range u.parents() {
		p.leaveAll(gwv1.RouteReasonNoMatchingParent, func(at place) string {
			if c.world.declared(at).class != classNone || c.spoken[at] > 0 {
				return ""
			}
			return "does not say that it speaks HTTP: its owner can set appProtocol: http"
		})
	}
}

// leaveConflicted takes away the ports of HTTPRoutes that have a GRPCRoute, which comes first (GEP-1294).
// Producer and consumer routes do not meet, so each group has conflicts of its own.
func (c *Compiler) leaveConflicted(u *unit) {
	for _, p := range u.parents() {
		p.leaveAll(ReasonConflicted, func(at place) string {
			first := c.grpc[p.group(at)]
			if p.route.kind == wire.RouteGRPC || len(first) == 0 {
				return ""
			}
			return "has " + winner(first).String() + " attached, and GRPCRoutes come before HTTPRoutes"
		})
	}
}

// winner is the first of several GRPCRoutes by name.
func winner(units []*unit) Target {
	var first Target
	for i, u := range units {
		if i == 0 || compareTargets(u.id, first) < 0 {
			first = u.id
		}
	}
	return first
}

// group is the routes of a place that are merged: its producer routes, or the consumer routes of one
// namespace.
type group struct {
	place    place
	consumer string
}

func (p *parent) group(at place) group {
	g := group{place: at}
	if p.consumer {
		g.consumer = p.route.meta.Namespace
	}
	return g
}
