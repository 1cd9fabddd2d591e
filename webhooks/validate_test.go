package webhooks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mesh is where the cases take place: two enrolled namespaces and one that is not.
const mesh = `
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
kind: Namespace
metadata: {name: stock, labels: {mesh.weft.dev/enabled: "true"}}
---
kind: Namespace
metadata: {name: plain}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, appProtocol: http}]}
---
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{port: 80, appProtocol: http}]}
---
kind: Service
metadata: {name: grpc, namespace: shop}
spec: {clusterIP: 10.0.0.3, ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}
---
kind: Service
metadata: {name: peers, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
kind: Service
metadata: {name: count, namespace: stock}
spec: {clusterIP: 10.0.0.4, ports: [{port: 80, appProtocol: http}]}
---
kind: MeshPolicy
metadata: {name: all, namespace: stock, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  timeouts: {request: 2s}
  circuitBreaking: {maxRequests: 10, maxPendingRequests: 10, pendingTimeout: 1s500ms}
  loadBalancing: {algorithm: RoundRobin}
  retry: {budget: {percent: 0}}
---
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: grpc}]
  rules: [{backendRefs: [{name: grpc, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: missing, port: 80}]}]
---
kind: Mesh
metadata: {name: default}
status:
  plainCallers:
  - namespace: shop
    top: [{caller: plain/old, serviceAccount: batch, service: "web:80"}, {caller: 192.0.2.1, service: "web:80"}]
`

// shop is the head of an object called web in the enrolled namespace shop.
const shop = "metadata: {name: web, namespace: shop}\n"

func TestValidate(t *testing.T) {
	const parent = "spec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n"
	cases := map[string]struct {
		object string
		// refused and warned are parts of each error and warning.
		refused, warned []string
	}{
		"a route that is all right": {
			object: "kind: HTTPRoute\n" + shop + parent + "  rules: [{backendRefs: [{name: web-v2, port: 80}]}]",
		},
		"a route of a Gateway": {
			object: "kind: HTTPRoute\n" + shop + "spec:\n  parentRefs: [{name: web}]\n  hostnames: [shop.example]\n  rules: [{backendRefs: [{name: missing, port: 80}]}]",
		},
		"a backend that does not exist": {
			object: "kind: HTTPRoute\n" + shop + parent + "  rules: [{backendRefs: [{name: web-v3, port: 80}]}]",
			warned: []string{"ResolvedRefs=False, BackendNotFound: spec.rules[0].backendRefs[0].name: Service shop/web-v3 does not exist"},
		},
		"a parent that does not exist": {
			object: "kind: HTTPRoute\n" + shop + "spec:\n  parentRefs: [{group: '', kind: Service, name: wep}]",
			warned: []string{"Accepted=False, NoMatchingParent: Service shop/wep does not exist"},
		},
		"a headless parent": {
			object: "kind: HTTPRoute\n" + shop + "spec:\n  parentRefs: [{group: '', kind: Service, name: peers}]",
			warned: []string{"Accepted=False, NoMatchingParent: Service shop/peers is headless"},
		},
		"a regular expression that does not compile": {
			object: "kind: HTTPRoute\n" + shop + parent + "  rules: [{matches: [{path: {type: RegularExpression, value: '/(a'}}]}]",
			warned: []string{"spec.rules[0].matches[0].path.value: not an RE2 regular expression"},
		},
		"one rule of two that is not supported": {
			object: "kind: HTTPRoute\n" + shop + parent + `  rules:
  - backendRefs: [{name: web-v2, port: 80}]
  - filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Magic, name: m}}]`,
			warned: []string{"PartiallyInvalid=True, UnsupportedValue: Dropped Rule 1"},
		},
		"hostnames": {
			object: "kind: HTTPRoute\n" + shop + parent + "  hostnames: [shop.example]\n  rules: [{backendRefs: [{name: web-v2, port: 80}]}]",
			warned: []string{"spec.hostnames: a route of a Service applies to all requests to the Service"},
		},
		"an HTTPRoute where a GRPCRoute is": {
			object: "kind: HTTPRoute\n" + shop + "spec:\n  parentRefs: [{group: '', kind: Service, name: grpc}]",
			warned: []string{"Accepted=False, Conflicted: nothing of Service shop/grpc can carry the route: port 80 has GRPCRoute shop/calls attached"},
		},
		"a mirror to a Service that does not exist": {
			object: "kind: GRPCRoute\n" + shop + "spec:\n  parentRefs: [{group: '', kind: Service, name: grpc}]\n  rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 80}}}]}]",
			warned: []string{"ResolvedRefs=False, BackendNotFound: spec.rules[0].filters[0].requestMirror.backendRef.name"},
		},
		"a route in a namespace that is not enrolled": {
			object: "kind: HTTPRoute\nmetadata: {name: web, namespace: plain}\nspec:\n  parentRefs: [{group: '', kind: Service, name: web, namespace: shop}]",
			warned: []string{`Accepted=False, NamespaceNotEnrolled: Namespace plain is not enrolled: label it with mesh.weft.dev/enabled="true"`},
		},
		"two parents with one problem": {
			object: "kind: HTTPRoute\n" + shop + "spec:\n  parentRefs: [{group: '', kind: Service, name: web}, {group: '', kind: Service, name: web-v2}]\n  rules: [{backendRefs: [{name: web-v3, port: 80}]}]",
			warned: []string{"Service shop/web-v3 does not exist"},
		},
		"a line break in a value": {
			object: "kind: HTTPRoute\n" + shop + parent + `  rules: [{matches: [{path: {type: RegularExpression, value: "/(a\nb"}}]}]`,
			warned: []string{"missing closing ): `/(a b`"},
		},
		"strict without anybody to refuse": {object: "kind: MeshPolicy\n" + shop + "spec: {targetRefs: [{group: '', kind: Service, name: web-v2}], mtls: {mode: Strict}}"},
		"strict with callers past the mesh": {
			object: "kind: MeshPolicy\n" + shop + "spec: {mtls: {mode: Strict}}",
			warned: []string{"spec.mtls.mode=Strict refuses callers that came past the mesh within the last hour: pod plain/old (ServiceAccount batch) to shop/web:80, 192.0.2.1 to shop/web:80; enrol"},
		},
		"strict everywhere with callers past the mesh": {
			object: "kind: Mesh\nmetadata: {name: default}\nspec: {defaults: {mtls: {mode: Strict}}}",
			warned: []string{"spec.defaults.mtls.mode=Strict refuses callers that came past the mesh within the last hour: pod plain/old"},
		},
		"an authorization with callers past the mesh": {
			object: "kind: MeshAuthorization\n" + shop + "spec: {action: Deny, targetRefs: [{group: '', kind: Service, name: web}], rules: [{from: [{namespaces: [plain]}]}]}",
			warned: []string{"an authorization with spec.mode=Enforce refuses callers that came past the mesh within the last hour: pod plain/old"},
		},
		"one that only audits": {
			object: "kind: MeshAuthorization\n" + shop + "spec: {action: Deny, mode: Audit, targetRefs: [{group: '', kind: Service, name: web}], rules: [{from: [{namespaces: [plain]}]}]}",
		},
		"a network that is none": {
			object:  "kind: MeshPolicy\n" + shop + "spec: {mtls: {mode: Strict, allowFrom: {cidrs: [10.0.0.1]}}}",
			refused: []string{`spec.mtls.allowFrom.cidrs[0]: Invalid value: "10.0.0.1" is not a network in CIDR notation`},
		},
		"unauthenticated callers by what they ask for": {
			object:  "kind: MeshAuthorization\n" + shop + "spec: {action: Allow, rules: [{from: [{unauthenticated: true}], to: [{methods: [GET]}]}]}",
			refused: []string{"spec.rules[0].from[0].unauthenticated: Invalid value: such callers pass by every proxy"},
		},
		"a Mesh":                     {object: "kind: Mesh\nmetadata: {name: default}\nspec: {certificates: {lifetime: 1h}}"},
		"certificates that live 30m": {object: "kind: Mesh\nmetadata: {name: default}\nspec: {certificates: {lifetime: 30m}}", warned: []string{"spec.certificates.lifetime=30m is shorter than 1h"}},
		"defaults of the Mesh that do not compile": {
			object:  "kind: Mesh\nmetadata: {name: default}\nspec: {defaults: {fault: {headers: [{name: x-user, type: RegularExpression, value: '(a'}], abort: {}}}}",
			refused: []string{"spec.defaults.fault.headers[0].value: Invalid value: not an RE2 regular expression"},
		},
		"defaults of the Mesh that contradict what nobody has said": {
			object: "kind: Mesh\nmetadata: {name: default}\nspec: {defaults: {outlierEjection: {ejectionTime: 1h}}}",
			warned: []string{"spec.defaults.outlierEjection.ejectionTime=1h is longer than outlierEjection.maxEjectionTime=5m (the default)"},
		},
		"an authorization that is all right": {
			object: "kind: MeshAuthorization\n" + shop + "spec: {action: Allow, targetRefs: [{group: '', kind: Service, name: web-v2}], rules: [{from: [{namespaces: [shop]}]}]}",
		},
		"an authorization that cannot be used": {
			object:  "kind: MeshAuthorization\n" + shop + "spec: {action: Allow, rules: [{}, {to: [{paths: [{type: Exact, value: '/%zz'}]}]}]}",
			refused: []string{"spec.rules[1].to[0].paths[0]: Invalid value: "},
		},
		"an authorization that allows everything to what does not exist": {
			object: "kind: MeshAuthorization\n" + shop + "spec: {action: Allow, targetRefs: [{group: '', kind: Service, name: wep}], rules: [{}]}",
			warned: []string{"spec.rules[0] is empty and allows everybody everything", "Accepted=False, TargetNotFound: Service shop/wep does not exist"},
		},
		"a policy that is all right": {
			object: "kind: MeshPolicy\n" + shop + "spec: {targetRefs: [{group: '', kind: Service, name: web}], timeouts: {request: 3s}}",
		},
		"a policy whose regular expression does not compile": {
			object: "kind: MeshPolicy\n" + shop + "spec: {fault: {headers: [{name: x-user, type: RegularExpression, value: '(a'}, {name: x-id, type: RegularExpression, value: '[b'}], abort: {}}}",
			refused: []string{
				"spec.fault.headers[0].value: Invalid value: not an RE2 regular expression",
				"spec.fault.headers[1].value: Invalid value: not an RE2 regular expression",
			},
		},
		"a policy that cannot be accepted while an earlier edition is in force": {
			object: "kind: MeshPolicy\n" + shop + `spec: {fault: {headers: [{name: x-user, type: RegularExpression, value: '(a'}], abort: {}}}
status: {inForce: {timeouts: {request: 3s}}}`,
			refused: []string{"spec.fault.headers[0].value"},
		},
		"a policy for a Service that does not exist yet": {
			object: "kind: MeshPolicy\n" + shop + "spec: {targetRefs: [{group: '', kind: Service, name: wep}, {group: '', kind: Service, name: web}]}",
			warned: []string{"Accepted=False, TargetNotFound: Service shop/wep does not exist"},
		},
		"a policy for a rule that does not exist": {
			object: "kind: MeshPolicy\n" + shop + "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: slow}]}",
			warned: []string{`Accepted=False, TargetNotFound: HTTPRoute shop/web has no rule named "slow"`},
		},
		"a policy for a Service that is not captured": {
			object: "kind: MeshPolicy\n" + shop + "spec: {targetRefs: [{group: '', kind: Service, name: peers}]}",
			warned: []string{"Accepted=False, NotCaptured: Service shop/peers is headless"},
		},
		"a policy in a namespace that is not enrolled": {
			object: "kind: MeshPolicy\nmetadata: {name: all, namespace: plain}\nspec: {timeouts: {request: 3s}}",
			warned: []string{"Accepted=False, NamespaceNotEnrolled: Namespace plain is not enrolled"},
		},
		"a policy for a target that has one": {
			object: "kind: MeshPolicy\nmetadata: {name: second, namespace: stock, creationTimestamp: '2026-01-02T00:00:00Z'}\nspec: {timeouts: {request: 3s}}",
			warned: []string{"Accepted=False, Conflicted: MeshPolicy stock/all is for Namespace stock too and is older"},
		},
		"the policy that has the target itself, changed": {
			object: "kind: MeshPolicy\nmetadata: {name: all, namespace: stock, creationTimestamp: '2026-01-01T00:00:00Z'}\nspec: {timeouts: {request: 3s}}",
		},
		"tries that outlast the inherited request": {
			object: "kind: MeshPolicy\nmetadata: {name: count, namespace: stock}\nspec: {targetRefs: [{group: '', kind: Service, name: count}], timeouts: {backendRequest: 5s}}",
			warned: []string{"spec.timeouts.backendRequest=5s is longer than timeouts.request=2s (MeshPolicy stock/all)"},
		},
		"a request that is shorter than the inherited wait for it": {
			object: "kind: MeshPolicy\nmetadata: {name: count, namespace: stock}\nspec: {targetRefs: [{group: '', kind: Service, name: count}], timeouts: {request: 1s}}",
			warned: []string{"circuitBreaking.pendingTimeout=1s500ms (MeshPolicy stock/all) is longer than spec.timeouts.request=1s"},
		},
		"a hash that nothing hashes": {
			object: "kind: MeshPolicy\nmetadata: {name: count, namespace: stock}\nspec: {targetRefs: [{group: '', kind: Service, name: count}], loadBalancing: {consistentHash: {type: SourceAddress}}}",
			warned: []string{"has no effect with loadBalancing.algorithm=RoundRobin (MeshPolicy stock/all)"},
		},
		"retries that the inherited budget does not allow": {
			object: "kind: MeshPolicy\nmetadata: {name: count, namespace: stock}\nspec: {targetRefs: [{group: '', kind: Service, name: count}], retry: {attempts: 2}}",
			warned: []string{"spec.retry.attempts=2 has no effect beyond retry.budget.minRetryRate with retry.budget.percent=0 (MeshPolicy stock/all)"},
		},
		"what others contradict": {
			object: "kind: MeshPolicy\nmetadata: {name: count, namespace: stock}\nspec: {targetRefs: [{group: '', kind: Service, name: count}], retry: {connectFailures: 1}}",
		},
		"an object of no kind we judge": {object: "kind: Service\n" + shop + "spec: {clusterIP: None}"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := readSnapshot(t, mesh)
			untouched := readSnapshot(t, mesh)
			errs, warnings := Validate(decodeObject(t, tc.object), s)
			var refused []string
			for _, err := range errs {
				refused = append(refused, err.Error())
			}
			matchAll(t, "refused", tc.refused, refused)
			matchAll(t, "warned", tc.warned, warnings)
			if diff := cmp.Diff(untouched, s); diff != "" {
				t.Errorf("Validate changed the snapshot:\n%s", diff)
			}
		})
	}
}

// matchAll wants each text to contain its part.
func matchAll(t *testing.T, what string, parts, texts []string) {
	t.Helper()
	for i := range max(len(parts), len(texts)) {
		switch {
		case i >= len(parts):
			t.Errorf("%s also: %s", what, texts[i])
		case i >= len(texts):
			t.Errorf("not %s: %s", what, parts[i])
		case !strings.Contains(texts[i], parts[i]):
			t.Errorf("%s: %s\nwant: %s", what, texts[i], parts[i])
		}
	}
}
