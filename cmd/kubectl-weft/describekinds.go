package main

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

func describeService(d *describing, name types.NamespacedName) *description {
	svc := d.mesh.Service(name)
	if svc == nil {
		return nil
	}
	out := &description{Object: mesh.Object{Kind: "Service", Namespace: name.Namespace, Name: name.Name}}
	if why := compile.Uncaptured(d.mesh.Snapshot, svc); why != "" {
		out.add("In the mesh", "no: "+why)
	} else {
		out.add("In the mesh", "yes: what pods of enrolled namespaces send to it passes a proxy")
	}
	for i := range svc.Spec.Ports {
		d.port(out, name, &svc.Spec.Ports[i])
	}
	if d.mesh.Enrolled(name.Namespace) {
		callers := d.trial.AuthorizationLines(name.Namespace, name.Name)
		if len(callers) == 0 {
			callers = []string{"everybody in the mesh: no MeshAuthorization is for it"}
		}
		out.add("Who may call", callers...)
		out.add("Policy, where it is not the default", d.effective(compile.Target{Kind: "Service", Namespace: name.Namespace, Name: name.Name})...)
	}
	return out
}

// port describes the routes of a Service port, for each kind of caller.
func (d *describing) port(out *description, name types.NamespacedName, port *corev1.ServicePort) {
	key := wire.ServicePortKey(name.Namespace, name.Name, uint16(port.Port))
	title := "Port " + strconv.Itoa(int(port.Port))
	if port.Name != "" {
		title += " (" + port.Name + ")"
	}
	consumers := map[string]bool{}
	for _, r := range d.mesh.Compiled.Resources {
		if r.Route != nil && r.Route.Consumer && (slices.Contains(r.Route.Destinations, key) || slices.Contains(r.Route.Destinations, key+"@"+r.Route.Namespace)) {
			consumers[r.Route.Namespace] = true
		}
	}
	// Nobody is in a namespace without a name, so that consumer routes play no part.
	if at, dest := d.trial.Destination("", key); dest != nil {
		lines := trial.Lines(d.trial.Routes("", at, dest))
		if len(lines) == 0 {
			lines = []string{"no route: every " + unit(dest.Protocol) + " goes to the Service itself"}
		}
		out.add(title+", "+string(dest.Protocol)+", for clients of every enrolled namespace", numbered(lines)...)
	}
	var namespaces []string
	for namespace := range consumers {
		namespaces = append(namespaces, namespace)
	}
	slices.Sort(namespaces)
	for _, namespace := range namespaces {
		if at, dest := d.trial.Destination(namespace, key); dest != nil {
			out.add(title+", for clients of namespace "+namespace+" instead", numbered(trial.Lines(d.trial.Routes(namespace, at, dest)))...)
		}
	}
}

func unit(p wire.Protocol) string {
	if p == wire.ProtocolTCP {
		return "connection"
	}
	return "request"
}

// numbered counts lines that are in order.
func numbered(lines []string) []string {
	if len(lines) < 2 {
		return lines
	}
	out := make([]string, len(lines))
	for i, text := range lines {
		out[i] = strconv.Itoa(i+1) + ". " + text
	}
	return out
}

// effective lists the values in force for a target that somebody has set, and who says so.
func (d *describing) effective(t compile.Target) []string {
	var lines []string
	all := compile.Effective(d.mesh.Snapshot, t)
	for _, e := range all {
		if len(all) > 1 {
			lines = append(lines, e.Target+":")
		}
		for _, f := range e.Fields {
			lines = append(lines, f.Field+" = "+f.Value+", says "+f.From)
		}
	}
	return lines
}

func describeRoute(d *describing, name types.NamespacedName) *description {
	for i := range d.mesh.Compiled.Routes {
		if r := &d.mesh.Compiled.Routes[i]; r.Name == name {
			return d.route(r)
		}
	}
	return nil
}

func (d *describing) route(r *compile.RouteStatus) *description {
	out := &description{Object: mesh.Object{Kind: string(r.Kind), Namespace: r.Name.Namespace, Name: r.Name.Name}}
	var parents []string
	for _, p := range r.Parents {
		for _, c := range p.Conditions {
			if c.Type == meshv1alpha1.PolicyAccepted {
				answer := "yes: "
				if c.Status != metav1.ConditionTrue {
					answer = "no: "
				}
				parents = append(parents, answer+c.Message)
			}
		}
	}
	out.add("Applies", parents...)
	for _, consumer := range []bool{false, true} {
		var rules []*wire.Route
		for i := range d.mesh.Compiled.Resources {
			route := d.mesh.Compiled.Resources[i].Route
			if route != nil && route.Consumer == consumer && route.Kind == r.Kind && route.Namespace == r.Name.Namespace && route.Name == r.Name.Name {
				rules = append(rules, route)
			}
		}
		title := "Rules, in the order in which they are preferred"
		if consumer {
			title = "Rules for clients of namespace " + r.Name.Namespace + ", in the order in which they are preferred"
		}
		out.add(title, numbered(trial.Lines(rules))...)
	}
	out.add("Policy, where it is not the default", d.effective(compile.Target{Kind: string(r.Kind), Namespace: r.Name.Namespace, Name: r.Name.Name})...)
	return out
}

func describePolicy(d *describing, name types.NamespacedName) *description {
	for i := range d.mesh.Compiled.Policies {
		if p := &d.mesh.Compiled.Policies[i]; p.Name == name {
			out := &description{Object: mesh.Object{Kind: "MeshPolicy", Namespace: name.Namespace, Name: name.Name}}
			out.add("For", p.Target)
			out.add("In force", conditionLine(p.Accepted))
			for _, e := range p.Effective {
				var lines []string
				for _, f := range e.Fields {
					lines = append(lines, f.Field+" = "+f.Value+", says "+f.From)
				}
				out.add("What results for "+e.Target, lines...)
			}
			return out
		}
	}
	for i := range d.mesh.Compiled.Authorizations {
		if p := &d.mesh.Compiled.Authorizations[i]; p.Name == name {
			out := &description{Object: mesh.Object{Kind: "MeshAuthorization", Namespace: name.Namespace, Name: name.Name}}
			out.add("For", p.Target)
			out.add("In force", conditionLine(p.Accepted))
			out.add("Makes strict", portLines(p.Strict)...)
			out.add("Cannot be passed by", d.enforced(name)...)
			out.add("Says", d.trial.PolicyLines(name.String())...)
			return out
		}
	}
	return nil
}

func portLines(ports []compile.ServicePort) []string {
	lines := make([]string, len(ports))
	for i, p := range ports {
		lines[i] = p.String()
	}
	return lines
}

// enforced says what nodes have proven of an authorization. Files prove nothing.
func (d *describing) enforced(name types.NamespacedName) []string {
	for _, a := range d.mesh.Snapshot.MeshAuthorizations {
		if a.Namespace != name.Namespace || a.Name != name.Name {
			continue
		}
		if c := meta.FindStatusCondition(a.Status.Conditions, meshv1alpha1.AuthorizationEnforced); c != nil {
			return []string{conditionLine(*c)}
		}
	}
	return nil
}

func conditionLine(c metav1.Condition) string {
	if c.Status == metav1.ConditionTrue {
		return "yes: " + c.Message
	}
	return "no, " + c.Reason + ": " + c.Message
}

func describePod(d *describing, name types.NamespacedName) *description {
	pod := d.mesh.Pod(name)
	if pod == nil {
		return nil
	}
	out := &description{Object: mesh.Object{Kind: "Pod", Namespace: name.Namespace, Name: name.Name}}
	domain := "cluster.local"
	if m := d.mesh.Snapshot.Mesh; m != nil && m.Spec.TrustDomain != "" {
		domain = m.Spec.TrustDomain
	}
	switch {
	case !d.mesh.Enrolled(name.Namespace):
		out.add("In the mesh", "no: namespace "+name.Namespace+" is not enrolled")
	case pod.Spec.HostNetwork:
		out.add("In the mesh", "no: it is on the network of its node")
	case pod.Labels[meshv1alpha1.EnabledLabel] == "false":
		out.add("In the mesh", "no: its label "+meshv1alpha1.EnabledLabel+" keeps it out")
	case pod.Labels[meshv1alpha1.ComponentLabel] == compile.ComponentProxy:
		out.add("In the mesh", "it is a proxy of namespace "+name.Namespace)
	default:
		out.add("In the mesh", "yes: its calls to captured Services pass "+placed(d, pod))
		out.add("Identity", fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", domain, name.Namespace, pod.Spec.ServiceAccountName))
	}
	var services []string
	for _, svc := range d.mesh.Snapshot.Services {
		if svc.Namespace == name.Namespace && len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			services = append(services, svc.Namespace+"/"+svc.Name)
			out.add("Who may call it as Service "+svc.Name, d.trial.AuthorizationLines(svc.Namespace, svc.Name)...)
		}
	}
	slices.Sort(services)
	if len(services) == 0 {
		services = []string{"none selects it"}
	}
	out.add("Services", services...)
	return out
}

// placed says where the proxy of a pod is, and what is wrong with that.
func placed(d *describing, pod *corev1.Pod) string {
	wanted, unknown := compile.Placement(pod.Labels, namespaceLabels(d, pod.Namespace), d.mesh.Snapshot.Mesh)
	text := "a proxy of namespace " + pod.Namespace
	switch has := compile.HasSidecar(pod); {
	case has && wanted == meshv1alpha1.PlacementSidecar:
		text = "the proxy beside it"
	case has:
		text = "the proxy beside it; one of its namespace is wanted, which takes a restart"
	case wanted == meshv1alpha1.PlacementSidecar:
		text += "; one beside it is wanted, and until it is made anew its strict ports are refused to all but its node"
	}
	if unknown != nil {
		text += "; " + unknown.Error()
	}
	return text
}

func namespaceLabels(d *describing, name string) map[string]string {
	for _, ns := range d.mesh.Snapshot.Namespaces {
		if ns.Name == name {
			return ns.Labels
		}
	}
	return nil
}

func describeNamespace(d *describing, name types.NamespacedName) *description {
	var ns *corev1.Namespace
	for _, n := range d.mesh.Snapshot.Namespaces {
		if n.Name == name.Name {
			ns = n
		}
	}
	if ns == nil {
		return nil
	}
	out := &description{Object: mesh.Object{Kind: "Namespace", Name: name.Name}}
	if d.mesh.Enrolled(name.Name) {
		out.add("Enrolled", "yes")
		where := "pods that are made are to share the proxies of the namespace, unless their labels say otherwise"
		placement, unknown := compile.Placement(nil, ns.Labels, d.mesh.Snapshot.Mesh)
		if placement == meshv1alpha1.PlacementSidecar {
			where = "pods that are made get a proxy beside them, unless their labels say otherwise"
		}
		if unknown != nil {
			where += "; " + unknown.Error()
		}
		out.add("Placement", where)
	} else {
		out.add("Enrolled", "no: label it with "+meshv1alpha1.EnabledLabel+"=true")
	}
	var proxies, services, routes, policies []string
	for _, p := range d.mesh.Pods {
		switch {
		case p.Namespace != name.Name:
		case p.Labels[meshv1alpha1.ComponentLabel] == compile.ComponentProxy:
			proxies = append(proxies, p.Name+" on "+p.Spec.NodeName)
		case compile.HasSidecar(p):
			proxies = append(proxies, p.Name+" on "+p.Spec.NodeName+", for itself")
		}
	}
	for _, svc := range d.mesh.Snapshot.Services {
		if svc.Namespace != name.Name {
			continue
		}
		text := svc.Name + ", ports " + portList(svc)
		if why := compile.Uncaptured(d.mesh.Snapshot, svc); why != "" {
			text += ": not in the mesh: " + why
		}
		services = append(services, text)
	}
	for i := range d.mesh.Compiled.Routes {
		if r := &d.mesh.Compiled.Routes[i]; r.Name.Namespace == name.Name {
			routes = append(routes, string(r.Kind)+" "+r.Name.Name)
		}
	}
	for i := range d.mesh.Compiled.Policies {
		if p := &d.mesh.Compiled.Policies[i]; p.Name.Namespace == name.Name {
			policies = append(policies, "MeshPolicy "+p.Name.Name+" for "+p.Target)
		}
	}
	for i := range d.mesh.Compiled.Authorizations {
		if p := &d.mesh.Compiled.Authorizations[i]; p.Name.Namespace == name.Name {
			policies = append(policies, "MeshAuthorization "+p.Name.Name+" for "+p.Target)
		}
	}
	for _, list := range [][]string{proxies, services, routes, policies} {
		slices.Sort(list)
	}
	out.add("Proxies", proxies...)
	out.add("Services", services...)
	out.add("Routes", routes...)
	out.add("Policies", policies...)
	out.add("Policy of the namespace, where it is not the default", d.effective(compile.Target{Kind: "Namespace", Namespace: name.Name})...)
	return out
}
