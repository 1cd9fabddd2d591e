package compile

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// maxFaults bounds how many faults one message lists; a condition's message has a largest length.
const maxFaults = 16

// status is what there is to say about a route.
func (c *Compiler) status(r *compiledRoute) RouteStatus {
	s := RouteStatus{
		Kind:       r.route.kind,
		Name:       namespacedName(r.route.meta),
		UID:        r.route.meta.UID,
		Generation: r.route.meta.Generation,
	}
	for _, p := range r.route.parents {
		parent := ParentStatus{ParentRef: p.ref, Conditions: p.conditions(r.sides[p.consumer].rules)}
		if meta.IsStatusConditionTrue(parent.Conditions, string(gwv1.RouteConditionAccepted)) {
			parent.Resources = c.held(p, r)
			parent.Audience = c.world.enrolment.names
			if p.consumer {
				parent.Audience = []string{r.route.meta.Namespace}
			}
		}
		s.Parents = append(s.Parents, parent)
	}
	return s
}

// held lists what a proxy must have before the parent works as declared: the destinations, the rules
// and the backends they send to.
func (c *Compiler) held(p *parent, r *compiledRoute) []wire.Held {
	refs := slices.Clone(r.sides[p.consumer].refs)
	for _, at := range p.places {
		refs = append(refs, wire.Ref{Kind: wire.KindDestination, Key: at.key()})
	}
	slices.SortFunc(refs, compareRefs)
	refs = slices.Compact(refs)
	held := make([]wire.Held, len(refs))
	for i, ref := range refs {
		held[i] = wire.Held{Ref: ref, Version: c.versionOf(ref)}
	}
	return held
}

// conditions are what a parent's status says: Accepted, PartiallyInvalid where it is True (the API
// forbids it otherwise) and ResolvedRefs.
func (p *parent) conditions(rules []compiledRule) []metav1.Condition {
	var invalid, unresolved []fault
	var dropped []string
	for i, rule := range rules {
		if len(rule.invalid) > 0 {
			dropped = append(dropped, strconv.Itoa(i))
		}
		invalid = append(invalid, rule.invalid...)
		unresolved = append(unresolved, rule.unresolved...)
	}

	conditions := []metav1.Condition{p.accepted(invalid, len(dropped) == len(rules))}
	if p.refused == nil && len(dropped) > 0 && len(dropped) < len(rules) {
		conditions = append(conditions, p.condition(gwv1.RouteConditionPartiallyInvalid, metav1.ConditionTrue, invalid[0].reason,
			"Dropped Rule "+strings.Join(dropped, ", ")+": requests that match are answered with 500: "+list(invalid)))
	}
	if len(unresolved) > 0 {
		return append(conditions, p.condition(gwv1.RouteConditionResolvedRefs, metav1.ConditionFalse, unresolved[0].reason, list(unresolved)))
	}
	return append(conditions, p.condition(gwv1.RouteConditionResolvedRefs, metav1.ConditionTrue, gwv1.RouteReasonResolvedRefs,
		"every backend exists"))
}

func (p *parent) accepted(invalid []fault, all bool) metav1.Condition {
	switch {
	case p.refused != nil:
		return p.condition(gwv1.RouteConditionAccepted, metav1.ConditionFalse, p.refused.reason, p.refused.why)
	case len(invalid) > 0 && all:
		return p.condition(gwv1.RouteConditionAccepted, metav1.ConditionFalse, invalid[0].reason,
			"no rule is valid: requests that match are answered with 500: "+list(invalid))
	default:
		return p.condition(gwv1.RouteConditionAccepted, metav1.ConditionTrue, gwv1.RouteReasonAccepted, p.attachedTo())
	}
}

// attachedTo says where an accepted route applies, and what of it does not.
func (p *parent) attachedTo() string {
	ports := make([]string, len(p.places))
	for i, at := range p.places {
		ports[i] = formatPort(int32(at.port))
	}
	text := "attached to " + nameOf(p.service) + ", port "
	if len(ports) > 1 {
		text = "attached to " + nameOf(p.service) + ", ports "
	}
	text += strings.Join(ports, ", ")
	if p.consumer {
		text += ", for clients in namespace " + p.route.meta.Namespace
	}
	if len(p.left) > 0 {
		text += "; left out: " + p.leftOut()
	}
	if len(p.route.hostnames) > 0 {
		// GEP-1294: a mesh infers nothing from them.
		text += "; spec.hostnames is ignored for Services"
	}
	return text
}

func (p *parent) condition(
	kind gwv1.RouteConditionType, status metav1.ConditionStatus, reason gwv1.RouteConditionReason, message string,
) metav1.Condition {
	return metav1.Condition{
		Type:               string(kind),
		Status:             status,
		ObservedGeneration: p.route.meta.Generation,
		Reason:             string(reason),
		Message:            message,
	}
}

func list(faults []fault) string {
	var texts []string
	for i, f := range faults {
		if i == maxFaults {
			texts = append(texts, strconv.Itoa(len(faults)-i)+" more")
			break
		}
		texts = append(texts, f.String())
	}
	return strings.Join(texts, "; ")
}
