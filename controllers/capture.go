package controllers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// connectGrace is how long a new leader waits for the proxies that are ready to connect before it tells
// nodes what to capture. Agents keep what they have meanwhile.
const connectGrace = 10 * time.Second

// capture publishes what the pods of each namespace send to which proxies. A port is captured only once
// every connected proxy of the namespace has acknowledged its destination, and stays captured while it
// exists: proxies that come later have it before they are ready. It reports false while a new leader
// still waits for proxies.
func (w *World) capture() bool {
	if !w.opened && !w.proxiesConnected() && time.Since(w.started) < connectGrace {
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

// nodesHoldCaptures tells that every connected node captures what is published now and nothing else.
func (w *World) nodesHoldCaptures() bool {
	for _, c := range w.Hub.Clients() {
		if c.Kind == distribute.ClientNode && c.Seq < w.capturedSeq {
			return false
		}
	}
	return true
}
