package preflight

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// componentOperator is the value of meshv1alpha1.ComponentLabel on the operator's pods.
const componentOperator = "operator"

// The ports of the ways.
const (
	portHop    = wire.PortHop
	portHealth = wire.PortHealth
	portConfig = 15010
)

// numbers are the ports at which captured connections arrive at a proxy's pod.
var numbers = []span{{wire.MinNumber, wire.MaxNumber}}

func one(port int32) []span { return []span{{port, port}} }

// podLabels are what pods of Weft's are told by; infra and the manifests give them these, among others.
func podLabels(name, component string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "weft", meshv1alpha1.ComponentLabel: component}
}

// Other ends in rules to add.
var (
	anybody    peer
	ownPods    = peer{{PodSelector: &metav1.LabelSelector{}}}
	ownProxies = peer{{PodSelector: component(compile.ComponentProxy)}}
	anyProxies = peer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: component(compile.ComponentProxy)}}
)

// theOperator is the operator in its namespace.
func (f *finder) theOperator() peer {
	return peer{networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: f.System}},
		PodSelector:       component(componentOperator),
	}}
}

func component(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{meshv1alpha1.ComponentLabel: name}}
}
