package compile

import (
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// uses counts what the routes in force say about the protocols of the ports they use. A port that declares
// nothing, or HTTP of no particular version, is what they take it for. The word of the routes in the
// Service's own namespace comes first, so that no other namespace can change how a Service is spoken to.
type uses tally[saying]

// saying is that some route of a kind uses a place.
type saying struct {
	place place
	as    usage
	kind  wire.RouteKind
}

// usage is how a route uses a port: as a parent or as a backend, if it may speak for the port, or in any way, if it
// may not.
type usage uint8

const (
	asOther usage = iota
	asParent
	asBackend
)

// speaksFor tells whether a route may say what a place's protocol is: one of the Service's namespace,
// or of the consumer that the place is for.
func (r *route) speaksFor(p place) bool {
	if p.consumer != "" {
		return r.meta.Namespace == p.consumer
	}
	return r.meta.Namespace == p.service.Namespace
}

func (u uses) say(p place, as usage, kind wire.RouteKind) bool {
	return u[saying{p, as, kind}] > 0
}

// sayings are what a route says where it is in force.
func (w *world) sayings(r *route) []saying {
	var said distinct[saying]
	add := func(at place, as usage) {
		if !r.speaksFor(at) {
			as = asOther
		}
		said.add(saying{at, as, r.kind})
	}
	for _, p := range r.parents {
		for _, at := range p.places {
			add(at, asParent)
		}
	}
	for _, consumer := range []bool{false, true} {
		if !r.inForce(consumer) {
			continue
		}
		resolver := resolver{world: w, route: r, consumer: consumer}
		r.eachBackend(func(ref *gwv1.BackendObjectReference) {
			if at, f := resolver.locate(ref); f == nil {
				add(at, asBackend)
			}
		})
	}
	return said.list
}

// destinationProtocol says how the bytes of a captured connection are understood.
func (w *world) destinationProtocol(p place, u uses) wire.Protocol {
	switch w.declared(p).class {
	case classHTTP, classH2C:
		return wire.ProtocolHTTP
	case classNone:
		if u.say(p, asParent, wire.RouteHTTP) || u.say(p, asParent, wire.RouteGRPC) {
			return wire.ProtocolHTTP
		}
	}
	return wire.ProtocolTCP
}

// backendProtocol says what is spoken to endpoints. A GRPCRoute that sends to a port says that it speaks
// HTTP/2. One that has a port as its parent says so only of a port that declares nothing: it may have
// been attached to all ports of its Service, and those that serve HTTP/1.1 must go on working as backends
// of others.
func (w *world) backendProtocol(p place, u uses) wire.Protocol {
	class := w.declared(p).class
	switch {
	case class == classOpaque:
		return wire.ProtocolTCP
	case class == classH2C, u.say(p, asBackend, wire.RouteGRPC):
		return wire.ProtocolH2C
	case class == classHTTP:
		return wire.ProtocolHTTP
	case u.say(p, asParent, wire.RouteGRPC):
		return wire.ProtocolH2C
	case u.say(p, asParent, wire.RouteHTTP), u.say(p, asBackend, wire.RouteHTTP):
		return wire.ProtocolHTTP
	case u.say(p, asOther, wire.RouteGRPC):
		return wire.ProtocolH2C
	case u.say(p, asOther, wire.RouteHTTP):
		return wire.ProtocolHTTP
	default:
		return wire.ProtocolTCP
	}
}

func (w *world) declared(p place) declaration {
	return declared(w.port(p))
}

// port returns the Service port of a place. Places are made from ports that exist.
func (w *world) port(p place) *corev1.ServicePort { return tcpPort(w.services[p.service], p.port) }
