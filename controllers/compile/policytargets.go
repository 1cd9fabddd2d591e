package compile

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// Reasons of Accepted=False of a MeshPolicy beyond those of GEP-713 and ReasonNamespaceNotEnrolled.
const (
	// ReasonNotCaptured: nothing that is sent to the Service passes a proxy.
	ReasonNotCaptured gwv1.PolicyConditionReason = "NotCaptured"
	// ReasonNotAttached: the route is none of the mesh's, since it has no Service for a parent.
	ReasonNotAttached gwv1.PolicyConditionReason = "NotAttached"
)

const (
	kindNamespace = "Namespace"
	kindService   = "Service"
)

// Target is what a policy is for: a namespace as a whole, which has no Name; a Service or, by Section, one
// of its ports; or an HTTPRoute or GRPCRoute, or those of its rules that have Section for a name.
type Target struct{ Kind, Namespace, Name, Section string }

func namespaceTarget(namespace string) Target {
	return Target{Kind: kindNamespace, Namespace: namespace}
}

func (t Target) isRoute() bool {
	return t.Kind == string(wire.RouteHTTP) || t.Kind == string(wire.RouteGRPC)
}

// whole is the object that a target is or is a section of.
func (t Target) whole() Target {
	t.Section = ""
	return t
}

// String is how messages name a target.
func (t Target) String() string {
	switch {
	case t.Kind == kindNamespace:
		return "Namespace " + t.Namespace
	case t.Section == "":
		return t.Kind + " " + t.Namespace + "/" + t.Name
	case t.isRoute():
		return t.Kind + " " + t.Namespace + "/" + t.Name + " rule " + strconv.Quote(t.Section)
	default:
		return t.Kind + " " + t.Namespace + "/" + t.Name + " port " + strconv.Quote(t.Section)
	}
}

// short is how kubectl's columns name a target.
func (t Target) short() string {
	switch {
	case t.Kind == kindNamespace:
		return kindNamespace + "/" + t.Namespace
	case t.Section == "":
		return t.Kind + "/" + t.Name
	default:
		return t.Kind + "/" + t.Name + ":" + t.Section
	}
}

// policyTarget is one target of a policy, and why the policy does not apply to it.
type policyTarget struct {
	key Target
	ref gwv1.ParentReference
	// field is where the target is named, empty for a namespace.
	field   string
	refused *policyRefusal
}

type policyRefusal struct {
	reason gwv1.PolicyConditionReason
	why    string
}

// readTargets reads the targets of a policy of a namespace and what is wrong with the references themselves,
// which then are no targets. can says what may be a target.
func readTargets(namespace string, refs []gwv1.LocalPolicyTargetReferenceWithSectionName, can string) (targets []*policyTarget, faults []fault) {
	if len(refs) == 0 {
		return []*policyTarget{{key: namespaceTarget(namespace), ref: gwv1.ParentReference{
			Group: new(gwv1.Group(corev1.GroupName)), Kind: new(gwv1.Kind(kindNamespace)), Name: gwv1.ObjectName(namespace),
		}}}, nil
	}
	first := make(map[Target]int)
	for i := range refs {
		at, ref := fmt.Sprintf("targetRefs[%d]", i), &refs[i]
		key := Target{
			Kind: string(ref.Kind), Namespace: namespace,
			Name: string(ref.Name), Section: string(valueOr(ref.SectionName, "")),
		}
		isRoute := key.isRoute() && ref.Group == gwv1.GroupName
		if !isRoute && !isService(ref.Group, ref.Kind) {
			faults = append(faults, *unsupported(at+".kind", "kind %s of group %q cannot be a target: %s can", ref.Kind, ref.Group, can))
			continue
		}
		if j, twice := first[key]; twice {
			faults = append(faults, *unsupported(at, "targetRefs[%d] is the same", j))
			continue
		}
		first[key] = i
		out := gwv1.ParentReference{
			Group: new(ref.Group), Kind: new(ref.Kind), Namespace: new(gwv1.Namespace(namespace)), Name: ref.Name,
		}
		if key.Section != "" {
			out.SectionName = new(gwv1.SectionName(key.Section))
		}
		targets = append(targets, &policyTarget{key: key, ref: out, field: at})
	}
	return targets, faults
}

// targetObjects are what policies can be for.
type targetObjects struct {
	world  *world
	routes routeObjects
}

// refuse says why no policy can apply to a target, or returns nil.
func (o *targetObjects) refuse(t *policyTarget) *policyRefusal {
	e := o.world.enrolment
	switch key := t.key; {
	case !e.has(key.Namespace):
		return &policyRefusal{gwv1.PolicyConditionReason(ReasonNamespaceNotEnrolled), e.refusal(key.Namespace)}
	case key.isRoute():
		return o.refuseRoute(key)
	case key.Kind == kindService:
		return o.refuseService(key)
	case key.Kind != kindNamespace:
		return notFound("there is no target of kind %s", key.Kind)
	default:
		return nil
	}
}

func (o *targetObjects) refuseRoute(key Target) *policyRefusal {
	whole := key.whole()
	route := o.routes[whole]
	switch {
	case !route.exists():
		return notFound("%s does not exist", whole)
	case key.Section != "" && !slices.Contains(route.names(), key.Section):
		return notFound("%s has no rule named %q", whole, key.Section)
	case !route.attached():
		return &policyRefusal{ReasonNotAttached, whole.String() + " is not part of the mesh: none of its parentRefs is a Service"}
	default:
		return nil
	}
}

func (o *targetObjects) refuseService(key Target) *policyRefusal {
	whole := key.whole()
	svc := o.world.services[types.NamespacedName{Namespace: key.Namespace, Name: key.Name}]
	if svc == nil {
		return notFound("%s does not exist", whole)
	}
	named := func(port corev1.ServicePort) bool { return isTCP(&port) && port.Name == key.Section }
	if key.Section != "" && !slices.ContainsFunc(svc.Spec.Ports, named) {
		return notFound("%s has no TCP port named %q", whole, key.Section)
	}
	if refused := o.world.uncaptured(svc); refused != nil {
		return &policyRefusal{ReasonNotCaptured, refused.why + ": no policy applies to it"}
	}
	return nil
}

func notFound(format string, args ...any) *policyRefusal {
	return &policyRefusal{gwv1.PolicyReasonTargetNotFound, fmt.Sprintf(format, args...)}
}
