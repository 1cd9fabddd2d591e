// Package jwt verifies JSON Web Tokens (RFC 7519) and tells what they claim. It knows neither requests nor
// clocks, fetches nothing, and never says anything about the content of a token that it has not verified.
package jwt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"

	"weft.dev/weft/proxy/wire"
)

const (
	// maxToken bounds a token in bytes.
	maxToken = 16 << 10
	// Skew is how far clocks may be apart.
	Skew = time.Minute
)

// Verifier verifies the tokens of some issuers. It is safe for concurrent use, and remembers tokens that it has
// verified, as hashes.
type Verifier struct {
	issuers []issuer
	known   memory
}

type issuer struct {
	name      string
	audiences []string
	// keys are nil while they are not known.
	keys *Keys
}

// NewVerifier returns a verifier, or why the keys of an issuer cannot be used; index tells which.
func NewVerifier(issuers []wire.TokenIssuer) (v *Verifier, index int, err error) {
	v = &Verifier{}
	for i := range issuers {
		in := issuer{name: issuers[i].Issuer, audiences: issuers[i].Audiences}
		if issuers[i].Keys != "" {
			if in.keys, err = ParseKeys([]byte(issuers[i].Keys)); err != nil {
				return nil, i, err
			}
		}
		v.issuers = append(v.issuers, in)
	}
	return v, 0, nil
}

// Token is a token that has been verified.
type Token struct {
	// Issuer is the index of the one that has signed it.
	Issuer int
	// Claims are all claims. Numbers are as the token has them written (json.Number of go-jose).
	Claims map[string]any
	// notBefore and expires are when it is valid, with skew.
	notBefore, expires time.Time
}

// The ways in which a token is not valid. They say nothing of what is in it.
var (
	ErrMalformed = errors.New("not a signed token")
	ErrIssuer    = errors.New("the issuer is not known")
	ErrNoKeys    = errors.New("the keys of the issuer are not known")
	ErrSignature = errors.New("the signature is not valid")
	ErrAudience  = errors.New("the audience is another")
	ErrTime      = errors.New("it is not valid yet or any more")
)

// Verify returns what a token claims if one of the issuers has signed it, it is for one of the issuer's
// audiences, and it is valid at that time. A token must say when it ends. The error is one of the above and may
// be logged.
func (v *Verifier) Verify(token string, now time.Time) (*Token, error) {
	if len(token) > maxToken {
		return nil, ErrMalformed
	}
	hash := sha256.Sum256([]byte(token))
	verified := v.known.get(hash)
	if verified == nil {
		var err error
		if verified, err = v.verify(token); err != nil {
			return nil, err
		}
		v.known.add(hash, verified, len(token))
	}
	if now.Before(verified.notBefore) || !now.Before(verified.expires) {
		return nil, ErrTime
	}
	return verified, nil
}

func (v *Verifier) verify(text string) (*Token, error) {
	signed, err := jose.ParseSignedCompact(text, algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return nil, ErrMalformed
	}
	header := signed.Signatures[0].Protected
	for name := range header.ExtraHeaders {
		// An extension that must be understood is not (RFC 7515 section 4.1.11), and the payload of a token is
		// always encoded (RFC 7797 section 7).
		if name == "crit" || name == "b64" {
			return nil, ErrMalformed
		}
	}
	if !usual(header.ExtraHeaders[jose.HeaderType]) {
		return nil, ErrMalformed
	}
	claims, err := decodeClaims(signed.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, ErrMalformed
	}
	name, _ := claims["iss"].(string)
	at := slices.IndexFunc(v.issuers, func(i issuer) bool { return i.name == name })
	if at < 0 {
		return nil, ErrIssuer
	}
	by := &v.issuers[at]
	if by.keys == nil {
		return nil, ErrNoKeys
	}
	payload, err := by.keys.verify(signed)
	if err != nil {
		return nil, ErrSignature
	}
	if claims, err = decodeClaims(payload); err != nil {
		return nil, ErrMalformed
	}
	token := &Token{Issuer: at, Claims: claims}
	if len(by.audiences) > 0 && !slices.ContainsFunc(token.Audiences(), func(a string) bool { return slices.Contains(by.audiences, a) }) {
		return nil, ErrAudience
	}
	if token.notBefore, token.expires, err = validity(claims); err != nil {
		return nil, ErrTime
	}
	return token, nil
}

// usual tells whether the type of a token is that of access and ID tokens, or none (RFC 8725 section 3.11).
// Tokens for other ends, such as those of a logout, prove nothing about a caller.
func usual(kind any) bool {
	if kind == nil {
		return true
	}
	text, ok := kind.(string)
	text = strings.TrimPrefix(strings.ToLower(text), "application/")
	return ok && (text == "jwt" || text == "at+jwt")
}

// decodeClaims decodes an object in which no name comes twice.
func decodeClaims(payload []byte) (map[string]any, error) {
	decoder := josejson.NewDecoder(bytes.NewReader(payload))
	decoder.SetNumberType(josejson.UnmarshalJSONNumber)
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, fmt.Errorf("decode the claims: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) || claims == nil {
		return nil, errors.New("the claims are not one object")
	}
	return claims, nil
}

// validity returns when a token is valid (RFC 7519 section 4.1): before exp, which it must have, and not before
// nbf and iat, if it has them.
func validity(claims map[string]any) (notBefore, expires time.Time, err error) {
	expires, ok := numericDate(claims["exp"])
	if !ok {
		return notBefore, expires, errors.New("no exp")
	}
	for _, name := range []string{"nbf", "iat"} {
		if claims[name] == nil {
			continue
		}
		at, ok := numericDate(claims[name])
		if !ok {
			return notBefore, expires, errors.New("no date")
		}
		if at.After(notBefore) {
			notBefore = at
		}
	}
	if !notBefore.IsZero() {
		notBefore = notBefore.Add(-Skew)
	}
	return notBefore, expires.Add(Skew), nil
}

// numericDate reads seconds since 1970. What is out of the bounds of a year of four digits is no date.
func numericDate(claim any) (time.Time, bool) {
	const greatest = 253402300799
	number, ok := claim.(josejson.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseFloat(string(number), 64)
	if err != nil || seconds < 0 || seconds > greatest {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)), true
}

// Text returns a claim of that name that is text.
func (t *Token) Text(name string) string {
	text, _ := t.Claims[name].(string)
	return text
}

// Audiences returns the claim "aud", which may be one value or a list.
func (t *Token) Audiences() []string { return texts(t.Claims["aud"]) }

// Claim returns the claim that a path leads to through objects, or nil.
func (t *Token) Claim(path []string) any {
	var at any = t.Claims
	for _, name := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	return at
}

// Values returns what a claim is, or what it holds if it is a list, as texts: strings, numbers as they are
// written, and booleans. "scope" and "scp" are lists separated by spaces.
func (t *Token) Values(path []string) []string {
	claim := t.Claim(path)
	if text, ok := claim.(string); ok && len(path) == 1 && (path[0] == "scope" || path[0] == "scp") {
		return strings.Fields(text)
	}
	return texts(claim)
}

func texts(claim any) []string {
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	var out []string
	for _, one := range list {
		if text, ok := Text(one); ok {
			out = append(out, text)
		}
	}
	return out
}

// Text returns a value that is a string, a number or a boolean as text.
func Text(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case josejson.Number:
		return string(v), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}
