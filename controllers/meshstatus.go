package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/status"
)

// observation is what the status of the Mesh is made from.
type observation struct {
	enrolled map[string]bool
	// joined holds the enrolled namespaces that are not leaving: true for those whose proxies have been ready
	// since they were enrolled.
	joined    map[string]bool
	nodes     []*corev1.Node
	pods      []*corev1.Pod
	reports   map[string]distribute.NodeState
	installed installed
	// certificates says nothing while it has no authority.
	certificates certificateState
	// strict are the ports that are strict, enforcement is what is in force of them. calls are those past the mesh
	// of lately.
	strict      []compile.ServicePort
	enforcement status.Enforcement
	calls       []plainCall
	blocks      blocks
	misplaced   []misplacement
	// roll is how far the proxies of all namespaces are on the way to those that are wanted.
	roll roll
	// unfit are the namespaces with proxies of an earlier release that do not enforce what is asked of them.
	unfit []string
	// fresh tells that agents may not have had the time to connect to this leader.
	fresh bool
}

// reasonOutdated is the one reason for a condition of the Mesh to be False that keeps it from nothing.
const reasonOutdated = "Outdated"

// meshStatus computes the status of a Mesh. Nodes that take no pods and run none of the mesh's need
// no agent. Times of conditions move only with their status.
func meshStatus(mesh *meshv1alpha1.Mesh, o observation) meshv1alpha1.MeshStatus {
	out := meshv1alpha1.MeshStatus{Conditions: slices.Clone(mesh.Status.Conditions)}
	namespaces := int32(len(o.enrolled))
	out.Namespaces = &namespaces
	out.Nodes = nodeStatuses(mesh.Status.Nodes, o)
	proven := 0
	var unproven []string
	for _, n := range out.Nodes {
		if *n.Captured && *n.Guarded {
			proven++
		} else {
			unproven = append(unproven, n.Name+": "+n.Message)
		}
	}
	out.Captured = fmt.Sprintf("%d/%d", proven, len(out.Nodes))

	captured := metav1.Condition{Type: meshv1alpha1.MeshCaptured, Status: metav1.ConditionTrue, Reason: "Proven",
		Message: "the agent of every node has proven capture"}
	if len(unproven) > 0 {
		captured.Status, captured.Reason = metav1.ConditionFalse, "NotProven"
		captured.Message = "not proven on " + truncate(strings.Join(unproven, "; "))
	}
	api := metav1.Condition{Type: meshv1alpha1.MeshGatewayAPI, Status: metav1.ConditionTrue, Reason: "Installed",
		Message: "bundle version " + o.installed.version}
	if missing := o.installed.missingOf(gwv1.GroupName); len(missing) > 0 {
		api.Status, api.Reason = metav1.ConditionFalse, "Missing"
		api.Message = "install the Gateway API " + oldestName + " or later, standard channel: missing " + strings.Join(missing, ", ")
	} else if o.installed.outdated() {
		api.Status, api.Reason = metav1.ConditionFalse, reasonOutdated
		api.Message = "bundle version " + o.installed.version + " is older than " + oldestName +
			": Weft works, without the fields that are missing there; install it, standard channel"
	}
	own := metav1.Condition{Status: metav1.ConditionTrue}
	if missing := o.installed.missingOf(meshv1alpha1.GroupVersion.Group); len(missing) > 0 {
		own.Status, own.Reason = metav1.ConditionFalse, "Missing"
		own.Message = "install the CustomResourceDefinitions of this release of Weft: missing " + strings.Join(missing, ", ")
	}
	ready := metav1.Condition{Type: meshv1alpha1.MeshReady, Status: metav1.ConditionTrue, Reason: "Ready",
		Message: "the control plane serves and capture is proven"}
	for _, c := range []metav1.Condition{own, captured, api} {
		if c.Status != metav1.ConditionTrue && c.Reason != reasonOutdated {
			ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, c.Reason, c.Message
			break
		}
	}
	conditions := append([]metav1.Condition{ready, captured, api, proxiesReady(o), proxiesCurrent(o.roll, o.unfit, o.pods)}, specAccepted(mesh)...)
	if mesh.Spec.Telemetry == (meshv1alpha1.MeshTelemetry{}) {
		meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.MeshTelemetryAccepted)
	}
	if o.certificates.authority != nil {
		out.CertificateAuthority = authorityStatus(o.certificates)
		conditions = append(conditions, certificatesValid(o.certificates), authorityAccepted(o.certificates), rootRotating(o.certificates))
	}
	if o.blocks.known {
		conditions = append(conditions, trafficAdmitted(o.blocks))
	}
	if c := proxiesPlaced(o.misplaced); c != nil {
		conditions = append(conditions, *c)
	} else {
		meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.MeshProxiesPlaced)
	}
	out.PlainCallers = plainStatus(o.calls)
	if o.fresh && len(o.calls) == 0 && len(mesh.Status.PlainCallers) > 0 {
		out.PlainCallers = mesh.Status.PlainCallers // agents may have more to tell
	} else {
		conditions = append(conditions, plainCallers(o.calls))
	}
	if len(o.strict) > 0 {
		conditions = append(conditions, strictEnforced(o))
	} else {
		meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.MeshStrictEnforced)
	}
	for _, c := range conditions {
		c.ObservedGeneration = mesh.Generation
		meta.SetStatusCondition(&out.Conditions, c)
	}
	setProgress(&out, mesh.Generation)
	return out
}

// setProgress sets what kstatus reads beside Ready: the generation that was looked at, Stalled while a part of the
// spec cannot be put into force, and Reconciling while the mesh is on its way to be ready.
func setProgress(out *meshv1alpha1.MeshStatus, generation int64) {
	out.ObservedGeneration = generation
	set := func(condition string, c *metav1.Condition) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: condition, Status: metav1.ConditionTrue, Reason: c.Reason, Message: c.Message, ObservedGeneration: generation,
		})
	}
	for _, part := range []string{meshv1alpha1.MeshDefaultsAccepted, meshv1alpha1.MeshTelemetryAccepted} {
		if c := meta.FindStatusCondition(out.Conditions, part); c != nil && c.Status == metav1.ConditionFalse {
			set(meshv1alpha1.ConditionStalled, c)
			meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.ConditionReconciling)
			return
		}
	}
	meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.ConditionStalled)
	if c := meta.FindStatusCondition(out.Conditions, meshv1alpha1.MeshReady); c.Status != metav1.ConditionTrue {
		set(meshv1alpha1.ConditionReconciling, c)
		return
	}
	meta.RemoveStatusCondition(&out.Conditions, meshv1alpha1.ConditionReconciling)
}

// strictEnforced tells what is in force of all strict ports together.
func strictEnforced(o observation) metav1.Condition {
	namespaces := make(map[string]bool)
	for _, port := range o.strict {
		namespaces[port.Namespace] = true
	}
	c := o.enforcement.Apply(metav1.Condition{Type: meshv1alpha1.MeshStrictEnforced, Status: metav1.ConditionTrue, Reason: compile.ReasonEnforced})
	c.Message = truncate(fmt.Sprintf("%d ports in %d namespaces are strict: %s", len(o.strict), len(namespaces), c.Message))
	return c
}

// specAccepted tells what of the parts of the spec cannot be put into force that are left out then.
func specAccepted(mesh *meshv1alpha1.Mesh) []metav1.Condition {
	faults := compile.Compile(compile.Snapshot{Mesh: mesh}).MeshFaults
	conditions := []metav1.Condition{partAccepted(meshv1alpha1.MeshDefaultsAccepted, "spec.defaults", faults)}
	if mesh.Spec.Telemetry != (meshv1alpha1.MeshTelemetry{}) {
		conditions = append(conditions, partAccepted(meshv1alpha1.MeshTelemetryAccepted, "spec.telemetry", faults))
	}
	return conditions
}

// partAccepted tells what of one part of the spec cannot be put into force.
func partAccepted(condition, part string, faults []compile.FieldFault) metav1.Condition {
	c := metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: "Accepted", Message: part + " is in force"}
	var texts []string
	for _, f := range faults {
		if strings.HasPrefix(f.Field, part+".") {
			texts = append(texts, f.Field+": "+f.Why)
		}
	}
	if len(texts) > 0 {
		c.Status, c.Reason = metav1.ConditionFalse, "Invalid"
		c.Message = truncate(strings.Join(texts, "; ")) + "; these parts are left out of what is in force"
	}
	return c
}

// proxiesReady names the namespaces without a ready proxy, and what that means for connections there.
func proxiesReady(o observation) metav1.Condition {
	ready := compile.ReadyProxies(o.pods, o.enrolled, nil)
	var lost, starting []string
	for namespace, joined := range o.joined {
		switch {
		case len(ready[namespace]) > 0:
		case joined:
			lost = append(lost, namespace)
		default:
			starting = append(starting, namespace)
		}
	}
	if len(lost)+len(starting) == 0 {
		return metav1.Condition{Type: meshv1alpha1.MeshProxiesReady, Status: metav1.ConditionTrue, Reason: "Ready",
			Message: "every enrolled namespace has a ready proxy"}
	}
	var parts []string
	for _, part := range []struct {
		namespaces []string
		meaning    string
	}{
		{lost, "connections to Services with a route are refused, like those to strict ports, others are made without the mesh"},
		{starting, "none has been ready since the namespace was enrolled, and nothing is captured yet"},
	} {
		if len(part.namespaces) > 0 {
			slices.Sort(part.namespaces)
			parts = append(parts, "no proxy is ready in "+truncate(strings.Join(part.namespaces, ", "))+": "+part.meaning)
		}
	}
	return metav1.Condition{Type: meshv1alpha1.MeshProxiesReady, Status: metav1.ConditionFalse, Reason: "NoProxyReady",
		Message: strings.Join(parts, "; ") + "; see the pods of Deployment " + meshv1alpha1.ProxyName}
}

// nodeStatuses returns one entry for each node, sorted. What the leader before has found out of a node
// stands until this one has heard from it.
func nodeStatuses(before []meshv1alpha1.NodeStatus, o observation) []meshv1alpha1.NodeStatus {
	of := meshed(o)
	var out []meshv1alpha1.NodeStatus
	for _, node := range o.nodes {
		if node.Spec.Unschedulable && len(of[node.Name]) == 0 {
			continue
		}
		report, known := o.reports[node.Name]
		at := slices.IndexFunc(before, func(n meshv1alpha1.NodeStatus) bool { return n.Name == node.Name })
		if at >= 0 && o.fresh && (!known || report.Connected && report.Canary == nil) {
			out = append(out, before[at])
			continue
		}
		out = append(out, nodeStatus(node.Name, of[node.Name], report))
	}
	slices.SortFunc(out, func(a, b meshv1alpha1.NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// meshed returns the pods of each node that are to be captured, or would be if they had a network of their own.
func meshed(o observation) map[string][]*corev1.Pod {
	of := map[string][]*corev1.Pod{}
	for _, pod := range o.pods {
		// Of a pod that has an address the proxy may run, which the applications wait for.
		runs := pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodPending && pod.Status.PodIP != ""
		if runs && o.enrolled[pod.Namespace] && pod.Spec.NodeName != "" &&
			pod.Labels[meshv1alpha1.EnabledLabel] != "false" && pod.Labels[meshv1alpha1.ComponentLabel] == "" {
			of[pod.Spec.NodeName] = append(of[pod.Spec.NodeName], pod)
		}
	}
	return of
}

func nodeStatus(name string, pods []*corev1.Pod, report distribute.NodeState) meshv1alpha1.NodeStatus {
	var captured, guarded, strict bool
	message := "no agent is connected"
	if report.Connected {
		message = "the agent has not run its canary yet"
	}
	if report.Connected && report.Canary != nil {
		captured, guarded, strict = report.Canary.Captured, report.Canary.Guarded, report.Canary.StrictEnforced
		message = report.Canary.Reason
	}
	var late, uncaptured, hostNetwork int32
	for _, pod := range pods {
		p, known := report.Pods[string(pod.UID)]
		switch {
		case pod.Spec.HostNetwork:
			hostNetwork++
		case !known || !p.Captured:
			uncaptured++
		case p.Late:
			late++
		}
	}
	return meshv1alpha1.NodeStatus{
		Name: name, Captured: &captured, Guarded: &guarded, StrictEnforced: &strict,
		LatePods: &late, UncapturedPods: &uncaptured, HostNetworkPods: &hostNetwork, Message: truncate(message),
	}
}

// truncate keeps a message within what the API accepts.
func truncate(message string) string {
	const limit = 1000
	if len(message) <= limit {
		return message
	}
	return message[:limit] + " ..."
}
