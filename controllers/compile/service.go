package compile

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// place is one TCP port of a Service: the unit of the mesh, as a destination of clients and as a
// backend of routes. A Service outside the mesh that only routes of one namespace concern is a place
// of that consumer alone; nobody else learns of it.
type place struct {
	service  types.NamespacedName
	port     uint16
	consumer string
}

// key is the key of the place's resources. The suffix keeps the copies of several consumers apart.
func (p place) key() string {
	key := wire.ServicePortKey(p.service.Namespace, p.service.Name, p.port)
	if p.consumer != "" {
		key += "@" + p.consumer
	}
	return key
}

func (p place) scope() wire.Scope {
	if p.consumer != "" {
		return wire.ScopeNamespace(p.consumer)
	}
	return wire.ScopeMesh
}

// nameOf is how messages name a Service.
func nameOf(service types.NamespacedName) string { return "Service " + service.String() }

func namespacedName(o interface {
	GetNamespace() string
	GetName() string
}) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func serviceOrigin(service types.NamespacedName) wire.Origin {
	return wire.Origin{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name}
}

// optedOut tells that the owner keeps the Service out of the mesh.
func optedOut(svc *corev1.Service) bool { return svc.Labels[meshv1alpha1.EnabledLabel] == "false" }

// isTCP holds for the ports that can be captured. Objects read from files may lack the default.
func isTCP(port *corev1.ServicePort) bool {
	return port.Protocol == corev1.ProtocolTCP || port.Protocol == ""
}

// tcpPort returns the TCP port of that number, or nil.
func tcpPort(svc *corev1.Service, number uint16) *corev1.ServicePort {
	for i := range svc.Spec.Ports {
		if port := &svc.Spec.Ports[i]; isTCP(port) && port.Port == int32(number) {
			return port
		}
	}
	return nil
}

// clusterIPs are the addresses of a Service, the primary family first. A Service read from a file may
// have none.
func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var addresses []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == corev1.ClusterIPNone ||
		slices.Contains(svc.Spec.ClusterIPs, corev1.ClusterIPNone)
}

// captureRules are the reasons for which nothing that is sent to a Service is captured, so that no
// route can apply to it either.
var captureRules = []struct {
	applies func(e enrolment, svc *corev1.Service) bool
	reason  gwv1.RouteConditionReason
	why     string
}{
	{ // GEP-1294: an alias has no address by which its traffic could be known.
		applies: func(_ enrolment, svc *corev1.Service) bool { return svc.Spec.Type == corev1.ServiceTypeExternalName },
		reason:  gwv1.RouteReasonNoMatchingParent,
		why:     "is of type ExternalName, which has no cluster IP",
	},
	{ // GEP-1294: clients of a headless Service address its pods, not the Service.
		applies: func(_ enrolment, svc *corev1.Service) bool { return headless(svc) },
		reason:  gwv1.RouteReasonNoMatchingParent,
		why:     "is headless, so clients address its pods and not the Service",
	},
	{
		applies: func(e enrolment, svc *corev1.Service) bool { return e.never(svc.Namespace) },
		reason:  gwv1.RouteReasonNoMatchingParent,
		why:     "is in a namespace that is never captured",
	},
	{ // The API server must stay within reach whatever state the mesh is in.
		applies: func(_ enrolment, svc *corev1.Service) bool {
			return svc.Namespace == "default" && svc.Name == "kubernetes"
		},
		reason: gwv1.RouteReasonNoMatchingParent,
		why:    "is the API server, which is never captured",
	},
	{
		applies: func(_ enrolment, svc *corev1.Service) bool { return optedOut(svc) },
		reason:  gwv1.RouteReasonNoMatchingParent,
		why:     "is kept out of the mesh by its label " + meshv1alpha1.EnabledLabel + "=" + strconv.Quote("false"),
	},
	{ // kube-proxy keeps these two promises; a proxy in between would break them.
		applies: func(_ enrolment, svc *corev1.Service) bool {
			return svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
		},
		reason: gwv1.RouteReasonUnsupportedValue,
		why:    "has spec.sessionAffinity: ClientIP, which routes do not keep, and is not captured",
	},
	{
		applies: func(_ enrolment, svc *corev1.Service) bool {
			return svc.Spec.InternalTrafficPolicy != nil &&
				*svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
		},
		reason: gwv1.RouteReasonUnsupportedValue,
		why:    "has spec.internalTrafficPolicy: Local, which routes do not keep, and is not captured",
	},
}

// uncaptured says why nothing sent to the Service is captured, or returns nil.
func (w *world) uncaptured(svc *corev1.Service) *refusal {
	for _, rule := range captureRules {
		if rule.applies(w.enrolment, svc) {
			return &refusal{rule.reason, nameOf(namespacedName(svc)) + " " + rule.why}
		}
	}
	return nil
}

// Uncaptured says why nothing that is sent to a Service of the snapshot is captured; it is empty if something is.
func Uncaptured(s Snapshot, svc *corev1.Service) string {
	w := &world{enrolment: enrol(s)}
	if !w.enrolment.has(svc.Namespace) {
		return w.enrolment.refusal(svc.Namespace)
	}
	if refused := w.uncaptured(svc); refused != nil {
		return refused.why
	}
	return ""
}

// meshed tells that requests to the Service as a backend go through its own namespace's proxies.
// Session affinity and internal traffic policy belong to the cluster IP, not to the backend, and do
// not matter here (GEP-1294 tells the two sides of a Service apart).
func (w *world) meshed(svc *corev1.Service) bool {
	return w.enrolment.has(svc.Namespace) && !optedOut(svc)
}
