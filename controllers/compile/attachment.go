package compile

import (
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// attachment is a policy of any kind with what it is for.
type attachment struct {
	meta metav1.Object
	// faults are why the spec cannot be accepted; instead says what is in force then.
	faults  []fault
	instead string
	targets []*policyTarget
}

// accepted says whether the policy applies to one of its targets. What is wrong with a spec is Invalid, also a value that
// cannot be supported: the reasons of policies (PolicyConditionReason of the Gateway API, GEP-713) are not those of
// routes, which have UnsupportedValue.
func (a *attachment) accepted(t *policyTarget) metav1.Condition {
	switch {
	case len(a.faults) > 0:
		return a.condition(metav1.ConditionFalse, gwv1.PolicyReasonInvalid, a.invalid())
	case t.refused != nil:
		return a.condition(metav1.ConditionFalse, t.refused.reason, t.refused.why)
	default:
		return a.condition(metav1.ConditionTrue, gwv1.PolicyReasonAccepted, "in force for "+t.key.String())
	}
}

// acceptedOverall is True when the policy applies to every target. Otherwise the first that it does not
// apply to gives the reason.
func (a *attachment) acceptedOverall(targets []TargetStatus) metav1.Condition {
	if len(a.faults) > 0 {
		return a.condition(metav1.ConditionFalse, gwv1.PolicyReasonInvalid, a.invalid())
	}
	var reason gwv1.PolicyConditionReason
	var refused, accepted []string
	for i, t := range targets {
		if t.Accepted.Status == metav1.ConditionTrue {
			accepted = append(accepted, a.targets[i].key.String())
			continue
		}
		if reason == "" {
			reason = gwv1.PolicyConditionReason(t.Accepted.Reason)
		}
		refused = append(refused, t.Accepted.Message)
	}
	text := "in force for " + strings.Join(accepted, ", ")
	if reason == "" {
		return a.condition(metav1.ConditionTrue, gwv1.PolicyReasonAccepted, text)
	}
	if len(accepted) > 0 {
		refused = append(refused, text)
	}
	return a.condition(metav1.ConditionFalse, reason, strings.Join(refused, "; "))
}

// invalid says what is wrong with the spec and what is in force instead.
func (a *attachment) invalid() string {
	return list(allUnder("spec", a.faults)) + "; " + a.instead
}

func (a *attachment) condition(status metav1.ConditionStatus, reason gwv1.PolicyConditionReason, message string) metav1.Condition {
	return metav1.Condition{
		Type:               meshv1alpha1.PolicyAccepted,
		Status:             status,
		ObservedGeneration: a.meta.GetGeneration(),
		Reason:             string(reason),
		Message:            message,
	}
}

// targetText names the targets as far as there is room for them.
func (a *attachment) targetText() string {
	var text string
	for i, t := range a.targets {
		more := t.key.short()
		if i > 0 {
			more = ", " + more
		}
		if rest := " and " + strconv.Itoa(len(a.targets)-i) + " more"; len(text)+len(more)+len(rest) > maxTargetText {
			return text + rest
		}
		text += more
	}
	return text
}
