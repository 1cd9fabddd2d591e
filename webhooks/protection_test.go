package webhooks

import (
	"fmt"
	"testing"
)

// guarded is a namespace whose policies follow its routes.
const guarded = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - name: admin
    matches: [{method: GET, path: {value: /admin}}]
    backendRefs: [{name: api, port: 80}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{matches: [{method: {service: a.B, method: Drop}}], backendRefs: [{name: api, port: 80}]}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: admin, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: admin}]
  action: Allow
  rules: [{from: [{namespaces: [ops]}]}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: calls, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls}]
  action: Deny
  rules: [{}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: trial, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]
  action: Allow
  mode: Audit
`

// TestRoutesAndWhatTheyProtect: whoever edits a route is told what that does to policies that follow it.
func TestRoutesAndWhatTheyProtect(t *testing.T) {
	web := func(name, match, backend string) string {
		return fmt.Sprintf(`kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - {name: %s, matches: [%s], backendRefs: [{name: %s, port: 80}]}
  - backendRefs: [{name: web, port: 80}]`, name, match, backend)
	}
	calls := func(method string) string {
		return `kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{matches: [{method: {service: a.B, method: ` + method + `}}], backendRefs: [{name: api, port: 80}]}]`
	}
	for name, tc := range map[string]struct {
		object string
		warned []string
	}{
		"as it is":                {object: web("admin", "{method: GET, path: {value: /admin}}", "api")},
		"another order of things": {object: web("admin", "{path: {value: /admin}, method: GET}", "api")},
		"a match that cannot be decided again": {
			object: web("admin", "{path: {type: RegularExpression, value: /adm.*}}", "api"),
			warned: []string{"MeshAuthorization shop/admin becomes invalid by this, and nothing is let through to its targets until one of them is corrected: spec.targetRefs[0]"},
		},
		"more requests": {
			object: web("admin", "{method: GET, path: {value: /admin}}, {path: {value: /}}", "api"),
			warned: []string{
				"MeshAuthorization shop/admin is by this no longer for requests to api:80 (GET prefix /admin)",
				"MeshAuthorization shop/admin is by this also for all requests to api:80: whoever it allows may send them as well",
			},
		},
		"one more request": {
			object: web("admin", "{method: GET, path: {value: /admin}}, {method: POST, path: {type: Exact, value: /admin}}", "api"),
			warned: []string{"MeshAuthorization shop/admin is by this also for requests to api:80 (POST exact /admin): whoever it allows"},
		},
		"other requests": {
			object: web("admin", "{method: GET, path: {value: /root}, headers: [{name: x-a, value: b}]}", "api"),
			warned: []string{
				"MeshAuthorization shop/admin is by this no longer for requests to api:80 (GET prefix /admin): whoever it has denied them may send them",
				"MeshAuthorization shop/admin is by this also for requests to api:80 (GET prefix /root with x-a=b)",
			},
		},
		"another Service": {
			object: web("admin", "{method: GET, path: {value: /admin}}", "web"),
			warned: []string{"no longer for requests to api:80", "also for requests to web:80"},
		},
		"a rule of another name": {
			object: web("root", "{method: GET, path: {value: /admin}}", "api"),
			warned: []string{"MeshAuthorization shop/admin is by this no longer for requests to api:80"},
		},
		"a call that is not denied any more": {
			object: calls("Add"),
			warned: []string{"MeshAuthorization shop/calls is by this no longer for requests to api:80 (gRPC a.B/Drop)"},
		},
		"a route of its own": {object: "kind: HTTPRoute\nmetadata: {name: other, namespace: shop}\nspec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: web, port: 80}]}]}"},
	} {
		t.Run(name, func(t *testing.T) {
			errs, warnings := Validate(decodeObject(t, tc.object), readSnapshot(t, guarded))
			if len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			matchAll(t, "warned", tc.warned, warnings)
		})
	}
}
