package findings

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// Analyze returns everything that is to be said about a mesh, the worst first.
func Analyze(m *mesh.Mesh) []Finding {
	a := &analysis{mesh: m}
	a.routes()
	a.rules()
	a.hidden()
	a.policies()
	a.authorizations()
	a.callers()
	a.services()
	a.networkPolicies()
	for i := range a.found {
		a.found[i].Position = m.At(a.found[i].Object)
	}
	slices.SortFunc(a.found, compare)
	return slices.CompactFunc(a.found, func(x, y Finding) bool { return compare(x, y) == 0 })
}

type analysis struct {
	mesh  *mesh.Mesh
	found []Finding
}

func (a *analysis) add(code Code, object mesh.Object, format string, args ...any) {
	a.found = append(a.found, newFinding(code, object, fmt.Sprintf(format, args...)))
}

func routeObject(kind wire.RouteKind, namespace, name string) mesh.Object {
	return mesh.Object{Kind: string(kind), Namespace: namespace, Name: name}
}

// routes tells what the operator says about routes, and what proxies have of them.
func (a *analysis) routes() {
	for i := range a.mesh.Compiled.Routes {
		r := &a.mesh.Compiled.Routes[i]
		object := routeObject(r.Kind, r.Name.Namespace, r.Name.Name)
		for j := range r.Parents {
			parent := &r.Parents[j]
			at := "for parent " + string(parent.ParentRef.Name) + ": "
			for _, c := range parent.Conditions {
				switch {
				case c.Type == string(gwv1.RouteConditionAccepted) && c.Status == metav1.ConditionFalse:
					a.add(RouteNotAccepted, object, "%s%s: %s", at, c.Reason, c.Message)
				case c.Type == string(gwv1.RouteConditionResolvedRefs) && c.Status == metav1.ConditionFalse:
					a.add(RefsNotResolved, object, "%s: %s", c.Reason, c.Message)
				case c.Type == string(gwv1.RouteConditionPartiallyInvalid) && c.Status == metav1.ConditionTrue:
					a.add(RuleDropped, object, "%s", c.Message)
				}
			}
		}
	}
	for _, r := range a.mesh.Snapshot.HTTPRoutes {
		a.route(routeObject(wire.RouteHTTP, r.Namespace, r.Name), r.Spec.Hostnames, r.Spec.ParentRefs, r.Status.Parents, r.Generation)
	}
	for _, r := range a.mesh.Snapshot.GRPCRoutes {
		a.route(routeObject(wire.RouteGRPC, r.Namespace, r.Name), r.Spec.Hostnames, r.Spec.ParentRefs, r.Status.Parents, r.Generation)
	}
}

func (a *analysis) route(object mesh.Object, hosts []gwv1.Hostname, refs []gwv1.ParentReference, parents []gwv1.RouteParentStatus, generation int64) {
	ours := slices.ContainsFunc(refs, func(p gwv1.ParentReference) bool { return p.Kind != nil && *p.Kind == "Service" })
	if ours && len(hosts) > 0 {
		a.add(HostnamesIgnored, object, "spec.hostnames is ignored for Services")
	}
	if !a.mesh.Live {
		return
	}
	for _, parent := range parents {
		if parent.ControllerName == meshv1alpha1.ControllerName {
			a.notProgrammed(object, parent.Conditions, generation)
		}
	}
}

func (a *analysis) notProgrammed(object mesh.Object, conditions []metav1.Condition, generation int64) {
	accepted := meta.FindStatusCondition(conditions, meshv1alpha1.PolicyAccepted)
	c := meta.FindStatusCondition(conditions, meshv1alpha1.PolicyProgrammed)
	switch {
	case accepted == nil || accepted.Status != metav1.ConditionTrue || c == nil:
	case c.Status != metav1.ConditionTrue:
		a.add(NotProgrammed, object, "%s: %s", c.Reason, c.Message)
	case c.ObservedGeneration < generation:
		a.add(NotProgrammed, object, "the operator has not looked at the last change yet")
	}
}

// bypassable tells of what is meant to be strict and is not proven to be.
func (a *analysis) bypassable(object mesh.Object, conditions []metav1.Condition) {
	if c := meta.FindStatusCondition(conditions, meshv1alpha1.PolicyEnforced); c != nil && c.Reason == compile.ReasonBypassable {
		a.add(Bypassable, object, "%s", c.Message)
	}
}

// policies tells what is wrong with MeshPolicies and the Mesh's defaults, and where they contradict each other.
func (a *analysis) policies() {
	for _, f := range a.mesh.Compiled.MeshFaults {
		a.add(DefaultsNotInUse, mesh.Object{Kind: "Mesh", Name: meshv1alpha1.MeshName}, "%s: %s", f.Field, f.Why)
	}
	for i := range a.mesh.Compiled.Policies {
		p := &a.mesh.Compiled.Policies[i]
		object := mesh.Object{Kind: "MeshPolicy", Namespace: p.Name.Namespace, Name: p.Name.Name}
		a.attached(object, p.Faults, p.Targets, PolicyInvalid, PolicyNotAccepted)
		if len(p.Faults) > 0 {
			continue
		}
		for _, text := range compile.Contradictions(p.Effective, "MeshPolicy "+p.Name.String(), "spec") {
			a.add(PolicyContradicts, object, "%s", text)
		}
	}
	if a.mesh.Live {
		for _, p := range a.mesh.Snapshot.MeshPolicies {
			object := mesh.Object{Kind: "MeshPolicy", Namespace: p.Namespace, Name: p.Name}
			a.notProgrammed(object, p.Status.Conditions, p.Generation)
			a.bypassable(object, p.Status.Conditions)
		}
	}
}

// attached tells what is wrong with an object that has targets.
func (a *analysis) attached(object mesh.Object, faults []compile.FieldFault, targets []compile.TargetStatus, invalid, refused Code) {
	for _, f := range faults {
		a.add(invalid, object, "%s: %s", f.Field, f.Why)
	}
	if len(faults) > 0 {
		return
	}
	for i := range targets {
		if c := &targets[i].Accepted; c.Status != metav1.ConditionTrue {
			a.add(refused, object, "%s: %s", c.Reason, c.Message)
		}
	}
}

func (a *analysis) authorizations() {
	for i := range a.mesh.Compiled.Authorizations {
		p := &a.mesh.Compiled.Authorizations[i]
		object := mesh.Object{Kind: "MeshAuthorization", Namespace: p.Name.Namespace, Name: p.Name.Name}
		a.attached(object, p.Faults, p.Targets, AuthzInvalid, AuthzNotAccepted)
		for _, note := range p.Notes {
			a.add(AuthzSuspicious, object, "%s", note)
		}
	}
	if a.mesh.Live {
		for _, p := range a.mesh.Snapshot.MeshAuthorizations {
			object := mesh.Object{Kind: "MeshAuthorization", Namespace: p.Namespace, Name: p.Name}
			a.notProgrammed(object, p.Status.Conditions, p.Generation)
			a.bypassable(object, p.Status.Conditions)
		}
	}
}

// hidden names producer routes that clients of a namespace do not get because of a consumer route there.
func (a *analysis) hidden() {
	producers := map[string][]string{}
	for _, r := range a.mesh.Compiled.Resources {
		if r.Route == nil || r.Route.Consumer {
			continue
		}
		for _, d := range r.Route.Destinations {
			name := string(r.Route.Kind) + " " + r.Route.Namespace + "/" + r.Route.Name
			if !slices.Contains(producers[d], name) {
				producers[d] = append(producers[d], name)
			}
		}
	}
	for _, r := range a.mesh.Compiled.Resources {
		if r.Route == nil || !r.Route.Consumer {
			continue
		}
		for _, d := range r.Route.Destinations {
			if len(producers[d]) > 0 {
				a.add(RouteHidden, routeObject(r.Route.Kind, r.Route.Namespace, r.Route.Name),
					"clients in namespace %s get none of %s for %s", r.Route.Namespace, strings.Join(producers[d], ", "), d)
			}
		}
	}
}
