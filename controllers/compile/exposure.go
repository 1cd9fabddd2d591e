package compile

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"weft.dev/weft/proxy/wire"
)

// Exposure is one TCP port that a Service with a cluster IP publishes of pods in an enrolled namespace, and who
// may call it there. A Service whose owner keeps it out of the mesh exposes nothing in this sense.
type Exposure struct {
	ServicePort
	// Selector picks the pods; without one nobody knows which they are. Target is their port.
	Selector map[string]string
	Target   intstr.IntOrString
	// Strict refuses everybody but the namespace's proxies, the pod's node, Allowed, and the pods that run as
	// Accounts. Both are sorted, and none of Allowed contains another. They are there while it is not strict as
	// well: these callers need not be warned of.
	Strict   bool
	Allowed  []netip.Prefix
	Accounts []types.NamespacedName
	// By names what makes it strict as levels and messages name objects, sorted.
	By []string
}

// ServicePort names a port of a Service.
type ServicePort struct {
	Namespace, Service string
	Port               uint16
}

// String is how messages name it within its namespace.
func (p ServicePort) String() string {
	return strings.TrimPrefix(wire.ServicePortKey("", p.Service, p.Port), "/")
}

// Key is the key of its Destination.
func (p ServicePort) Key() string { return wire.ServicePortKey(p.Namespace, p.Service, p.Port) }

func compareServicePorts(a, b ServicePort) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
}

// equal tells that two exposures are the same.
func (e Exposure) equal(other Exposure) bool { return reflect.DeepEqual(e, other) }

// exposuresOf lists what a Service publishes, in the order of its ports.
func (c *Compiler) exposuresOf(name types.NamespacedName) []Exposure {
	svc := c.world.services[name]
	if svc == nil || !c.world.enrolment.has(name.Namespace) || !exposes(svc) {
		return nil
	}
	var enforced []*authorization
	for _, a := range c.authorizations[name.Namespace] {
		if a.content != nil && !a.content.Audit {
			enforced = append(enforced, a)
		}
	}
	var out []Exposure
	for i := range svc.Spec.Ports {
		if port := &svc.Spec.Ports[i]; isTCP(port) {
			out = append(out, c.world.exposure(name, svc, port, enforced))
		}
	}
	return out
}

// exposes tells that a Service publishes ports of pods. Whether what is sent to it is captured does not matter:
// a Service with session affinity leads to its pods as well.
func exposes(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName && !headless(svc) && !optedOut(svc) &&
		(svc.Namespace != "default" || svc.Name != "kubernetes")
}

func (w *world) exposure(name types.NamespacedName, svc *corev1.Service, port *corev1.ServicePort, enforced []*authorization) Exposure {
	at := place{service: name, port: uint16(port.Port)}
	e := Exposure{
		ServicePort: ServicePort{name.Namespace, name.Name, at.port},
		Selector:    svc.Spec.Selector, Target: port.TargetPort,
	}
	if e.Target == (intstr.IntOrString{}) {
		e.Target = intstr.FromInt32(port.Port)
	}
	levels := w.serviceLevels(at)
	said := valueOr(merge(levels), wire.Policy{}).MTLS
	if said != nil && valueOr(said.Mode, wire.MTLSPermissive) == wire.MTLSStrict {
		e.By = append(e.By, saysMode(levels))
	}
	var let, refused []netip.Prefix
	for _, a := range enforced {
		if a.isFor(e.ServicePort) {
			e.By = append(e.By, a.String())
			more, less := a.unauthenticated(at.port)
			let, refused = append(let, more...), append(refused, less...)
		}
	}
	e.Strict = len(e.By) > 0
	slices.Sort(e.By)
	e.Allowed = without(let, refused)
	if said != nil && said.AllowFrom != nil {
		e.Allowed = append(e.Allowed, said.AllowFrom.CIDRs...)
		for _, sa := range said.AllowFrom.ServiceAccounts {
			e.Accounts = append(e.Accounts, types.NamespacedName{Namespace: sa.Namespace, Name: sa.Name})
		}
	}
	e.Allowed = disjoint(e.Allowed)
	slices.SortFunc(e.Accounts, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	e.Accounts = slices.Compact(e.Accounts)
	return e
}

// saysMode is the origin of the level whose word on the mode counts.
func saysMode(levels []level) string {
	for _, l := range slices.Backward(levels) {
		if l.policy != nil && l.policy.MTLS != nil && l.policy.MTLS.Mode != nil {
			return l.origin
		}
	}
	return ""
}

// strictPorts are the ports that an object makes strict.
func strictPorts(exposures []Exposure, origin string) []ServicePort {
	var out []ServicePort
	for i := range exposures {
		if e := &exposures[i]; e.Strict && slices.Contains(e.By, origin) {
			out = append(out, e.ServicePort)
		}
	}
	return out
}

// disjoint sorts prefixes and drops those that others contain. It changes the slice that it is given.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	for i, p := range prefixes {
		prefixes[i] = p.Masked()
	}
	// Of two that overlap the longer is within the shorter, which comes first at the same address.
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range prefixes {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// without takes parts out of prefixes.
func without(prefixes, parts []netip.Prefix) []netip.Prefix {
	for _, part := range parts {
		var rest []netip.Prefix
		for _, p := range prefixes {
			switch {
			case !p.Overlaps(part):
				rest = append(rest, p)
			case part.Bits() > p.Bits():
				rest = append(rest, leftOf(p, part)...)
			}
		}
		prefixes = rest
	}
	return prefixes
}

// leftOf returns what is left of a network without a part of it: at each level the half that the part is not in.
func leftOf(network, part netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for bits := part.Bits(); bits > network.Bits(); bits-- {
		half := netip.PrefixFrom(part.Addr(), bits).Masked().Addr().AsSlice()
		half[(bits-1)/8] ^= 1 << (7 - (bits-1)%8)
		if other, ok := netip.AddrFromSlice(half); ok {
			out = append(out, netip.PrefixFrom(other, bits))
		}
	}
	return out
}
