package compile

import (
	corev1 "k8s.io/api/core/v1"

	"weft.dev/weft/proxy/wire"
)

func (w *world) backend(p place, u uses) wire.Resource {
	svc := w.services[p.service]
	zone, node := nearness(svc)
	return wire.New(p.key(), p.scope(), serviceOrigin(p.service), &wire.Backend{
		Namespace: p.service.Namespace,
		Service:   p.service.Name,
		Port:      p.port,
		Protocol:  w.backendProtocol(p, u),
		Meshed:    w.meshed(svc) && !w.starting[svc.Namespace],
		Addresses: clusterIPs(svc),
		Policy:    nameSession(backendParts(merge(w.serviceLevels(p))), p.key()),
		Zone:      zone,
		Node:      node,
	})
}

// nearness reads a Service's trafficDistribution. A node is in one zone, so whoever prefers its own node
// prefers its zone next (KEP-3015). Values that are not known mean nothing, as for kube-proxy.
func nearness(svc *corev1.Service) (zone, node bool) {
	switch valueOr(svc.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		return true, false
	case corev1.ServiceTrafficDistributionPreferSameNode:
		return true, true
	default:
		return false, false
	}
}
