package compile_test

import (
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// changeOne has a Compiler of the golden cases' defaults and some more documents take one change, which it is to come to
// the same by as one that sees only what is there then. It returns what was changed.
func changeOne(t *testing.T, more string, change func(s *compile.Snapshot) compile.Changes) compile.Delta {
	t.Helper()
	s, err := readSnapshot(append(defaults(t), splitDocuments([]byte("\n---"+more))...)...)
	if err != nil {
		t.Fatal(err)
	}
	compiler, _ := compile.NewCompiler(s)
	s = deepCopy(s)
	delta := compiler.Update(change(&s))
	s.EndpointSlices = []*discoveryv1.EndpointSlice{{ObjectMeta: metav1.ObjectMeta{Namespace: "z", Name: "z"}}} // so that Compile makes Endpoints
	if diff := differ(compile.Compile(s), compiler.Result()); diff != "" {
		t.Errorf("incrementally it is another result (-fresh +incremental):\n%s", diff)
	}
	return delta
}

// TestAPolicyReachesRoutesElsewhere: what results for a route is in the status of its policy, and has come from policies of
// the namespace whose Service it applies to as well.
func TestAPolicyReachesRoutesElsewhere(t *testing.T) {
	delta := changeOne(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, namespace: demo}]
  rules: [{backendRefs: [{name: echo, namespace: demo, port: 80}]}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: route, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo}]
  timeouts: {backendRequest: 1s}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: all, namespace: demo}
spec: {timeouts: {request: 2s}}
`, func(s *compile.Snapshot) compile.Changes {
		for _, p := range s.MeshPolicies {
			if p.Name == "all" {
				p.Spec.Timeouts.Request = new(gwv1.Duration("3s"))
				return compile.Changes{MeshPolicies: map[types.NamespacedName]*meshv1alpha1.MeshPolicy{{Namespace: "demo", Name: "all"}: p}}
			}
		}
		return compile.Changes{}
	})
	policy := delta.Policies[types.NamespacedName{Namespace: "shop", Name: "route"}]
	if policy == nil || len(policy.Effective) != 1 || policy.Effective[0].Fields[0].Value != "3s" {
		t.Errorf("the status of the route's policy is %+v, want that it has timeouts.request=3s of the other", policy)
	}
}

// TestAMeshReachesAuthorizations: whether an issuer's keys may be fetched in plain text is a setting of the Mesh that
// nothing but authorizations depends on.
func TestAMeshReachesAuthorizations(t *testing.T) {
	delta := changeOne(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: Mesh
metadata: {name: default}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: users, namespace: demo}
spec:
  action: Allow
  jwt: {issuers: [{issuer: login, audiences: [demo], jwks: {url: "http://login.example/keys"}}]}
  rules: [{from: [{jwt: {issuers: [login]}}]}]
`, func(s *compile.Snapshot) compile.Changes {
		s.Mesh.Spec.JWKS.Hosts = []meshv1alpha1.JWKSHost{{Host: "login.example", PlainText: new(true)}}
		return compile.Changes{Settings: s}
	})
	status := delta.Authorizations[types.NamespacedName{Namespace: "demo", Name: "users"}]
	if status == nil || strings.Contains(status.Accepted.Message, "https") || len(status.Faults) > 0 {
		t.Errorf("the status of the authorization is %+v, want that it is accepted", status)
	}
}
