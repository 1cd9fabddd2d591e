package compile

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// ComponentProxy is the value of meshv1alpha1.ComponentLabel on proxy pods.
const ComponentProxy = "proxy"

// Sandboxes are those of each node. A node without an entry has not reported since the operator started.
type Sandboxes map[string]NodeSandboxes

// NodeSandboxes are the pods whose network exists on a node, as its agent has reported.
type NodeSandboxes struct {
	Pods []wire.PodReport
	// Current tells that the agent is there. Otherwise pods may have come and gone since.
	Current bool
}

// Claimed returns the pods that addresses belong to, in all namespaces. An address comes from what the pod's
// node has reported for the pod's UID. For a node that has not reported yet it comes from the Pod's status, so
// that a restart of the operator takes no identity away, and so it does for a pod that an agent which is away does
// not know: the proxy beside it, and the application that waits for that, must not wait for the agent. An address
// that two pods claim belongs to neither.
func Claimed(pods []*corev1.Pod, sandboxes Sandboxes) map[netip.Addr]*corev1.Pod {
	claimed := make(map[netip.Addr]*corev1.Pod, len(pods))
	twice := map[netip.Addr]bool{}
	reported := reportsByUID(sandboxes)
	for _, pod := range pods {
		for _, address := range addresses(pod, sandboxes, reported) {
			_, taken := claimed[address]
			if taken {
				twice[address] = true
			}
			claimed[address] = pod
		}
	}
	for address := range twice {
		delete(claimed, address)
	}
	return claimed
}

// Workloads joins addresses with ServiceAccounts for the pods of the given namespaces. The ServiceAccount comes from the
// Pod object. zones maps nodes to their zones. What says the same as one of before is that one.
func Workloads(
	claimed map[netip.Addr]*corev1.Pod, namespaces map[string]bool, zones map[string]string, before map[wire.Ref]*wire.Resource,
) []*wire.Resource {
	out := make([]*wire.Resource, 0, len(claimed))
	for address, pod := range claimed {
		if !namespaces[pod.Namespace] {
			continue
		}
		content := wire.Workload{
			Address:        address,
			Pod:            pod.Name,
			UID:            string(pod.UID),
			Namespace:      pod.Namespace,
			ServiceAccount: pod.Spec.ServiceAccountName,
			Node:           pod.Spec.NodeName,
			Zone:           zones[pod.Spec.NodeName],
		}
		if was := before[wire.Ref{Kind: wire.KindWorkload, Key: address.String()}]; was != nil && *was.Workload == content {
			out = append(out, was)
			continue
		}
		r := wire.New(address.String(), wire.ScopeNamespace(pod.Namespace), podOrigin(pod), &content)
		out = append(out, &r)
	}
	return out
}

type reportKey struct{ node, uid string }

func reportsByUID(sandboxes Sandboxes) map[reportKey]*wire.PodReport {
	out := map[reportKey]*wire.PodReport{}
	for name, node := range sandboxes {
		for i := range node.Pods {
			if report := &node.Pods[i]; !report.Ended {
				out[reportKey{name, report.UID}] = report
			}
		}
	}
	return out
}

func addresses(pod *corev1.Pod, sandboxes Sandboxes, reported map[reportKey]*wire.PodReport) []netip.Addr {
	if pod.Spec.HostNetwork || pod.Spec.NodeName == "" {
		return nil
	}
	node, known := sandboxes[pod.Spec.NodeName]
	report := reported[reportKey{pod.Spec.NodeName, string(pod.UID)}]
	switch {
	case !node.Current && ended(pod):
		return nil // nobody says when its network ends
	case report != nil:
		return report.Addresses
	case known && node.Current:
		return nil
	}
	return statusAddresses(pod)
}

func statusAddresses(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, address)
		}
	}
	return out
}

// ServiceAccounts returns those that pods run as.
func ServiceAccounts(pods []*corev1.Pod) map[types.NamespacedName]bool {
	out := make(map[types.NamespacedName]bool)
	for _, pod := range pods {
		if name := pod.Spec.ServiceAccountName; name != "" {
			out[types.NamespacedName{Namespace: pod.Namespace, Name: name}] = true
		}
	}
	return out
}

// ReadyProxies returns the proxies of each given namespace that are ready and not on their way out,
// sorted by pod name. zones maps nodes to their zones.
func ReadyProxies(pods []*corev1.Pod, namespaces map[string]bool, zones map[string]string) map[string][]wire.Proxy {
	out := map[string][]wire.Proxy{}
	for _, pod := range pods {
		if !namespaces[pod.Namespace] || pod.Labels[meshv1alpha1.ComponentLabel] != ComponentProxy ||
			pod.DeletionTimestamp != nil || !ready(pod) {
			continue
		}
		if addresses := statusAddresses(pod); len(addresses) > 0 {
			out[pod.Namespace] = append(out[pod.Namespace], wire.Proxy{
				Pod: pod.Name, Addresses: addresses, Node: pod.Spec.NodeName, Zone: zones[pod.Spec.NodeName],
			})
		}
	}
	for _, proxies := range out {
		slices.SortFunc(proxies, func(a, b wire.Proxy) int { return cmp.Compare(a.Pod, b.Pod) })
	}
	return out
}

// Proxies wraps the ready proxies of each given namespace into a resource that every proxy receives.
func Proxies(ready map[string][]wire.Proxy, namespaces map[string]bool) []wire.Resource {
	out := make([]wire.Resource, 0, len(namespaces))
	for namespace := range namespaces {
		out = append(out, wire.New(namespace, wire.ScopeMesh, namespaceOrigin(namespace), &wire.Proxies{Proxies: ready[namespace]}))
	}
	slices.SortFunc(out, func(a, b wire.Resource) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func podOrigin(pod *corev1.Pod) wire.Origin {
	return wire.Origin{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
}

func namespaceOrigin(name string) wire.Origin {
	return wire.Origin{APIVersion: "v1", Kind: "Namespace", Name: name}
}
