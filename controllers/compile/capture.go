package compile

import (
	"cmp"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// Capture makes the Capture resource of a namespace. destinations are those that every ready proxy of
// the namespace has acknowledged: a pod that sent anything else to a proxy would not be understood.
// Those that the namespace may not see, and those without a number, are passed over. proxies are the
// ready ones.
func Capture(namespace string, destinations []wire.Resource, proxies []wire.Proxy) wire.Resource {
	content := wire.Capture{Proxies: slices.Clone(proxies)}
	for _, r := range destinations {
		d := r.Destination
		if d == nil || d.Number == 0 || r.Scope != wire.ScopeMesh && r.Scope != wire.ScopeNamespace(namespace) {
			continue
		}
		for _, address := range d.Addresses {
			content.Ports = append(content.Ports, wire.CapturedPort{Address: address, Port: d.Port, Number: d.Number})
		}
	}
	slices.SortFunc(content.Ports, func(a, b wire.CapturedPort) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Number, b.Number))
	})
	slices.SortFunc(content.Proxies, func(a, b wire.Proxy) int { return cmp.Compare(a.Pod, b.Pod) })
	return wire.New(namespace, wire.ScopeNodes, namespaceOrigin(namespace), &content)
}
