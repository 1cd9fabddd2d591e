package http

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// Names of the Fetch standard's CORS protocol.
const (
	headerOrigin           = "Origin"
	headerRequestMethod    = "Access-Control-Request-Method"
	headerRequestHeaders   = "Access-Control-Request-Headers"
	headerAllowOrigin      = "Access-Control-Allow-Origin"
	headerAllowCredentials = "Access-Control-Allow-Credentials"
	headerAllowMethods     = "Access-Control-Allow-Methods"
	headerAllowHeaders     = "Access-Control-Allow-Headers"
	headerExposeHeaders    = "Access-Control-Expose-Headers"
	headerMaxAge           = "Access-Control-Max-Age"
)

// cors is a CORS filter (HTTPCORSFilter).
type cors struct {
	anyOrigin   bool
	origins     []originPattern
	credentials bool
	// methods, headers and expose are field values, "" for none and "*" for all.
	methods, headers, expose string
	maxAge                   string
}

// defaultMaxAge in seconds: HTTPCORSFilter.maxAge.
const defaultMaxAge = 5

func newCORS(c *wire.CORS) (*cors, error) {
	f := &cors{
		credentials: c.AllowCredentials,
		methods:     strings.Join(c.AllowMethods, ", "),
		headers:     strings.Join(c.AllowHeaders, ", "),
		expose:      strings.Join(c.ExposeHeaders, ", "),
		maxAge:      strconv.Itoa(defaultMaxAge),
	}
	if c.MaxAge > 0 {
		f.maxAge = strconv.Itoa(int(c.MaxAge))
	}
	for _, list := range [][]string{c.AllowMethods, c.AllowHeaders, c.ExposeHeaders} {
		for _, name := range list {
			if !IsToken(name) {
				return nil, fmt.Errorf("CORS: %q is no token", name)
			}
			if name == "*" && len(list) > 1 {
				return nil, fmt.Errorf("CORS: %q beside other values", name)
			}
		}
	}
	for _, origin := range c.AllowOrigins {
		if origin == "*" {
			f.anyOrigin = true
			continue
		}
		pattern, err := parseOriginPattern(origin)
		if err != nil {
			return nil, fmt.Errorf("CORS: %w", err)
		}
		f.origins = append(f.origins, pattern)
	}
	return f, nil
}

// isPreflight: a browser's question whether it may send another request (Fetch section 3.3.2).
func isPreflight(req *Request) bool {
	return req.Method == "OPTIONS" && req.Header.Has(headerOrigin) && req.Header.Has(headerRequestMethod)
}

// corsOrigin returns the value of a request's Origin, "" if there is none, more than one, or one that
// cannot be put into a response.
func corsOrigin(h Header) string {
	value := ""
	for _, f := range h {
		if !equalFold(f.Name, headerOrigin) {
			continue
		}
		if value != "" || strings.ContainsFunc(f.Value, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }) {
			return ""
		}
		value = f.Value
	}
	return value
}

// preflight answers a preflight request, but for what response adds to every response. One from an
// origin that is not allowed is answered without CORS headers, upon which the browser does not send
// the request; it never reaches a backend.
func (f *cors) preflight(origin string, req *Request) *Response {
	res := &Response{Status: 204}
	if !f.allows(origin) {
		return res
	}
	// A wildcard means nothing to a browser that sends credentials, so it is told what it asked for.
	methods, headers := f.methods, f.headers
	if f.credentials && methods == "*" {
		methods = echoTokens(req.Header.Values(headerRequestMethod))
	}
	if f.credentials && headers == "*" {
		headers = echoTokens(req.Header.Values(headerRequestHeaders))
	}
	if methods != "" {
		res.Header.Add(headerAllowMethods, methods)
	}
	if headers != "" {
		res.Header.Add(headerAllowHeaders, headers)
	}
	res.Header.Add(headerMaxAge, f.maxAge)
	return res
}

// response says who may read a response, in place of what the application may have said: two answers
// would make browsers refuse, and the application's alone would undo the route's.
func (f *cors) response(origin string, res *Response) {
	for _, name := range []string{headerAllowOrigin, headerAllowCredentials, headerExposeHeaders} {
		res.Header.Del(name)
	}
	expose := f.expose
	if f.credentials && expose == "*" {
		expose = exposable(res.Header)
	}
	allowed := "*"
	if !f.anyOrigin || f.credentials {
		addVary(&res.Header, headerOrigin)
		allowed = origin
	}
	if !f.allows(origin) {
		return
	}
	res.Header.Add(headerAllowOrigin, allowed)
	if f.credentials {
		res.Header.Add(headerAllowCredentials, "true")
	}
	if expose != "" {
		res.Header.Add(headerExposeHeaders, expose)
	}
}

// allows tells whether a request came from an origin that may read responses. A request without Origin
// did not, but "*" is sent to it too: it does not vary, so caches may keep it for others.
func (f *cors) allows(origin string) bool {
	if f.anyOrigin {
		return origin != "" || !f.credentials
	}
	o, ok := parseOrigin(origin)
	return ok && slices.ContainsFunc(f.origins, func(p originPattern) bool { return p.matches(o) })
}

// addVary tells caches that a response depends on a request header (RFC 9110 section 12.5.5).
func addVary(h *Header, name string) {
	for _, f := range *h {
		if equalFold(f.Name, "vary") && (listHas(f.Value, name) || listHas(f.Value, "*")) {
			return
		}
	}
	h.Add("Vary", name)
}

// echoTokens returns the members of lists as one list, "" if one of them is no token.
func echoTokens(lists []string) string {
	var tokens []string
	for _, list := range lists {
		for member := range strings.SplitSeq(list, ",") {
			member = strings.Trim(member, " \t")
			if !IsToken(member) {
				return ""
			}
			tokens = append(tokens, member)
		}
	}
	return strings.Join(tokens, ", ")
}

// exposable lists the names of a response's headers, which is what "*" means where credentials forbid
// to say "*". Set-Cookie is never shown to scripts (Fetch, forbidden response-header name).
func exposable(h Header) string {
	var names []string
	for _, f := range h {
		if equalFold(f.Name, "set-cookie") || hasPrefixFold(f.Name, "access-control-") ||
			slices.ContainsFunc(names, func(n string) bool { return equalFold(n, f.Name) }) {
			continue
		}
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// origin is a scheme, a host and a port, all in lower case.
type origin struct{ scheme, host, port string }

// originPattern is an allowed origin. With wildcard, host is what the origin's host must end with.
type originPattern struct {
	origin
	wildcard bool
}

// parseOriginPattern parses "<scheme>://<host>(:<port>)", where host may be "*" or begin with "*.".
func parseOriginPattern(s string) (originPattern, error) {
	o, ok := parseOrigin(s)
	if !ok {
		return originPattern{}, fmt.Errorf("allowed origin %q is no origin", s)
	}
	p := originPattern{origin: o}
	if host, ok := strings.CutPrefix(o.host, "*"); ok && (host == "" || host[0] == '.' && len(host) > 1) {
		p.host, p.wildcard = host, true
	}
	if strings.Contains(p.host, "*") {
		return originPattern{}, fmt.Errorf("allowed origin %q has a wildcard that does not stand for whole labels on the left", s)
	}
	return p, nil
}

// matches: a wildcard stands for one label or more.
func (p *originPattern) matches(o origin) bool {
	if p.scheme != o.scheme || p.port != o.port {
		return false
	}
	if p.wildcard {
		return len(o.host) > len(p.host) && strings.HasSuffix(o.host, p.host)
	}
	return p.host == o.host
}

// parseOrigin parses a serialized http or https origin; the port that a scheme implies is filled in.
func parseOrigin(s string) (o origin, ok bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok || scheme != "http" && scheme != "https" {
		return origin{}, false
	}
	host, port := splitAuthority(rest)
	switch {
	case len(host) == len(rest):
		port = wellKnownPort(scheme)
	default:
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return origin{}, false
		}
		port = strconv.FormatUint(n, 10)
	}
	if host == "" || strings.ContainsAny(host, "/?#@\\ ,") || strings.Contains(host, ":") && host[0] != '[' {
		return origin{}, false
	}
	return origin{scheme: scheme, host: host, port: port}, true
}
