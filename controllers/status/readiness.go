package status

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// ReasonReady is the reason of a condition Ready that is True.
const ReasonReady = "Ready"

// mayAppear are the reasons of a refusal that go away by themselves when objects are applied in another order than
// they need each other. Whoever waits should go on waiting; for all others somebody has to edit something.
var mayAppear = map[string]bool{
	string(gwv1.PolicyReasonTargetNotFound):    true,
	string(compile.ReasonNamespaceNotEnrolled): true,
}

// readiness returns what kstatus, and with it Flux, Helm and kubectl wait, make of a policy: Ready and, while it is
// False, either Stalled or Reconciling, which are absent when they are not True. conditions are those over all targets,
// with Accepted and Programmed; ancestors have the same of each target. What a policy cannot do about is not part of
// Ready: that callers get past the mesh (Enforced), and that keys cannot be fetched (KeysAvailable).
func readiness(generation int64, conditions []metav1.Condition, ancestors []gwv1.PolicyAncestorStatus) []metav1.Condition {
	ready := metav1.Condition{Type: meshv1alpha1.PolicyReady, Status: metav1.ConditionFalse, ObservedGeneration: generation}
	why := metav1.Condition{Type: meshv1alpha1.ConditionReconciling, Status: metav1.ConditionTrue, ObservedGeneration: generation}
	accepted := meta.FindStatusCondition(conditions, meshv1alpha1.PolicyAccepted)
	programmed := meta.FindStatusCondition(conditions, ConditionProgrammed)
	switch {
	case accepted.Status != metav1.ConditionTrue:
		// Its message names the targets at fault, and says for which ones it is in force.
		ready.Reason, ready.Message = accepted.Reason, accepted.Message
		for i := range ancestors {
			c := meta.FindStatusCondition(ancestors[i].Conditions, meshv1alpha1.PolicyAccepted)
			if c.Status != metav1.ConditionTrue && !mayAppear[c.Reason] {
				ready.Reason = c.Reason
				break
			}
		}
		if !mayAppear[ready.Reason] {
			why.Type = meshv1alpha1.ConditionStalled
		}
	case programmed.Status != metav1.ConditionTrue:
		ready.Reason, ready.Message = programmed.Reason, notProgrammed(programmed, ancestors)
	default:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionTrue, ReasonReady, programmed.Message
		for _, other := range []string{meshv1alpha1.PolicyEnforced, meshv1alpha1.AuthorizationKeysAvailable} {
			if meta.IsStatusConditionFalse(conditions, other) {
				ready.Message += "; " + other + " is False, see there"
			}
		}
		return []metav1.Condition{ready}
	}
	why.Reason, why.Message = ready.Reason, ready.Message
	return []metav1.Condition{ready, why}
}

// notProgrammed names the targets that are waited for, where there are several.
func notProgrammed(overall *metav1.Condition, ancestors []gwv1.PolicyAncestorStatus) string {
	var waiting []string
	for i := range ancestors {
		if c := meta.FindStatusCondition(ancestors[i].Conditions, ConditionProgrammed); c.Status != metav1.ConditionTrue {
			waiting = append(waiting, targetName(&ancestors[i].AncestorRef)+": "+c.Message)
		}
	}
	if len(ancestors) < 2 || len(waiting) == 0 {
		return overall.Message
	}
	return strings.Join(waiting, "; ")
}

// targetName is a target as people write it, with its section.
func targetName(ref *gwv1.ParentReference) string {
	name := string(*ref.Kind) + " " + string(ref.Name)
	if ref.SectionName != nil {
		name += "/" + string(*ref.SectionName)
	}
	return name
}
