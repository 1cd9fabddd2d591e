package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// Capture makes the Capture resource of a namespace. destinations are those that every ready proxy of
// the namespace has acknowledged: a pod that sent anything else to a proxy would not be understood.
// Those that the namespace may not see, and those without a number, are passed over. proxies are the
// ready ones. routed holds the keys of the destinations that have a route (see Routed), an authorization
// (see Authorized), or are strict. admitted and strict are as in wire.Capture.
func Capture(
	namespace string, destinations []*wire.Resource, routed map[string]bool, proxies []wire.Proxy, admitted []netip.Addr, strict bool,
) wire.Resource {
	content := wire.Capture{Proxies: slices.Clone(proxies), Admitted: admitted, Strict: strict}
	for _, r := range destinations {
		d := r.Destination
		if d == nil || d.Number == 0 || r.Scope != wire.ScopeMesh && r.Scope != wire.ScopeNamespace(namespace) {
			continue
		}
		for _, address := range d.Addresses {
			content.Ports = append(content.Ports, wire.CapturedPort{
				Address: address, Port: d.Port, Number: d.Number, Routed: routed[r.Key],
			})
		}
	}
	slices.SortFunc(content.Ports, func(a, b wire.CapturedPort) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Number, b.Number))
	})
	slices.SortFunc(content.Proxies, func(a, b wire.Proxy) int { return cmp.Compare(a.Pod, b.Pod) })
	return wire.New(namespace, wire.ScopeNodes, namespaceOrigin(namespace), &content)
}

// Routed returns the keys of the destinations that a route visible to a namespace is attached to.
func Routed(namespace string, routes []*wire.Resource) map[string]bool {
	routed := map[string]bool{}
	for _, r := range routes {
		if r.Route == nil || r.Scope != wire.ScopeMesh && r.Scope != wire.ScopeNamespace(namespace) {
			continue
		}
		for _, key := range r.Route.Destinations {
			routed[key] = true
		}
	}
	return routed
}

// Authorized returns the keys of the destinations about which an authorization decides that is enforced.
func Authorized(authorizations, destinations []*wire.Resource) map[string]bool {
	authorized := map[string]bool{}
	for _, d := range destinations {
		at := d.Destination
		if slices.ContainsFunc(authorizations, func(r *wire.Resource) bool {
			a := r.Authorization
			return !a.Audit && a.Namespace == at.Namespace && isFor(a, at.Service, at.Port)
		}) {
			authorized[d.Key] = true
		}
	}
	return authorized
}

// isFor tells that an authorization is for a Service port of its namespace.
func isFor(a *wire.Authorization, service string, port uint16) bool {
	return len(a.Targets) == 0 || slices.ContainsFunc(a.Targets, func(t wire.AuthorizationTarget) bool {
		return t.Service == service && (t.Port == 0 || t.Port == port)
	})
}
