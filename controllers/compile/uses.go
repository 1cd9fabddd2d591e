package compile

import (
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// uses is what the routes in force say about the protocols of the ports they use. A port that declares
// nothing, or HTTP of no particular version, is what they take it for. The word of the routes in the
// Service's own namespace comes first, so that no other namespace can change how a Service is spoken to.
type uses map[place]use

// use tells which kinds of routes use a port: as a parent or as a backend, if they may speak for the
// port, or in any way, if they may not.
type use struct{ parent, backend, other kinds }

type kinds struct{ http, grpc bool }

func (k *kinds) add(kind wire.RouteKind) {
	if kind == wire.RouteGRPC {
		k.grpc = true
	} else {
		k.http = true
	}
}

// speaksFor tells whether a route may say what a place's protocol is: one of the Service's namespace,
// or of the consumer that the place is for.
func (r *route) speaksFor(p place) bool {
	if p.consumer != "" {
		return r.meta.Namespace == p.consumer
	}
	return r.meta.Namespace == p.service.Namespace
}

func (u uses) add(p place, r *route, side func(*use) *kinds) {
	v := u[p]
	if r.speaksFor(p) {
		side(&v).add(r.kind)
	} else {
		v.other.add(r.kind)
	}
	u[p] = v
}

func asParent(u *use) *kinds  { return &u.parent }
func asBackend(u *use) *kinds { return &u.backend }

// usesOf gathers what the routes in force say.
func (w *world) usesOf(routes []*route) uses {
	u := make(uses)
	for _, r := range routes {
		for _, p := range r.parents {
			for _, at := range p.places {
				u.add(at, r, asParent)
			}
		}
		for _, consumer := range []bool{false, true} {
			if !r.inForce(consumer) {
				continue
			}
			resolver := resolver{world: w, route: r, consumer: consumer}
			r.eachBackend(func(ref *gwv1.BackendObjectReference) {
				if p, f := resolver.locate(ref); f == nil {
					u.add(p, r, asBackend)
				}
			})
		}
	}
	return u
}

// destinationProtocol says how the bytes of a captured connection are understood.
func (w *world) destinationProtocol(p place, u uses) wire.Protocol {
	switch w.declared(p).class {
	case classHTTP, classH2C:
		return wire.ProtocolHTTP
	case classNone:
		if used := u[p].parent; used.http || used.grpc {
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
	class, used := w.declared(p).class, u[p]
	switch {
	case class == classOpaque:
		return wire.ProtocolTCP
	case class == classH2C, used.backend.grpc:
		return wire.ProtocolH2C
	case class == classHTTP:
		return wire.ProtocolHTTP
	case used.parent.grpc:
		return wire.ProtocolH2C
	case used.parent.http, used.backend.http:
		return wire.ProtocolHTTP
	case used.other.grpc:
		return wire.ProtocolH2C
	case used.other.http:
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
