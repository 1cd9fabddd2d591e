package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	jose "github.com/go-jose/go-jose/v4"
)

const (
	// maxKeys bounds how many keys a set may have: each may be tried for a token that names none.
	maxKeys = 64
	// The least and greatest length of an RSA modulus in bits: what is shorter is broken, what is longer costs
	// too much to verify.
	minModulus, maxModulus = 2048, 8192
)

// Keys are the public keys of an issuer.
type Keys struct{ keys []key }

type key struct {
	id string
	// algorithms are those that the key may verify.
	algorithms []jose.SignatureAlgorithm
	public     any
}

// ParseKeys reads a JSON Web Key Set (RFC 7517). Keys that are not for signatures, or of a type or length that is
// not supported, are left out (section 5: implementations ignore what they do not understand); it is an error if
// none is left. Symmetric keys are never used.
func ParseKeys(set []byte) (*Keys, error) {
	keys, _, err := parseKeys(set)
	return keys, err
}

// Normalize returns what ParseKeys uses of a set, without private parts, in a canonical form.
func Normalize(set []byte) (string, error) {
	_, public, err := parseKeys(set)
	if err != nil {
		return "", err
	}
	out, err := json.Marshal(jose.JSONWebKeySet{Keys: public})
	if err != nil {
		return "", fmt.Errorf("write the key set: %w", err)
	}
	return string(out), nil
}

func parseKeys(set []byte) (*Keys, []jose.JSONWebKey, error) {
	var list struct {
		Keys []json.RawMessage `json:"keys"`
	}
	decoder := json.NewDecoder(bytes.NewReader(set))
	if err := decoder.Decode(&list); err != nil {
		return nil, nil, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("not a JSON Web Key Set: there is something after it")
	}
	if len(list.Keys) == 0 {
		return nil, nil, errors.New("not a JSON Web Key Set, or one without keys")
	}
	if len(list.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("%d keys are more than %d", len(list.Keys), maxKeys)
	}
	keys := &Keys{}
	var public []jose.JSONWebKey
	var first error
	for _, raw := range list.Keys {
		k, web, err := parseKey(raw)
		if err != nil {
			first = errors.Join(first, err)
			continue
		}
		keys.keys = append(keys.keys, k)
		public = append(public, web)
	}
	if len(keys.keys) == 0 {
		return nil, nil, fmt.Errorf("no key can be used: %w", first)
	}
	return keys, public, nil
}

func parseKey(raw []byte) (key, jose.JSONWebKey, error) {
	var none jose.JSONWebKey
	var described struct {
		Type       string   `json:"kty"`
		Use        string   `json:"use"`
		Operations []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &described); err != nil {
		return key{}, none, fmt.Errorf("not a key: %w", err)
	}
	switch {
	case described.Type != "RSA" && described.Type != "EC" && described.Type != "OKP":
		return key{}, none, fmt.Errorf("type %.16q is not supported", described.Type)
	case described.Use != "" && described.Use != "sig", described.Operations != nil && !slices.Contains(described.Operations, "verify"):
		return key{}, none, errors.New("it is not for signatures")
	}
	web, err := readKey(raw)
	if err != nil {
		return key{}, none, err
	}
	web.Use = "sig"
	algorithms, err := algorithmsOf(web.Key)
	if err != nil {
		return key{}, none, err
	}
	if web.Algorithm != "" {
		algorithm := jose.SignatureAlgorithm(web.Algorithm)
		if !slices.Contains(algorithms, algorithm) {
			return key{}, none, fmt.Errorf("algorithm %.16q is not one of its type", web.Algorithm)
		}
		algorithms = []jose.SignatureAlgorithm{algorithm}
	}
	return key{id: web.KeyID, algorithms: algorithms, public: web.Key}, web, nil
}

// readKey reads what is public of a key. Certificates are not looked at.
func readKey(raw []byte) (jose.JSONWebKey, error) {
	var web jose.JSONWebKey
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return web, fmt.Errorf("not a key: %w", err)
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool {
		return !slices.Contains([]string{"kty", "kid", "alg", "n", "e", "crv", "x", "y"}, name)
	})
	public, err := json.Marshal(fields)
	if err != nil {
		return web, fmt.Errorf("not a key: %w", err)
	}
	if err := json.Unmarshal(public, &web); err != nil {
		return web, fmt.Errorf("not a key: %w", err)
	}
	return web, nil
}

// algorithmsOf returns the algorithms that a key can verify (RFC 7518 section 3.1, RFC 8037).
func algorithmsOf(public any) ([]jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minModulus || bits > maxModulus {
			return nil, fmt.Errorf("an RSA key of %d bits is not between %d and %d", bits, minModulus, maxModulus)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case 384:
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case 521:
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, fmt.Errorf("a key of type %T is not supported", public)
}

// algorithms are all that a token may be signed by. Neither "none" nor symmetric ones are among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

var errNoKey = errors.New("no key verifies the signature")

// verify returns the payload of a token. A token that names a key is verified by keys of that name alone, and by
// those without a name; one that names none by any.
func (k *Keys) verify(token *jose.JSONWebSignature) ([]byte, error) {
	header := token.Signatures[0].Protected
	for _, candidate := range k.keys {
		if header.KeyID != "" && candidate.id != "" && header.KeyID != candidate.id ||
			!slices.Contains(candidate.algorithms, jose.SignatureAlgorithm(header.Algorithm)) {
			continue
		}
		if payload, err := token.Verify(candidate.public); err == nil {
			return payload, nil
		}
	}
	return nil, errNoKey
}
