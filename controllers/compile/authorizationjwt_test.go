package compile_test

import (
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

func tokenPolicy(namespace, name string, sources ...meshv1alpha1.JWKSSource) *meshv1alpha1.MeshAuthorization {
	a := &meshv1alpha1.MeshAuthorization{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	a.Spec.Action = meshv1alpha1.AuthorizationAllow
	a.Spec.JWT = &meshv1alpha1.AuthorizationJWT{}
	for i, s := range sources {
		a.Spec.JWT.Issuers = append(a.Spec.JWT.Issuers, meshv1alpha1.JWTIssuer{Issuer: string(rune('a' + i)), Audiences: []string{"x"}, JWKS: s})
	}
	return a
}

// TestKeySources: what is fetched is what a policy of an enrolled namespace needs, as often as who wants it most
// often.
func TestKeySources(t *testing.T) {
	namespace := func(name, enabled string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{meshv1alpha1.EnabledLabel: enabled}}}
	}
	url := func(url, every string) meshv1alpha1.JWKSSource {
		s := meshv1alpha1.JWKSSource{URL: url}
		if every != "" {
			s.RefreshInterval = new(gwv1.Duration(every))
		}
		return s
	}
	got := compile.KeySources(compile.Snapshot{
		Namespaces: []*corev1.Namespace{namespace("shop", "true"), namespace("out", "false")},
		MeshAuthorizations: []*meshv1alpha1.MeshAuthorization{
			tokenPolicy("shop", "a", url("https://a.example/k", ""), url("https://b.example/k", "1h"), url("http://c.example/k", "")),
			tokenPolicy("shop", "b", url("https://b.example/k", "30s"), url("https://d.example/k", "1s"), url("https://e.example/k", "soon"), meshv1alpha1.JWKSSource{}),
			tokenPolicy("shop", "c", meshv1alpha1.JWKSSource{SecretRef: &meshv1alpha1.JWKSReference{Name: "s"}}),
			tokenPolicy("out", "d", url("https://f.example/k", "")),
		},
	})
	want := map[compile.KeySource]time.Duration{
		{URL: "https://a.example/k"}: 5 * time.Minute, {URL: "https://b.example/k"}: 30 * time.Second,
		{Kind: "Secret", Namespace: "shop", Name: "s", Key: "jwks.json"}: 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestKeysAvailable: the condition says which tokens are refused for want of keys, and proxies get what there is.
func TestKeysAvailable(t *testing.T) {
	const url = "https://a.example/k"
	for name, tc := range map[string]struct {
		sets          map[compile.KeySource]compile.KeySet
		want, message string
		keys          string
	}{
		"not read yet": {map[compile.KeySource]compile.KeySet{}, "Unavailable", "tokens are refused whose keys are missing: " + url + " has not been read yet", ""},
		"unreachable":  {map[compile.KeySource]compile.KeySet{{URL: url}: {Problem: "refused"}}, "Unavailable", "tokens are refused whose keys are missing: " + url + ": refused", ""},
		"away":         {map[compile.KeySource]compile.KeySet{{URL: url}: {Keys: "set", Problem: "refused"}}, "Stale", "the keys that were read last stay in force: " + url + ": refused", "set"},
		"there":        {map[compile.KeySource]compile.KeySet{{URL: url}: {Keys: "set"}}, "Available", "the keys of all issuers are at hand", "set"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.keys != "" {
				for source, set := range tc.sets {
					set.Keys = `{"keys":[{"use":"sig","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
					tc.sets[source], tc.keys = set, set.Keys
				}
			}
			result := compile.Compile(compile.Snapshot{
				Namespaces:         []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}}}},
				MeshAuthorizations: []*meshv1alpha1.MeshAuthorization{tokenPolicy("shop", "a", meshv1alpha1.JWKSSource{URL: url})},
				KeySets:            tc.sets,
			})
			status := result.Authorizations[0]
			if status.Keys == nil || status.Keys.Reason != tc.want || status.Keys.Message != tc.message || (status.Keys.Status == metav1.ConditionTrue) != (tc.want == "Available") {
				t.Errorf("%+v", status.Keys)
			}
			if status.Accepted.Status != metav1.ConditionTrue {
				t.Errorf("%+v", status.Accepted)
			}
			for _, r := range result.Resources {
				if r.Kind == wire.KindAuthorization && r.Authorization.Tokens.Issuers[0].Keys != tc.keys {
					t.Errorf("proxies get the keys %q", r.Authorization.Tokens.Issuers[0].Keys)
				}
			}
		})
	}
}
