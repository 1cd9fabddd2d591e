//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// tokensAndRoutes judges what a MeshAuthorization says of tokens, in CEL and about routes, in the town of
// TestAuthorization.
func tokensAndRoutes(t *testing.T, w *town) {
	t.Helper()
	const issuer = "https://id.example.com"
	signer, stranger := jwttest.New("one", jose.ES256), jwttest.New("one", jose.ES256)
	bed.Create(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.home, Name: "keys"}, Data: map[string]string{"jwks.json": jwttest.Set(signer)}},
		testbed.NewService(w.home, "tokens", onlyV1), testbed.NewService(w.home, "routed", onlyV1))
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: routed}
spec:
  parentRefs: [{group: "", kind: Service, name: routed, port: 80}]
  rules:
  - {name: admin, matches: [{path: {value: /admin}}], backendRefs: [{name: routed, port: 80}]}
  - backendRefs: [{name: routed, port: 80}]
`))
	bed.Program(t, testbed.GRPCRoute(t, w.home, `
metadata: {name: calls}
spec:
  parentRefs: [{group: "", kind: Service, name: routed, port: 9000}]
  rules:
  - matches: [{method: {service: weft.e2e.Echo, method: Two}}]
    backendRefs: [{name: routed, port: 9000}]
  - backendRefs: [{name: routed, port: 9000}]
`))
	for _, text := range []string{`
metadata: {name: tokens}
spec:
  targetRefs: [{group: "", kind: Service, name: tokens}]
  action: Allow
  jwt:
    issuers:
    - issuer: https://id.example.com
      audiences: [tokens]
      jwks: {configMapRef: {name: keys}}
      claimsToHeaders: [{header: X-User, claim: [sub]}]
  rules:
  - from: [{jwt: {claims: [{path: [roles], values: [clerk]}]}}]
    conditions: ["request.url_path.startsWith('/' + request.auth.claims.sub + '/')"]
`, `
metadata: {name: admin}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: routed, sectionName: admin}]
  action: Allow
  rules: [{from: [{namespaces: [` + w.home + `]}]}]
`, `
metadata: {name: calls}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls}]
  action: Deny
  rules: [{from: [{namespaces: [` + w.abroad + `]}], to: [{grpc: [{service: weft.e2e.Echo, method: Two}]}]}]
`} {
		policy := testbed.MeshAuthorization(t, w.home, text)
		bed.Create(t, policy)
		testbed.Await(t, bed, policy, func(a *meshv1alpha1.MeshAuthorization) string {
			if a.Spec.JWT != nil {
				if wrong := wantCondition(a.Status.Conditions, meshv1alpha1.AuthorizationKeysAvailable, metav1.ConditionTrue, "Available"); wrong != "" {
					return wrong
				}
			}
			return programmed(a)
		})
	}
	token := func(key jwttest.Key, change map[string]any) string {
		claims := map[string]any{"iss": issuer, "aud": "tokens", "sub": "ann", "roles": []string{"clerk"}, "exp": time.Now().Add(time.Hour).Unix()}
		for name, value := range change {
			claims[name] = value
		}
		return key.Sign(claims, nil)
	}
	unsigned := jwttest.Unsigned(map[string]any{"alg": "none"}, map[string]any{"iss": issuer, "aud": "tokens", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}, nil)
	call := func(service, path, token string) traffic.Request {
		r := traffic.Request{URL: "http://" + service + "." + w.home + path, Header: map[string]string{"Weft-Debug": "authorization", "X-User": "root"}}
		if token != "" {
			r.Header["Authorization"] = "Bearer " + token
		}
		return r
	}
	grpc := func(method string) traffic.Request {
		return traffic.Request{Protocol: traffic.GRPC, URL: "routed." + w.home + ":9000", Method: "/weft.e2e.Echo/" + method}
	}
	said := func(decision string, wrong func(*traffic.Answer) string) func(*traffic.Answer) string {
		return func(a *traffic.Answer) string {
			if got := a.Get("Weft-Authorization"); got != decision {
				return fmt.Sprintf("decided by %q, want %q", got, decision)
			}
			return wrong(a)
		}
	}
	of := func(policy string) string { return "; policy=" + w.home + "/" + policy }
	user := func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" || a.Echo.Get("X-User") != "ann" {
			return wrong + ", or the application does not get the user"
		}
		return ""
	}
	code := func(want codes.Code) func(*traffic.Answer) string {
		return func(a *traffic.Answer) string {
			if a.Error != "" || codes.Code(a.Status) != want {
				return "want " + want.String()
			}
			return ""
		}
	}
	invalid, outside := said("denied"+of("tokens"), local(401, "invalid_token")), call("tokens", "/ann/", "")
	outside.Header["X-Forwarded-For"] = "192.0.2.1"
	for name, tc := range map[string]struct {
		client  *testbed.Pod
		request traffic.Request
		wrong   func(*traffic.Answer) string
	}{
		"valid":                    {w.client, call("tokens", "/ann/", token(signer, nil)), said("allowed"+of("tokens")+"; rule=0", user)},
		"valid over the hop":       {w.abroadClient, call("tokens", "/ann/", token(signer, nil)), said("allowed"+of("tokens")+"; rule=0", user)},
		"another path":             {w.abroadClient, call("tokens", "/bob/", token(signer, nil)), said("denied"+of("tokens"), local(403, "authorization_denied"))},
		"another role":             {w.client, call("tokens", "/ann/", token(signer, map[string]any{"roles": "guest"})), said("denied"+of("tokens"), local(403, "authorization_denied"))},
		"missing":                  {w.abroadClient, call("tokens", "/ann/", ""), said("denied"+of("tokens"), local(401, "token_required"))},
		"asked for from outside":   {w.abroadClient, outside, said("", local(401, "token_required"))},
		"expired":                  {w.client, call("tokens", "/ann/", token(signer, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), invalid},
		"of another audience":      {w.abroadClient, call("tokens", "/ann/", token(signer, map[string]any{"aud": "orders"})), invalid},
		"of another key":           {w.abroadClient, call("tokens", "/ann/", token(stranger, nil)), invalid},
		"of no key":                {w.client, call("tokens", "/ann/", unsigned), invalid},
		"a rule":                   {w.client, call("routed", "/admin/", ""), said("allowed"+of("admin")+"; rule=0", from("v1"))},
		"a rule from abroad":       {w.abroadClient, call("routed", "/admin/", ""), said("denied"+of("admin"), local(403, "authorization_denied"))},
		"what may be the rule":     {w.abroadClient, call("routed", "/x/..%2Fadmin", ""), said("denied"+of("admin"), local(403, "authorization_denied"))},
		"the rest of the route":    {w.abroadClient, call("routed", "/", ""), from("v1")},
		"a gRPC call":              {w.client, grpc("Two"), code(codes.OK)},
		"a gRPC call from abroad":  {w.abroadClient, grpc("Two"), code(codes.PermissionDenied)},
		"another call from abroad": {w.abroadClient, grpc("One"), code(codes.OK)},
	} {
		t.Run(name, func(t *testing.T) { expectOnce(t, tc.client, tc.request, tc.wrong) })
	}
	for verdict, rows := range map[string]int{"allowed": 2, "denied": 8} {
		labels := map[string]string{"weft_destination_namespace": w.home, "weft_destination_service": "tokens", "weft_authorization_verdict": verdict, "weft_authorization_policy": w.home + "/tokens"}
		if n := bed.Metric(t, bed.ProxiesOf(t, w.v1), "weft_authorization_decisions_total", labels); n < rows {
			t.Errorf("%d requests with tokens have been counted as %s, want at least %d", n, verdict, rows)
		}
	}
}

// expectOnce waits until a client is captured and sends a request.
func expectOnce(t *testing.T, client *testbed.Pod, r traffic.Request, wrong func(*traffic.Answer) string) {
	t.Helper()
	captured(t, client, r)
	a := client.Send(t, r)
	if w := wrong(&a); w != "" {
		t.Errorf("%s; the answer: %s", w, show(&a))
	}
}
