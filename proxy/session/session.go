// Package session keeps the requests of a client together in the way of GEP-1619: it makes and reads the
// tokens that clients carry in a cookie or a header.
//
// A token names an endpoint, and in the session of a route a backend of the rule, by hashes: it does not
// show addresses, though whoever knows the pods of a cluster can find out which one is meant. It is not
// authenticated: the proxies of a namespace share no key, and all that a client gains by making one up is
// to choose among the endpoints that it may be sent to anyway, or to stay longer than an absolute timeout
// would let it. Nothing may depend on it for security.
package session

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// Token is what a client holds. The zero Token is none.
type Token struct {
	// Backend is what Backend returned, in the session of a route.
	Backend string
	// Endpoint is what Endpoint returned.
	Endpoint string
	// Issued is when the session began, in whole seconds; zero if it never ends.
	Issued time.Time
}

// The lengths of names: 8 and 16 bytes in base64url.
const (
	backendLength  = 11
	endpointLength = 22
)

// skew is how much the clock of the proxy that began a session may be ahead.
const skew = 5 * time.Minute

// Endpoint names an endpoint of the Backend of that key, for every proxy in the same way.
func Endpoint(backend string, address netip.AddrPort) string {
	return digest(endpointLength, backend, address.String())
}

// Backend names a backend of the rule with that key, so that rules do not share sessions.
func Backend(route, backend string) string { return digest(backendLength, route, backend) }

func digest(length int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:length]
}

// ValidEndpoint tells whether s has the form of what Endpoint returns.
func ValidEndpoint(s string) bool { return named(s, endpointLength) }

func named(s string, length int) bool {
	return len(s) == length && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}) < 0
}

// String returns the token as clients carry it.
func (t Token) String() string {
	s := t.Endpoint
	if t.Backend != "" {
		s = t.Backend + "." + s
	}
	if !t.Issued.IsZero() {
		s += "." + strconv.FormatInt(t.Issued.Unix(), 10)
	}
	return s
}

// parse reads what String has written. Anything else is no token.
func parse(s string) (t Token, ok bool) {
	first, rest, more := strings.Cut(s, ".")
	if more && named(first, backendLength) {
		t.Backend = first
		first, rest, more = strings.Cut(rest, ".")
	}
	t.Endpoint = first
	if more {
		seconds, err := strconv.ParseUint(rest, 10, 36)
		if err != nil {
			return Token{}, false
		}
		t.Issued = time.Unix(int64(seconds), 0)
	}
	return t, ValidEndpoint(t.Endpoint)
}

// RequestField returns the name of the header that a client's token is in.
func RequestField(p *wire.SessionPersistence) string {
	if p.Type == wire.SessionHeader {
		return p.Name
	}
	return "Cookie"
}

// Find returns the token in the values of RequestField, or none if there is none that is in force. ofRoute
// tells whether the session is a route's. Of several the first counts.
func Find(p *wire.SessionPersistence, ofRoute bool, values []string, now time.Time) Token {
	for _, value := range values {
		if p.Type == wire.SessionHeader {
			if t, ok := accept(p, ofRoute, value, now); ok {
				return t
			}
			continue
		}
		for pair := range strings.SplitSeq(value, ";") {
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if name != p.Name {
				continue
			}
			if t, ok := accept(p, ofRoute, strings.Trim(value, `"`), now); ok {
				return t
			}
		}
	}
	return Token{}
}

func accept(p *wire.SessionPersistence, ofRoute bool, value string, now time.Time) (Token, bool) {
	t, ok := parse(value)
	if !ok || ofRoute != (t.Backend != "") {
		return Token{}, false
	}
	if p.AbsoluteTimeout == 0 {
		return t, true
	}
	age := now.Sub(t.Issued)
	return t, !t.Issued.IsZero() && age >= -skew && age < time.Duration(p.AbsoluteTimeout)
}

// Next returns the token of a client whose request was answered by an endpoint of a backend, which is empty
// in the session of a Service, and the field of the response that tells the client. There is none if the
// client has the token in a cookie already; a header is repeated, because a client takes it from its last
// response. Another endpoint begins another session.
func Next(p *wire.SessionPersistence, sent Token, backend, endpoint string, now time.Time) (next Token, field phttp.Field, tell bool) {
	next = Token{Backend: backend, Endpoint: endpoint}
	stays := sent.Backend == backend && sent.Endpoint == endpoint
	switch {
	case stays:
		next.Issued = sent.Issued
	case p.AbsoluteTimeout > 0:
		next.Issued = now.Truncate(time.Second)
	}
	if p.Type == wire.SessionHeader {
		return next, phttp.Field{Name: p.Name, Value: next.String()}, true
	}
	return next, phttp.Field{Name: "Set-Cookie", Value: cookie(p, next)}, !stays
}

// cookie returns the value of Set-Cookie (RFC 6265 section 4.1). Secure is left out: inside the mesh
// applications speak plain HTTP, and a client would never send such a cookie back. SameSite is Lax because
// Strict would make each visit that begins on another site lose its session; the cookie grants nothing that
// another site could abuse.
func cookie(p *wire.SessionPersistence, t Token) string {
	value := p.Name + "=" + t.String()
	if p.Path != "" {
		value += "; Path=" + p.Path
	}
	if p.Permanent {
		value += "; Max-Age=" + strconv.FormatInt(int64(time.Duration(p.AbsoluteTimeout)/time.Second), 10)
	}
	return value + "; HttpOnly; SameSite=Lax"
}

// Check reports why session persistence cannot be applied.
func Check(p *wire.SessionPersistence) error {
	if p == nil {
		return nil
	}
	var err error
	switch p.Type {
	case wire.SessionCookie:
		err = checkCookie(p)
	case wire.SessionHeader:
		err = checkHeader(p)
	default:
		err = fmt.Errorf("type %q is not known", p.Type)
	}
	switch {
	case err != nil:
	case p.AbsoluteTimeout < 0:
		err = fmt.Errorf("absoluteTimeout is negative: %s", time.Duration(p.AbsoluteTimeout))
	case p.Permanent && time.Duration(p.AbsoluteTimeout) < time.Second:
		err = errors.New("a permanent cookie needs an absoluteTimeout of at least a second")
	}
	if err != nil {
		return fmt.Errorf("sessionPersistence: %w", err)
	}
	return nil
}

func checkCookie(p *wire.SessionPersistence) error {
	lower := strings.ToLower(p.Name)
	switch {
	case !phttp.IsToken(p.Name):
		return fmt.Errorf("cookie name %q is no token", p.Name)
	case strings.HasPrefix(lower, "__secure-"), strings.HasPrefix(lower, "__host-"):
		// RFC 6265bis section 4.1.3.
		return fmt.Errorf("cookie name %q asks clients to refuse cookies without Secure", p.Name)
	case p.Path != "" && p.Path[0] != '/':
		return fmt.Errorf("path %q does not begin with a slash", p.Path)
	case strings.ContainsFunc(p.Path, func(c rune) bool { return c < ' ' || c == ';' || c > '~' }):
		return fmt.Errorf("path %q has characters that a cookie cannot have", p.Path)
	}
	return nil
}

func checkHeader(p *wire.SessionPersistence) error {
	switch {
	case strings.EqualFold(p.Name, "cookie"), strings.EqualFold(p.Name, "set-cookie"):
		return fmt.Errorf("header %q is for cookies", p.Name)
	}
	return phttp.Modifiable(p.Name)
}
