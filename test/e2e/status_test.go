//go:build e2e

package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestStatus: each parent is echoed as the route has it, with every condition at the route's generation;
// entries of other controllers stay as and where they are; and at rest nothing is written.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "status")
	route := testbed.HTTPRoute(t, w.home, `
metadata: {name: status}
spec:
  parentRefs:
  - {group: core, kind: Service, name: status, port: 80}
  - {group: gateway.networking.k8s.io, kind: Gateway, name: front}
  - {group: "", kind: Service, name: nowhere, sectionName: http}
  rules:
  - backendRefs: [{name: status-v1, port: 80}]
`)
	bed.Create(t, route)
	bed.Settled(t, route)
	foreign := gwv1.RouteParentStatus{
		ParentRef: route.Spec.ParentRefs[1], ControllerName: "example.com/other",
		Conditions: []metav1.Condition{{
			Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", Message: "by another controller", ObservedGeneration: 1,
			LastTransitionTime: metav1.NewTime(time.Unix(1700000000, 0)),
		}},
	}
	writeStatus(t, route, func(parents []gwv1.RouteParentStatus) []gwv1.RouteParentStatus {
		return append([]gwv1.RouteParentStatus{foreign}, parents...)
	})

	for generation := int64(1); generation <= 3; generation++ {
		if generation > 1 {
			weight := int32(generation)
			testbed.Update(t, bed, route, func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].BackendRefs[0].Weight = &weight })
		}
		if route.Generation != generation {
			t.Fatalf("generation %d, want %d", route.Generation, generation)
		}
		testbed.Await(t, bed, route, func(r *gwv1.HTTPRoute) string {
			own := testbed.Parents(r)
			if len(own) != 2 {
				return "not two entries of ours"
			}
			for i, want := range [][]metav1.Condition{
				{{Type: "Accepted", Status: "True", Reason: "Accepted"}, {Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs"}, {Type: "Programmed", Status: "True", Reason: "Programmed"}},
				{{Type: "Accepted", Status: "False", Reason: "NoMatchingParent"}, {Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs"}, {Type: "Programmed", Status: "False", Reason: "NotAccepted"}},
			} {
				have := own[i].Conditions
				for j := range want {
					if wrong := wantCondition(have, want[j].Type, want[j].Status, want[j].Reason); wrong != "" {
						return wrong
					}
				}
				for j := range have {
					if have[j].ObservedGeneration != generation {
						return "another generation: " + testbed.Describe(have)
					}
				}
			}
			return ""
		})
		own := testbed.Parents(route)
		if diff := cmp.Diff([]gwv1.ParentReference{route.Spec.ParentRefs[0], route.Spec.ParentRefs[2]}, []gwv1.ParentReference{own[0].ParentRef, own[1].ParentRef}); diff != "" {
			t.Errorf("parents are not echoed (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(foreign, route.Status.Parents[0]); diff != "" {
			t.Errorf("the entry of another controller has changed (-want +got):\n%s", diff)
		}
	}

	// Requests and time change nothing.
	captured(t, w.client, traffic.Request{URL: "http://status"})
	version := route.ResourceVersion
	load := w.client.Load(t, traffic.Load{Requests: []traffic.Request{{URL: "http://status"}}, Rate: 20})
	load.More(100)
	load.Stop()
	if err := bed.Client.Get(t.Context(), client.ObjectKeyFromObject(route), route); err != nil {
		t.Fatal(err)
	}
	if route.ResourceVersion != version {
		t.Errorf("the route has been written at rest: resourceVersion %s, then %s", version, route.ResourceVersion)
	}

	// Without a parent of ours, the entries of ours go, and the other one stays.
	testbed.Update(t, bed, route, func(r *gwv1.HTTPRoute) { r.Spec.ParentRefs = r.Spec.ParentRefs[1:2] })
	testbed.Await(t, bed, route, func(r *gwv1.HTTPRoute) string {
		if len(testbed.Parents(r)) > 0 {
			return "entries of ours are left"
		}
		return ""
	})
	if diff := cmp.Diff([]gwv1.RouteParentStatus{foreign}, route.Status.Parents); diff != "" {
		t.Errorf("other entries have changed (-want +got):\n%s", diff)
	}
}

// writeStatus changes a route's status as another controller does.
func writeStatus(t *testing.T, route *gwv1.HTTPRoute, change func([]gwv1.RouteParentStatus) []gwv1.RouteParentStatus) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		if err := bed.Client.Get(ctx, client.ObjectKeyFromObject(route), route); err != nil {
			return err
		}
		route.Status.Parents = change(route.Status.Parents)
		return bed.Client.Status().Update(ctx, route)
	})
}

// TestMeshStatus: the Mesh says what has been proven, and what counts there is true.
func TestMeshStatus(t *testing.T) {
	t.Parallel()
	inTown(t)
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		for _, condition := range []string{meshv1alpha1.MeshReady, meshv1alpha1.MeshCaptured, meshv1alpha1.MeshGatewayAPI} {
			if c := meta.FindStatusCondition(m.Status.Conditions, condition); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != m.Generation {
				return "not as it should be: " + testbed.Describe(m.Status.Conditions)
			}
		}
		if m.Status.Captured != "2/2" || len(m.Status.Nodes) != 2 {
			return "captured: " + m.Status.Captured
		}
		return ""
	})
	for _, node := range mesh.Status.Nodes {
		if !*node.Captured || !*node.Guarded || !*node.StrictEnforced {
			t.Errorf("node %s has not proven everything: %+v", node.Name, node)
		}
	}
}

// TestMeshRefused: the API server refuses a Mesh that cannot be, and says why.
func TestMeshRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*meshv1alpha1.Mesh)
		want   string
	}{
		"another name": {func(m *meshv1alpha1.Mesh) {
			m.ObjectMeta = metav1.ObjectMeta{Name: "other"}
		}, "the only Mesh is named default"},
		"another trust domain": {func(m *meshv1alpha1.Mesh) { m.Spec.TrustDomain = "example.org" }, "trustDomain cannot be changed"},
		"an invalid trust domain": {func(m *meshv1alpha1.Mesh) {
			m.ObjectMeta = metav1.ObjectMeta{Name: "other"}
			m.Spec.TrustDomain = "Not A Domain"
		}, "trustDomain must be a SPIFFE trust domain"},
		"a lifetime that is too short": {func(m *meshv1alpha1.Mesh) {
			lifetime := gwv1.Duration("1s")
			m.Spec.Certificates.Lifetime = &lifetime
		}, "lifetime must be between 10s and 8760h"},
		"a connection age that is too short": {func(m *meshv1alpha1.Mesh) {
			age := gwv1.Duration("1s")
			m.Spec.Proxy.MaxConnectionAge = &age
		}, "maxConnectionAge must be at least 10s"},
		"too many proxies": {func(m *meshv1alpha1.Mesh) { m.Spec.Proxy.Replicas = 101 }, "should be less than or equal to 100"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mesh := &meshv1alpha1.Mesh{}
			if err := bed.Client.Get(t.Context(), client.ObjectKey{Name: meshv1alpha1.MeshName}, mesh); err != nil {
				t.Fatal(err)
			}
			tc.change(mesh)
			var err error
			if mesh.Name == meshv1alpha1.MeshName {
				err = bed.Client.Update(t.Context(), mesh, client.DryRunAll)
			} else {
				err = bed.Client.Create(t.Context(), mesh, client.DryRunAll)
			}
			wantRefused(t, err, tc.want)
		})
	}
}

// wantRefused fails the test unless the API server found an object invalid and said so.
func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("not refused, want: %s", want)
	}
	var status interface{ Status() metav1.Status }
	if !errors.As(err, &status) || status.Status().Reason != metav1.StatusReasonInvalid || !strings.Contains(err.Error(), want) {
		t.Fatalf("refused with %v, want: %s", err, want)
	}
}
