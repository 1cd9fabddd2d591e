package compile

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// PolicyStatus is what Weft has to say about one MeshPolicy.
type PolicyStatus struct {
	Name       types.NamespacedName
	UID        types.UID
	Generation int64
	// Target names all targets for people.
	Target string
	// Targets follow the order of spec.targetRefs, without those that are no references to a target. A
	// policy for its namespace has that.
	Targets []TargetStatus
	// Faults are what is wrong with the spec. Accepted says so as well.
	Faults []FieldFault
	// Accepted is the condition over all targets, without a timestamp.
	Accepted metav1.Condition
	// Effective is what results for the targets, from all levels.
	Effective []meshv1alpha1.EffectivePolicy
	// InForce is the spec if it is valid, and otherwise what was before, if anything.
	InForce *meshv1alpha1.TrafficPolicy
}

// TargetStatus is Weft's entry for one target.
type TargetStatus struct {
	Ref gwv1.ParentReference
	// Accepted has no timestamp; ObservedGeneration is set.
	Accepted metav1.Condition
	// Awaited is what proxies must have acknowledged for the policy to be programmed; nothing when it is
	// not accepted for the target, or applies to nothing yet. No namespace is in two audiences.
	Awaited []Awaited
}

// Awaited are versions of resources and the namespaces, sorted, whose proxies must have acknowledged all
// of them.
type Awaited struct {
	Resources []wire.Held
	Audience  []string
}

// maxEffective bounds the entries of a status, maxTargetText its text, as the API does.
const (
	maxEffective  = 16
	maxTargetText = 1024
)

func (w *world) policyStatuses(routes []*route, resources []wire.Resource) []PolicyStatus {
	var statuses []PolicyStatus
	concerned := byNamespace(resources, w.policies.all)
	for _, p := range w.policies.all {
		s := PolicyStatus{
			Name:       namespacedName(p.object),
			UID:        p.object.UID,
			Generation: p.object.Generation,
			Target:     p.targetText(),
			Faults:     fieldFaults("spec", p.faults),
			InForce:    p.level.said.DeepCopy(),
		}
		for _, t := range p.targets {
			status := TargetStatus{Ref: *t.ref.DeepCopy(), Accepted: p.accepted(t)}
			if status.Accepted.Status == metav1.ConditionTrue {
				status.Awaited = w.awaited(t.key, concerned[t.key.Namespace])
			}
			s.Targets = append(s.Targets, status)
			if t.refused == nil || t.refused.reason == gwv1.PolicyReasonConflicted {
				s.Effective = append(s.Effective, w.effective(t.key, routes)...)
			}
		}
		s.Effective = s.Effective[:min(len(s.Effective), maxEffective)]
		s.Accepted = p.acceptedOverall(s.Targets)
		statuses = append(statuses, s)
	}
	return statuses
}

// accepted says whether the policy applies to one of its targets.
func (p *policy) accepted(t *policyTarget) metav1.Condition {
	switch {
	case len(p.faults) > 0:
		return p.condition(metav1.ConditionFalse, gwv1.PolicyReasonInvalid, p.invalid())
	case t.refused != nil:
		return p.condition(metav1.ConditionFalse, t.refused.reason, t.refused.why)
	default:
		return p.condition(metav1.ConditionTrue, gwv1.PolicyReasonAccepted, "in force for "+t.key.String())
	}
}

// acceptedOverall is True when the policy applies to every target. Otherwise the first that it does not
// apply to gives the reason.
func (p *policy) acceptedOverall(targets []TargetStatus) metav1.Condition {
	if len(p.faults) > 0 {
		return p.condition(metav1.ConditionFalse, gwv1.PolicyReasonInvalid, p.invalid())
	}
	var reason gwv1.PolicyConditionReason
	var refused, accepted []string
	for i, t := range targets {
		if t.Accepted.Status == metav1.ConditionTrue {
			accepted = append(accepted, p.targets[i].key.String())
			continue
		}
		if reason == "" {
			reason = gwv1.PolicyConditionReason(t.Accepted.Reason)
		}
		refused = append(refused, t.Accepted.Message)
	}
	text := "in force for " + strings.Join(accepted, ", ")
	if reason == "" {
		return p.condition(metav1.ConditionTrue, gwv1.PolicyReasonAccepted, text)
	}
	if len(accepted) > 0 {
		refused = append(refused, text)
	}
	return p.condition(metav1.ConditionFalse, reason, strings.Join(refused, "; "))
}

// invalid says what is wrong with the spec and what is in force instead.
func (p *policy) invalid() string {
	text := list(allUnder("spec", p.faults))
	if p.level.said == nil {
		return text + "; nothing of the policy is in force"
	}
	return text + "; what the policy said before stays in force, see status.inForce"
}

func (p *policy) condition(status metav1.ConditionStatus, reason gwv1.PolicyConditionReason, message string) metav1.Condition {
	return metav1.Condition{
		Type:               meshv1alpha1.PolicyAccepted,
		Status:             status,
		ObservedGeneration: p.object.Generation,
		Reason:             string(reason),
		Message:            message,
	}
}

// targetText names the targets as far as there is room for them.
func (p *policy) targetText() string {
	var text string
	for i, t := range p.targets {
		more := t.key.short()
		if i > 0 {
			more = ", " + more
		}
		if rest := " and " + strconv.Itoa(len(p.targets)-i) + " more"; len(text)+len(more)+len(rest) > maxTargetText {
			return text + rest
		}
		text += more
	}
	return text
}

// byNamespace gives each namespace with a policy those resources that its policies can concern.
func byNamespace(resources []wire.Resource, all []*policy) map[string][]*wire.Resource {
	concerned := make(map[string][]*wire.Resource)
	for _, p := range all {
		concerned[p.object.Namespace] = nil
	}
	for i := range resources {
		r := &resources[i]
		var namespace string
		switch {
		case r.Destination != nil:
			namespace = r.Destination.Namespace
		case r.Backend != nil:
			namespace = r.Backend.Namespace
		case r.Route != nil:
			namespace = r.Route.Namespace
		}
		if _, has := concerned[namespace]; has && (r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(namespace)) {
			concerned[namespace] = append(concerned[namespace], r)
		}
	}
	return concerned
}

// awaited is what a policy for a target is part of. Only the proxies of the target's own namespace
// receive what has the scope of that namespace.
func (w *world) awaited(t Target, resources []*wire.Resource) []Awaited {
	var everywhere, own []wire.Held
	for _, r := range resources {
		if !w.concerns(t, r) {
			continue
		}
		held := wire.Held{Ref: r.Ref, Version: r.Version}
		if r.Scope == wire.ScopeMesh {
			everywhere = append(everywhere, held)
		} else {
			own = append(own, held)
		}
	}
	switch {
	case len(everywhere) == 0 && len(own) == 0:
		return nil
	case len(own) == 0:
		return []Awaited{{everywhere, w.enrolment.names}}
	}
	awaited := []Awaited{{slices.Concat(everywhere, own), []string{t.Namespace}}}
	others := slices.DeleteFunc(slices.Clone(w.enrolment.names), func(name string) bool { return name == t.Namespace })
	if len(everywhere) > 0 && len(others) > 0 {
		awaited = append(awaited, Awaited{everywhere, others})
	}
	return awaited
}

// concerns tells whether the policy of a target is part of a resource of the target's namespace.
func (w *world) concerns(t Target, r *wire.Resource) bool {
	switch {
	case r.Route != nil && t.Kind == kindNamespace:
		return r.Route.Consumer
	case r.Route != nil:
		return t.Kind == string(r.Route.Kind) && t.Name == r.Route.Name && (t.Section == "" || t.Section == r.Route.RuleName)
	case t.Kind == kindNamespace:
		return true
	case t.Kind != kindService:
		return false
	}
	p := place{service: types.NamespacedName{Namespace: t.Namespace, Name: t.Name}}
	if d := r.Destination; d != nil {
		p.port = d.Port
		return d.Service == t.Name && w.hasSection(p, t.Section)
	}
	p.port = r.Backend.Port
	return r.Backend.Service == t.Name && w.hasSection(p, t.Section)
}

// hasSection tells whether a port has the name that a section asks for, if it does.
func (w *world) hasSection(p place, section string) bool {
	return section == "" || w.port(p).Name == section
}
