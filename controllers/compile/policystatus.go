package compile

import (
	"slices"

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
	// Strict are the ports that the policy makes strict. Enforced, which it then has, is what is known before
	// node agents have said what is in force.
	Strict   []ServicePort
	Enforced *metav1.Condition
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

func (w *world) policyStatuses(routes []*route, resources []wire.Resource, exposures []Exposure) []PolicyStatus {
	var statuses []PolicyStatus
	parts := byTarget(resources, w.policies.all)
	for _, p := range w.policies.all {
		s := PolicyStatus{
			Name:       namespacedName(p.object),
			UID:        p.object.UID,
			Generation: p.object.Generation,
			Target:     p.targetText(),
			Faults:     fieldFaults("spec", p.faults),
			InForce:    p.level.said.DeepCopy(),
			Strict:     strictPorts(exposures, p.String()),
		}
		if len(s.Strict) > 0 {
			enforced := p.condition(metav1.ConditionTrue, ReasonEnforced, "")
			enforced.Type = meshv1alpha1.PolicyEnforced
			s.Enforced = &enforced
		}
		for _, t := range p.targets {
			status := TargetStatus{Ref: *t.ref.DeepCopy(), Accepted: p.accepted(t)}
			if status.Accepted.Status == metav1.ConditionTrue {
				status.Awaited = w.awaited(t.key, parts[t.key.whole()])
			}
			s.Targets = append(s.Targets, status)
			if t.refused == nil || t.refused.reason == gwv1.PolicyReasonConflicted {
				s.Effective = append(s.Effective, w.effective(t.key, routes)...)
			}
		}
		s.Effective = s.Effective[:min(len(s.Effective), maxEffective)]
		s.Accepted = p.acceptedOverall(s.Targets)
		if shut := w.unreachable(s.Strict); len(shut) > 0 {
			s.Accepted.Message += "; only mtls.allowFrom gets through to " + some(shut) + ", which no proxy leads to"
		}
		statuses = append(statuses, s)
	}
	return statuses
}

// unreachable names the Services of strict ports that are not captured.
func (w *world) unreachable(ports []ServicePort) []string {
	var names []string
	for _, p := range ports {
		if svc := w.services[types.NamespacedName{Namespace: p.Namespace, Name: p.Service}]; svc != nil && w.uncaptured(svc) != nil {
			names = append(names, "Service "+p.Service)
		}
	}
	return names
}

// byTarget gives each target of a policy, without its section, those resources that the policy is part of.
func byTarget(resources []wire.Resource, all []*policy) map[Target][]*wire.Resource {
	parts := make(map[Target][]*wire.Resource)
	for _, p := range all {
		for _, t := range p.targets {
			parts[t.key.whole()] = nil
		}
	}
	add := func(t Target, r *wire.Resource) {
		_, wanted := parts[t]
		if wanted && (r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(t.Namespace)) {
			parts[t] = append(parts[t], r)
		}
	}
	for i := range resources {
		switch r := &resources[i]; {
		case r.Destination != nil:
			add(Target{Kind: kindService, Namespace: r.Destination.Namespace, Name: r.Destination.Service}, r)
			add(namespaceTarget(r.Destination.Namespace), r)
		case r.Backend != nil:
			add(Target{Kind: kindService, Namespace: r.Backend.Namespace, Name: r.Backend.Service}, r)
			add(namespaceTarget(r.Backend.Namespace), r)
		case r.Route != nil:
			add(Target{Kind: string(r.Route.Kind), Namespace: r.Route.Namespace, Name: r.Route.Name}, r)
			if r.Route.Consumer {
				add(namespaceTarget(r.Route.Namespace), r)
			}
		}
	}
	return parts
}

// awaited is what a policy for a target is part of. Only the proxies of the target's own namespace
// receive what has the scope of that namespace.
func (w *world) awaited(t Target, resources []*wire.Resource) []Awaited {
	var everywhere, own []wire.Held
	for _, r := range resources {
		if t.Section != "" && t.Section != w.sectionOf(r) {
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

// sectionOf is the name of the rule or port that a resource is.
func (w *world) sectionOf(r *wire.Resource) string {
	switch {
	case r.Route != nil:
		return r.Route.RuleName
	case r.Destination != nil:
		return w.portName(r.Destination.Namespace, r.Destination.Service, r.Destination.Port)
	default:
		return w.portName(r.Backend.Namespace, r.Backend.Service, r.Backend.Port)
	}
}

func (w *world) portName(namespace, service string, port uint16) string {
	return w.port(place{service: types.NamespacedName{Namespace: namespace, Name: service}, port: port}).Name
}
