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

func (c *Compiler) policyStatus(p *policy) PolicyStatus {
	s := PolicyStatus{
		Name:       namespacedName(p.object),
		UID:        p.object.UID,
		Generation: p.object.Generation,
		Target:     p.targetText(),
		Faults:     fieldFaults("spec", p.faults),
		InForce:    p.level.said.DeepCopy(),
		Strict:     strictPorts(c.exposures[p.object.Namespace], p.String()),
	}
	if len(s.Strict) > 0 {
		enforced := p.condition(metav1.ConditionTrue, ReasonEnforced, "")
		enforced.Type = meshv1alpha1.PolicyEnforced
		s.Enforced = &enforced
	}
	for _, t := range p.targets {
		status := TargetStatus{Ref: *t.ref.DeepCopy(), Accepted: p.accepted(t)}
		if status.Accepted.Status == metav1.ConditionTrue {
			status.Awaited = c.awaited(t.key)
		}
		s.Targets = append(s.Targets, status)
		if t.refused == nil || t.refused.reason == gwv1.PolicyReasonConflicted {
			s.Effective = append(s.Effective, c.effective(t.key)...)
		}
	}
	s.Effective = s.Effective[:min(len(s.Effective), maxEffective)]
	s.Accepted = p.acceptedOverall(s.Targets)
	if shut := c.world.unreachable(s.Strict); len(shut) > 0 {
		s.Accepted.Message += "; only mtls.allowFrom gets through to " + some(shut) + ", which no proxy leads to"
	}
	return s
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

// partsOf are those resources that a policy for a target, or for its whole, is part of, sorted.
func (c *Compiler) partsOf(t Target) []wire.Ref {
	var refs []wire.Ref
	ofService := func(name types.NamespacedName) {
		for _, at := range c.places[name] {
			refs = append(refs, wire.Ref{Kind: wire.KindDestination, Key: at.key()}, wire.Ref{Kind: wire.KindBackend, Key: at.key()})
		}
	}
	ofRoute := func(u *unit, consumer bool) {
		for i := range u.compiled.resources {
			if r := &u.compiled.resources[i]; !consumer || r.Route.Consumer {
				refs = append(refs, r.Ref)
			}
		}
	}
	switch {
	case t.isRoute():
		if u := c.units[t.whole()]; u != nil {
			ofRoute(u, false)
		}
	case t.Kind == kindService:
		ofService(types.NamespacedName{Namespace: t.Namespace, Name: t.Name})
	default:
		for _, name := range c.objects.servicesIn[t.Namespace] {
			ofService(name)
		}
		for _, u := range c.unitsIn[t.Namespace] {
			ofRoute(u, true)
		}
	}
	slices.SortFunc(refs, compareRefs)
	return refs
}

// awaited is what a policy for a target is part of. Only the proxies of the target's own namespace
// receive what has the scope of that namespace.
func (c *Compiler) awaited(t Target) []Awaited {
	var everywhere, own []wire.Held
	for _, ref := range c.partsOf(t) {
		r, known := c.resources[ref]
		if !known || r.Scope != wire.ScopeMesh && r.Scope != wire.ScopeNamespace(t.Namespace) || t.Section != "" && t.Section != c.world.sectionOf(r) {
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
		return []Awaited{{everywhere, c.world.enrolment.names}}
	}
	awaited := []Awaited{{slices.Concat(everywhere, own), []string{t.Namespace}}}
	others := slices.DeleteFunc(slices.Clone(c.world.enrolment.names), func(name string) bool { return name == t.Namespace })
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
