package controllers

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// versionsKept is how many versions of a pod's Inbound are remembered: what an agent has in force may be behind
// what is published, and refuse the same callers on the same ports all the same.
const versionsKept = 4

// inbounds is what the node agents are told of the pods of one namespace, and what it was made from. It never changes.
type inbounds struct {
	exposed   *compile.Exposed
	accounts  map[types.NamespacedName][]netip.Addr
	placement meshv1alpha1.Placement

	// pods are by UID.
	pods map[string]*podInbound
	// guarded are the pods behind each strict port; nodes are those that run some.
	guarded map[compile.ServicePort][]guardedPod
	nodes   map[string]bool
}

// podInbound is what a node agent is told of one pod.
type podInbound struct {
	// version is the resourceVersion of the pod.
	version string
	// resource is nil if there is nothing to tell.
	resource *wire.Resource
	// versions are the last of the resource, the newest last.
	versions []strictVersion
	// behind are the strict ports that the pod is behind.
	behind []guarding
}

type guarding struct {
	at  compile.ServicePort
	pod guardedPod
}

type guardedPod struct {
	name, uid, node string
	// port of the pod; 0 on the network of the node, where nothing is refused.
	port uint16
	// addressed tells that the status of the pod has an address.
	addressed bool
	// alone tells that it lacks the proxy of its own that it is to have.
	alone bool
}

// strictVersion has the strict ports of a version of a pod's Inbound.
type strictVersion struct {
	version string
	ports   []uint16
}

// inbound makes the Inbounds anew that are made from something else than before: of a namespace all, if its exposures
// have changed or whom they let in, otherwise those of the pods that have.
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
		made := &inbounds{accounts: accountsOf(w.exposures[namespace], accounts), placement: w.placements[namespace]}
		next[namespace] = made.make(pods, w.exposures[namespace], w.inbounds[namespace])
	}
	for namespace, was := range w.inbounds {
		w.noteInbounds(was, next[namespace])
	}
	for namespace, now := range next {
		if w.inbounds[namespace] == nil {
			w.noteInbounds(nil, now)
		}
	}
	w.inbounds = next
}

// noteInbounds notes what nodes are to be told when what there is of a namespace becomes something else. Both may be
// nil.
func (w *World) noteInbounds(was, now *inbounds) {
	if was == now {
		return
	}
	if w.inboundChanges == nil {
		w.inboundChanges = make(map[wire.Ref]*wire.Resource)
	}
	if now != nil {
		for uid, pod := range now.pods {
			if pod.resource != nil && (was == nil || was.pods[uid] == nil || was.pods[uid].resource != pod.resource) {
				w.inboundChanges[pod.resource.Ref] = pod.resource
			}
		}
	}
	if was != nil {
		for uid, pod := range was.pods {
			if pod.resource != nil && (now == nil || now.pods[uid] == nil || now.pods[uid].resource == nil) {
				w.inboundChanges[pod.resource.Ref] = nil
			}
		}
	}
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

// make fills in what comes of the pods and exposures of the namespace, and returns what came before, which may be nil,
// if that is the same.
func (i *inbounds) make(pods []*corev1.Pod, exposures []compile.Exposure, before *inbounds) *inbounds {
	same := before != nil && reflect.DeepEqual(before.exposed.All(), exposures)
	if same {
		i.exposed = before.exposed
	} else {
		i.exposed = compile.NewExposed(exposures)
	}
	same = same && i.placement == before.placement && reflect.DeepEqual(i.accounts, before.accounts)
	i.pods = make(map[string]*podInbound, len(pods))
	changed := !same || len(pods) != len(before.pods)
	for _, pod := range pods {
		uid := string(pod.UID)
		var was *podInbound
		if before != nil {
			was = before.pods[uid]
		}
		if same && was != nil && was.version == pod.ResourceVersion {
			i.pods[uid] = was
			continue
		}
		i.pods[uid] = i.of(pod, was)
		changed = true
	}
	if !changed {
		return before
	}
	i.guarded, i.nodes = make(map[compile.ServicePort][]guardedPod), make(map[string]bool)
	for at := range exposures {
		if exposures[at].Strict {
			i.guarded[exposures[at].ServicePort] = nil
		}
	}
	for _, pod := range pods {
		for _, g := range i.pods[string(pod.UID)].behind {
			i.guarded[g.at] = append(i.guarded[g.at], g.pod)
			if g.pod.port != 0 {
				i.nodes[g.pod.node] = true
			}
		}
	}
	return i
}

// of makes what is told of a pod. was may be nil.
func (i *inbounds) of(pod *corev1.Pod, was *podInbound) *podInbound {
	now := &podInbound{version: pod.ResourceVersion, resource: compile.Inbound(pod, i.exposed, i.accounts, i.placement)}
	if now.resource != nil {
		said := strictVersion{version: now.resource.Version}
		for _, p := range now.resource.Inbound.Ports {
			if p.Strict {
				said.ports = append(said.ports, p.Port)
			}
		}
		if was != nil {
			now.versions = slices.DeleteFunc(slices.Clone(was.versions), func(v strictVersion) bool { return v.version == said.version })
			if r := was.resource; r != nil && r.Version == now.resource.Version && r.Scope == now.resource.Scope && r.Origin == now.resource.Origin {
				now.resource = r
			}
		}
		now.versions = append(now.versions, said)
		now.versions = now.versions[max(0, len(now.versions)-versionsKept):]
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return now
	}
	for e, port := range i.exposed.Of(pod) {
		if !e.Strict {
			continue
		}
		if pod.Spec.HostNetwork {
			port = 0
		}
		now.behind = append(now.behind, guarding{e.ServicePort, guardedPod{
			name: pod.Name, uid: string(pod.UID), node: pod.Spec.NodeName, port: port,
			addressed: len(pod.Status.PodIPs) > 0, alone: compile.LacksSidecar(pod, i.placement),
		}})
	}
	return now
}

// inboundPatch is what nodes are to be told of pods, and have not been.
func (w *World) inboundPatch() distribute.Patch {
	var patch distribute.Patch
	if w.inbounds != nil && !w.inboundsTold {
		patch.Whole = true
		for _, made := range w.inbounds {
			for _, pod := range made.pods {
				if pod.resource != nil {
					patch.Upserts = append(patch.Upserts, pod.resource)
				}
			}
		}
		return patch
	}
	for ref, r := range w.inboundChanges {
		if r == nil {
			patch.Removals = append(patch.Removals, ref)
		} else {
			patch.Upserts = append(patch.Upserts, r)
		}
	}
	return patch
}

// exposed are the exposures of the namespaces that have pods.
func (w *World) exposed() map[string]*compile.Exposed {
	out := make(map[string]*compile.Exposed, len(w.inbounds))
	for namespace, made := range w.inbounds {
		out[namespace] = made.exposed
	}
	return out
}
