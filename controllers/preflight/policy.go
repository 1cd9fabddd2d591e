package preflight

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What follows is what NetworkPolicies mean by the documentation of the API (networking.k8s.io/v1 NetworkPolicySpec and
// https://kubernetes.io/docs/concepts/services-networking/network-policies/).

// end is one end of a connection.
type end struct {
	// pod is nil for what is none on the pods' network: selectors do not cover it.
	pod *corev1.Pod
	// namespace has the labels of the pod's namespace.
	namespace labels.Set
	// addresses may be none, if they are not known yet.
	addresses []netip.Addr
	// isolating are the policies that select the pod and close it in a direction.
	isolating map[networkingv1.PolicyType][]*networkingv1.NetworkPolicy
}

// span is a range of ports, both ends included.
type span struct{ first, last int32 }

// allPorts are those of a protocol.
var allPorts = span{1, 65535}

// isolates tells whether a policy closes the pods that it selects in a direction, but for what it admits. Where the
// policy does not say for which directions it is, it is for ingress, and for egress if it has rules of it.
func isolates(spec *networkingv1.NetworkPolicySpec, direction networkingv1.PolicyType) bool {
	if len(spec.PolicyTypes) > 0 {
		return slices.Contains(spec.PolicyTypes, direction)
	}
	return direction == networkingv1.PolicyTypeIngress || len(spec.Egress) > 0
}

// selectors are those of policies in a form that can be asked, so that each is brought into it once.
type selectors map[*metav1.LabelSelector]labels.Selector

// pick tells whether a selector picks labels. An empty one picks all; one that is not valid, which the API server
// refuses, picks none.
func (s selectors) pick(selector *metav1.LabelSelector, set labels.Set) bool {
	asked, known := s[selector]
	if !known {
		var err error
		if asked, err = metav1.LabelSelectorAsSelector(selector); err != nil {
			asked = labels.Nothing()
		}
		s[selector] = asked
	}
	return asked.Matches(set)
}

// rule is an ingress or egress rule.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// rulesOf returns the rules of a policy for a direction.
func rulesOf(spec *networkingv1.NetworkPolicySpec, direction networkingv1.PolicyType) []rule {
	var out []rule
	if direction == networkingv1.PolicyTypeIngress {
		for i := range spec.Ingress {
			out = append(out, rule{spec.Ingress[i].From, spec.Ingress[i].Ports})
		}
		return out
	}
	for i := range spec.Egress {
		out = append(out, rule{spec.Egress[i].To, spec.Egress[i].Ports})
	}
	return out
}

// admits tells whether a rule of a policy in a namespace is for what is at the other end, at one of its addresses. A
// rule without peers is for everybody. The zero address is one that is not known.
func (r rule) admits(s selectors, namespace string, other *end, address netip.Addr) bool {
	return len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			return holds(p.IPBlock, address)
		}
		if other.pod == nil {
			return false
		}
		if p.NamespaceSelector == nil {
			if other.pod.Namespace != namespace {
				return false
			}
		} else if !s.pick(p.NamespaceSelector, other.namespace) {
			return false
		}
		return p.PodSelector == nil || s.pick(p.PodSelector, other.pod.Labels)
	})
}

// holds tells whether a block has an address. One that is not known is in a block that has all of a family alone.
func holds(block *networkingv1.IPBlock, address netip.Addr) bool {
	network, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return false
	}
	if !address.IsValid() {
		return network.Bits() == 0 && len(block.Except) == 0
	}
	return network.Contains(address) && !slices.ContainsFunc(block.Except, func(text string) bool {
		except, err := netip.ParsePrefix(text)
		return err == nil && except.Contains(address)
	})
}

// spans returns the TCP ports that a rule is for. Names are those of container ports of the pod that is called. A
// rule without ports is for all.
func (r rule) spans(called *corev1.Pod) []span {
	if len(r.ports) == 0 {
		return []span{allPorts}
	}
	var out []span
	for _, p := range r.ports {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
		case p.Port == nil:
			return []span{allPorts}
		case p.Port.Type == intstr.String:
			for _, number := range named(called, p.Port.StrVal) {
				out = append(out, span{number, number})
			}
		case p.EndPort != nil:
			out = append(out, span{p.Port.IntVal, *p.EndPort})
		default:
			out = append(out, span{p.Port.IntVal, p.Port.IntVal})
		}
	}
	return out
}

// named returns the TCP container ports of a name, those of sidecars included.
func named(pod *corev1.Pod, name string) []int32 {
	var out []int32
	if pod == nil {
		return nil
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == name && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
					out = append(out, p.ContainerPort)
				}
			}
		}
	}
	return out
}

// blocked returns those of the wanted ports that a connection is not admitted to at one of its ends: what no rule of
// the policies that isolate the pod there admits is closed. The connection must be admitted for every address of the
// other end. called is the pod that is called.
func blocked(s selectors, here *end, direction networkingv1.PolicyType, other *end, called *corev1.Pod, wanted []span) []span {
	isolating := here.isolating[direction]
	if len(isolating) == 0 {
		return nil
	}
	addresses := other.addresses
	if len(addresses) == 0 {
		addresses = []netip.Addr{{}}
	}
	var closed []span
	for _, address := range addresses {
		left := wanted
		for _, policy := range isolating {
			for _, r := range rulesOf(&policy.Spec, direction) {
				if len(left) > 0 && r.admits(s, policy.Namespace, other, address) {
					left = minus(left, r.spans(called))
				}
			}
		}
		closed = append(closed, left...)
	}
	return union(closed)
}

// minus takes ports away.
func minus(from, away []span) []span {
	for _, a := range away {
		var rest []span
		for _, s := range from {
			if before := (span{s.first, min(s.last, a.first-1)}); before.first <= before.last {
				rest = append(rest, before)
			}
			if after := (span{max(s.first, a.last+1), s.last}); after.first <= after.last {
				rest = append(rest, after)
			}
		}
		from = rest
	}
	return from
}

// union sorts spans and joins those that touch. It does not change what it is given.
func union(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return int(a.first - b.first) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}
