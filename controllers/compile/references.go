package compile

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// resolver turns the backend references of one route into places. Namespaces are no boundary here: a
// mesh route may send to any of them without a ReferenceGrant, because whoever can write the route can
// send there anyway (GEP-1294).
type resolver struct {
	world *world
	route *route
	// consumer: the route is resolved for clients of its own namespace alone.
	consumer bool
	// uses is what the routes in force say about ports; nil for a route that is not in force.
	uses uses
}

// resolve returns the place that a reference means, or why requests cannot be sent there.
func (r *resolver) resolve(ref *gwv1.BackendObjectReference) (place, *fault) {
	p, f := r.locate(ref)
	if f != nil {
		return p, f
	}
	port := tcpPort(r.world.services[p.service], p.port)
	said := declared(port)
	switch {
	case said.class == classOpaque:
		return p, &fault{gwv1.RouteReasonUnsupportedProtocol, "port",
			portOf(p) + " is not HTTP according to " + said.by}
	case r.route.kind == wire.RouteGRPC && r.uses != nil && r.world.backendProtocol(p, r.uses) != wire.ProtocolH2C:
		return p, &fault{gwv1.RouteReasonUnsupportedProtocol, "port",
			portOf(p) + " is HTTP/1.1" + accordingTo(said) + ", and gRPC needs HTTP/2: appProtocol kubernetes.io/h2c says that it speaks it"}
	}
	return p, nil
}

func accordingTo(said declaration) string {
	if said.by == "" {
		return " according to the HTTPRoutes of its namespace"
	}
	return " according to " + said.by
}

// locate is resolve without regard to protocols.
func (r *resolver) locate(ref *gwv1.BackendObjectReference) (place, *fault) {
	group, kind := valueOr(ref.Group, ""), valueOr(ref.Kind, "Service")
	if !isService(group, kind) {
		return place{}, &fault{gwv1.RouteReasonInvalidKind, "kind",
			"kind " + string(kind) + " of group " + quote(group) + " cannot be a backend"}
	}
	name := types.NamespacedName{
		Namespace: string(valueOr(ref.Namespace, gwv1.Namespace(r.route.meta.Namespace))),
		Name:      string(ref.Name),
	}
	svc := r.world.services[name]
	switch {
	case svc == nil:
		return place{}, &fault{gwv1.RouteReasonBackendNotFound, "name", nameOf(name) + " does not exist"}
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		// GEP-1294 and CVE-2021-25740: such a Service may point anywhere.
		return place{}, &fault{gwv1.RouteReasonUnsupportedValue, "name", nameOf(name) + " is of type ExternalName"}
	case ref.Port == nil:
		return place{}, &fault{gwv1.RouteReasonBackendNotFound, "port", "a Service needs a port"}
	}
	p := place{service: name, port: uint16(*ref.Port)}
	if *ref.Port < 1 || *ref.Port > 65535 || tcpPort(svc, p.port) == nil {
		return place{}, &fault{gwv1.RouteReasonBackendNotFound, "port", nameOf(name) + " has no TCP port " + formatPort(*ref.Port)}
	}
	if r.consumer && !r.world.meshed(svc) {
		p.consumer = r.route.meta.Namespace
	}
	return p, nil
}

// isService holds for Services in the two ways to write their group.
func isService(group gwv1.Group, kind gwv1.Kind) bool {
	return (group == corev1.GroupName || group == "core") && kind == "Service"
}
