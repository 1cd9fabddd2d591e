package findings

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/preflight"
	"weft.dev/weft/proxy/wire"
)

// callers tells who reaches Services without the mesh, and where bytes are plain.
func (a *analysis) callers() {
	nodes := map[string]map[string]bool{}
	for _, pod := range a.mesh.Pods {
		if !a.mesh.Enrolled(pod.Namespace) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if pod.Spec.HostNetwork {
			a.add(HostNetworkCaller, mesh.Object{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name},
				"it is on the host's network, so that its calls are not captured")
			continue
		}
		if pod.Spec.NodeName != "" {
			if nodes[pod.Namespace] == nil {
				nodes[pod.Namespace] = map[string]bool{}
			}
			nodes[pod.Namespace][pod.Spec.NodeName] = true
		}
	}
	for namespace, on := range nodes {
		if len(on) > 1 && !a.mesh.Network.Encrypts {
			who := "the network plugin, which is not known here,"
			if a.mesh.Network.Plugin != "" {
				who = a.mesh.Network.Plugin
			}
			a.add(PlainLegs, mesh.Object{Kind: "Namespace", Name: namespace},
				"its pods and proxies are on %d nodes, and %s does not encrypt between them", len(on), who)
		}
	}
}

// services tells which Services of enrolled namespaces are not, or not as HTTP, in the mesh.
func (a *analysis) services() {
	destinations := map[string]*wire.Destination{}
	for _, r := range a.mesh.Compiled.Resources {
		if r.Destination != nil {
			destinations[r.Key] = r.Destination
		}
	}
	for _, svc := range a.mesh.Snapshot.Services {
		if !a.mesh.Enrolled(svc.Namespace) {
			continue
		}
		object := mesh.Object{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name}
		if why := compile.Uncaptured(a.mesh.Snapshot, svc); why != "" {
			a.add(ServiceUncaptured, object, "%s", why)
			continue
		}
		a.ports(object, svc, destinations)
		a.outside(object, svc)
	}
}

func (a *analysis) ports(object mesh.Object, svc *corev1.Service, destinations map[string]*wire.Destination) {
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		d := destinations[wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port.Port))]
		if d != nil && d.Protocol == wire.ProtocolTCP && !compile.DeclaresProtocol(port) {
			a.add(OpaquePort, object, "port %d has neither appProtocol nor a name that says what it speaks", port.Port)
		}
	}
}

// outside tells that a Service with rules of its own is reached past them.
func (a *analysis) outside(object mesh.Object, svc *corev1.Service) {
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	var passed []string
	for i := range a.mesh.Compiled.Resources {
		r := &a.mesh.Compiled.Resources[i]
		switch {
		case r.Route != nil && !r.Route.Consumer && slices.ContainsFunc(r.Route.Destinations, func(key string) bool {
			namespace, name, _, ok := wire.ParseServicePortKey(key)
			return ok && namespace == svc.Namespace && name == svc.Name
		}):
			passed = append(passed, string(r.Route.Kind)+" "+r.Route.Name)
		case r.Authorization != nil && r.Authorization.Namespace == svc.Namespace && concerns(r.Authorization, svc.Name):
			passed = append(passed, "MeshAuthorization "+r.Authorization.Name)
		}
	}
	slices.Sort(passed)
	if passed = slices.Compact(passed); len(passed) > 0 {
		a.add(NodePortCallers, object, "it is of type %s: who comes in by it passes %s", svc.Spec.Type, strings.Join(passed, ", "))
	}
}

func concerns(a *wire.Authorization, service string) bool {
	return len(a.Targets) == 0 || slices.ContainsFunc(a.Targets, func(t wire.AuthorizationTarget) bool { return t.Service == service })
}

// networkPolicies tells which policies block meshed traffic.
func (a *analysis) networkPolicies() {
	found := preflight.Find(preflight.Cluster{
		System: a.mesh.Snapshot.SystemNamespace, Enrolled: a.mesh.Compiled.Enrolled, Namespaces: a.mesh.Snapshot.Namespaces,
		Pods: a.mesh.Pods, Policies: a.mesh.NetworkPolicies, Exposures: a.mesh.Compiled.Exposures,
		Managed: a.mesh.Snapshot.Mesh == nil || a.mesh.Snapshot.Mesh.Spec.Proxy.NetworkPolicy != meshv1alpha1.NetworkPolicyNone,
	})
	for i := range found {
		f := &found[i]
		a.add(PolicyBlocks, mesh.Object{Kind: "NetworkPolicy", Namespace: f.Policy.Namespace, Name: f.Policy.Name}, "it %s", f.String())
	}
}

// Counts says how many findings there are of each severity, as "2 errors, 1 warning".
func Counts(found []Finding) string {
	var parts []string
	for _, s := range []Severity{Error, Warning, Info} {
		n := 0
		for i := range found {
			if found[i].Severity == s {
				n++
			}
		}
		name := string(s)
		if n != 1 && s != Info {
			name += "s"
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+name)
		}
	}
	if len(parts) == 0 {
		return "nothing found"
	}
	return strings.Join(parts, ", ")
}
