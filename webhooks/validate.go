package webhooks

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// shortLifetime is what a certificate should live at least. Clocks may differ by minutes, and all
// certificates of the mesh are issued anew twice in a life.
const shortLifetime = time.Hour

// Validate tells what is wrong with an object: errors for what must be refused, warnings for what is
// accepted and does not do what it says. The object is a Mesh, MeshPolicy, HTTPRoute or GRPCRoute as it will
// be stored; of others nothing is said. It takes the place of the one of its name in the snapshot. Neither
// is changed.
//
// Routes are never refused: a mesh that is merely interested in them has no say in what others make of them.
func Validate(object metav1.Object, s compile.Snapshot) (field.ErrorList, []string) {
	var errs field.ErrorList
	var warnings []string
	switch o := object.(type) {
	case *meshv1alpha1.Mesh:
		warnings = meshWarnings(o)
	case *gwv1.HTTPRoute:
		warnings = routeWarnings(wire.RouteHTTP, o, o.Spec.Hostnames, s)
	case *gwv1.GRPCRoute:
		warnings = routeWarnings(wire.RouteGRPC, o, o.Spec.Hostnames, s)
	}
	return errs, presentable(warnings)
}

func meshWarnings(mesh *meshv1alpha1.Mesh) []string {
	text := mesh.Spec.Certificates.Lifetime
	if text == nil {
		return nil
	}
	lifetime, err := time.ParseDuration(string(*text))
	if err != nil || lifetime >= shortLifetime {
		return nil
	}
	return []string{fmt.Sprintf("spec.certificates.lifetime: %s is shorter than %s: clocks that differ by minutes, "+
		"or an operator that is away for half of it, make certificates invalid", *text, "1h")}
}

// routeWarnings tells what compile finds wrong with a route.
func routeWarnings(kind wire.RouteKind, object metav1.Object, hostnames []gwv1.Hostname, s compile.Snapshot) []string {
	name := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	routes := compile.Compile(reduce(object, s)).Routes
	i := slices.IndexFunc(routes, func(r compile.RouteStatus) bool { return r.Kind == kind && r.Name == name })
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
