package http

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// redirect is a RequestRedirect filter.
type redirect struct {
	scheme, host string
	port         uint16
	path         pathModifier
	status       int
}

func newRedirect(r *wire.Redirect, prefixOnly bool) (*redirect, error) {
	if !slices.Contains([]string{"", "http", "https"}, r.Scheme) {
		return nil, fmt.Errorf("redirect scheme %q is not supported", r.Scheme)
	}
	// HTTPRequestRedirectFilter.statusCode defaults to 302.
	status := cmp.Or(r.Status, 302)
	if !slices.Contains([]int{301, 302, 303, 307, 308}, status) {
		return nil, fmt.Errorf("redirect status %d is not supported", status)
	}
	if r.Hostname != "" && !isHost(r.Hostname) {
		return nil, fmt.Errorf("redirect hostname %q is no host", r.Hostname)
	}
	path, err := newPathModifier(r.Path, prefixOnly)
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return &redirect{scheme: r.Scheme, host: r.Hostname, port: r.Port, path: path, status: status}, nil
}

// answer builds the redirection. The query stays as it is.
func (r *redirect) answer(prefix string, port uint16, req *Request) *Response {
	target := *req
	target.Path, _ = r.path.apply(prefix, req.Path)
	location := target.Target()
	if authority := r.authority(port, req); authority != "" {
		location = r.schemeOf(req) + "://" + authority + location
	} else if strings.HasPrefix(location, "//") {
		// Without a host before it, "//a" would lead to host a (RFC 3986 section 4.2).
		location = "/." + location
	}
	return &Response{Status: r.status, Header: Header{{Name: "Location", Value: location}}}
}

func (r *redirect) schemeOf(req *Request) string {
	if r.scheme != "" {
		return r.scheme
	}
	return req.Scheme
}

// authority returns host and port to go to, "" if the client named no host (HTTP/1.0) and a Location
// without one must do. For the port see HTTPRequestRedirectFilter.port: its own, else the well-known one
// of the filter's scheme, else the one that the client called; a well-known one is left out.
func (r *redirect) authority(called uint16, req *Request) string {
	host, given := splitAuthority(req.Authority)
	if r.host != "" {
		host = r.host
	}
	if host == "" {
		return ""
	}
	port := given
	switch {
	case r.port != 0:
		port = strconv.Itoa(int(r.port))
	case r.scheme != "":
		port = ""
	case called != 0:
		port = strconv.Itoa(int(called))
	}
	if port == "" || port == wellKnownPort(r.schemeOf(req)) {
		return host
	}
	return host + ":" + port
}

func wellKnownPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// splitAuthority separates the port, if there is one; a literal IPv6 address keeps its brackets.
func splitAuthority(authority string) (host, port string) {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		return authority[:i], authority[i+1:]
	}
	return authority, ""
}

// rewrite is a URLRewrite filter.
type rewrite struct {
	host string
	path pathModifier
}

func newRewrite(r *wire.URLRewrite, prefixOnly bool) (*rewrite, error) {
	path, err := newPathModifier(r.Path, prefixOnly)
	if err != nil {
		return nil, fmt.Errorf("URL rewrite: %w", err)
	}
	if r.Hostname != "" && !isHost(r.Hostname) {
		return nil, fmt.Errorf("URL rewrite: hostname %q is no host", r.Hostname)
	}
	return &rewrite{host: r.Hostname, path: path}, nil
}

// request returns what a further ReplacePrefixMatch, of a backend, finds in place of prefix.
func (r *rewrite) request(prefix string, req *Request) string {
	if r.host != "" {
		req.Authority = r.host
	}
	req.Path, prefix = r.path.apply(prefix, req.Path)
	return prefix
}

// pathModifier replaces a path or the matched prefix of it; the zero value leaves it alone.
type pathModifier struct {
	full string
	// prefix has no trailing slash. It counts if replacePrefix is set.
	prefix        string
	replacePrefix bool
}

var errNoPrefix = errors.New("ReplacePrefixMatch needs prefix matches alone")

// newPathModifier compiles a path modifier. Values are normalised like every path that is forwarded.
func newPathModifier(m *wire.PathModifier, prefixOnly bool) (pathModifier, error) {
	switch {
	case m == nil:
		return pathModifier{}, nil
	case (m.ReplaceFullPath == nil) == (m.ReplacePrefixMatch == nil):
		return pathModifier{}, errors.New("not exactly one path modifier is set")
	case m.ReplaceFullPath != nil:
		full, err := normalizeReplacement(*m.ReplaceFullPath)
		return pathModifier{full: full}, err
	case !prefixOnly:
		return pathModifier{}, errNoPrefix
	default:
		prefix, err := normalizeReplacement(*m.ReplacePrefixMatch)
		return pathModifier{prefix: strings.TrimSuffix(prefix, "/"), replacePrefix: true}, err
	}
}

// normalizeReplacement normalises a path that a user may have written without its slash.
func normalizeReplacement(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return NormalizePath(path)
}

// apply follows the table at HTTPPathModifier.replacePrefixMatch. It returns the new path and the part
// of it that stands where prefix was.
func (p *pathModifier) apply(prefix, path string) (newPath, newPrefix string) {
	switch {
	case p.full != "":
		return p.full, p.full
	case !p.replacePrefix || path == "*":
		return path, prefix
	}
	rest := strings.TrimPrefix(path, strings.TrimSuffix(prefix, "/"))
	if rest == "/" && prefix == "/" {
		// The path is the prefix, as for "/foo" and "/foo".
		rest = ""
	}
	if p.prefix+rest == "" {
		return "/", "/"
	}
	return p.prefix + rest, cmp.Or(p.prefix, "/")
}

// isHost tells whether s can stand for a host, with or without a port, in an authority.
func isHost(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("/?#@\\", r)
	})
}
