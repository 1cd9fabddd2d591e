package compile

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

func comparePlaces(a, b place) int {
	return cmp.Or(
		strings.Compare(a.service.Namespace, b.service.Namespace),
		strings.Compare(a.service.Name, b.service.Name),
		cmp.Compare(a.port, b.port),
		strings.Compare(a.consumer, b.consumer),
	)
}

// destinations are the places that are captured, sorted: the ports of Services in enrolled namespaces,
// and those of other Services that a consumer route applies to, once for each such namespace.
func (w *world) destinations(parents []*parent) []place {
	var places []place
	for name, svc := range w.services {
		if !w.enrolment.has(name.Namespace) || w.uncaptured(svc) != nil {
			continue
		}
		for i := range svc.Spec.Ports {
			if port := &svc.Spec.Ports[i]; isTCP(port) {
				places = append(places, place{service: name, port: uint16(port.Port)})
			}
		}
	}
	for _, p := range parents {
		for _, at := range p.places {
			if at.consumer != "" {
				places = append(places, at)
			}
		}
	}
	slices.SortFunc(places, comparePlaces)
	return slices.Compact(places)
}

// numberKey is the key of a place's destination number. The copies of several consumers share one, since
// no proxy sees more than one of them. A Service read from a file has no UID and goes by its name.
func (w *world) numberKey(p place) NumberKey {
	uid := w.services[p.service].UID
	if uid == "" {
		uid = types.UID(p.service.String())
	}
	return NumberKey{UID: uid, Port: p.port}
}

func (w *world) numberKeys(places []place) []NumberKey {
	keys := make([]NumberKey, len(places))
	for i, p := range places {
		keys[i] = w.numberKey(p)
	}
	return keys
}

func (w *world) destination(p place, number uint16, u uses) wire.Resource {
	return wire.New(p.key(), p.scope(), serviceOrigin(p.service), &wire.Destination{
		Namespace: p.service.Namespace,
		Service:   p.service.Name,
		Port:      p.port,
		Number:    number,
		Addresses: clusterIPs(w.services[p.service]),
		Protocol:  w.destinationProtocol(p, u),
		Policy:    clientParts(merge(w.serviceLevels(p))),
	})
}
