package controllers

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// plainNotice is the least time between two Events about callers past the mesh in one namespace.
const plainNotice = 10 * time.Minute

// plainNotices makes Events of callers past the mesh that are new, one for all of a namespace. It is used by one
// goroutine.
type plainNotices struct {
	recorder events.EventRecorder
	// told are the callers of before by namespace, nil at first; next is when there may be another Event.
	told map[string]map[plainCaller]bool
	next map[string]time.Time
}

// plainCaller is a caller of a Service port, as the status of the Mesh names both.
type plainCaller struct{ caller, service string }

// tell makes the Events about calls, which are sorted, on the Service that is called most. Those that the status of
// the Mesh has from the leader before are no news. find returns the Service to refer to.
func (n *plainNotices) tell(mesh *meshv1alpha1.Mesh, calls []plainCall, now time.Time, find func(types.NamespacedName) *corev1.ObjectReference) {
	if n.told == nil {
		n.told, n.next = map[string]map[plainCaller]bool{}, map[string]time.Time{}
		for i := range mesh.Status.PlainCallers {
			in := &mesh.Status.PlainCallers[i]
			for _, top := range in.Top {
				n.note(in.Namespace, plainCaller{top.Caller, top.Service})
			}
		}
	}
	lately := map[string]map[plainCaller]bool{}
	fresh := map[string][]*plainCall{}
	for i := range calls {
		call := &calls[i]
		namespace, who := call.at.Namespace, plainCaller{call.caller, call.at.String()}
		if lately[namespace] == nil {
			lately[namespace] = map[plainCaller]bool{}
		}
		lately[namespace][who] = true
		if !n.told[namespace][who] {
			fresh[namespace] = append(fresh[namespace], call)
		}
	}
	for namespace, told := range n.told {
		for who := range told {
			if !lately[namespace][who] {
				delete(told, who)
			}
		}
	}
	for namespace, calls := range fresh {
		if now.Before(n.next[namespace]) {
			continue
		}
		n.next[namespace] = now.Add(plainNotice)
		named := make([]string, 0, len(calls))
		for _, call := range calls {
			n.note(namespace, plainCaller{call.caller, call.at.String()})
			named = append(named, call.String()+" to "+call.at.String())
		}
		service := find(types.NamespacedName{Namespace: namespace, Name: calls[0].at.Service})
		n.recorder.Eventf(service, mesh, corev1.EventTypeWarning, meshv1alpha1.MeshPlainCallers, "Observe", "%s",
			truncate("came past the mesh, and strict ports refuse them: "+some(named)+"; status.plainCallers of the Mesh has all"))
	}
}

func (n *plainNotices) note(namespace string, who plainCaller) {
	if n.told[namespace] == nil {
		n.told[namespace] = map[plainCaller]bool{}
	}
	n.told[namespace][who] = true
}
