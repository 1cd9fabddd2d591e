package controllers

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// Reasons of MeshProxiesPlaced and of the Events about placements.
const (
	reasonProxyMissing     = "ProxyMissing"
	reasonPlacementUnknown = "PlacementUnknown"
	// reasonAgentMissing is one of Events alone: MeshCaptured names the nodes.
	reasonAgentMissing = "AgentMissing"
)

// misplacement is an object that has its proxy elsewhere than its labels ask for, or a pod that nobody leads to one.
type misplacement struct {
	object       client.Object
	kind         string
	reason, text string
}

// name is the object as people write it.
func (m *misplacement) name() string {
	if m.object.GetNamespace() == "" {
		return m.kind + " " + m.object.GetName()
	}
	return m.kind + " " + m.object.GetNamespace() + "/" + m.object.GetName()
}

// misplaced finds the pods of enrolled namespaces that are to have proxies of their own and were made without, because
// admission was away or the label came later, and labels that say what nobody knows.
func misplaced(s compile.Snapshot, pods []*corev1.Pod, enrolled map[string]bool) []misplacement {
	var found []misplacement
	labels := map[string]map[string]string{}
	for _, namespace := range s.Namespaces {
		if !enrolled[namespace.Name] {
			continue
		}
		labels[namespace.Name] = namespace.Labels
		if _, unknown := compile.Placement(nil, namespace.Labels, s.Mesh); unknown != nil {
			found = append(found, misplacement{namespace, "Namespace", reasonPlacementUnknown, unknown.Error()})
		}
	}
	for _, pod := range pods {
		if !enrolled[pod.Namespace] || !compile.Placeable(pod) || pod.DeletionTimestamp != nil ||
			pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		// What the namespace says wrong is told of it alone.
		if _, unknown := compile.Placement(pod.Labels, nil, s.Mesh); unknown != nil {
			found = append(found, misplacement{pod, "Pod", reasonPlacementUnknown, unknown.Error()})
		}
		placement, _ := compile.Placement(nil, labels[pod.Namespace], s.Mesh)
		if compile.LacksSidecar(pod, placement) {
			found = append(found, misplacement{pod, "Pod", reasonProxyMissing,
				"it is to have a proxy of its own and was made without: its strict ports are refused to all but its node until it is made anew"})
		}
	}
	slices.SortStableFunc(found, func(a, b misplacement) int { return cmp.Compare(a.name(), b.name()) })
	return found
}

// unled finds the pods that no agent has captured since this leader knows of them, on nodes whose agent is away.
func unled(o observation) []misplacement {
	if o.fresh {
		return nil // agents may have more to tell
	}
	var found []misplacement
	for node, pods := range meshed(o) {
		report := o.reports[node]
		if report.Connected {
			continue
		}
		for _, pod := range pods {
			if pod.Spec.HostNetwork || report.Pods[string(pod.UID)].Captured {
				continue
			}
			found = append(found, misplacement{pod, "Pod", reasonAgentMissing,
				"no node agent is connected on " + node + ": nothing is known to lead this pod's connections to a proxy until it is back"})
		}
	}
	slices.SortFunc(found, func(a, b misplacement) int { return cmp.Compare(a.name(), b.name()) })
	return found
}

// proxiesPlaced is the condition about them; nil if there are none.
func proxiesPlaced(found []misplacement) *metav1.Condition {
	if len(found) == 0 {
		return nil
	}
	c := &metav1.Condition{Type: meshv1alpha1.MeshProxiesPlaced, Status: metav1.ConditionFalse, Reason: reasonPlacementUnknown}
	var texts []string
	for i := range found {
		m := &found[i]
		if m.reason == reasonProxyMissing {
			c.Reason = reasonProxyMissing
			texts = append(texts, m.name()+" has no proxy of its own")
		} else {
			texts = append(texts, m.name()+": "+m.text)
		}
	}
	c.Message = truncate(some(texts) + "; their Events say what to do")
	return c
}

// placementNotices makes an Event of each misplacement that is new. It is used by one goroutine.
type placementNotices struct {
	recorder events.EventRecorder
	told     map[told]string
}

// told is what an object has been told of: it can have no agent and lack its proxy at once.
type told struct {
	uid    types.UID
	reason string
}

// noticesAtOnce bounds the Events of one look: when admission was away, all pods of a namespace may have come without.
const noticesAtOnce = 20

// tell makes the Events. Those that there is no room for are made with the next look.
func (n *placementNotices) tell(mesh *meshv1alpha1.Mesh, found []misplacement) {
	now, made := make(map[told]string, len(found)), 0
	for i := range found {
		m := &found[i]
		of := told{m.object.GetUID(), m.reason}
		if n.told[of] != m.text {
			if made == noticesAtOnce {
				continue
			}
			made++
			about := &corev1.ObjectReference{APIVersion: "v1", Kind: m.kind, Namespace: m.object.GetNamespace(), Name: m.object.GetName(), UID: of.uid}
			n.recorder.Eventf(about, mesh, corev1.EventTypeWarning, m.reason, "Place", "%s", truncate(m.text))
		}
		now[of] = m.text
	}
	n.told = now
}
