// Package preflight owns what the NetworkPolicies of a cluster would do to meshed traffic: which of them block it,
// and what has to be added. It is a pure function of what people have declared, so that the operator says the same of
// a cluster as the command line does of files. It must not judge who may call whom: policies are compared with the
// ways of the mesh alone.
package preflight

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// Cluster is what is looked at. None of it is changed.
type Cluster struct {
	// System is the namespace where Weft runs.
	System string
	// Enrolled namespaces are looked at, the labels of their Namespaces being among these.
	Enrolled   []string
	Namespaces []*corev1.Namespace
	Pods       []*corev1.Pod
	Policies   []*networkingv1.NetworkPolicy
	// Exposures are the ports of pods that proxies call.
	Exposures []compile.Exposure
	// Managed tells that the operator keeps a NetworkPolicy that admits at the proxies what the mesh needs: since
	// policies add up, no other blocks anything there.
	Managed bool
}

// Flow is a way of meshed traffic.
type Flow string

// The ways.
const (
	// ToProxy is from a pod to a proxy of its namespace, at any destination number.
	ToProxy Flow = "ToProxy"
	// FromProxy is from a proxy to a pod of its namespace, at a port that a Service publishes.
	FromProxy Flow = "FromProxy"
	// Hop is from a proxy to one of another namespace.
	Hop Flow = "Hop"
	// Operator is from a proxy to the operator.
	Operator Flow = "Operator"
	// Health is from a node agent to a proxy.
	Health Flow = "Health"
)

// between says who is at the two ends.
var between = map[Flow]string{
	ToProxy: "pods and their proxies", FromProxy: "proxies and the pods that are called", Hop: "proxies of two namespaces",
	Operator: "proxies and the operator", Health: "node agents and proxies",
}

// Finding is one NetworkPolicy that blocks one way in one direction. Where several isolate a pod, each is found,
// and it is enough to change one of them.
type Finding struct {
	Policy    types.NamespacedName
	Direction networkingv1.PolicyType
	Flow      Flow
	// Pods are those at the policy's end by name, sorted; none if there is no pod yet.
	Pods []string
	// Rule is what to add to spec.ingress or spec.egress of the policy, in JSON.
	Rule string
}

// String says what is blocked and what to add, in one line.
func (f *Finding) String() string {
	where := "pods that it selects"
	if n := len(f.Pods); n > 0 {
		where = "pod " + f.Pods[0]
		if n > 1 {
			where += " and " + strconv.Itoa(n-1) + " more"
		}
	}
	direction := strings.ToLower(string(f.Direction))
	return fmt.Sprintf("blocks %s of %s, between %s: add to spec.%s %s", direction, where, between[f.Flow], direction, f.Rule)
}

// Find returns what NetworkPolicies block, sorted by policy.
func Find(c Cluster) []Finding {
	f := &finder{Cluster: c, policies: map[string][]*networkingv1.NetworkPolicy{}, selectors: selectors{}, labels: map[string]labels.Set{}, proxies: map[string][]*end{}, meshed: map[string][]*end{}, exposures: map[string][]*compile.Exposure{}, found: map[key]*found{}}
	for _, p := range c.Policies {
		f.policies[p.Namespace] = append(f.policies[p.Namespace], p)
	}
	for _, ns := range c.Namespaces {
		f.labels[ns.Name] = labels.Set{corev1.LabelMetadataName: ns.Name}
		maps.Copy(f.labels[ns.Name], ns.Labels)
	}
	for i := range c.Exposures {
		f.exposures[c.Exposures[i].Namespace] = append(f.exposures[c.Exposures[i].Namespace], &c.Exposures[i])
	}
	f.sort()
	for _, namespace := range c.Enrolled {
		f.pods(namespace)
		f.operator(namespace)
		if !c.Managed {
			f.atProxies(namespace)
		}
	}
	return f.findings()
}

type finder struct {
	Cluster
	policies  map[string][]*networkingv1.NetworkPolicy
	selectors selectors
	labels    map[string]labels.Set
	// proxies, meshed and operators are the pods by what they are.
	proxies   map[string][]*end
	meshed    map[string][]*end
	operators []*end
	exposures map[string][]*compile.Exposure
	found     map[key]*found
}

type key struct {
	policy    types.NamespacedName
	direction networkingv1.PolicyType
	flow      Flow
}

// found is a finding that is still collected.
type found struct {
	pods  map[string]bool
	rule  peer
	ports []span
}

// sort tells pods by what they are. Where there is none of a proxy or of the operator yet, one is looked at as it is
// going to be; of pods, one without labels, which the policies for all pods select.
func (f *finder) sort() {
	for _, pod := range f.Pods {
		if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		switch component := pod.Labels[meshv1alpha1.ComponentLabel]; {
		case component == compile.ComponentProxy:
			f.proxies[pod.Namespace] = append(f.proxies[pod.Namespace], f.end(pod))
		case pod.Namespace == f.System && component == componentOperator:
			f.operators = append(f.operators, f.end(pod))
		default:
			f.meshed[pod.Namespace] = append(f.meshed[pod.Namespace], f.end(pod))
		}
	}
	future := func(namespace string, set map[string]string) []*end {
		return []*end{f.end(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: set}})}
	}
	for _, namespace := range f.Enrolled {
		if len(f.proxies[namespace]) == 0 {
			f.proxies[namespace] = future(namespace, podLabels(meshv1alpha1.ProxyName, compile.ComponentProxy))
		}
		if len(f.meshed[namespace]) == 0 {
			f.meshed[namespace] = future(namespace, nil)
		}
	}
	if len(f.operators) == 0 {
		f.operators = future(f.System, podLabels("weft-operator", componentOperator))
	}
}

func (f *finder) end(pod *corev1.Pod) *end {
	e := &end{pod: pod, namespace: f.labels[pod.Namespace]}
	if e.namespace == nil { // what files declare may be without it
		e.namespace = labels.Set{corev1.LabelMetadataName: pod.Namespace}
	}
	for _, ip := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			e.addresses = append(e.addresses, address)
		}
	}
	for _, p := range f.policies[pod.Namespace] {
		if !f.selectors.pick(&p.Spec.PodSelector, pod.Labels) {
			continue
		}
		if e.isolating == nil {
			e.isolating = map[networkingv1.PolicyType][]*networkingv1.NetworkPolicy{}
		}
		for _, direction := range []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress} {
			if isolates(&p.Spec, direction) {
				e.isolating[direction] = append(e.isolating[direction], p)
			}
		}
	}
	return e
}

// pods looks at both legs between pods and their proxies, as far as the pods' end decides.
func (f *finder) pods(namespace string) {
	for _, pod := range f.meshed[namespace] {
		if len(f.policies[namespace]) == 0 {
			return
		}
		ports := f.exposed(pod.pod)
		for _, proxy := range f.proxies[namespace] {
			if pod.pod.Labels[meshv1alpha1.EnabledLabel] != "false" {
				f.out(ToProxy, pod, proxy, numbers, ownProxies)
			}
			f.in(FromProxy, proxy, pod, ports, ownProxies)
		}
	}
}

// exposed returns the ports of a pod that its proxies call.
func (f *finder) exposed(pod *corev1.Pod) []span {
	var ports []span
	for _, e := range f.exposures[pod.Namespace] {
		if number, ok := e.PortOf(pod); ok {
			ports = append(ports, span{int32(number), int32(number)})
		}
	}
	return union(ports)
}

// operator looks at the operator's end of the configuration stream.
func (f *finder) operator(namespace string) {
	for _, operator := range f.operators {
		for _, proxy := range f.proxies[namespace] {
			f.in(Operator, proxy, operator, one(portConfig), anyProxies)
		}
	}
}

// atProxies looks at the proxies' ends of all ways.
func (f *finder) atProxies(namespace string) {
	if len(f.policies[namespace]) == 0 {
		return
	}
	for _, proxy := range f.proxies[namespace] {
		for _, pod := range f.meshed[namespace] {
			if pod.pod.Labels[meshv1alpha1.EnabledLabel] != "false" {
				f.in(ToProxy, pod, proxy, numbers, ownPods)
			}
			f.out(FromProxy, proxy, pod, f.exposed(pod.pod), ownPods)
		}
		for _, other := range f.Enrolled {
			if other == namespace {
				continue
			}
			for _, theirs := range f.proxies[other] {
				f.out(Hop, proxy, theirs, one(portHop), anyProxies)
				f.in(Hop, theirs, proxy, one(portHop), anyProxies)
			}
		}
		for _, operator := range f.operators {
			f.out(Operator, proxy, operator, one(portConfig), f.theOperator())
		}
		// From the network of a node.
		f.in(Health, &end{}, proxy, one(portHealth), anybody)
	}
}

// in looks at the end that is called.
func (f *finder) in(flow Flow, from, to *end, ports []span, add peer) {
	f.look(flow, networkingv1.PolicyTypeIngress, to, from, to, ports, add)
}

// out looks at the end that calls.
func (f *finder) out(flow Flow, from, to *end, ports []span, add peer) {
	f.look(flow, networkingv1.PolicyTypeEgress, from, to, to, ports, add)
}

// look finds out whether the policies at one end admit a connection.
func (f *finder) look(flow Flow, direction networkingv1.PolicyType, here, other, called *end, ports []span, add peer) {
	left := blocked(f.selectors, here, direction, other, called.pod, ports)
	if len(left) == 0 {
		return
	}
	for _, p := range here.isolating[direction] {
		k := key{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, direction, flow}
		if f.found[k] == nil {
			f.found[k] = &found{pods: map[string]bool{}, rule: add}
		}
		if here.pod.Name != "" {
			f.found[k].pods[here.pod.Name] = true
		}
		f.found[k].ports = union(append(f.found[k].ports, left...))
	}
}

func (f *finder) findings() []Finding {
	out := make([]Finding, 0, len(f.found))
	for k, what := range f.found {
		if k.flow == ToProxy {
			what.ports = nil // as many as there are numbers, as a range, which not every network plugin knows
		}
		out = append(out, Finding{
			Policy: k.policy, Direction: k.direction, Flow: k.flow,
			Pods: slices.Sorted(maps.Keys(what.pods)), Rule: what.rule.write(k.direction, what.ports),
		})
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Policy.String(), b.Policy.String()),
			strings.Compare(string(a.Direction), string(b.Direction)), strings.Compare(string(a.Flow), string(b.Flow)))
	})
	return out
}

// peer is the other end in a rule to add: nothing for everybody.
type peer []networkingv1.NetworkPolicyPeer

// write returns the rule for ports in JSON, for all if there are none.
func (p peer) write(direction networkingv1.PolicyType, ports []span) string {
	var of []networkingv1.NetworkPolicyPort
	for _, s := range ports {
		for number := s.first; number <= s.last; number++ {
			of = append(of, networkingv1.NetworkPolicyPort{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(number))})
		}
	}
	var text []byte
	var err error
	if direction == networkingv1.PolicyTypeIngress {
		text, err = json.Marshal(networkingv1.NetworkPolicyIngressRule{From: p, Ports: of})
	} else {
		text, err = json.Marshal(networkingv1.NetworkPolicyEgressRule{To: p, Ports: of})
	}
	if err != nil {
		panic(err) // nothing in a rule cannot be written
	}
	return string(text)
}
