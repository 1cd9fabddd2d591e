package compile

import (
	"cmp"
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

// numberKey is the key of a place's destination number. The copies of several consumers share one, since
// no proxy sees more than one of them. A Service read from a file has no UID and goes by its name.
func (w *world) numberKey(p place) NumberKey {
	uid := w.services[p.service].UID
	if uid == "" {
		uid = types.UID(p.service.String())
	}
	return NumberKey{UID: uid, Port: p.port}
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
