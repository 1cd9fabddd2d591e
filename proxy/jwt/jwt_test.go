package jwt_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"weft.dev/weft/proxy/jwt"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/proxy/wire"
)

const issuer = "https://id.example"

var now = time.Unix(1_800_000_000, 0)

func verifier(t *testing.T, set string, audiences ...string) *jwt.Verifier {
	t.Helper()
	v, _, err := jwt.NewVerifier([]wire.TokenIssuer{{Issuer: issuer, Keys: set, Audiences: audiences}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func claims(more map[string]any) map[string]any {
	out := map[string]any{"iss": issuer, "exp": now.Unix() + 600}
	for name, value := range more {
		out[name] = value
		if value == nil {
			delete(out, name)
		}
	}
	return out
}

func TestEveryAlgorithm(t *testing.T) {
	for _, algorithm := range []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			key, other := jwttest.New("k", algorithm), jwttest.New("k", algorithm)
			v := verifier(t, jwttest.Set(key))
			token, err := v.Verify(key.Sign(claims(map[string]any{"sub": "alice", "n": 12345678901234567}), nil), now)
			if err != nil || token.Text("sub") != "alice" || token.Values([]string{"n"})[0] != "12345678901234567" {
				t.Errorf("%+v, %v", token, err)
			}
			if _, err := v.Verify(other.Sign(claims(nil), nil), now); !errors.Is(err, jwt.ErrSignature) {
				t.Errorf("of another key: %v", err)
			}
		})
	}
}

// TestBadTokens: what is not refused here lets somebody in.
func TestBadTokens(t *testing.T) {
	key, next, elsewhere := jwttest.New("one", jose.ES256), jwttest.New("two", jose.ES256), jwttest.New("one", jose.ES256)
	rs := jwttest.New("rsa", jose.RS256)
	v := verifier(t, jwttest.Set(key, next, rs), "shop", "bank")
	shop := map[string]any{"aud": "shop"}
	good := key.Sign(claims(shop), nil)
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	public, err := x509.MarshalPKIXPublicKey(rs.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	asSecret := func(secret []byte) string {
		unsigned := jwttest.Unsigned(map[string]any{"alg": "HS256", "kid": "rsa"}, claims(shop), nil)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(strings.TrimSuffix(unsigned, ".")))
		return unsigned + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	renamed := func(id string) string {
		return jwttest.Key{ID: id, Algorithm: key.Algorithm, Private: key.Private}.Sign(claims(shop), nil)
	}
	with := func(more map[string]any) string { return key.Sign(claims(more), nil) }
	web := jose.JSONWebKey{Key: elsewhere.Private.Public()}
	for name, tc := range map[string]struct {
		token string
		want  error
	}{
		"nothing":                       {"", jwt.ErrMalformed},
		"no token":                      {"opaque", jwt.ErrMalformed},
		"JSON serialization":            {fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, payload, head, signature), jwt.ErrMalformed},
		"whitespace":                    {head + ". " + rest, jwt.ErrMalformed},
		"padding":                       {good + "=", jwt.ErrMalformed},
		"too long":                      {key.Sign(claims(map[string]any{"aud": "shop", "x": strings.Repeat("x", 1<<20)}), nil), jwt.ErrMalformed},
		"alg none":                      {jwttest.Unsigned(map[string]any{"alg": "none"}, claims(shop), nil), jwt.ErrMalformed},
		"alg None":                      {jwttest.Unsigned(map[string]any{"alg": "None"}, claims(shop), nil), jwt.ErrMalformed},
		"no alg":                        {jwttest.Unsigned(map[string]any{}, claims(shop), nil), jwt.ErrMalformed},
		"public key as secret, DER":     {asSecret(public), jwt.ErrMalformed},
		"public key as secret, PEM":     {asSecret(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), jwt.ErrMalformed},
		"no signature":                  {head + "." + payload + ".", jwt.ErrSignature},
		"null signature":                {head + "." + payload + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), jwt.ErrSignature},
		"changed payload":               {head + "." + strings.Split(jwttest.Unsigned(map[string]any{}, claims(map[string]any{"aud": "shop", "sub": "root"}), nil), ".")[1] + "." + signature, jwt.ErrSignature},
		"changed header":                {strings.Split(next.Sign(claims(shop), nil), ".")[0] + "." + rest, jwt.ErrSignature},
		"kid of another key":            {renamed("two"), jwt.ErrSignature},
		"kid of no key":                 {renamed("three"), jwt.ErrSignature},
		"kid that is a path":            {renamed("../../dev/null"), jwt.ErrSignature},
		"kid that is a query":           {renamed("one' UNION SELECT 'secret"), jwt.ErrSignature},
		"a key of its own":              {elsewhere.Sign(claims(shop), map[string]any{"jwk": web}), jwt.ErrSignature},
		"keys of its own by URL":        {elsewhere.Sign(claims(shop), map[string]any{"jku": "https://evil.example/keys", "x5u": "https://evil.example/cert"}), jwt.ErrSignature},
		"an extension that is critical": {jwttest.Unsigned(map[string]any{"alg": "ES256", "crit": []string{"exp"}, "exp": 1}, claims(shop), make([]byte, 64)), jwt.ErrMalformed},
		"payload that is not encoded":   {jwttest.Unsigned(map[string]any{"alg": "ES256", "b64": false, "crit": []string{"b64"}}, claims(shop), make([]byte, 64)), jwt.ErrMalformed},
		"token of a logout":             {key.Sign(claims(shop), map[string]any{"typ": "logout+jwt"}), jwt.ErrMalformed},
		"type that is no text":          {key.Sign(claims(shop), map[string]any{"typ": 1}), jwt.ErrMalformed},
		"claims twice":                  {key.Sign([]byte(fmt.Sprintf(`{"iss":%q,"aud":"shop","exp":%d,"sub":"a","sub":"b"}`, issuer, now.Unix()+60)), nil), jwt.ErrMalformed},
		"claims that are a list":        {key.Sign([]byte(`["iss"]`), nil), jwt.ErrMalformed},
		"claims that are null":          {key.Sign([]byte(`null`), nil), jwt.ErrMalformed},
		"something after the claims":    {key.Sign([]byte(fmt.Sprintf(`{"iss":%q,"aud":"shop","exp":%d}{}`, issuer, now.Unix()+60)), nil), jwt.ErrMalformed},
		"deep claims":                   {key.Sign([]byte(strings.Repeat("[", 10000)), nil), jwt.ErrMalformed},
		"no issuer":                     {with(map[string]any{"aud": "shop", "iss": nil}), jwt.ErrIssuer},
		"another issuer":                {with(map[string]any{"aud": "shop", "iss": issuer + "/"}), jwt.ErrIssuer},
		"issuer that is a list":         {with(map[string]any{"aud": "shop", "iss": []string{issuer}}), jwt.ErrIssuer},
		"ISS":                           {with(map[string]any{"aud": "shop", "iss": nil, "ISS": issuer}), jwt.ErrIssuer},
		"no audience":                   {with(nil), jwt.ErrAudience},
		"another audience":              {with(map[string]any{"aud": []string{"other", "shopping"}}), jwt.ErrAudience},
		"no end":                        {with(map[string]any{"aud": "shop", "exp": nil}), jwt.ErrTime},
		"end that is text":              {with(map[string]any{"aud": "shop", "exp": "1900000000"}), jwt.ErrTime},
		"end that is no year":           {with(map[string]any{"aud": "shop", "exp": 1e300}), jwt.ErrTime},
		"ended":                         {with(map[string]any{"aud": "shop", "exp": now.Unix() - 60}), jwt.ErrTime},
		"not yet":                       {with(map[string]any{"aud": "shop", "nbf": now.Unix() + 61}), jwt.ErrTime},
		"from the future":               {with(map[string]any{"aud": "shop", "iat": now.Unix() + 61}), jwt.ErrTime},
		"beginning that is text":        {with(map[string]any{"aud": "shop", "nbf": "0"}), jwt.ErrTime},
		"encrypted":                     {"eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA", jwt.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if token, err := v.Verify(tc.token, now); !errors.Is(err, tc.want) || token != nil {
				t.Errorf("%+v, %v, want %v", token, err, tc.want)
			}
		})
	}
	for name, token := range map[string]string{
		"plain": good, "a list of audiences": with(map[string]any{"aud": []string{"x", "bank"}}), "ended within the skew": with(map[string]any{"aud": "shop", "exp": now.Unix() - 59}),
		"begins within the skew": with(map[string]any{"aud": "shop", "nbf": now.Unix() + 60, "iat": now.Unix() + 60}), "fractions": with(map[string]any{"aud": "shop", "exp": float64(now.Unix()) + 0.5}),
		"access token": key.Sign(claims(shop), map[string]any{"typ": "application/at+JWT"}), "without kid": renamed(""),
	} {
		if _, err := v.Verify(token, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerifiedTokensEnd: that a token has been verified once does not make it last.
func TestVerifiedTokensEnd(t *testing.T) {
	key := jwttest.New("", jose.EdDSA)
	v := verifier(t, jwttest.Set(key))
	token := key.Sign(claims(nil), nil)
	for at, want := range map[time.Duration]error{0: nil, 600 * time.Second: nil, 659 * time.Second: nil, 660 * time.Second: jwt.ErrTime} {
		for range 2 {
			if _, err := v.Verify(token, now.Add(at)); !errors.Is(err, want) {
				t.Errorf("after %s: %v, want %v", at, err, want)
			}
		}
	}
}

// TestManyTokens: what is remembered is bounded, and what is forgotten is verified anew.
func TestManyTokens(t *testing.T) {
	key := jwttest.New("", jose.EdDSA)
	v := verifier(t, jwttest.Set(key))
	var all []string
	for i := range 100 {
		all = append(all, key.Sign(claims(map[string]any{"jti": i, "x": strings.Repeat("x", 9000)}), nil))
	}
	for range 2 {
		for i, token := range all {
			got, err := v.Verify(token, now)
			if err != nil || got.Values([]string{"jti"})[0] != strconv.Itoa(i) {
				t.Fatalf("token %d: %v, %v", i, got, err)
			}
		}
	}
	if n := v.Remembered(); n > 256<<10 || n < 200<<10 {
		t.Errorf("%d bytes of tokens are remembered", n)
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	key := jwttest.New("one", jose.ES256)
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(jwttest.Set(key)), &set); err != nil {
		t.Fatal(err)
	}
	changed := func(change map[string]any) string {
		one := map[string]any{}
		for name, value := range set.Keys[0] {
			one[name] = value
		}
		for name, value := range change {
			one[name] = value
		}
		data, err := json.Marshal(map[string]any{"keys": []any{one}})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	many := make([]jwttest.Key, 65)
	for i := range many {
		many[i] = key
	}
	for name, text := range map[string]string{
		"nothing": "", "HTML": "<html>", "null": "null", "a list": "[]", "no keys": `{"keys":[]}`, "keys that are none": `{"keys":[1,"a",{}]}`,
		"symmetric": `{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}`, "two sets": jwttest.Set(key) + jwttest.Set(key), "too many": jwttest.Set(many...),
		"for encryption": changed(map[string]any{"use": "enc"}), "for other operations": changed(map[string]any{"key_ops": []string{"encrypt"}}),
		"algorithm of another type": changed(map[string]any{"alg": "RS256"}), "symmetric algorithm": changed(map[string]any{"alg": "HS256"}),
		"not on the curve": changed(map[string]any{"x": "AAAA"}), "short RSA": `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 128))) + `"}]}`,
		"long RSA": `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 2048))) + `"}]}`,
	} {
		if _, err := jwt.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s: it can be used", name)
		}
	}
	// What is not understood is left out, and certificates are not looked at.
	mixed := strings.Replace(jwttest.Set(key), `{"keys":[`, `{"keys":[{"kty":"new"},{"kty":"oct","k":"AAAA"},`, 1)
	mixed = strings.Replace(mixed, `"kid":"one"`, `"kid":"one","x5c":["bad"],"d":"bad"`, 1)
	normal, err := jwt.Normalize([]byte(mixed))
	if err != nil || normal != jwttest.Set(key) {
		t.Errorf("%s, %v, want %s", normal, err, jwttest.Set(key))
	}
}

func TestClaims(t *testing.T) {
	key := jwttest.New("", jose.EdDSA)
	v := verifier(t, jwttest.Set(key))
	token, err := v.Verify(key.Sign(claims(map[string]any{
		"scope": "read  write", "realm": map[string]any{"roles": []any{"a", 1, true, nil, []any{"deep"}}, "scope": "x y"}, "big": 1.5,
	}), nil), now)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"scope": "[read write]", "realm roles": "[a 1 true]", "realm scope": "[x y]", "big": "[1.5]", "none": "[]", "big none": "[]", "realm": "[]"} {
		got := token.Values(strings.Fields(path))
		if path == "realm scope" && len(got) != 1 {
			t.Errorf("%s: %d values", path, len(got))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", path, got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, web := jwttest.New("one", jose.EdDSA), jwttest.New("two", jose.ES256)
	v, _, err := jwt.NewVerifier([]wire.TokenIssuer{{Issuer: issuer, Keys: jwttest.Set(key, web), Audiences: []string{"shop"}}})
	if err != nil {
		f.Fatal(err)
	}
	good := key.Sign(claims(map[string]any{"aud": "shop"}), nil)
	f.Add(good)
	f.Add(jwttest.Unsigned(map[string]any{"alg": "none"}, claims(nil), nil))
	f.Add(jwttest.Unsigned(map[string]any{"alg": "ES256", "crit": []string{"b64"}, "b64": false}, claims(nil), make([]byte, 64)))
	f.Fuzz(func(t *testing.T, text string) {
		// Nobody guesses a signature: whatever is valid is the one that was signed. It may be written in other ways,
		// since the last letter of base64 has bits that mean nothing.
		if token, err := v.Verify(text, now); (err == nil) != (decoded(text) == decoded(good)) || (token == nil) != (err != nil) {
			t.Errorf("%q: %v, %v", text, token, err)
		}
	})
}

// decoded returns what the parts of a token decode to.
func decoded(token string) string {
	parts := strings.Split(token, ".")
	for i, part := range parts {
		data, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return token
		}
		parts[i] = string(data)
	}
	return strings.Join(parts, "\x00")
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(jwttest.Set(jwttest.New("one", jose.EdDSA), jwttest.New("two", jose.ES256))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AAAA","x5c":["AAAA"]}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		normal, err := jwt.Normalize(set)
		if err != nil {
			return
		}
		again, err := jwt.Normalize([]byte(normal))
		if err != nil || again != normal {
			t.Errorf("%q became %q, and that %q: %v", set, normal, again, err)
		}
	})
}
