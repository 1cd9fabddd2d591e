package feature_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/test/feature/harness"
)

// service returns a reference to port 80 of a Service as controllers write it: with everything filled in.
func service(name string) gwv1.BackendObjectReference {
	return gwv1.BackendObjectReference{
		Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: gwv1.ObjectName(name), Port: new(gwv1.PortNumber(80)),
	}
}

func weighted(name string, weight int32, filters ...gwv1.HTTPRouteFilter) gwv1.HTTPBackendRef {
	return gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: service(name), Weight: &weight}, Filters: filters}
}

func everyPath() gwv1.HTTPRouteMatch {
	return gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{Type: new(gwv1.PathMatchPathPrefix), Value: new("/")}}
}

// withHeader is a match of every path and one header.
func withHeader(kind gwv1.HeaderMatchType, name, value string) gwv1.HTTPRouteMatch {
	m := everyPath()
	m.Headers = []gwv1.HTTPHeaderMatch{{Type: &kind, Name: gwv1.HTTPHeaderName(name), Value: value}}
	return m
}

// release is a mesh in which a controller changes one route again and again.
type release struct {
	t       *testing.T
	mesh    *harness.Mesh
	objects compile.Snapshot
	route   *gwv1.HTTPRoute
}

// write puts new rules into force, as an Update of the route does, and returns its status.
func (r *release) write(rules ...gwv1.HTTPRouteRule) []gwv1.RouteParentStatus {
	r.t.Helper()
	r.route = r.route.DeepCopy()
	r.route.Generation++
	r.route.Spec.Rules = rules
	objects := r.objects
	objects.HTTPRoutes = append(slices.Clone(objects.HTTPRoutes), r.route)
	applied := apply(r.t, r.mesh, objects)
	if f := flaws(applied.Compiled); len(f) > 0 {
		r.t.Errorf("conditions: %v", f)
	}
	for _, s := range applied.Compiled.Routes {
		if s.Name.Name == r.route.Name {
			progress := make([]status.Progress, len(s.Parents))
			return status.Merge(nil, s, progress, metav1.Now())
		}
	}
	return nil
}

// send sends requests and expects how they are answered.
func (r *release) send(name string, times int, headers map[string]string, answer want) {
	r.t.Helper()
	q := request{From: "shop", Times: times, Headers: headers, Want: answer}
	q.setDefaults()
	r.t.Run(name, func(t *testing.T) { q.run(t, r.mesh) })
}

// flaggerGoesOn is what Flagger asks of a status before each step: of every parent whose reference in the status is
// the same as in the spec, field by field, Accepted must be True and as new as the route. It would take a status in
// which no reference is the same for one that agrees; that is none here.
func flaggerGoesOn(route *gwv1.HTTPRoute, parents []gwv1.RouteParentStatus) error {
	for _, reference := range route.Spec.ParentRefs {
		at := slices.IndexFunc(parents, func(p gwv1.RouteParentStatus) bool { return reflect.DeepEqual(p.ParentRef, reference) })
		if at < 0 {
			return fmt.Errorf("the status has no parent %+v: %+v", reference, parents)
		}
		accepted := slices.ContainsFunc(parents[at].Conditions, func(c metav1.Condition) bool {
			return c.Type == string(gwv1.RouteConditionAccepted) && c.Status == metav1.ConditionTrue && c.ObservedGeneration >= route.Generation
		})
		if !accepted {
			return fmt.Errorf("the parent is not ready: %+v", parents[at].Conditions)
		}
	}
	return nil
}

// TestFlagger plays a release as Flagger does with provider gatewayapi:v1: the route that it writes for the Canary of
// examples/flagger, with weights, a mirror and sessions by cookie.
func TestFlagger(t *testing.T) {
	var canary struct {
		Spec struct {
			Service struct {
				GatewayRefs []gwv1.ParentReference `json:"gatewayRefs"`
			} `json:"service"`
		} `json:"spec"`
	}
	manifest(t, "flagger/canary.yaml", "Canary", &canary)
	if len(canary.Spec.Service.GatewayRefs) != 1 {
		t.Fatalf("gatewayRefs %+v", canary.Spec.Service.GatewayRefs)
	}
	r := &release{t: t, mesh: start(t), objects: example(t, "flagger", "standalone/services.yaml"), route: &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "flagger"},
		Spec:       gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: canary.Spec.Service.GatewayRefs}},
	}}
	step := func(rules ...gwv1.HTTPRouteRule) {
		t.Helper()
		if err := flaggerGoesOn(r.route, r.write(rules...)); err != nil {
			t.Errorf("Flagger would not go on: %v", err)
		}
	}
	split := func(primary, canary int32, filters ...gwv1.HTTPRouteFilter) gwv1.HTTPRouteRule {
		return gwv1.HTTPRouteRule{
			Matches: []gwv1.HTTPRouteMatch{everyPath()}, Filters: filters,
			BackendRefs: []gwv1.HTTPBackendRef{weighted("web-primary", primary), weighted("web-canary", canary)},
		}
	}
	step(split(100, 0))
	r.send("before the release", 50, nil, want{Pod: "primary"})
	step(split(90, 10))
	r.send("the first step", 1000, nil, want{Split: map[string]int{"primary": 90, "canary": 10}})
	step(split(50, 50))
	r.send("the last step", 1000, nil, want{Split: map[string]int{"primary": 50, "canary": 50}})
	step(split(0, 100))
	r.send("while the primary is replaced", 50, nil, want{Pod: "canary"})
	step(split(100, 0))
	r.send("promoted", 50, nil, want{Pod: "primary"})

	step(split(100, 0, gwv1.HTTPRouteFilter{
		Type: gwv1.HTTPRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: service("web-canary")},
	}))
	r.send("mirrored", 20, nil, want{Pod: "primary", Copies: map[string]int{"canary": 20}})

	// Sessions: who got the canary once is recognized by a cookie, which the answer brings.
	step(
		gwv1.HTTPRouteRule{
			Matches:     []gwv1.HTTPRouteMatch{withHeader(gwv1.HeaderMatchRegularExpression, "Cookie", ".*flagger-cookie.*LpsIaLdNNc.*")},
			BackendRefs: []gwv1.HTTPBackendRef{weighted("web-primary", 0), weighted("web-canary", 100)},
		},
		gwv1.HTTPRouteRule{
			Matches: []gwv1.HTTPRouteMatch{everyPath()},
			BackendRefs: []gwv1.HTTPBackendRef{weighted("web-primary", 90), weighted("web-canary", 10, gwv1.HTTPRouteFilter{
				Type: gwv1.HTTPRouteFilterResponseHeaderModifier,
				ResponseHeaderModifier: &gwv1.HTTPHeaderFilter{
					Add: []gwv1.HTTPHeader{{Name: "Set-Cookie", Value: "flagger-cookie=LpsIaLdNNc; Max-Age=86400"}},
				},
			})},
		},
	)
	r.send("without a cookie", 1000, nil, want{Split: map[string]int{"primary": 90, "canary": 10}})
	r.send("with the cookie", 50, map[string]string{"Cookie": "a=b; flagger-cookie=LpsIaLdNNc"}, want{Pod: "canary"})
}

// TestArgoRollouts plays a release as the Gateway API plugin of Argo Rollouts does: it changes weights, and appends and
// removes the rule of setHeaderRoute.
func TestArgoRollouts(t *testing.T) {
	objects := example(t, "argo-rollouts", "app.yaml", "standalone/*.yaml", "httproute.yaml")
	given := objects.HTTPRoutes[0]
	objects.HTTPRoutes = nil
	r := &release{t: t, mesh: start(t), objects: objects, route: given}
	// The plugin leaves what it does not know and sets weights of backends by their names.
	weights := func(canary int32) gwv1.HTTPRouteRule {
		rule := *given.Spec.Rules[0].DeepCopy()
		for i := range rule.BackendRefs {
			switch rule.BackendRefs[i].Name {
			case "web-stable":
				rule.BackendRefs[i].Weight = new(100 - canary)
			case "web-canary":
				rule.BackendRefs[i].Weight = &canary
			}
		}
		return rule
	}
	preview := gwv1.HTTPRouteRule{
		Matches:     []gwv1.HTTPRouteMatch{withHeader(gwv1.HeaderMatchExact, "x-preview", "true")},
		BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: service("web-canary")}}},
	}
	asked := map[string]string{"x-preview": "true"}
	r.write(weights(0))
	r.send("before the release", 50, asked, want{Pod: "stable"})
	r.write(weights(0), preview)
	r.send("whoever asks", 50, asked, want{Pod: "canary"})
	r.send("everybody else", 50, nil, want{Pod: "stable"})
	r.write(weights(10), preview)
	r.send("the first step", 1000, nil, want{Split: map[string]int{"stable": 90, "canary": 10}})
	r.send("whoever asks still", 50, asked, want{Pod: "canary"})
	r.write(weights(50))
	r.send("the last step", 1000, asked, want{Split: map[string]int{"stable": 50, "canary": 50}})
	r.write(weights(0))
	r.send("back", 50, asked, want{Pod: "stable"})
}

// manifest reads the first object of a kind of a file of examples.
func manifest(t *testing.T, file, kind string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "examples", file))
	if err != nil {
		t.Fatal(err)
	}
	documents, err := harness.Documents(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(d, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == kind {
			if err := yaml.Unmarshal(d, into); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s has no %s", file, kind)
}
