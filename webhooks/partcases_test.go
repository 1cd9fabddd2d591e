package webhooks

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPartsReachFar: cases in which something decides that the object does not refer to itself, and that meshes made at
// random have seldom.
func TestPartsReachFar(t *testing.T) {
	const services = `
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
kind: Namespace
metadata: {name: stock, labels: {mesh.weft.dev/enabled: "true"}}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, appProtocol: http}]}
---
kind: Service
metadata: {name: calls, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{port: 80}]}
---
kind: Service
metadata: {name: count, namespace: stock}
spec: {clusterIP: 10.0.0.3, ports: [{port: 80, appProtocol: http}]}
---
kind: Service
metadata: {name: any, namespace: stock}
spec: {clusterIP: 10.0.0.4, ports: [{port: 80}]}
`
	// user is a route of the namespace stock that uses its Services in its own way.
	user := func(kind, rule string) string {
		return "kind: " + kind + "\nmetadata: {name: user, namespace: stock}\nspec:\n  parentRefs: [{group: '', kind: Service, name: count}]\n  rules: [" + rule + "]"
	}
	calls := func(backend string) string {
		return "kind: GRPCRoute\nmetadata: {name: calls, namespace: shop}\nspec:\n  parentRefs: [{group: '', kind: Service, name: calls}]\n" +
			"  rules: [{backendRefs: [{name: " + backend + ", namespace: stock, port: 80}]}]"
	}
	const mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: any, port: 80}}}]"
	const noHTTP2 = "Service stock/any is HTTP/1.1 according to the HTTPRoutes of its namespace, and gRPC needs HTTP/2"
	for name, tc := range map[string]struct {
		// there is what is there beside the Services, and warned a part of what is said of the object.
		there, object, warned string
	}{
		"who sends HTTP to a backend":                  {user("HTTPRoute", "{backendRefs: [{name: any, port: 80}]}"), calls("any"), noHTTP2},
		"who mirrors HTTP to a backend":                {user("HTTPRoute", "{"+mirror+", backendRefs: [{name: count, port: 80}]}"), calls("any"), noHTTP2},
		"who mirrors HTTP to a backend from a backend": {user("HTTPRoute", "{backendRefs: [{name: count, port: 80, "+mirror+"}]}"), calls("any"), noHTTP2},
		"who sends gRPC to a backend":                  {user("GRPCRoute", "{backendRefs: [{name: count, port: 80}]}"), calls("count"), ""},
		"nobody who sends gRPC to a backend":           {"", calls("count"), "gRPC needs HTTP/2"},
		"whom a route was attached to": {
			`kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: calls, port: 80}]}]
---
kind: MeshAuthorization
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], action: Deny, rules: [{}]}`,
			"kind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec: {parentRefs: [{group: '', kind: Service, name: calls}]}",
			"MeshAuthorization shop/web is by this no longer for all requests to calls:80",
		},
		"what policies say of the Services of others": {
			`kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: count, namespace: stock}]
  rules: [{backendRefs: [{name: count, namespace: stock, port: 80}]}]
---
kind: MeshPolicy
metadata: {name: all, namespace: stock}
spec: {timeouts: {request: 1s}}`,
			"kind: MeshPolicy\nmetadata: {name: web, namespace: shop}\n" +
				"spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}], timeouts: {backendRequest: 3s}}",
			"spec.timeouts.backendRequest=3s is longer than timeouts.request=1s (MeshPolicy stock/all)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			documents := []string{services}
			if tc.there != "" {
				documents = append(documents, tc.there)
			}
			said := strings.Join(compareParts(t, name, readSnapshot(t, documents...), []metav1.Object{decodeObject(t, tc.object)}), "\n")
			if !strings.Contains(said, tc.warned) || tc.warned == "" && said != "" {
				t.Errorf("it is said:\n%s\nwant: %s", said, tc.warned)
			}
		})
	}
}

// TestPartsDoNotGrow: what is read for an object does not depend on how many others there are that have nothing to do
// with it.
func TestPartsDoNotGrow(t *testing.T) {
	read := map[string]int{}
	for _, namespaces := range []int{1, 20} {
		s, some := large(namespaces), readSnapshot(t, mesh, guarded)
		s.SystemNamespace, s.Mesh = some.SystemNamespace, some.Mesh
		s.Namespaces, s.Services = append(s.Namespaces, some.Namespaces...), append(s.Services, some.Services...)
		s.HTTPRoutes, s.GRPCRoutes = append(s.HTTPRoutes, some.HTTPRoutes...), append(s.GRPCRoutes, some.GRPCRoutes...)
		s.MeshPolicies, s.MeshAuthorizations = append(s.MeshPolicies, some.MeshPolicies...), append(s.MeshAuthorizations, some.MeshAuthorizations...)
		for _, object := range objectsOf(some) {
			cluster := newStored(s)
			if _, err := readPart(t.Context(), cluster, s.SystemNamespace, object); err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%T %s", object, nameOf(object))
			if before, known := read[name]; cluster.read == 0 || known && before != cluster.read {
				t.Errorf("among %d namespaces %d objects are read for %s, and %d among fewer", namespaces, cluster.read, name, before)
			}
			read[name] = cluster.read
		}
	}
	t.Logf("objects read: %v", read)
}
