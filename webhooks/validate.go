package webhooks

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// shortLifetime is what a certificate should live at least. Clocks may differ by minutes, and all
// certificates of the mesh are issued anew twice in a life.
const shortLifetime = time.Hour

// Validate tells what is wrong with an object: errors for what must be refused, warnings for what is
// accepted and does not do what it says. The object is a Mesh, MeshPolicy, MeshAuthorization, HTTPRoute
// or GRPCRoute as it will be stored; of others nothing is said. It takes the place of the one of its name in the snapshot. Neither
// is changed. Of a snapshot readPart reads what matters.
//
// Routes are never refused: a mesh that is merely interested in them has no say in what others make of them.
func Validate(object metav1.Object, s compile.Snapshot) (field.ErrorList, []string) {
	var errs field.ErrorList
	var warnings []string
	switch o := object.(type) {
	case *meshv1alpha1.Mesh:
		errs, warnings = validateMesh(o, s)
	case *meshv1alpha1.MeshPolicy:
		errs, warnings = validatePolicy(o, s)
	case *meshv1alpha1.MeshAuthorization:
		errs, warnings = validateAuthorization(o, s)
	case *gwv1.HTTPRoute:
		after := s
		after.HTTPRoutes = put(s.HTTPRoutes, o)
		warnings = validateRoute(o, o.Spec.Hostnames, s, after)
	case *gwv1.GRPCRoute:
		after := s
		after.GRPCRoutes = put(s.GRPCRoutes, o)
		warnings = validateRoute(o, o.Spec.Hostnames, s, after)
	}
	return errs, presentable(warnings)
}

// anywhere is a namespace for asking what a Mesh alone means in one.
const anywhere = "anywhere"

func validateMesh(mesh *meshv1alpha1.Mesh, s compile.Snapshot) (field.ErrorList, []string) {
	alone := compile.Snapshot{Mesh: mesh, Namespaces: []*corev1.Namespace{{
		ObjectMeta: metav1.ObjectMeta{Name: anywhere, Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}},
	}}}
	if faults := compile.Compile(alone).MeshFaults; len(faults) > 0 {
		return refusals(faults), nil
	}
	effective := compile.Effective(alone, compile.Target{Kind: "Namespace", Namespace: anywhere})
	warnings := compile.Contradictions(effective, "Mesh "+mesh.Name, "spec.defaults")
	if d := mesh.Spec.Defaults; d != nil && d.MTLS != nil && d.MTLS.Mode == meshv1alpha1.MTLSStrict {
		before := s.Mesh
		s.Mesh = mesh
		warnings = append(warnings, refusedCallers("spec.defaults.mtls.mode=Strict", before, madeStrict(s, "Mesh "+mesh.Name))...)
	}
	text := mesh.Spec.Certificates.Lifetime
	if text == nil {
		return nil, warnings
	}
	if lifetime, err := time.ParseDuration(string(*text)); err == nil && lifetime < shortLifetime {
		warnings = append(warnings, "spec.certificates.lifetime="+string(*text)+" is shorter than 1h: clocks that differ by minutes, "+
			"or an operator that is away for half of it, make certificates invalid")
	}
	return nil, warnings
}

// validatePolicy refuses a policy whose fields are at fault. A target that does not exist is no reason to
// refuse it, since objects may be applied in any order.
func validatePolicy(policy *meshv1alpha1.MeshPolicy, s compile.Snapshot) (field.ErrorList, []string) {
	s.MeshPolicies = put(s.MeshPolicies, policy)
	statuses := compile.Compile(s).Policies
	i := slices.IndexFunc(statuses, func(status compile.PolicyStatus) bool { return status.Name == nameOf(policy) })
	if len(statuses[i].Faults) > 0 {
		return refusals(statuses[i].Faults), nil
	}
	var warnings []string
	for _, target := range statuses[i].Targets {
		if bad(target.Accepted) {
			warnings = append(warnings, describe(target.Accepted))
		}
	}
	warnings = append(warnings, refusedCallers("spec.mtls.mode=Strict", s.Mesh, among(statuses[i].Strict))...)
	return nil, append(warnings, compile.Contradictions(statuses[i].Effective, "MeshPolicy "+nameOf(policy).String(), "spec")...)
}

// validateAuthorization refuses an authorization whose fields are at fault, which would close its targets.
func validateAuthorization(authorization *meshv1alpha1.MeshAuthorization, s compile.Snapshot) (field.ErrorList, []string) {
	s.MeshAuthorizations = put(s.MeshAuthorizations, authorization)
	statuses := compile.Compile(s).Authorizations
	status := statuses[slices.IndexFunc(statuses, func(a compile.AuthorizationStatus) bool { return a.Name == nameOf(authorization) })]
	if len(status.Faults) > 0 {
		return refusals(status.Faults), nil
	}
	warnings := slices.Clone(status.Notes)
	warnings = append(warnings, refusedCallers("an authorization with spec.mode=Enforce", s.Mesh, among(status.Strict))...)
	for _, target := range status.Targets {
		if bad(target.Accepted) {
			warnings = append(warnings, describe(target.Accepted))
		}
	}
	return nil, warnings
}

func refusals(faults []compile.FieldFault) field.ErrorList {
	var errs field.ErrorList
	for _, f := range faults {
		errs = append(errs, &field.Error{Type: field.ErrorTypeInvalid, Field: f.Field, BadValue: field.OmitValueType{}, Detail: f.Why})
	}
	return errs
}

// validateRoute tells what compile finds wrong with a route, and what becomes of authorizations by it.
func validateRoute(route metav1.Object, hostnames []gwv1.Hostname, before, after compile.Snapshot) []string {
	result := compile.Compile(after)
	warnings := routeWarnings(route, hostnames, result.Routes)
	if len(before.MeshAuthorizations) > 0 {
		existed := len(before.HTTPRoutes) == len(after.HTTPRoutes) && len(before.GRPCRoutes) == len(after.GRPCRoutes)
		warnings = append(warnings, protectionWarnings(existed, compile.Compile(before), result)...)
	}
	return warnings
}

func routeWarnings(route metav1.Object, hostnames []gwv1.Hostname, routes []compile.RouteStatus) []string {
	id := targetOf(route)
	i := slices.IndexFunc(routes, func(r compile.RouteStatus) bool { return string(r.Kind) == id.Kind && r.Name == nameOf(route) })
	if i < 0 {
		return nil // it has no Service for a parent
	}
	var warnings []string
	if len(hostnames) > 0 { // GEP-1294
		warnings = append(warnings, "spec.hostnames: a route of a Service applies to all requests to the Service, whatever their host")
	}
	for _, parent := range routes[i].Parents {
		for _, c := range parent.Conditions {
			if bad(c) {
				warnings = append(warnings, describe(c))
			}
		}
	}
	return warnings
}

// bad tells the conditions that say that something is wrong.
func bad(c metav1.Condition) bool {
	if c.Type == string(gwv1.RouteConditionPartiallyInvalid) {
		return c.Status == metav1.ConditionTrue
	}
	return c.Status == metav1.ConditionFalse
}

func describe(c metav1.Condition) string {
	return fmt.Sprintf("%s=%s, %s: %s", c.Type, c.Status, c.Reason, c.Message)
}

// presentable makes warnings into what the API server passes on: it drops one that has control characters.
// Warnings that say the same are one.
func presentable(warnings []string) []string {
	var out []string
	for _, text := range warnings {
		text = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(text, "?"))
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// put returns a list of its own with the object in the place of the one of its name.
func put[T metav1.Object](list []T, object T) []T {
	return append(filter(list, func(o T) bool { return nameOf(o) != nameOf(object) }), object)
}

func filter[T any](list []T, keep func(T) bool) []T {
	var kept []T
	for _, o := range list {
		if keep(o) {
			kept = append(kept, o)
		}
	}
	return kept
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
