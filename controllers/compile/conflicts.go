package compile

import (
	"strconv"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// settle decides what parents can only know of each other, and refuses those of which nothing is left.
func (w *world) settle(parents []*parent, numbers Numbers) {
	w.leaveUnnumbered(parents, numbers)
	w.leaveUndeclared(parents)
	leaveConflicted(parents)
	for _, p := range parents {
		p.conclude()
	}
}

// leaveUnnumbered takes away the ports that cannot be captured because numbers have run out.
func (w *world) leaveUnnumbered(parents []*parent, numbers Numbers) {
	for _, p := range parents {
		p.leaveAll(ReasonNumbersExhausted, func(at place) string {
			if numbers[w.numberKey(at)] != 0 {
				return ""
			}
			return "cannot be captured: all " + strconv.Itoa(wire.MaxNumber-wire.MinNumber+1) + " destination numbers are in use"
		})
	}
}

// leaveUndeclared takes away the ports that declare nothing and that no route which may speak for them
// makes HTTP: otherwise a consumer could change a port for the clients of all namespaces.
func (w *world) leaveUndeclared(parents []*parent) {
	spoken := make(map[place]bool)
	for _, p := range parents {
		for _, at := range p.places {
			spoken[at] = spoken[at] || p.route.speaksFor(at)
		}
	}
	for _, p := range parents {
		p.leaveAll(gwv1.RouteReasonNoMatchingParent, func(at place) string {
			if w.declared(at).class != classNone || spoken[at] {
				return ""
			}
			return "does not say that it speaks HTTP: its owner can set appProtocol: http"
		})
	}
}

// leaveConflicted takes away the ports of HTTPRoutes that have a GRPCRoute, which comes first (GEP-1294).
// Producer and consumer routes do not meet, so each group has conflicts of its own.
func leaveConflicted(parents []*parent) {
	winners := make(map[group]*route)
	for _, p := range parents {
		for _, at := range p.places {
			if g := p.group(at); p.route.kind == wire.RouteGRPC && winners[g] == nil {
				winners[g] = p.route
			}
		}
	}
	for _, p := range parents {
		p.leaveAll(ReasonConflicted, func(at place) string {
			winner := winners[p.group(at)]
			if p.route.kind == wire.RouteGRPC || winner == nil {
				return ""
			}
			return "has " + winner.String() + " attached, and GRPCRoutes come before HTTPRoutes"
		})
	}
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
