package compile

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// AuthorizationStatus is what Weft has to say about one MeshAuthorization.
type AuthorizationStatus struct {
	Name       types.NamespacedName
	UID        types.UID
	Generation int64
	// Target, Targets and Faults are as in a PolicyStatus.
	Target  string
	Targets []TargetStatus
	Faults  []FieldFault
	// Notes are what may be a mistake although it is valid. Accepted says so as well.
	Notes []string
	// Accepted and Enforced are the conditions over all targets, without timestamps.
	Accepted metav1.Condition
	// Enforced is what is known of it before node agents have said what is in force for Strict.
	Enforced metav1.Condition
	// Strict are the ports that the policy makes strict.
	Strict []ServicePort
	// Keys is the condition about the keys of issuers, nil for a policy without any.
	Keys *metav1.Condition
}

// Reasons of Enforced.
const (
	// ReasonEnforced: node agents have proven that nobody else gets in.
	ReasonEnforced = "Enforced"
	// ReasonBypassable: it is enforced on all that comes through the mesh, and other ways are open.
	ReasonBypassable = "Bypassable"
	// ReasonAudit: it is not meant to be enforced.
	ReasonAudit = "Audit"
	// ReasonNotAccepted: it is not in force as it was meant.
	ReasonNotAccepted = "NotAccepted"
)

func (a *authorization) status(exposures []Exposure) AuthorizationStatus {
	s := AuthorizationStatus{
		Name:       types.NamespacedName{Namespace: a.object.Namespace, Name: a.object.Name},
		UID:        a.object.UID,
		Generation: a.object.Generation,
		Target:     a.targetText(),
		Faults:     fieldFaults("spec", a.faults),
	}
	var awaited []Awaited
	for _, r := range a.resources {
		awaited = append(awaited, Awaited{
			Resources: []wire.Held{{Ref: r.Ref, Version: r.Version}}, Audience: []string{a.object.Namespace},
		})
	}
	for _, t := range a.targets {
		status := TargetStatus{Ref: *t.ref.DeepCopy(), Accepted: a.accepted(t)}
		if status.Accepted.Status == metav1.ConditionTrue {
			status.Awaited = awaited
		}
		s.Targets = append(s.Targets, status)
	}
	s.Accepted = a.acceptedOverall(s.Targets)
	s.Strict = strictPorts(exposures, a.String())
	s.Enforced = a.enforced(s.Targets, len(s.Strict))
	s.Keys = a.keys
	if len(a.notes) > 0 && len(a.faults) == 0 {
		s.Notes = a.notes
		s.Accepted.Message += "; " + strings.Join(a.notes, "; ")
	}
	return s
}

func (a *authorization) enforced(targets []TargetStatus, strict int) metav1.Condition {
	c := a.condition(metav1.ConditionTrue, ReasonEnforced, "")
	accepted := func(t TargetStatus) bool { return t.Accepted.Status == metav1.ConditionTrue }
	switch {
	case !slices.ContainsFunc(targets, accepted):
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, ReasonNotAccepted, "the policy is not accepted for any target"
	case a.object.Spec.Mode == meshv1alpha1.AuthorizationAudit:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, ReasonAudit, "only counts and logs what it would deny: spec.mode is Audit"
	case strict == 0:
		c.Message = "its targets publish no ports of pods"
	}
	c.Type = meshv1alpha1.AuthorizationEnforced
	return c
}
