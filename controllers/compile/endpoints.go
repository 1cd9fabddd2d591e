package compile

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

// Endpoints makes the Endpoints resource of a Backend resource from its Service and the Service's
// EndpointSlices; slices of other Services are passed over. It is the side path: a caller that knows
// the Backends of the last Result sends changes of endpoints without compiling again. svc may be nil,
// when the Service went away since; the result is empty then.
//
// The resource has the Backend's key. Of a meshed Service it is for the proxies of the Service's own
// namespace alone, since only they pick its endpoints.
func Endpoints(backend wire.Resource, svc *corev1.Service, all []*discoveryv1.EndpointSlice) wire.Resource {
	b := backend.Backend
	scope := backend.Scope
	if b.Meshed {
		scope = wire.ScopeNamespace(b.Namespace)
	}
	content := wire.Endpoints{}
	if svc != nil {
		if port := tcpPort(svc, b.Port); port != nil {
			content.Endpoints = portEndpoints(svc, port.Name, all)
		}
	}
	return wire.New(backend.Key, scope, backend.Origin, &content)
}

// SliceService is the Service that an EndpointSlice is of.
func SliceService(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// portEndpoints reads the endpoints of a named Service port (the name is empty if there is only one).
// Slices carry target ports under the name of the Service port, and a slice of its own for each
// combination where a named target port differs between pods. Of an address that is listed twice, as
// happens while an endpoint moves between slices, the one that is not terminating counts.
//
// A Service of both families lists a pod once in each. Proxies get its address of the Service's first family alone: as two
// endpoints a pod would count twice in every choice, be ejected by halves, and get the retry that is to go to another one.
func portEndpoints(svc *corev1.Service, portName string, all []*discoveryv1.EndpointSlice) []wire.Endpoint {
	found := make(map[netip.AddrPort]wire.Endpoint)
	owners := make(map[netip.AddrPort]podPort)
	first := make(map[podPort]bool)
	for _, slice := range all {
		if SliceService(slice) != namespacedName(svc) || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, number := range targetPorts(slice, portName) {
			for i := range slice.Endpoints {
				for _, e := range usable(&slice.Endpoints[i], number) {
					if other, listed := found[e.Address]; !listed || preferred(e, other) {
						found[e.Address] = e
					}
					if pod := slice.Endpoints[i].TargetRef; pod != nil && pod.Kind == "Pod" {
						owners[e.Address] = podPort{pod.Name, pod.UID, number}
						first[owners[e.Address]] = first[owners[e.Address]] || slice.AddressType == firstFamily(svc)
					}
				}
			}
		}
	}
	endpoints := make([]wire.Endpoint, 0, len(found))
	for address, e := range found {
		if owner, ok := owners[address]; ok && first[owner] && address.Addr().Is6() != (firstFamily(svc) == discoveryv1.AddressTypeIPv6) {
			continue
		}
		endpoints = append(endpoints, e)
	}
	slices.SortFunc(endpoints, func(a, b wire.Endpoint) int { return a.Address.Compare(b.Address) })
	return endpoints
}

// podPort is a target port of a pod. Of one name there may be two pods for a moment.
type podPort struct {
	name string
	uid  types.UID
	port uint16
}

// firstFamily is that of the Service's cluster IP; its further one is that of clusterIPs.
func firstFamily(svc *corev1.Service) discoveryv1.AddressType {
	if len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

func targetPorts(slice *discoveryv1.EndpointSlice, name string) []uint16 {
	var numbers []uint16
	for _, port := range slice.Ports {
		tcp := port.Protocol == nil || *port.Protocol == corev1.ProtocolTCP
		named := port.Name != nil && *port.Name == name || port.Name == nil && name == ""
		if tcp && named && port.Port != nil {
			numbers = append(numbers, uint16(*port.Port))
		}
	}
	return numbers
}

// usable reads one slice entry: ready endpoints, and those that terminate but still serve. A condition
// that is absent defers as the API defines it: ready to true, serving to ready.
func usable(e *discoveryv1.Endpoint, port uint16) []wire.Endpoint {
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := ready
	if e.Conditions.Serving != nil {
		serving = *e.Conditions.Serving
	}
	terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	if !ready && (!serving || !terminating) {
		return nil
	}
	var endpoints []wire.Endpoint
	for _, text := range e.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		endpoint := wire.Endpoint{Address: netip.AddrPortFrom(address, port), Terminating: !ready}
		if e.Zone != nil {
			endpoint.Zone = *e.Zone
		}
		if e.NodeName != nil {
			endpoint.Node = *e.NodeName
		}
		endpoints = append(endpoints, endpoint)
	}
	return endpoints
}

// preferred orders two entries of one address, so that the result does not depend on the order of the
// slices.
func preferred(a, b wire.Endpoint) bool {
	if a.Terminating != b.Terminating {
		return !a.Terminating
	}
	if a.Zone != b.Zone {
		return a.Zone > b.Zone
	}
	return a.Node > b.Node
}
