package status

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/compile"
)

// Enforcement is what is known of strict ports, from what node agents report and have proven.
type Enforcement struct {
	// Unknown tells that a new leader has not heard yet what is in force: what the last one wrote stands.
	Unknown bool
	// Pods are behind the ports; Enforced are those that provably refuse whom they should.
	Pods, Enforced int
	// Why says why others do not, or why there may be others.
	Why string
	// Unserved says why nobody gets in at all.
	Unserved string
	// Callers names who was seen lately to call past the mesh.
	Callers string
}

// Apply makes the condition Enforced of what is known before, c, which is left alone if it is False.
func (e Enforcement) Apply(c metav1.Condition) metav1.Condition {
	if c.Status != metav1.ConditionTrue {
		return c
	}
	switch {
	case e.Unknown:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, compile.ReasonBypassable, "no node agent has said yet what is in force"
	case e.Why == "" && e.Enforced == e.Pods:
		c.Message = fmt.Sprintf("all %d pods refuse callers that the mesh has not identified", e.Pods)
	default:
		c.Status, c.Reason = metav1.ConditionFalse, compile.ReasonBypassable
		c.Message = fmt.Sprintf("%d of %d pods provably refuse callers that the mesh has not identified: %s", e.Enforced, e.Pods, e.Why)
	}
	if e.Unserved != "" {
		c.Message += "; " + e.Unserved
	}
	if e.Callers != "" {
		c.Message += "; called past the mesh within the last hour by " + e.Callers
	}
	return c
}

// strict gives the condition of an object that makes ports strict, if it does. existing are its conditions.
func strict(c *metav1.Condition, ports []compile.ServicePort, existing []metav1.Condition, acks Acknowledgements) []metav1.Condition {
	switch {
	case c == nil:
		return nil
	case len(ports) == 0:
		return []metav1.Condition{*c}
	}
	e := acks.Enforcement(ports)
	if before := meta.FindStatusCondition(existing, c.Type); e.Unknown && before != nil && before.ObservedGeneration == c.ObservedGeneration {
		return []metav1.Condition{*before}
	}
	return []metav1.Condition{e.Apply(*c)}
}

// EnforcementChanged wakes the writer for what makes ports strict in the given namespaces.
func (w *Writer) EnforcementChanged(namespaces map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, d := range w.desired {
		if namespaces[k.name.Namespace] && len(d.subject.strictPorts()) > 0 {
			w.queue.Add(k)
		}
	}
}
