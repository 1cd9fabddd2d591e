package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// view is what DNS, kube-proxy and the node agents make of the objects in force.
type view struct {
	enrolled []string
	// services and captured are by wire.ServicePortKey: where kube-proxy would lead a connection to a
	// Service port, and, of each enrolled namespace, where capture does.
	services map[string][]netip.AddrPort
	captured map[string]map[string]string
	// addresses lead from cluster IPs to "namespace/name".
	addresses map[netip.Addr]string
}

// newView gives every destination a port of its own at the proxies of all namespaces that see it.
func (m *Mesh) newView(s compile.Snapshot, result compile.Result) (*view, error) {
	v := &view{
		enrolled: result.Enrolled, services: map[string][]netip.AddrPort{},
		captured: map[string]map[string]string{}, addresses: map[netip.Addr]string{},
	}
	for _, svc := range s.Services {
		for _, text := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
			if address, err := netip.ParseAddr(text); err == nil {
				v.addresses[address] = svc.Namespace + "/" + svc.Name
			}
		}
		for i := range svc.Spec.Ports {
			key := wire.ServicePortKey(svc.Namespace, svc.Name, uint16(svc.Spec.Ports[i].Port))
			v.services[key] = endpoints(svc, &svc.Spec.Ports[i], s.EndpointSlices)
		}
	}
	for _, namespace := range result.Enrolled {
		destinations := map[string]string{}
		for _, r := range result.Resources {
			if r.Destination != nil && (r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(namespace)) {
				destinations[r.Key] = wire.ServicePortKey(r.Destination.Namespace, r.Destination.Service, r.Destination.Port)
			}
		}
		keys := make([]string, 0, len(destinations))
		for key := range destinations {
			keys = append(keys, key)
		}
		addresses, err := m.proxies[namespace].capture(keys)
		if err != nil {
			return nil, err
		}
		v.captured[namespace] = map[string]string{}
		for key, servicePort := range destinations {
			v.captured[namespace][servicePort] = addresses[key]
		}
	}
	return v, nil
}

// endpoints are the ready addresses of a Service port.
func endpoints(svc *corev1.Service, port *corev1.ServicePort, all []*discoveryv1.EndpointSlice) []netip.AddrPort {
	var out []netip.AddrPort
	for _, slice := range all {
		if slice.Namespace != svc.Namespace || slice.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		each(slice, func(e *discoveryv1.Endpoint, p *discoveryv1.EndpointPort, address netip.AddrPort) {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if ready && portName(p) == port.Name {
				out = append(out, address)
			}
		})
	}
	return out
}

// each calls f with every address and port of a slice.
func each(slice *discoveryv1.EndpointSlice, f func(*discoveryv1.Endpoint, *discoveryv1.EndpointPort, netip.AddrPort)) {
	for i := range slice.Endpoints {
		for _, text := range slice.Endpoints[i].Addresses {
			address, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			for j := range slice.Ports {
				if port := &slice.Ports[j]; port.Port != nil {
					f(&slice.Endpoints[i], port, netip.AddrPortFrom(address, uint16(*port.Port)))
				}
			}
		}
	}
}

func portName(p *discoveryv1.EndpointPort) string {
	if p.Name == nil {
		return ""
	}
	return *p.Name
}

// startPods starts a pod for every address that nothing listens at.
func (m *Mesh) startPods(slices []*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, slice := range slices {
		each(slice, func(e *discoveryv1.Endpoint, p *discoveryv1.EndpointPort, address netip.AddrPort) {
			if m.network.has(address) {
				return
			}
			name := address.Addr().String()
			if e.TargetRef != nil {
				name = e.TargetRef.Name
			}
			listener, err := m.podNamed(slice.Namespace, name).listen(address, strings.HasPrefix(portName(p), "tcp"))
			if err != nil {
				errs = append(errs, err)
				return
			}
			m.network.set(address, listener)
		})
	}
	return errors.Join(errs...)
}

// podNamed returns the pod of that name and makes it if there is none.
func (m *Mesh) podNamed(namespace, name string) *Pod {
	m.podsMu.Lock()
	defer m.podsMu.Unlock()
	key := namespace + "/" + name
	if m.pods[key] == nil {
		m.pods[key] = newPod(name)
	}
	return m.pods[key]
}

// Refuse makes connections to a pod be refused for good, as when its process has died.
func (m *Mesh) Refuse(pod *Pod) error {
	pod.mu.Lock()
	for address := range pod.ports {
		m.network.set(address, "")
	}
	pod.mu.Unlock()
	return pod.stop()
}

// Dial connects to "host:port" as a client in a namespace does. The host is a Service's name in any of
// the forms that cluster DNS knows, a cluster IP, or the address of a pod.
func (m *Mesh) Dial(ctx context.Context, namespace, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	m.dialing.RLock()
	defer m.dialing.RUnlock()
	v := m.view.Load()
	service := serviceOf(host, namespace)
	if ip, err := netip.ParseAddr(host); err == nil {
		if service = v.addresses[ip]; service == "" {
			return m.network.dial(ctx, "tcp", address)
		}
	}
	name, serviceName, _ := strings.Cut(service, "/")
	key := wire.ServicePortKey(name, serviceName, uint16(port))
	if listener, ok := v.captured[namespace][key]; ok {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", listener)
	}
	endpoints, ok := v.services[key]
	if !ok {
		return nil, fmt.Errorf("dial %s from namespace %s: there is no such Service port", address, namespace)
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("dial %s from namespace %s: the Service has no endpoints", address, namespace)
	}
	return m.network.dial(ctx, "tcp", endpoints[rand.IntN(len(endpoints))].String())
}

// serviceOf resolves a name as the search path of a pod does.
func serviceOf(host, namespace string) string {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(labels) > 1 {
		namespace = labels[1]
	}
	return namespace + "/" + labels[0]
}
