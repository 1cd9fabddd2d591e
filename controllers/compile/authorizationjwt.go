package compile

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// Kinds of objects that key sets are in.
const (
	kindSecret    = "Secret"
	kindConfigMap = "ConfigMap"
)

// defaultKeyRefresh is how often key sets are fetched if nothing else is said.
const defaultKeyRefresh = 5 * time.Minute

// KeySource is where a key set is: a URL, or a key of a Secret or ConfigMap.
type KeySource struct {
	URL                        string
	Kind, Namespace, Name, Key string
}

// String is how messages name a source.
func (s KeySource) String() string {
	if s.URL != "" {
		return s.URL
	}
	return s.Kind + " " + s.Namespace + "/" + s.Name + " key " + strconv.Quote(s.Key)
}

// KeySet is what is known of the keys of a source.
type KeySet struct {
	// Keys are as jwt.Normalize returns them; empty if none have been read yet.
	Keys string
	// Problem is why the last attempt to read them failed, empty if it did not.
	Problem string
}

// KeySources returns what key sets the authorizations of enrolled namespaces need, with how often each is to be
// fetched. Those of policies that are at fault are not among them.
func KeySources(s Snapshot) map[KeySource]time.Duration {
	needed := map[KeySource]time.Duration{}
	enrolled := enrol(s)
	for _, object := range s.MeshAuthorizations {
		if object.Spec.JWT == nil || !enrolled.has(object.Namespace) {
			continue
		}
		for i := range object.Spec.JWT.Issuers {
			source, every, fault := keySource(object.Namespace, &object.Spec.JWT.Issuers[i].JWKS, s.Mesh)
			if fault != nil {
				continue
			}
			if before, known := needed[source]; !known || every < before {
				needed[source] = every
			}
		}
	}
	return needed
}

// keySource reads where a key set is.
func keySource(namespace string, in *meshv1alpha1.JWKSSource, mesh *meshv1alpha1.Mesh) (source KeySource, every time.Duration, f *fault) {
	given := 0
	for _, is := range []bool{in.URL != "", in.SecretRef != nil, in.ConfigMapRef != nil} {
		if is {
			given++
		}
	}
	refer := func(kind string, ref *meshv1alpha1.JWKSReference) KeySource {
		key := ref.Key
		if key == "" {
			key = "jwks.json"
		}
		return KeySource{Kind: kind, Namespace: namespace, Name: string(ref.Name), Key: key}
	}
	switch {
	case given != 1:
		return source, 0, unsupported("jwks", "it names %d of url, secretRef and configMapRef: name one", given)
	case in.SecretRef != nil:
		return refer(kindSecret, in.SecretRef), 0, nil
	case in.ConfigMapRef != nil:
		return refer(kindConfigMap, in.ConfigMapRef), 0, nil
	}
	every, ok := parseDuration(in.RefreshInterval)
	switch {
	case !ok:
		return source, 0, unsupported("jwks.refreshInterval", "%q is not a duration of the Gateway API", *in.RefreshInterval)
	case in.RefreshInterval == nil:
		every = defaultKeyRefresh
	case every < 10*time.Second:
		return source, 0, unsupported("jwks.refreshInterval", "%s is less than 10s", every)
	}
	parsed, err := url.Parse(in.URL)
	switch {
	case err != nil || parsed.Host == "" || parsed.Opaque != "":
		return source, 0, unsupported("jwks.url", "it is not a URL with a host")
	case parsed.User != nil:
		return source, 0, unsupported("jwks.url", "it has credentials, which everybody who reads the policy can see: keys are public, publish them without")
	case parsed.Scheme != "https" && (parsed.Scheme != "http" || !plainTextAllowed(mesh, parsed.Hostname())):
		return source, 0, unsupported("jwks.url", "it is not https: whoever can change what travels could forge tokens; spec.jwks.hosts of the Mesh may allow plain text for the host")
	}
	return KeySource{URL: in.URL}, every, nil
}

func plainTextAllowed(mesh *meshv1alpha1.Mesh, host string) bool {
	return mesh != nil && slices.ContainsFunc(mesh.Spec.JWKS.Hosts, func(h meshv1alpha1.JWKSHost) bool {
		return strings.EqualFold(h.Host, host) && valueOr(h.PlainText, false)
	})
}

// readTokens makes what proxies are told of tokens, and says how it stands with their keys.
func (a *authorization) readTokens(s Snapshot) {
	in := a.object.Spec.JWT
	if in == nil {
		for i := range a.object.Spec.Rules {
			for j := range a.object.Spec.Rules[i].From {
				if a.object.Spec.Rules[i].From[j].JWT != nil {
					a.faults = append(a.faults, *unsupported(fmt.Sprintf("rules[%d].from[%d].jwt", i, j), "no token is verified: name the issuers in spec.jwt"))
				}
			}
		}
		return
	}
	out := &wire.TokenVerification{}
	for _, place := range in.From {
		out.Places = append(out.Places, wire.TokenPlace{Header: place.Header, Prefix: place.Prefix, Cookie: place.Cookie})
	}
	var absent, stale []string
	for i := range in.Issuers {
		one := &in.Issuers[i]
		issuer := wire.TokenIssuer{Issuer: one.Issuer, Audiences: one.Audiences}
		for _, h := range one.ClaimsToHeaders {
			issuer.Headers = append(issuer.Headers, wire.ClaimHeader{Name: h.Header, Path: h.Claim})
		}
		source, _, fault := keySource(a.object.Namespace, &one.JWKS, s.Mesh)
		if fault != nil {
			a.faults = fault.under(fmt.Sprintf("jwt.issuers[%d]", i)).appendTo(a.faults)
		} else if s.KeySets != nil {
			set := s.KeySets[source]
			issuer.Keys = set.Keys
			switch {
			case set.Keys == "" && set.Problem == "":
				absent = append(absent, source.String()+" has not been read yet")
			case set.Keys == "":
				absent = append(absent, source.String()+": "+set.Problem)
			case set.Problem != "":
				stale = append(stale, source.String()+": "+set.Problem)
			}
		}
		out.Issuers = append(out.Issuers, issuer)
	}
	a.content.Tokens = out
	if s.KeySets != nil {
		a.keys = keysCondition(a, absent, stale)
	}
}

func keysCondition(a *authorization, absent, stale []string) *metav1.Condition {
	c := a.condition(metav1.ConditionTrue, "Available", "the keys of all issuers are at hand")
	switch {
	case len(absent) > 0:
		c.Status, c.Reason = metav1.ConditionFalse, "Unavailable"
		c.Message = "tokens are refused whose keys are missing: " + some(absent)
	case len(stale) > 0:
		c.Status, c.Reason = metav1.ConditionFalse, "Stale"
		c.Message = "the keys that were read last stay in force: " + some(stale)
	}
	c.Type = meshv1alpha1.AuthorizationKeysAvailable
	return &c
}

// inSpec is the field of the spec that a field of what proxies receive comes from.
func inSpec(field string) string {
	if rest, ok := strings.CutPrefix(field, "tokens."); ok {
		rest = strings.Replace(rest, ".headers[", ".claimsToHeaders[", 1)
		rest = strings.Replace(rest, "places[", "from[", 1)
		if strings.Contains(rest, ".claimsToHeaders[") {
			rest = strings.Replace(strings.Replace(rest, ".name", ".header", 1), ".path", ".claim", 1)
		}
		return "jwt." + strings.Replace(rest, ".keys", ".jwks", 1)
	}
	if strings.HasPrefix(field, "rules[") {
		return strings.Replace(field, ".token.", ".jwt.", 1)
	}
	return field
}

// noteTokens gathers what is valid and may be a mistake all the same.
func (a *authorization) noteTokens() {
	if a.object.Spec.JWT == nil {
		return
	}
	for i := range a.object.Spec.JWT.Issuers {
		if len(a.object.Spec.JWT.Issuers[i].Audiences) == 0 {
			a.notes = append(a.notes, fmt.Sprintf("spec.jwt.issuers[%d] has no audiences: tokens that it has signed for others are believed as well", i))
		}
	}
}
