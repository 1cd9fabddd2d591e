package compile

import "weft.dev/weft/proxy/wire"

func (w *world) backend(p place) wire.Resource {
	svc := w.services[p.service]
	return wire.New(p.key(), p.scope(), serviceOrigin(p.service), &wire.Backend{
		Namespace: p.service.Namespace,
		Service:   p.service.Name,
		Port:      p.port,
		Protocol:  w.backendProtocol(p),
		Meshed:    w.meshed(svc),
		Addresses: clusterIPs(svc),
	})
}

func (w *world) backendProtocol(p place) wire.Protocol {
	switch declared(tcpPort(w.services[p.service], p.port)).class {
	case classH2C:
		return wire.ProtocolH2C
	case classHTTP:
		return wire.ProtocolHTTP
	default:
		return wire.ProtocolTCP
	}
}
