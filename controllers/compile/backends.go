package compile

import "weft.dev/weft/proxy/wire"

func (w *world) backend(p place, u uses) wire.Resource {
	svc := w.services[p.service]
	return wire.New(p.key(), p.scope(), serviceOrigin(p.service), &wire.Backend{
		Namespace: p.service.Namespace,
		Service:   p.service.Name,
		Port:      p.port,
		Protocol:  w.backendProtocol(p, u),
		Meshed:    w.meshed(svc) && !w.starting[svc.Namespace],
		Addresses: clusterIPs(svc),
	})
}
