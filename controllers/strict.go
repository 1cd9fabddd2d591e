package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// setExposures takes the exposures of namespaces and tells whether they are something else than before. Those of a
// namespace that are the same stay the same slice, which is quickly compared. From the first call on it is known what is
// published, be it nothing.
func (w *World) setExposures(of map[string][]compile.Exposure) bool {
	next, first := maps.Clone(w.exposures), w.exposures == nil
	if first {
		next = make(map[string][]compile.Exposure)
	}
	changed := false
	for namespace, own := range of {
		if reflect.DeepEqual(next[namespace], own) {
			continue
		}
		changed = true
		if len(own) == 0 {
			delete(next, namespace)
		} else {
			next[namespace] = own
		}
	}
	if !changed && !first {
		return false
	}
	var strict []compile.ServicePort
	namespaces := make(map[string]bool)
	for _, namespace := range slices.Sorted(maps.Keys(next)) {
		for i := range next[namespace] {
			if e := &next[namespace][i]; e.Strict {
				strict = append(strict, e.ServicePort)
				namespaces[namespace] = true
			}
		}
	}
	w.strictNamespaces = namespaces
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
// have proven that they can. A pod that has no network yet is not counted: nobody can call it. While its agent is away,
// one has it whose status has an address.
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
		if known && node.Complete && !here && (node.Current || !pod.addressed) {
			continue
		}
		out.Pods++
		if pod.alone {
			out.Unserved = "pod " + pod.name + " is to have a proxy of its own and was created without, so that calls of it are refused"
		}
		in := func(v strictVersion) bool { return v.version == report.Inbound && slices.Contains(v.ports, pod.port) }
		switch {
		case !known || node.Canary == nil:
			why("no agent has proven on node " + pod.node + " that it can refuse callers")
		case !node.Canary.StrictEnforced:
			why("the agent of node " + pod.node + " could not prove that it refuses callers: " + cmp.Or(node.Canary.Reason, "its test failed"))
		case !here && !node.Current:
			why("pod " + pod.name + " has started while the agent of node " + pod.node + " is away")
		case !slices.ContainsFunc(i.pods[pod.uid].versions, in):
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
