package compile

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Reasons of Accepted=False that the Gateway API does not define as constants.
const (
	// ReasonConflicted: routes of a more specific kind are attached to the same ports (GEP-1294).
	ReasonConflicted gwv1.RouteConditionReason = "Conflicted"
	// ReasonNamespaceNotEnrolled: Weft does nothing for clients or Services of the route's namespace.
	ReasonNamespaceNotEnrolled gwv1.RouteConditionReason = "NamespaceNotEnrolled"
	// ReasonNumbersExhausted: more Service ports than can be captured.
	ReasonNumbersExhausted gwv1.RouteConditionReason = "NumbersExhausted"
)

// parent is one parentRef of a route that names a Service, and where the route applies because of it.
type parent struct {
	route   *route
	ref     gwv1.ParentReference
	service types.NamespacedName
	// consumer: the Service is in another namespace, so the route changes only what clients in its own
	// namespace see (GEP-1294).
	consumer bool
	places   []place
	// left are the ports that the parentRef means but the route does not apply to.
	left []refusal
	// refused is why the parent as a whole is not accepted.
	refused *refusal
}

// refusal is why a route does not apply to a parent or to one of its ports.
type refusal struct {
	reason gwv1.RouteConditionReason
	why    string
}

// isServiceParent tells Weft's parents from those of others. An absent group means Gateways.
func isServiceParent(ref gwv1.ParentReference) bool {
	return isService(valueOr(ref.Group, gwv1.GroupName), valueOr(ref.Kind, "Gateway"))
}

// Attached tells that a route with these parents is the mesh's: one of them is a Service.
func Attached(refs []gwv1.ParentReference) bool { return slices.ContainsFunc(refs, isServiceParent) }

// attach fills in the Service parents of a route.
func (w *world) attach(r *route) {
	for i := range r.refs {
		if isServiceParent(r.refs[i]) {
			r.parents = append(r.parents, w.newParent(r, &r.refs[i]))
		}
	}
}

// newParent finds the ports that a parentRef means and that can carry its route, as far as they alone
// decide.
func (w *world) newParent(r *route, ref *gwv1.ParentReference) *parent {
	p := &parent{route: r, ref: *ref.DeepCopy()}
	p.service = types.NamespacedName{
		Namespace: string(valueOr(p.ref.Namespace, gwv1.Namespace(r.meta.Namespace))),
		Name:      string(p.ref.Name),
	}
	p.consumer = p.service.Namespace != r.meta.Namespace
	svc := w.services[p.service]
	switch {
	case !w.enrolment.has(r.meta.Namespace):
		p.refused = &refusal{ReasonNamespaceNotEnrolled, w.enrolment.refusal(r.meta.Namespace)}
	case svc == nil:
		p.refused = &refusal{gwv1.RouteReasonNoMatchingParent, nameOf(p.service) + " does not exist"}
	default:
		p.refused = w.uncaptured(svc)
	}
	if p.refused != nil {
		return p
	}
	for i := range svc.Spec.Ports {
		if port := &svc.Spec.Ports[i]; p.means(port) {
			w.attachPort(p, port)
		}
	}
	if len(p.places) == 0 && len(p.left) == 0 {
		p.refused = &refusal{gwv1.RouteReasonNoMatchingParent, nameOf(p.service) + " has no port" + p.wanted()}
	}
	return p
}

func (w *world) attachPort(p *parent, port *corev1.ServicePort) {
	said := declared(port)
	switch {
	case !isTCP(port):
		p.leave(port.Port, gwv1.RouteReasonNoMatchingParent, "is "+string(port.Protocol))
	case said.class == classOpaque:
		p.leave(port.Port, gwv1.RouteReasonNoMatchingParent, "is not HTTP according to "+said.by)
	default:
		at := place{service: p.service, port: uint16(port.Port)}
		if !w.enrolment.has(p.service.Namespace) {
			at.consumer = p.route.meta.Namespace
		}
		p.places = append(p.places, at)
	}
}

// means tells whether the parentRef selects a port: by number, by name, by both, or all of them.
func (p *parent) means(port *corev1.ServicePort) bool {
	name := valueOr(p.ref.SectionName, "")
	return (p.ref.Port == nil || *p.ref.Port == port.Port) && (name == "" || string(name) == port.Name)
}

// wanted describes what means selects.
func (p *parent) wanted() string {
	var text string
	if p.ref.Port != nil {
		text += " " + formatPort(*p.ref.Port)
	}
	if name := valueOr(p.ref.SectionName, ""); name != "" {
		text += " named " + strconv.Quote(string(name))
	}
	return text
}

func (p *parent) leave(port int32, reason gwv1.RouteConditionReason, why string) {
	p.left = append(p.left, refusal{reason, "port " + formatPort(port) + " " + why})
}

// leaveAll takes those places away for which why has something to say.
func (p *parent) leaveAll(reason gwv1.RouteConditionReason, why func(place) string) {
	p.places = slices.DeleteFunc(p.places, func(at place) bool {
		text := why(at)
		if text != "" {
			p.leave(int32(at.port), reason, text)
		}
		return text != ""
	})
}

// conclude refuses a parent of which no port is left. The reason is the first that says more than that
// the port does not fit.
func (p *parent) conclude() {
	if p.refused != nil || len(p.places) > 0 {
		return
	}
	p.refused = &refusal{gwv1.RouteReasonNoMatchingParent, "nothing of " + nameOf(p.service) + " can carry the route: " + p.leftOut()}
	for _, l := range p.left {
		if l.reason != gwv1.RouteReasonNoMatchingParent {
			p.refused.reason = l.reason
			return
		}
	}
}

func (p *parent) leftOut() string {
	texts := make([]string, len(p.left))
	for i, l := range p.left {
		texts[i] = l.why
	}
	return strings.Join(texts, "; ")
}

// formatPort writes a port.
func formatPort(port int32) string { return strconv.Itoa(int(port)) }

// portOf is how messages name a place.
func portOf(p place) string {
	return "port " + formatPort(int32(p.port)) + " of " + nameOf(p.service)
}

// quote formats a value of one of the API's string types.
func quote[T ~string](v T) string { return strconv.Quote(string(v)) }
