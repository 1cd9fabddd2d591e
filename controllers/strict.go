package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// versionsKept is how many versions of a pod's Inbound are remembered: what an agent has in force may be behind
// what is published, and refuse the same callers on the same ports all the same.
const versionsKept = 4

// inbounds is what the node agents are told of the pods of one namespace, and what it was made from.
type inbounds struct {
	// pods are the UIDs and resourceVersions of the pods.
	pods      []string
	exposures []compile.Exposure
	accounts  map[types.NamespacedName][]netip.Addr

	resources []wire.Resource
	// guarded are the pods behind each strict port; nodes are those that run some.
	guarded map[compile.ServicePort][]guardedPod
	nodes   map[string]bool
	// strict has the strict ports of each pod in the last versions of its Inbound, the newest last.
	strict map[string][]strictVersion
}

type guardedPod struct {
	name, uid, node string
	// port of the pod; 0 on the network of the node, where nothing is refused.
	port uint16
}

type strictVersion struct {
	version string
	ports   []uint16
}

// setExposures takes what a pass has compiled and tells whether it is something else than before. Those of a
// namespace that are the same stay the same slice, which is quickly compared.
func (w *World) setExposures(exposures []compile.Exposure) bool {
	next := make(map[string][]compile.Exposure)
	var strict []compile.ServicePort
	for i := range exposures {
		e := &exposures[i]
		next[e.Namespace] = append(next[e.Namespace], *e)
		if e.Strict {
			strict = append(strict, e.ServicePort)
		}
	}
	changed := len(next) != len(w.exposures)
	for namespace, own := range next {
		if before := w.exposures[namespace]; reflect.DeepEqual(before, own) {
			next[namespace] = before
		} else {
			changed = true
		}
	}
	w.strictNamespaces = make(map[string]bool)
	for _, port := range strict {
		w.strictNamespaces[port.Namespace] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exposures, w.strict = next, strict
	return changed
}

// Exposures returns what is published of the pods of each namespace. It must not be changed.
func (w *World) Exposures() map[string][]compile.Exposure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.exposures
}

// StrictPorts returns all ports that are strict. They must not be changed.
func (w *World) StrictPorts() []compile.ServicePort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.strict
}

// strictKeys are the keys of the destinations that are strict.
func (w *World) strictKeys() map[string]bool {
	keys := make(map[string]bool)
	for _, port := range w.StrictPorts() {
		keys[port.Key()] = true
	}
	return keys
}

// inbound makes the Inbounds of all enrolled namespaces anew, as far as something has changed that they are made
// from.
func (w *World) inbound(pods []*corev1.Pod, claimed map[netip.Addr]*corev1.Pod) {
	wanted := make(map[types.NamespacedName]bool)
	for _, exposures := range w.exposures {
		for i := range exposures {
			for _, account := range exposures[i].Accounts {
				wanted[account] = true
			}
		}
	}
	var accounts map[types.NamespacedName][]netip.Addr
	if len(wanted) > 0 {
		accounts = compile.AccountAddresses(claimed, wanted)
	}
	byNamespace := make(map[string][]*corev1.Pod)
	for _, pod := range pods {
		if w.enrolled[pod.Namespace] {
			byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
		}
	}
	next := make(map[string]*inbounds, len(byNamespace))
	for namespace, pods := range byNamespace {
		made := inbounds{exposures: w.exposures[namespace], accounts: accountsOf(w.exposures[namespace], accounts)}
		for _, pod := range pods {
			made.pods = append(made.pods, string(pod.UID)+"/"+pod.ResourceVersion)
		}
		slices.Sort(made.pods)
		before := w.inbounds[namespace]
		if before == nil || !before.sameInput(&made) {
			made.make(pods, before)
			w.inboundsChanged = true
			before = &made
		}
		next[namespace] = before
	}
	w.inboundsChanged = w.inboundsChanged || len(next) != len(w.inbounds) || w.inbounds == nil
	w.inbounds = next
}

func accountsOf(exposures []compile.Exposure, accounts map[types.NamespacedName][]netip.Addr) map[types.NamespacedName][]netip.Addr {
	var own map[types.NamespacedName][]netip.Addr
	for i := range exposures {
		for _, account := range exposures[i].Accounts {
			if own == nil {
				own = make(map[types.NamespacedName][]netip.Addr)
			}
			own[account] = accounts[account]
		}
	}
	return own
}

func (i *inbounds) sameInput(other *inbounds) bool {
	return slices.Equal(i.pods, other.pods) && reflect.DeepEqual(i.exposures, other.exposures) && reflect.DeepEqual(i.accounts, other.accounts)
}

// make fills in what comes of the input. before may be nil.
func (i *inbounds) make(pods []*corev1.Pod, before *inbounds) {
	i.resources = compile.Inbounds(pods, i.exposures, i.accounts)
	i.strict = make(map[string][]strictVersion)
	for _, r := range i.resources {
		now := strictVersion{version: r.Version}
		for _, p := range r.Inbound.Ports {
			if p.Strict {
				now.ports = append(now.ports, p.Port)
			}
		}
		var versions []strictVersion
		if before != nil {
			versions = slices.DeleteFunc(slices.Clone(before.strict[r.Key]), func(v strictVersion) bool { return v.version == now.version })
		}
		versions = append(versions, now)
		i.strict[r.Key] = versions[max(0, len(versions)-versionsKept):]
	}
	i.guarded, i.nodes = make(map[compile.ServicePort][]guardedPod), make(map[string]bool)
	for at := range i.exposures {
		e := &i.exposures[at]
		if !e.Strict {
			continue
		}
		i.guarded[e.ServicePort] = nil
		for _, pod := range pods {
			port, behind := e.PortOf(pod)
			if !behind || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
				continue
			}
			if pod.Spec.HostNetwork {
				port = 0
			} else {
				i.nodes[pod.Spec.NodeName] = true
			}
			i.guarded[e.ServicePort] = append(i.guarded[e.ServicePort], guardedPod{pod.Name, string(pod.UID), pod.Spec.NodeName, port})
		}
	}
}

// allInbounds are those of all namespaces.
func (w *World) allInbounds() []wire.Resource {
	var resources []wire.Resource
	for _, made := range w.inbounds {
		resources = append(resources, made.resources...)
	}
	return resources
}

// enforce finds out what is in force of strict ports, and wakes the status writer for what has changed.
//
// A new leader says nothing before it has heard of the nodes.
func (w *World) enforce() {
	if !w.settled || len(w.enforcements) == 0 && len(w.StrictPorts()) == 0 {
		return
	}
	nodes := w.Hub.Nodes()
	next := make(map[compile.ServicePort]status.Enforcement)
	for namespace, exposures := range w.exposures {
		made := w.inbounds[namespace]
		if made == nil {
			made = &inbounds{} // it has no pod at all
		}
		for i := range exposures {
			if e := &exposures[i]; e.Strict {
				next[e.ServicePort] = made.enforcement(e, nodes, len(w.ready[namespace]) > 0)
			}
		}
	}
	w.mu.Lock()
	before := w.enforcements
	w.enforcements = next
	w.mu.Unlock()
	w.enforcementChanged(differing(before, next, func(a, b status.Enforcement) bool { return a == b }))
}

// enforcementChanged wakes the status writer if what is known of strict ports has changed in a namespace.
func (w *World) enforcementChanged(namespaces map[string]bool) {
	if len(namespaces) > 0 {
		w.Status.EnforcementChanged(namespaces)
	}
}

// differing returns the namespaces of the ports of which something else is known than before.
func differing[V any](before, next map[compile.ServicePort]V, equal func(a, b V) bool) map[string]bool {
	namespaces := make(map[string]bool)
	for port, now := range next {
		if was, known := before[port]; !known || !equal(was, now) {
			namespaces[port.Namespace] = true
		}
	}
	for port := range before {
		if _, still := next[port]; !still {
			namespaces[port.Namespace] = true
		}
	}
	return namespaces
}

// enforcement tells how many of the pods behind a port refuse whom they should, as their nodes report and
// have proven that they can. A pod that has no network yet is not counted: nobody can call it.
func (i *inbounds) enforcement(e *compile.Exposure, nodes map[string]distribute.NodeState, proxied bool) status.Enforcement {
	var out status.Enforcement
	if len(e.Selector) == 0 {
		out.Why = "Service " + e.Service + " has no selector, so that nobody knows whose ports it publishes"
		return out
	}
	why := func(text string) {
		if out.Why == "" || text < out.Why {
			out.Why = text
		}
	}
	for _, pod := range i.guarded[e.ServicePort] {
		if pod.port == 0 {
			out.Pods++
			why("pod " + pod.name + " is on the network of its node, where nothing is refused")
			continue
		}
		node, known := nodes[pod.node]
		report, here := node.Pods[pod.uid]
		if known && node.Complete && !here {
			continue
		}
		out.Pods++
		in := func(v strictVersion) bool { return v.version == report.Inbound && slices.Contains(v.ports, pod.port) }
		switch {
		case !known || node.Canary == nil:
			why("no agent has proven on node " + pod.node + " that it can refuse callers")
		case !node.Canary.StrictEnforced:
			why("the agent of node " + pod.node + " could not prove that it refuses callers: " + cmp.Or(node.Canary.Reason, "its test failed"))
		case !slices.ContainsFunc(i.strict[pod.uid], in):
			why("not yet in force in all pods")
		default:
			out.Enforced++
		}
	}
	if !proxied {
		out.Unserved = "no proxy of namespace " + e.Namespace + " is ready, so that every call is refused"
	}
	return out
}

// Enforcement tells what is in force of strict ports, taken together.
func (w *World) Enforcement(ports []compile.ServicePort) status.Enforcement {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.settled {
		return status.Enforcement{Unknown: true}
	}
	return sumEnforcement(ports, w.enforcements, w.plain)
}

func sumEnforcement(
	ports []compile.ServicePort, enforcements map[compile.ServicePort]status.Enforcement, plain map[compile.ServicePort][]string,
) status.Enforcement {
	var sum status.Enforcement
	var why, unserved, callers []string
	for _, port := range ports {
		e, known := enforcements[port]
		if !known {
			e.Why = "not yet in force"
		}
		sum.Pods += e.Pods
		sum.Enforced += e.Enforced
		why, unserved, callers = append(why, e.Why), append(unserved, e.Unserved), append(callers, plain[port]...)
	}
	sum.Why, sum.Unserved, sum.Callers = some(why), some(unserved), some(callers)
	return sum
}

// some joins as many of several texts as a message has room for, each once.
func some(texts []string) string {
	const most = 5
	texts = slices.DeleteFunc(texts, func(text string) bool { return text == "" })
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) > most {
		texts = append(texts[:most:most], fmt.Sprintf("%d more", len(texts)-most))
	}
	return strings.Join(texts, ", ")
}

// usable returns the proxies that others may send to: of a strict namespace those whose addresses the agents
// have acknowledged that run pods there, since those pods would refuse the others. An agent that is away is waited
// for as long as there are proxies that it knows. Once usable, a proxy stays so while it is ready; a new leader
// takes all that are ready for usable, as the last one may have. One that does not enforce the authorizations of its
// namespace is never usable.
func (w *World) usable() map[string][]wire.Proxy {
	out := make(map[string][]wire.Proxy, len(w.proxies))
	known := make(map[proxyAddress]bool)
	for namespace, proxies := range w.proxies {
		strict := w.opened && w.strictNamespaces[namespace]
		var connected, all uint64
		if strict {
			connected, all = w.agentsHave(namespace)
		}
		before := slices.ContainsFunc(proxies, func(p wire.Proxy) bool { return w.admitted.usable[addressOf(namespace, p)] })
		for _, p := range proxies {
			have := connected
			if before {
				have = min(all, connected)
			}
			since, told := w.admitted.since(namespace, p)
			if !w.releases.fit(namespace, p) {
				continue
			}
			if key := addressOf(namespace, p); !strict || w.admitted.usable[key] || told && since <= have {
				known[key] = true
				out[namespace] = append(out[namespace], p)
			}
		}
	}
	w.admitted.usable = known
	return out
}

// agentsHave returns the publication that every agent has which runs guarded pods of a namespace: those that are
// connected, and all that are known.
func (w *World) agentsHave(namespace string) (connected, all uint64) {
	made := w.inbounds[namespace]
	connected, all = ^uint64(0), ^uint64(0)
	if made == nil {
		return connected, all
	}
	here := make(map[string]bool)
	for _, c := range w.Hub.Clients() {
		if c.Kind == distribute.ClientNode && made.nodes[c.Node] {
			connected, here[c.Node] = min(connected, c.Seq), true
		}
	}
	for name := range w.Hub.Nodes() {
		if made.nodes[name] && !here[name] {
			all = 0
		}
	}
	return connected, all
}

// admittance is whom the pods of strict namespaces let in.
type admittance struct {
	// proxies are the addresses of all proxies by namespace.
	proxies map[string][]netip.Addr
	// published has the publication since which nodes are told of an address.
	published map[[2]string]uint64
	usable    map[proxyAddress]bool
}

// proxyAddress is a proxy at its addresses, of which there are two at most.
type proxyAddress struct {
	namespace, pod string
	addresses      [2]netip.Addr
}

func addressOf(namespace string, p wire.Proxy) proxyAddress {
	at := proxyAddress{namespace: namespace, pod: p.Pod}
	copy(at.addresses[:], p.Addresses)
	return at
}

// since is the publication in which nodes were told of the last address of a proxy, if they were.
func (a *admittance) since(namespace string, p wire.Proxy) (seq uint64, told bool) {
	for _, address := range p.Addresses {
		at, told := a.published[[2]string{namespace, address.String()}]
		if !told {
			return 0, false
		}
		seq = max(seq, at)
	}
	return seq, true
}

// told notes what nodes have been told in a publication.
func (a *admittance) told(captures map[string]captured, seq uint64) {
	next := make(map[[2]string]uint64)
	for namespace, c := range captures {
		for _, address := range c.resource.Capture.Admitted {
			key := [2]string{namespace, address.String()}
			next[key] = seq
			if before, known := a.published[key]; known {
				next[key] = before
			}
		}
	}
	a.published = next
}

// readyChanged takes the proxies that are usable now and tells whether they are others than before.
func (w *World) readyChanged() bool {
	next := w.usable()
	changed := !maps.EqualFunc(w.ready, next, func(a, b []wire.Proxy) bool { return slices.EqualFunc(a, b, sameProxy) })
	w.ready = next
	return changed
}
