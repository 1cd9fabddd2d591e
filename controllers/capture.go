package controllers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// connectGrace is the default of World.ConnectGrace. Clients that are ready connect within a few seconds.
const connectGrace = 10 * time.Second

// componentNode is the value of meshv1alpha1.ComponentLabel on the pods of node agents.
const componentNode = "node"

// open tells that a new leader waits for proxies no longer: all that are ready have a stream and have
// acknowledged something, or the grace time is over. Before that it decides nothing by what the others
// say: those that are missing still serve what the last leader told them.
func (w *World) open() bool {
	if w.opened {
		return true
	}
	absent, all := w.absentProxies()
	if all || time.Since(w.started) >= w.ConnectGrace {
		w.opened, absent = true, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absent = absent
	return w.opened
}

// Holds tells how many of a namespace's proxies, m, have acknowledged all the given versions: n. Proxies
// count while they are connected; those that a new leader still waits for count as well.
func (w *World) Holds(namespace string, held []wire.Held) (n, m int) {
	n, m = w.Hub.Holds(namespace, held)
	w.mu.Lock()
	defer w.mu.Unlock()
	return n, m + w.absent[namespace]
}

// Outdated tells how many of a namespace's connected proxies leave some of what they hold out.
func (w *World) Outdated(namespace string, held []wire.Held) int {
	return w.Hub.Outdated(namespace, held)
}

// publishToNodes publishes what has changed of captures and Inbounds. Both come in one publication: a pod of a
// namespace with strict ports whose Inbound has not come is closed, also to peers that call ports which are not
// published; and a strict port must not learn of a proxy later than it becomes strict.
func (w *World) publishToNodes() {
	patches := map[distribute.Layer]distribute.Patch{}
	captures, captured := w.capture()
	if captured {
		patches[distribute.LayerCapture] = captures
	}
	if inbounds := w.inboundPatch(); inbounds.Whole || len(inbounds.Upserts)+len(inbounds.Removals) > 0 {
		patches[distribute.LayerInbound] = inbounds
		w.inboundChanges, w.inboundsTold = nil, true
	}
	if len(patches) == 0 {
		return
	}
	seq := w.Hub.PatchAll(patches)
	if captured {
		w.capturedSeq = seq
		w.admitted.told(w.captured, seq)
	}
}

// capture finds out what the pods of each namespace send to which proxies, and tells whether something
// has changed. A port is captured only once every connected proxy of the namespace has acknowledged its
// destination, and stays captured while it exists: proxies that come later have it before they are ready.
func (w *World) capture() (patch distribute.Patch, changed bool) {
	w.mu.Lock()
	enrolled := w.enrolled
	w.mu.Unlock()

	inputs := w.inputs()
	all := !inputs.equal(&w.capturing)
	w.capturing = inputs
	patch.Whole = w.capturedSeq == 0
	next := make(map[string]captured, len(enrolled))
	for namespace := range enrolled {
		before, known := w.captured[namespace]
		c := before
		if !known || all || !slices.EqualFunc(c.resource.Capture.Proxies, w.ready[namespace], sameProxy) ||
			!slices.Equal(c.resource.Capture.Admitted, w.admitted.proxies[namespace]) || w.progress(namespace, c.awaited) {
			c = w.recapture(namespace, c)
		}
		next[namespace] = c
		if patch.Whole || !known || c.resource.Version != before.resource.Version {
			patch.Upserts = append(patch.Upserts, c.resource)
		}
	}
	for namespace, c := range w.captured {
		if _, stays := next[namespace]; !stays {
			patch.Removals = append(patch.Removals, c.resource.Ref)
		}
	}
	w.captured = next
	return patch, patch.Whole || len(patch.Upserts)+len(patch.Removals) > 0
}

// captured is what is captured of one namespace.
type captured struct {
	resource *wire.Resource
	// awaited are the destinations that would be captured as well if every connected proxy had them.
	awaited []wire.Held
}

// captureInputs is what captures are made from beside proxies and their acknowledgements. With hundreds
// of namespaces a capture is costly, and most passes and acknowledgements change none.
type captureInputs struct {
	// revision is World.revision at the time.
	revision uint64
	// destinations are those that are published and not retired, in the order of their keys.
	destinations []*wire.Resource
	routes       []*wire.Resource
	// routed holds scope and key of each destination that a route is attached to, authorized the keys of those
	// that an authorization is for or that are strict.
	routed     map[[2]string]bool
	authorized map[string]bool
	// strict are the namespaces with a strict port.
	strict map[string]bool
}

func (i *captureInputs) equal(other *captureInputs) bool {
	same := func(a, b *wire.Resource) bool { return a.Ref == b.Ref && a.Version == b.Version && a.Scope == b.Scope }
	return i.revision == other.revision ||
		slices.EqualFunc(i.destinations, other.destinations, same) && maps.Equal(i.routed, other.routed) &&
			maps.Equal(i.authorized, other.authorized) && maps.Equal(i.strict, other.strict)
}

// inputs returns what is to be captured now.
func (w *World) inputs() captureInputs {
	if w.revision == w.capturing.revision {
		return w.capturing
	}
	now := captureInputs{revision: w.revision, routed: map[[2]string]bool{}}
	var authorizations []*wire.Resource
	for ref, r := range w.published {
		switch _, retired := w.retired[ref]; {
		case ref.Kind == wire.KindDestination && !retired && r.Destination.Number != 0:
			now.destinations = append(now.destinations, r)
		case ref.Kind == wire.KindRoute:
			now.routes = append(now.routes, r)
			for _, key := range r.Route.Destinations {
				now.routed[[2]string{string(r.Scope), key}] = true
			}
		case ref.Kind == wire.KindAuthorization:
			authorizations = append(authorizations, r)
		}
	}
	now.authorized = compile.Authorized(authorizations, now.destinations)
	maps.Copy(now.authorized, w.strictKeys())
	now.strict = w.strictNamespaces
	slices.SortFunc(now.destinations, func(a, b *wire.Resource) int { return cmp.Compare(a.Key, b.Key) })
	return now
}

// recapture makes the capture of a namespace: of the destinations that it may see, those that are
// captured already and those that every connected proxy has acknowledged.
func (w *World) recapture(namespace string, before captured) captured {
	numbers := map[uint16]bool{}
	if before.resource != nil {
		for _, port := range before.resource.Capture.Ports {
			numbers[port.Number] = true
		}
	}
	var now captured
	var programmed []*wire.Resource
	for _, d := range w.capturing.destinations {
		if d.Scope != wire.ScopeMesh && d.Scope != wire.ScopeNamespace(namespace) {
			continue
		}
		held := wire.Held{Ref: d.Ref, Version: d.Version}
		if numbers[d.Destination.Number] || w.acknowledgedBy(namespace, held) {
			programmed = append(programmed, d)
		} else {
			now.awaited = append(now.awaited, held)
		}
	}
	var routed map[string]bool
	if len(w.ready[namespace]) > 0 || w.joined[namespace] {
		routed = compile.Routed(namespace, w.capturing.routes)
		maps.Copy(routed, w.capturing.authorized)
	} // else no proxy has ever been ready, and what a route decides about must not be refused for want of one
	made := compile.Capture(
		namespace, programmed, routed, w.ready[namespace], w.admitted.proxies[namespace], w.capturing.strict[namespace])
	now.resource = &made
	return now
}

// progress tells that something awaited has been acknowledged by every connected proxy.
func (w *World) progress(namespace string, awaited []wire.Held) bool {
	if len(awaited) == 0 {
		return false
	}
	if _, connected := w.Hub.Holds(namespace, nil); connected == 0 {
		return false
	}
	return slices.ContainsFunc(awaited, func(held wire.Held) bool { return w.acknowledgedBy(namespace, held) })
}

func (w *World) acknowledgedBy(namespace string, held wire.Held) bool {
	n, m := w.Hub.Holds(namespace, []wire.Held{held})
	return m > 0 && n == m
}

func sameProxy(a, b wire.Proxy) bool {
	return a.Pod == b.Pod && a.Zone == b.Zone && a.Node == b.Node && slices.Equal(a.Addresses, b.Addresses)
}

// absentProxies counts, by namespace, the ready proxies that have no stream, those beside pods among them. all tells that
// there are none, and that the others have acknowledged something.
func (w *World) absentProxies() (absent map[string]int, all bool) {
	acknowledged := map[distribute.ClientKind]map[distribute.Pod]bool{distribute.ClientProxy: {}, distribute.ClientSidecar: {}}
	for _, c := range w.Hub.Clients() {
		if of := acknowledged[c.Kind]; of != nil {
			of[distribute.Pod{Namespace: c.Namespace, Name: c.Pod}] = c.Seq > 0
		}
	}
	absent, all = map[string]int{}, true
	count := func(kind distribute.ClientKind, pod distribute.Pod) {
		done, connected := acknowledged[kind][pod]
		if !connected {
			absent[pod.Namespace]++
		}
		all = all && done
	}
	for namespace, proxies := range w.ready {
		for _, p := range proxies {
			count(distribute.ClientProxy, distribute.Pod{Namespace: namespace, Name: p.Pod})
		}
	}
	for namespace, pods := range w.readyBeside {
		for _, name := range pods {
			count(distribute.ClientSidecar, distribute.Pod{Namespace: namespace, Name: name})
		}
	}
	return absent, all
}

// nodesHoldCaptures tells that every node captures what is published now and nothing else. A node whose
// agent has gone away holds what it had: it is waited for until it is back, is no node any more, or the
// hub gives it up. A new leader knows of nobody and waits for the agents that are ready, for the grace
// time.
func (w *World) nodesHoldCaptures() bool {
	connected := map[string]bool{}
	for _, c := range w.Hub.Clients() {
		if c.Kind != distribute.ClientNode {
			continue
		}
		if c.Seq < max(w.capturedSeq, 1) {
			return false
		}
		connected[c.Node] = true
	}
	fresh := time.Since(w.started) < w.ConnectGrace
	known := w.Hub.Nodes()
	for name, ready := range w.nodes {
		if _, here := known[name]; !connected[name] && (here || ready && fresh) {
			return false
		}
	}
	return true
}

// agents returns all nodes, true for those whose agent is ready.
func agents(nodes []*corev1.Node, pods []*corev1.Pod, systemNamespace string) map[string]bool {
	out := make(map[string]bool, len(nodes))
	for _, node := range nodes {
		out[node.Name] = false
	}
	for _, pod := range pods {
		_, exists := out[pod.Spec.NodeName]
		if !exists || pod.Namespace != systemNamespace || pod.Labels[meshv1alpha1.ComponentLabel] != componentNode {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				out[pod.Spec.NodeName] = true
			}
		}
	}
	return out
}
