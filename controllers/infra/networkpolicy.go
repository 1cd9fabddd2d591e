package infra

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// networkPolicy admits to the proxies what the mesh needs and closes them to everything else. Since policies
// add up, it also keeps those of the namespace, such as one that denies everything by default, from cutting its
// proxies off; what they say of other pods stays as it is.
//
// Rules are as plain as they can be, since network plugins differ in the rest: none has a range of ports,
// which some take for its first port alone, nor a block of addresses, by which some do not mean pods or nodes.
func networkPolicy(namespace string) *networkingv1ac.NetworkPolicyApplyConfiguration {
	return networkingv1ac.NetworkPolicy(meshv1alpha1.ProxyName, namespace).
		WithLabels(labels()).
		WithSpec(networkingv1ac.NetworkPolicySpec().
			WithPodSelector(selector()).
			WithPolicyTypes(networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress).
			WithIngress(
				// Captured connections are on the network with their destination number for a port: the
				// redirect to the listener is within the proxy's own network namespace.
				networkingv1ac.NetworkPolicyIngressRule().
					WithFrom(networkingv1ac.NetworkPolicyPeer().WithPodSelector(metav1ac.LabelSelector())).
					WithPorts(policyPort(corev1.ProtocolTCP)),
				// The hop. Proxies of a namespace that leaves have lost the label of their namespace, and
				// finish what they have begun: so any namespace's, who have to prove in the handshake who they are.
				networkingv1ac.NetworkPolicyIngressRule().
					WithFrom(networkingv1ac.NetworkPolicyPeer().
						WithNamespaceSelector(metav1ac.LabelSelector()).
						WithPodSelector(selector())).
					WithPorts(policyPort(corev1.ProtocolTCP, wire.PortHop)),
				// Node agents of all nodes ask for health from the network of their node, which no selector
				// covers. Nobody knows where metrics are asked for from.
				networkingv1ac.NetworkPolicyIngressRule().
					WithPorts(policyPort(corev1.ProtocolTCP, wire.PortHealth), policyPort(corev1.ProtocolTCP, wire.PortMetrics))).
			WithEgress(
				// The operator, the hop, and the endpoints of Services, which may be any address and port: pods of
				// namespaces that are not enrolled, nodes, and what is outside of the cluster.
				networkingv1ac.NetworkPolicyEgressRule().WithPorts(policyPort(corev1.ProtocolTCP)),
				// DNS. Plugins look at the port of the pod that answers, which is another one in some clusters.
				networkingv1ac.NetworkPolicyEgressRule().
					WithPorts(policyPort(corev1.ProtocolUDP, 53), policyPort(corev1.ProtocolUDP, 5353))))
}

// policyPort is one port, or all of the protocol.
func policyPort(protocol corev1.Protocol, number ...int32) *networkingv1ac.NetworkPolicyPortApplyConfiguration {
	p := networkingv1ac.NetworkPolicyPort().WithProtocol(protocol)
	for _, n := range number {
		p.WithPort(intstr.FromInt32(n))
	}
	return p
}
