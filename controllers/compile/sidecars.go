package compile

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

// SidecarAddresses returns the addresses of the pods of the given namespaces that have proxies of their own, with their
// ServiceAccounts. claimed is as Claimed returns it.
func SidecarAddresses(claimed map[netip.Addr]*corev1.Pod, namespaces map[string]bool) map[netip.Addr]types.NamespacedName {
	out := map[netip.Addr]types.NamespacedName{}
	for address, pod := range claimed {
		if namespaces[pod.Namespace] && HasSidecar(pod) {
			out[address] = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}
		}
	}
	return out
}

// Sidecars tells the proxies beside pods of the given namespaces about their pods, sorted by key: all that are on a node
// and have not ended. exposed are by namespace, zones maps nodes to their zones.
func Sidecars(
	pods []*corev1.Pod, claimed map[netip.Addr]*corev1.Pod, namespaces map[string]bool, exposed map[string]*Exposed, zones map[string]string,
) []wire.Resource {
	addresses := map[types.UID][]netip.Addr{}
	for address, pod := range claimed {
		addresses[pod.UID] = append(addresses[pod.UID], address)
	}
	var out []wire.Resource
	for _, pod := range pods {
		if !namespaces[pod.Namespace] || !HasSidecar(pod) || pod.Spec.NodeName == "" || ended(pod) {
			continue
		}
		content := wire.Sidecar{
			Namespace: pod.Namespace, Pod: pod.Name, UID: string(pod.UID), ServiceAccount: pod.Spec.ServiceAccountName,
			Addresses: addresses[pod.UID], Node: pod.Spec.NodeName, Zone: zones[pod.Spec.NodeName],
		}
		slices.SortFunc(content.Addresses, netip.Addr.Compare)
		for e, port := range exposed[pod.Namespace].Of(pod) {
			content.Ports = append(content.Ports, wire.SidecarPort{Backend: e.Key(), Port: port})
		}
		slices.SortFunc(content.Ports, func(a, b wire.SidecarPort) int { return cmp.Compare(a.Backend, b.Backend) })
		out = append(out, wire.New(pod.Namespace+"/"+pod.Name, wire.ScopeWorkload(pod.Namespace, pod.Name), podOrigin(pod), &content))
	}
	slices.SortFunc(out, func(a, b wire.Resource) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// ReadyBeside returns the pods of each given namespace that have proxies of their own, are ready and not on their way out,
// sorted.
func ReadyBeside(pods []*corev1.Pod, namespaces map[string]bool) map[string][]string {
	out := map[string][]string{}
	for _, pod := range pods {
		if namespaces[pod.Namespace] && HasSidecar(pod) && pod.DeletionTimestamp == nil && ready(pod) {
			out[pod.Namespace] = append(out[pod.Namespace], pod.Name)
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// Speak says of the endpoints of a Backend which of them have proxies of their own. It may be asked again, whatever it
// has said before. Where all of a meshed Backend have, every proxy receives them, since whoever calls picks one; otherwise
// the proxies of their namespace alone, as Endpoints has it.
func Speak(endpoints, of *wire.Resource, sidecars map[netip.Addr]types.NamespacedName) *wire.Resource {
	if of == nil || !of.Backend.Meshed {
		return endpoints
	}
	backend := of.Backend
	account := func(e wire.Endpoint) string {
		if of := sidecars[e.Address.Addr()]; of.Namespace == backend.Namespace {
			return of.Name
		}
		return ""
	}
	content := endpoints.Endpoints
	if slices.ContainsFunc(content.Endpoints, func(e wire.Endpoint) bool { return e.ServiceAccount != account(e) }) {
		content = &wire.Endpoints{Endpoints: slices.Clone(content.Endpoints)}
		for i := range content.Endpoints {
			content.Endpoints[i].ServiceAccount = account(content.Endpoints[i])
		}
	}
	scope := wire.ScopeNamespace(backend.Namespace)
	if content.SpeakHop() {
		scope = wire.ScopeMesh
	}
	if content == endpoints.Endpoints && scope == endpoints.Scope {
		return endpoints
	}
	said := wire.New(endpoints.Key, scope, endpoints.Origin, content)
	return &said
}
