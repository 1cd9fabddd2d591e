// Package jwttest signs tokens for tests.
package jwttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Key is a key of an issuer.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
}

// New makes a key for an algorithm. It panics if there is none of the kind.
func New(id string, algorithm jose.SignatureAlgorithm) Key {
	k := Key{ID: id, Algorithm: algorithm}
	var err error
	switch algorithm {
	case jose.EdDSA:
		_, k.Private, err = generateEdwards()
	case jose.ES256:
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		k.Private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		k.Private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("no key for %s", algorithm)
	}
	must(err)
	return k
}

func generateEdwards() (ed25519.PublicKey, crypto.Signer, error) {
	return ed25519.GenerateKey(rand.Reader)
}

// Set returns the public parts of keys as a JSON Web Key Set.
func Set(keys ...Key) string {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
	}
	data, err := json.Marshal(set)
	must(err)
	return string(data)
}

// Sign returns a token with claims, which are encoded unless they are bytes, and more fields in its header.
func (k Key) Sign(claims any, header map[string]any) string {
	payload, ok := claims.([]byte)
	if !ok {
		var err error
		payload, err = json.Marshal(claims)
		must(err)
	}
	options := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{}}
	for name, value := range header {
		options.ExtraHeaders[jose.HeaderKey(name)] = value
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: jose.JSONWebKey{Key: k.Private, KeyID: k.ID}}, options)
	must(err)
	signed, err := signer.Sign(payload)
	must(err)
	text, err := signed.CompactSerialize()
	must(err)
	return text
}

// Token returns a token of an issuer that is valid for an hour, with more claims.
func (k Key) Token(issuer string, now time.Time, claims map[string]any) string {
	all := map[string]any{"iss": issuer, "exp": now.Add(time.Hour).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	return k.Sign(all, nil)
}

// Unsigned returns a token with any header and signature.
func Unsigned(header, claims any, signature []byte) string {
	encode := func(v any) string {
		data, err := json.Marshal(v)
		must(err)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return encode(header) + "." + encode(claims) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
