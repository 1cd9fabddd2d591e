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

// capture publishes what the pods of each namespace send to which proxies. A port is captured only once
// every connected proxy of the namespace has acknowledged its destination, and stays captured while it
// exists: proxies that come later have it before they are ready. It reports false while a new leader
// still waits for proxies.
func (w *World) capture() bool {
	if !w.opened && !w.proxiesConnected() && time.Since(w.started) < w.ConnectGrace {
		return false
	}
	w.opened = true
	w.mu.Lock()
	enrolled := w.enrolled
	w.mu.Unlock()

	destinations, routes := w.destinations(), w.routes()
	captured := make(map[string]wire.Resource, len(enrolled))
	resources := make([]wire.Resource, 0, len(enrolled))
	for namespace := range enrolled {
		r := compile.Capture(namespace, w.programmed(namespace, destinations), compile.Routed(namespace, routes), w.ready[namespace])
		captured[namespace] = r
		resources = append(resources, r)
	}
	same := func(a, b wire.Resource) bool { return a.Version == b.Version }
	if seq := w.Hub.Replace(distribute.LayerCapture, resources); !maps.EqualFunc(captured, w.captured, same) {
		w.captured, w.capturedSeq = captured, seq
	}
	return true
}

// destinations returns the published destinations that are not retired, in the order of their keys.
func (w *World) destinations() []wire.Resource {
	var out []wire.Resource
	for ref, r := range w.published {
		if _, retired := w.retired[ref]; ref.Kind == wire.KindDestination && !retired && r.Destination.Number != 0 {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b wire.Resource) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// routes returns the published routes.
func (w *World) routes() []wire.Resource {
	var out []wire.Resource
	for ref, r := range w.published {
		if ref.Kind == wire.KindRoute {
			out = append(out, r)
		}
	}
	return out
}

// programmed returns the destinations that pods of a namespace can be sent to.
func (w *World) programmed(namespace string, destinations []wire.Resource) []wire.Resource {
	before := map[uint16]bool{}
	if c := w.captured[namespace].Capture; c != nil {
		for _, port := range c.Ports {
			before[port.Number] = true
		}
	}
	var out []wire.Resource
	for _, d := range destinations {
		if d.Scope != wire.ScopeMesh && d.Scope != wire.ScopeNamespace(namespace) {
			continue
		}
		if before[d.Destination.Number] || w.held(namespace, d) {
			out = append(out, d)
		}
	}
	return out
}

func (w *World) held(namespace string, r wire.Resource) bool {
	n, m := w.Hub.Holds(namespace, []wire.Held{{Ref: r.Ref, Version: r.Version}})
	return m > 0 && n == m
}

// proxiesConnected tells that every ready proxy has a stream and has acknowledged something.
func (w *World) proxiesConnected() bool {
	connected := map[[2]string]bool{}
	for _, c := range w.Hub.Clients() {
		if c.Kind == distribute.ClientProxy && c.Seq > 0 {
			connected[[2]string{c.Namespace, c.Pod}] = true
		}
	}
	for namespace, proxies := range w.ready {
		for _, p := range proxies {
			if !connected[[2]string{namespace, p.Pod}] {
				return false
			}
		}
	}
	return true
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
