package compile

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// Inbounds makes the Inbound of each pod that has one, sorted by key.
func Inbounds(
	pods []*corev1.Pod, exposed *Exposed, accounts map[types.NamespacedName][]netip.Addr, placement meshv1alpha1.Placement,
) []wire.Resource {
	var out []wire.Resource
	for _, pod := range pods {
		if r := Inbound(pod, exposed, accounts, placement); r != nil {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b wire.Resource) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Inbound makes the Inbound of a pod of an enrolled namespace that is on a node, nil for others. It does not
// wait for the pod to have an address, so that its rules are there before it runs. exposed are the exposures of the
// namespace. accounts has the addresses of pods by their ServiceAccounts (see AccountAddresses). Pods on the
// network of their node have none: what runs there is out of reach. placement is that of pods that do not say.
func Inbound(
	pod *corev1.Pod, exposed *Exposed, accounts map[types.NamespacedName][]netip.Addr, placement meshv1alpha1.Placement,
) *wire.Resource {
	if pod.Spec.NodeName == "" || pod.Spec.HostNetwork || ended(pod) {
		return nil
	}
	content := wire.Inbound{Namespace: pod.Namespace, Pod: pod.Name, UID: string(pod.UID), Alone: LacksSidecar(pod, placement)}
	if pod.Labels[meshv1alpha1.ComponentLabel] != ComponentProxy {
		content.Ports = inboundPorts(pod, exposed, accounts)
	}
	r := wire.New(content.UID, wire.ScopeNode(pod.Spec.NodeName), podOrigin(pod), &content)
	return &r
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// inboundPorts are the ports of a pod that are exposed. A port is strict if one of its exposures is, and lets in
// whom any of the strict ones does.
func inboundPorts(pod *corev1.Pod, exposed *Exposed, accounts map[types.NamespacedName][]netip.Addr) []wire.InboundPort {
	var ports []wire.InboundPort
	for e, number := range exposed.Of(pod) {
		at, known := slices.BinarySearchFunc(ports, number, func(p wire.InboundPort, number uint16) int { return cmp.Compare(p.Port, number) })
		if !known {
			ports = slices.Insert(ports, at, wire.InboundPort{Port: number})
		}
		if !e.Strict {
			continue
		}
		port := &ports[at]
		port.Strict = true
		port.Allowed = append(port.Allowed, e.Allowed...)
		for _, account := range e.Accounts {
			for _, address := range accounts[account] {
				port.Allowed = append(port.Allowed, netip.PrefixFrom(address, address.BitLen()))
			}
		}
	}
	for i := range ports {
		ports[i].Allowed = disjoint(ports[i].Allowed)
	}
	return ports
}

// PortOf returns the port of a pod that is exposed; it is not ok for pods that are not selected and for those
// without a container port of the name that is asked for. Names are found as the endpoints of Services have
// them: in containers, then in sidecars.
func (e *Exposure) PortOf(pod *corev1.Pod) (number uint16, ok bool) {
	if pod.Namespace != e.Namespace || !selects(e.Selector, pod.Labels) {
		return 0, false
	}
	if e.Target.Type == intstr.Int {
		return uint16(e.Target.IntVal), e.Target.IntVal > 0
	}
	named := func(containers []corev1.Container, sidecars bool) (uint16, bool) {
		for i := range containers {
			if sidecars && valueOr(containers[i].RestartPolicy, "") != corev1.ContainerRestartPolicyAlways {
				continue
			}
			for _, p := range containers[i].Ports {
				if p.Name == e.Target.StrVal && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
					return uint16(p.ContainerPort), true
				}
			}
		}
		return 0, false
	}
	if number, ok := named(pod.Spec.Containers, false); ok {
		return number, true
	}
	return named(pod.Spec.InitContainers, true)
}

// selects tells that labels have everything that a selector asks for, and that it asks for something.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return len(selector) > 0
}

// AccountAddresses returns the addresses of the pods that run as the wanted ServiceAccounts, sorted. claimed has
// the pods by their addresses (see Claimed).
func AccountAddresses(claimed map[netip.Addr]*corev1.Pod, wanted map[types.NamespacedName]bool) map[types.NamespacedName][]netip.Addr {
	out := make(map[types.NamespacedName][]netip.Addr)
	for address, pod := range claimed {
		if account := (types.NamespacedName{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}); wanted[account] {
			out[account] = append(out[account], address)
		}
	}
	for _, addresses := range out {
		slices.SortFunc(addresses, netip.Addr.Compare)
	}
	return out
}

// AdmittedProxies returns the addresses of all proxies of each given namespace, sorted: those that start and
// those that end as well. An address counts as soon as either the node's agent or the pod's status has it.
func AdmittedProxies(pods []*corev1.Pod, sandboxes Sandboxes, namespaces map[string]bool) map[string][]netip.Addr {
	out := make(map[string][]netip.Addr)
	reported := reportsByUID(sandboxes)
	for _, pod := range pods {
		if namespaces[pod.Namespace] && pod.Labels[meshv1alpha1.ComponentLabel] == ComponentProxy && !pod.Spec.HostNetwork && !ended(pod) {
			out[pod.Namespace] = slices.Concat(out[pod.Namespace], addresses(pod, sandboxes, reported), statusAddresses(pod))
		}
	}
	for namespace, addresses := range out {
		slices.SortFunc(addresses, netip.Addr.Compare)
		out[namespace] = slices.Compact(addresses)
	}
	return out
}
