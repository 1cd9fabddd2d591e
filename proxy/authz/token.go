package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	josejson "github.com/go-jose/go-jose/v4/json"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/jwt"
	"weft.dev/weft/proxy/wire"
)

// tokens are what a policy believes of tokens.
type tokens struct {
	verifier *jwt.Verifier
	places   []wire.TokenPlace
	// headers are those of each issuer, names all of them.
	headers [][]wire.ClaimHeader
	names   []string
}

// bearer is where a token is if nothing else is said (RFC 6750 section 2.1).
var bearer = []wire.TokenPlace{{Header: "Authorization", Prefix: "Bearer "}}

// errSeveral: it cannot be known which one an application would go by.
var errSeveral = errors.New("there are several tokens")

// maxClaimHeader bounds what is set from a claim, in bytes.
const maxClaimHeader = 8 << 10

func newTokens(in *wire.TokenVerification) (*tokens, error) {
	if in == nil {
		return nil, nil
	}
	t := &tokens{places: in.Places}
	if len(t.places) == 0 {
		t.places = bearer
	}
	for i := range t.places {
		if p := &t.places[i]; (p.Header == "") == (p.Cookie == "") || p.Cookie != "" && p.Prefix != "" {
			return nil, FieldError{"tokens." + item("places", i), "it is neither a header nor a cookie"}
		}
	}
	if len(in.Issuers) == 0 {
		return nil, FieldError{"tokens.issuers", "there is none"}
	}
	for i := range in.Issuers {
		at := "tokens." + item("issuers", i)
		one := &in.Issuers[i]
		if one.Issuer == "" {
			return nil, FieldError{at + ".issuer", "it is empty"}
		}
		if slices.ContainsFunc(in.Issuers[:i], func(other wire.TokenIssuer) bool { return other.Issuer == one.Issuer }) {
			return nil, FieldError{at + ".issuer", fmt.Sprintf("%q is named twice", one.Issuer)}
		}
		for j := range one.Headers {
			if err := t.checkHeader(one.Headers, j); err != nil {
				return nil, below(at, below(item("headers", j), err))
			}
			t.names = append(t.names, one.Headers[j].Name)
		}
		t.headers = append(t.headers, one.Headers)
	}
	var at int
	var err error
	if t.verifier, at, err = jwt.NewVerifier(in.Issuers); err != nil {
		return nil, FieldError{"tokens." + item("issuers", at) + ".keys", err.Error()}
	}
	return t, nil
}

// checkHeader says why a header may not be set from a claim: it belongs to HTTP, to the mesh or to the token.
func (t *tokens) checkHeader(headers []wire.ClaimHeader, at int) error {
	name := headers[at].Name
	isPlace := func(p wire.TokenPlace) bool { return sameName(p.Header, name) }
	again := func(h wire.ClaimHeader) bool { return sameName(h.Name, name) }
	switch {
	case len(headers[at].Path) == 0, slices.Contains(headers[at].Path, ""):
		return FieldError{"path", "it names no claim"}
	case name == "":
		return FieldError{"name", "it is empty"}
	case reserved(name), slices.ContainsFunc(t.places, isPlace):
		return FieldError{"name", fmt.Sprintf("%q cannot be set from a claim", name)}
	case slices.ContainsFunc(headers[:at], again):
		return FieldError{"name", fmt.Sprintf("%q is set twice", name)}
	}
	return nil
}

// reserved tells the names of headers that mean something to HTTP or to the mesh.
func reserved(name string) bool {
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	if strings.HasPrefix(name, phttp.InternalPrefix) || strings.HasPrefix(name, "x-forwarded-") {
		return true
	}
	return slices.Contains([]string{
		"authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "forwarded", "grpc-timeout",
		"host", "http2-settings", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via",
	}, name)
}

// sameName tells whether an application may take two names of headers for one, see valuesReadAs.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.ReplaceAll(a, "_", "-"), strings.ReplaceAll(b, "_", "-"))
}

// find returns the tokens that a request presents, each once.
func (t *tokens) find(req *phttp.Request) []string {
	var found []string
	add := func(token string) {
		if token = strings.Trim(token, " \t"); token != "" && !slices.Contains(found, token) {
			found = append(found, token)
		}
	}
	for _, place := range t.places {
		if place.Cookie != "" {
			for _, value := range req.Header.Values("Cookie") {
				for pair := range strings.SplitSeq(value, ";") {
					name, token, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
					if ok && strings.Trim(name, " \t") == place.Cookie {
						add(strings.Trim(token, `"`))
					}
				}
			}
			continue
		}
		for _, value := range valuesReadAs(req, place.Header) {
			if len(value) >= len(place.Prefix) && strings.EqualFold(value[:len(place.Prefix)], place.Prefix) {
				add(value[len(place.Prefix):])
			}
		}
	}
	return found
}

// presented is what a request presents to one policy.
type presented struct {
	policy *Policy
	token  *jwt.Token
	err    error
}

// presented returns the token that a request presents to a policy, nil if there is none, or why it is not valid.
func (r *request) presented(p *Policy) (*jwt.Token, error) {
	if p.tokens == nil || r.original == nil {
		return nil, nil
	}
	for i := range r.tokens {
		if r.tokens[i].policy == p {
			return r.tokens[i].token, r.tokens[i].err
		}
	}
	out := presented{policy: p}
	switch found := p.tokens.find(r.original); len(found) {
	case 0:
	case 1:
		out.token, out.err = p.tokens.verifier.Verify(found[0], r.Now)
	default:
		out.err = errSeveral
	}
	r.tokens = append(r.tokens, out)
	return out.token, out.err
}

// claim returns a request whose headers that are set from claims are. It is the same request if there are no such
// headers. Policies that only audit change nothing.
func (ps Policies) claim(r *request) *phttp.Request {
	req := r.original
	own := func() *phttp.Request {
		if req == r.original {
			clone := r.original.Clone()
			req = &clone
		}
		return req
	}
	sets := func(p *Policy) bool {
		return !p.audit && p.tokens != nil && len(p.tokens.names) > 0 && p.reaches(r.Request)
	}
	for _, p := range ps.all {
		if !sets(p) {
			continue
		}
		for _, name := range p.tokens.names {
			own().Header = slices.DeleteFunc(own().Header, func(f phttp.Field) bool { return sameName(f.Name, name) })
		}
	}
	for _, p := range ps.all {
		if !sets(p) {
			continue
		}
		token, _ := r.presented(p)
		if token == nil {
			continue
		}
		for _, h := range p.tokens.headers[token.Issuer] {
			// Of several policies the first sets it.
			if value, ok := headerValue(token.Claim(h.Path)); ok && !slices.ContainsFunc(req.Header, func(f phttp.Field) bool { return sameName(f.Name, h.Name) }) {
				own().Header.Add(h.Name, value)
			}
		}
	}
	return req
}

// headerValue returns a claim as the value of a header: a string, number or boolean as it is, anything else as JSON.
// It is not ok for what is not there and for what a header cannot hold.
func headerValue(claim any) (string, bool) {
	if claim == nil {
		return "", false
	}
	value, ok := jwt.Text(claim)
	if !ok {
		data, err := josejson.Marshal(claim)
		if err != nil {
			return "", false
		}
		value = string(data)
	}
	control := func(c rune) bool { return c < ' ' || c == 0x7f }
	value = strings.Trim(value, " ")
	return value, len(value) <= maxClaimHeader && !strings.ContainsFunc(value, control)
}

// newTokenPart matches by the token that has been verified. Opaque bytes have none, or any.
func newTokenPart(in *wire.TokenMatch) (sourcePart, error) {
	for i := range in.Claims {
		if path := in.Claims[i].Path; len(path) == 0 || slices.Contains(path, "") {
			return nil, FieldError{item("claims", i) + ".path", "it names no claim"}
		}
	}
	return func(r *request, deny bool) bool {
		if r.HTTP == nil {
			return deny
		}
		return r.token != nil && matchesToken(in, r.token)
	}, nil
}

func matchesToken(in *wire.TokenMatch, token *jwt.Token) bool {
	among := func(wanted, values []string) bool {
		return len(wanted) == 0 || slices.ContainsFunc(values, func(v string) bool { return slices.Contains(wanted, v) })
	}
	if !among(in.Issuers, []string{token.Text("iss")}) || !among(in.Subjects, []string{token.Text("sub")}) || !among(in.Audiences, token.Audiences()) {
		return false
	}
	for i := range in.Claims {
		c := &in.Claims[i]
		if token.Claim(c.Path) == nil || !among(c.Values, token.Values(c.Path)) {
			return false
		}
	}
	return true
}
