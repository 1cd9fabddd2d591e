package authz

import (
	"encoding/json"
	"fmt"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// Facts are what the reference is told of tokens and key sets, whose form it does not know.
type Facts struct {
	// Now is in seconds since 1970.
	Now float64
	// Tokens are those that may be presented, by their text. Others are none.
	Tokens map[string]Token
	// Keys are the names of the keys in each key set, by its text.
	Keys map[string][]string
}

// Token is what a token was made from.
type Token struct {
	// Key is the name of the key that verifies it, empty if none does.
	Key    string
	Claims map[string]any
}

// token finds the token that a request presents to a policy.
func token(p *wire.Authorization, r Request, facts Facts) (presented, valid bool, issuer int, claims map[string]any) {
	found := map[string]bool{}
	places := p.Tokens.Places
	if places == nil {
		places = []wire.TokenPlace{{Header: "Authorization", Prefix: "Bearer "}}
	}
	for _, place := range places {
		for _, h := range r.Headers {
			switch {
			case place.Cookie != "" && strings.EqualFold(h[0], "cookie"):
				for _, pair := range strings.Split(h[1], ";") {
					if name, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && name == place.Cookie {
						found[strings.Trim(value, `"`)] = true
					}
				}
			case place.Header != "" && twin(h[0]) == twin(place.Header):
				if strings.HasPrefix(strings.ToLower(h[1]), strings.ToLower(place.Prefix)) {
					found[strings.TrimSpace(h[1][len(place.Prefix):])] = true
				}
			}
		}
	}
	delete(found, "")
	if len(found) != 1 {
		return len(found) > 1, false, 0, nil
	}
	var text string
	for text = range found {
	}
	facts0, known := facts.Tokens[text]
	if !known {
		return true, false, 0, nil
	}
	for i, by := range p.Tokens.Issuers {
		if facts0.Claims["iss"] == by.Issuer && believed(facts0, by, facts) {
			return true, true, i, facts0.Claims
		}
	}
	return true, false, 0, nil
}

// twin is a header's name as some applications know it.
func twin(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

func believed(t Token, by wire.TokenIssuer, facts Facts) bool {
	signed := false
	for _, name := range facts.Keys[by.Keys] {
		signed = signed || name == t.Key
	}
	audience := by.Audiences == nil
	for _, a := range by.Audiences {
		for _, have := range textsOf(t.Claims["aud"]) {
			audience = audience || a == have
		}
	}
	ends, ok := t.Claims["exp"].(float64)
	if !signed || !audience || !ok || facts.Now >= ends+60 {
		return false
	}
	for _, name := range []string{"nbf", "iat"} {
		if at, there := t.Claims[name]; there {
			seconds, ok := at.(float64)
			if !ok || facts.Now < seconds-60 {
				return false
			}
		}
	}
	return true
}

// textsOf returns a claim, or the members of a list, as texts.
func textsOf(claim any) []string {
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	var out []string
	for _, one := range list {
		switch v := one.(type) {
		case string:
			out = append(out, v)
		case bool, float64:
			out = append(out, fmt.Sprint(v))
		}
	}
	return out
}

func claimAt(claims map[string]any, path []string) any {
	var at any = claims
	for _, name := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	return at
}

func claimsHold(m *wire.TokenMatch, claims map[string]any) bool {
	if claims == nil {
		return false
	}
	one := func(wanted, have []string) bool {
		if wanted == nil {
			return true
		}
		for _, w := range wanted {
			for _, h := range have {
				if w == h {
					return true
				}
			}
		}
		return false
	}
	if !one(m.Issuers, textsOf(claims["iss"])) || !one(m.Subjects, textsOf(claims["sub"])) || !one(m.Audiences, textsOf(claims["aud"])) {
		return false
	}
	for _, c := range m.Claims {
		claim := claimAt(claims, c.Path)
		have := textsOf(claim)
		if text, ok := claim.(string); ok && len(c.Path) == 1 && (c.Path[0] == "scope" || c.Path[0] == "scp") {
			have = strings.Fields(text)
		}
		if claim == nil || !one(c.Values, have) {
			return false
		}
	}
	return true
}

// withClaims returns the headers of a request as the application gets them.
func withClaims(policies []*wire.Authorization, r Request, facts Facts) [][2]string {
	service := Request{Service: r.Service, Port: r.Port, TCP: true}
	out := r.Headers
	without := func(name string) [][2]string {
		var kept [][2]string
		for _, h := range out {
			if twin(h[0]) != twin(name) {
				kept = append(kept, h)
			}
		}
		return kept
	}
	for _, p := range policies {
		if p.Tokens == nil || !isFor(p, service, true) {
			continue
		}
		for _, i := range p.Tokens.Issuers {
			for _, h := range i.Headers {
				out = without(h.Name)
			}
		}
	}
	for _, p := range policies {
		if p.Tokens == nil || !isFor(p, service, true) {
			continue
		}
		_, valid, issuer, claims := token(p, r, facts)
		if !valid {
			continue
		}
		for _, h := range p.Tokens.Issuers[issuer].Headers {
			claim := claimAt(claims, h.Path)
			if claim == nil || len(without(h.Name)) != len(out) {
				continue
			}
			value, ok := claim.(string)
			if !ok {
				data, err := json.Marshal(claim)
				if err != nil {
					panic(err)
				}
				value = string(data)
			}
			if !strings.ContainsAny(value, "\n\r\x00") {
				out = append(append([][2]string{}, out...), [2]string{h.Name, value})
			}
		}
	}
	return out
}
