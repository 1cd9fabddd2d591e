package authz_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"weft.dev/weft/proxy/wire"
	reference "weft.dev/weft/test/authz"
)

const (
	corp, partner = "https://corp.example", "https://partner.example"
	// now is when all requests come.
	now = 1_800_000_000
)

// signer is a key that issuers sign with.
type signer struct {
	name, id string
	key      crypto.Signer
	alg      jose.SignatureAlgorithm
}

// fixture is what the tests know of tokens.
type fixture struct {
	facts reference.Facts
	// tokens are their texts; sets those of key sets.
	tokens, sets []string
}

// tokens are made once: keys are random, and nothing depends on which they are.
var tokens = newFixture()

func newFixture() *fixture {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	_, other, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	signers := []signer{{"corp-1", "one", edwards, jose.EdDSA}, {"corp-2", "", other, jose.EdDSA}, {"partner", "one", curve, jose.ES256}}
	f := &fixture{facts: reference.Facts{Now: now, Tokens: map[string]reference.Token{}, Keys: map[string][]string{}}}
	for _, members := range [][]signer{{signers[0]}, {signers[0], signers[1]}, {signers[2]}} {
		var set jose.JSONWebKeySet
		var names []string
		for _, s := range members {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.key.Public(), KeyID: s.id, Algorithm: string(s.alg)})
			names = append(names, s.name)
		}
		data, err := json.Marshal(set)
		must(err)
		f.sets = append(f.sets, string(data))
		f.facts.Keys[string(data)] = names
	}
	claims := func(issuer string, more map[string]any) map[string]any {
		out := map[string]any{"iss": issuer, "exp": float64(now + 600), "sub": "alice"}
		for name, value := range more {
			out[name] = value
			if value == nil {
				delete(out, name)
			}
		}
		return out
	}
	add := func(by signer, verifiedBy string, claims map[string]any, header map[jose.HeaderKey]any) string {
		made, err := jose.NewSigner(jose.SigningKey{Algorithm: by.alg, Key: jose.JSONWebKey{Key: by.key, KeyID: by.id}}, &jose.SignerOptions{ExtraHeaders: header})
		must(err)
		payload, err := json.Marshal(claims)
		must(err)
		signed, err := made.Sign(payload)
		must(err)
		text, err := signed.CompactSerialize()
		must(err)
		f.tokens = append(f.tokens, text)
		f.facts.Tokens[text] = reference.Token{Key: verifiedBy, Claims: claims}
		return text
	}
	variants := []map[string]any{
		{}, {"aud": "web"}, {"aud": []any{"api", "web"}}, {"aud": "other"}, {"sub": "bob", "level": float64(3)}, {"level": "3"},
		{"scope": "read write", "level": float64(1)}, {"realm": map[string]any{"groups": []any{"ops", "dev"}}, "admin": true},
		{"realm": map[string]any{"groups": []any{"dev"}}, "scp": []any{"read"}}, {"exp": float64(now - 59)}, {"exp": float64(now - 60)}, {"exp": nil}, {"exp": "soon"},
		{"nbf": float64(now + 60)}, {"nbf": float64(now + 61)}, {"iat": float64(now + 61)}, {"iat": float64(now - 5)}, {"nbf": "soon"}, {"sub": "al\nice"},
	}
	for _, more := range variants {
		add(signers[0], "corp-1", claims(corp, more), nil)
		add(signers[2], "partner", claims(partner, more), map[jose.HeaderKey]any{"typ": "at+jwt"})
	}
	add(signers[1], "corp-2", claims(corp, nil), nil)
	add(signers[2], "", claims("https://stranger.example", nil), nil)
	// Keys of another issuer, of another name, and tokens that are for other ends.
	add(signers[2], "partner", claims(corp, nil), nil)
	add(signer{"", "two", edwards, jose.EdDSA}, "", claims(corp, nil), nil)
	add(signers[0], "", claims(corp, nil), map[jose.HeaderKey]any{"typ": "logout+jwt"})
	good := f.tokens[0]
	head, rest, _ := strings.Cut(good, ".")
	payload, _, _ := strings.Cut(rest, ".")
	f.tokens = append(f.tokens, good+"x", head+"."+payload+".", "eyJhbGciOiJub25lIn0."+payload+".", "opaque", head+".."+payload)
	return f
}

// verification returns what a policy says of tokens.
func (g generator) verification() *wire.TokenVerification {
	v := &wire.TokenVerification{}
	for _, name := range []string{corp, partner} {
		if g.chance(30) && (len(v.Issuers) > 0 || name == corp) {
			continue
		}
		i := wire.TokenIssuer{Issuer: name, Keys: pick(g, tokens.sets[:2])}
		if name == partner {
			i.Keys = tokens.sets[2]
		}
		if g.chance(5) {
			i.Keys = pick(g, append(tokens.sets, ""))
		}
		if g.chance(25) {
			i.Audiences = some(g, []string{"web", "api"})
		}
		if g.chance(30) {
			i.Headers = append(i.Headers, wire.ClaimHeader{Name: pick(g, []string{"X-Role", "x-team"}), Path: pick(g, claimPaths)})
		}
		v.Issuers = append(v.Issuers, i)
	}
	if g.chance(30) {
		v.Places = append(v.Places, pick(g, []wire.TokenPlace{{Header: "X-Token"}, {Cookie: "session"}, {Header: "authorization", Prefix: "bearer "}}))
		if g.chance(30) {
			v.Places = append(v.Places, wire.TokenPlace{Header: "x-token"})
		}
	}
	return v
}

var claimPaths = [][]string{{"sub"}, {"level"}, {"scope"}, {"scp"}, {"realm", "groups"}, {"realm"}, {"admin"}, {"sub", "x"}}

func (g generator) tokenMatch() *wire.TokenMatch {
	m := &wire.TokenMatch{}
	if g.chance(30) {
		m.Issuers = some(g, []string{corp, partner})
	}
	if g.chance(20) {
		m.Subjects = some(g, []string{"alice", "bob"})
	}
	if g.chance(15) {
		m.Audiences = some(g, []string{"web", "api"})
	}
	if g.chance(30) {
		c := wire.ClaimMatch{Path: pick(g, claimPaths)}
		if g.chance(80) {
			c.Values = some(g, []string{"alice", "3", "1", "read", "write", "ops", "dev", "true", "read write"})
		}
		m.Claims = append(m.Claims, c)
	}
	return m
}

// present adds tokens to a request.
func (g generator) present(r *reference.Request) {
	for g.chance(45) {
		token := pick(g, tokens.tokens)
		if g.chance(30) {
			token = tokens.tokens[0]
		}
		r.Headers = append(r.Headers, pick(g, [][2]string{
			{"Authorization", "Bearer " + token}, {"authorization", "Bearer " + token}, {"Authorization", "BEARER  " + token}, {"Authorization", "Basic " + token},
			{"X-Token", token}, {"x_token", token}, {"Cookie", "a=b; session=" + token}, {"cookie", `session="` + token + `";c`},
		}))
		if g.chance(60) {
			return
		}
	}
}

func at() time.Time { return time.Unix(now, 0) }
