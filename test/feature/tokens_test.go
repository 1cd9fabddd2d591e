package feature_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/jwks"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/test/feature/harness"
)

// issuer is who signs tokens in these tests, and audience whom they are for.
const issuer, audience = "https://id.example.com", "accounts"

// bearer is how a token travels.
func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// asUser is bearer with a token of a user that has roles.
func asUser(key jwttest.Key, user string, roles ...string) map[string]string {
	return bearer(key.Token(issuer, time.Now(), map[string]any{"aud": audience, "sub": user, "realm_access": map[string]any{"roles": roles}}))
}

// decided counts the verdicts about a Service of a namespace, which the namespace's proxies keep.
func decided(t *testing.T, m *harness.Mesh, namespace, service, verdict string) float64 {
	t.Helper()
	return counted(t, m, namespace, "weft_authorization_decisions_total", map[string]string{"weft_destination_namespace": namespace, "weft_destination_service": service, "weft_authorization_verdict": verdict})
}

const tokens = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: tokens, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: Allow
  jwt:
    issuers:
    - issuer: https://id.example.com
      audiences: [accounts]
      jwks: {url: "https://id.example.com/keys"}
      claimsToHeaders: [{header: X-User, claim: [sub]}, {header: X-Roles, claim: [realm_access, roles]}]
  rules:
  - from: [{jwt: {claims: [{path: [realm_access, roles], values: [clerk]}]}}]
  - to: [{paths: [{type: Exact, value: /public}]}]
`

// TestTokens: whatever a token lacks, it opens nothing, and what the application is told of a caller comes from tokens
// alone. Each answer is one that metrics count, and that a client in the mesh may ask about.
func TestTokens(t *testing.T) {
	signer, stranger, secret := jwttest.New("one", jose.ES256), jwttest.New("one", jose.ES256), []byte("any")
	claims := map[string]any{
		"iss": issuer, "aud": audience, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(),
		"realm_access": map[string]any{"roles": []string{"clerk"}},
	}
	but := func(name string, value any) map[string]any {
		changed := map[string]any{}
		for n, v := range claims {
			changed[n] = v
		}
		changed[name] = value
		return changed
	}
	valid := signer.Sign(claims, nil)
	parts := strings.Split(valid, ".")
	tampered := strings.Split(signer.Sign(but("sub", "root"), nil), ".")
	objects := with(t, tokens)
	objects.KeySets = map[compile.KeySource]compile.KeySet{{URL: issuer + "/keys"}: {Keys: jwttest.Set(signer)}}
	m := start(t)
	if f := flaws(apply(t, m, objects).Compiled); len(f) > 0 {
		t.Fatalf("conditions: %v", f)
	}
	for name, tc := range map[string]struct {
		path   string
		header map[string]string
		status int
		reason string
	}{
		"valid":                          {"/", bearer(valid), 200, ""},
		"of a user without the role":     {"/", asUser(signer, "ann", "guest"), 403, "authorization_denied"},
		"missing":                        {"/", nil, 401, "token_required"},
		"missing where none is needed":   {"/public", nil, 200, ""},
		"expired":                        {"/", bearer(signer.Sign(but("exp", time.Now().Add(-time.Hour).Unix()), nil)), 401, "invalid_token"},
		"expired where none is needed":   {"/public", bearer(signer.Sign(but("exp", 1), nil)), 401, "invalid_token"},
		"not valid yet":                  {"/", bearer(signer.Sign(but("nbf", time.Now().Add(time.Hour).Unix()), nil)), 401, "invalid_token"},
		"for ever":                       {"/", bearer(signer.Sign(but("exp", nil), nil)), 401, "invalid_token"},
		"for somebody else":              {"/", bearer(signer.Sign(but("aud", "orders"), nil)), 401, "invalid_token"},
		"of another issuer":              {"/", bearer(signer.Sign(but("iss", "https://id.example.org"), nil)), 401, "invalid_token"},
		"by a key of the same name":      {"/", bearer(stranger.Sign(claims, nil)), 401, "invalid_token"},
		"by nobody":                      {"/", bearer(jwttest.Unsigned(map[string]any{"alg": "none"}, claims, nil)), 401, "invalid_token"},
		"by the public key as a secret":  {"/", bearer(jwttest.Unsigned(map[string]any{"alg": "HS256", "kid": "one"}, claims, secret)), 401, "invalid_token"},
		"whose claims have been changed": {"/", bearer(parts[0] + "." + tampered[1] + "." + parts[2]), 401, "invalid_token"},
		"that is none":                   {"/", bearer("a.b.c"), 401, "invalid_token"},
	} {
		for from, to := range map[string]string{"shop": "web", "bank": "web.shop"} {
			for _, protocol := range []string{"HTTP/1.1", "h2c"} {
				r := request{Name: name, From: from, To: to, Protocol: protocol, Path: tc.path, Want: want{Status: tc.status, Reason: tc.reason}}
				r.Headers = map[string]string{"X-User": "root", "X_roles": "clerk", "Weft-Debug": "authorization"}
				for field, value := range tc.header {
					r.Headers[field] = value
				}
				verdict, decision := "denied", "denied; policy=shop/tokens"
				saw := &saw{Headers: map[string]*string{"X-User": nil, "X-Roles": nil, "X_roles": nil, "Weft-Debug": nil}}
				switch {
				case tc.status != 200:
				case tc.header == nil:
					verdict, decision, r.Want.Saw = "allowed", "allowed; policy=shop/tokens; rule=1", saw
				default:
					user, roles := "ann", `["clerk"]`
					saw.Headers["X-User"], saw.Headers["X-Roles"] = &user, &roles
					verdict, decision, r.Want.Saw = "allowed", "allowed; policy=shop/tokens; rule=0", saw
				}
				r.Want.Headers = map[string]*string{"Weft-Authorization": &decision}
				r.setDefaults()
				t.Run(strings.Join([]string{name, from, protocol}, ", "), func(t *testing.T) {
					before := decided(t, m, "shop", "web", verdict)
					r.run(t, m)
					if got := decided(t, m, "shop", "web", verdict); got != before+1 {
						t.Errorf("%v decisions are counted as %s, want one more than %v", got, verdict, before)
					}
				})
			}
		}
	}
}

// TestKeysOverAnOutage: the operator fetches the keys of an issuer by TLS, and goes on with those that it has while the
// issuer is away. Keys that the issuer has given up are gone once it is back.
func TestKeysOverAnOutage(t *testing.T) {
	first, second := jwttest.New("one", jose.ES256), jwttest.New("two", jose.ES256)
	var served atomic.Pointer[string]
	publish := func(set string) { served.Store(&set) }
	publish(jwttest.Set(first))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if set := *served.Load(); set != "" {
			_, _ = io.WriteString(w, set)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	objects := with(t, strings.ReplaceAll(tokens, "https://id.example.com/keys", server.URL))
	objects.Mesh = &meshv1alpha1.Mesh{}
	objects.Mesh.Name = "default"
	objects.Mesh.Spec.JWKS.Hosts = []meshv1alpha1.JWKSHost{{Host: at.Hostname(), CABundle: pemOf(server.Certificate())}}

	c := fake.NewClientBuilder().Build()
	keeper := jwks.New(c, c, "weft-system", logr.Discard())
	if err := keeper.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	ended := make(chan error, 1)
	go func() { ended <- keeper.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	source := compile.KeySource{URL: server.URL}
	// It is asked every few milliseconds, where a policy says 10 seconds at least.
	keeper.Need(map[compile.KeySource]time.Duration{source: 5 * time.Millisecond}, objects.Mesh.Spec.JWKS.Hosts)
	await := func(is func(compile.KeySet) bool) {
		t.Helper()
		for {
			changed := keeper.Changed()
			if objects.KeySets = keeper.Sets(); is(objects.KeySets[source]) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("the operator knows %+v", objects.KeySets)
			}
		}
	}
	m := start(t)
	check := func(t *testing.T, condition string, key jwttest.Key, status int) {
		t.Helper()
		compiled := apply(t, m, objects).Compiled
		if got := compiled.Authorizations[0].Keys; got == nil || got.Reason != condition {
			t.Errorf("condition %+v, want %s", got, condition)
		}
		r := request{Headers: asUser(key, "ann", "clerk"), Want: want{Status: status}}
		if status != 200 {
			r.Want.Reason = "invalid_token"
		}
		r.setDefaults()
		r.run(t, m)
	}
	await(func(s compile.KeySet) bool { return s.Keys != "" })
	check(t, "Available", first, 200)
	publish("")
	await(func(s compile.KeySet) bool { return s.Problem != "" })
	check(t, "Stale", first, 200)
	publish(jwttest.Set(second))
	await(func(s compile.KeySet) bool { return s.Problem == "" })
	check(t, "Available", first, 401)
	check(t, "Available", second, 200)
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
