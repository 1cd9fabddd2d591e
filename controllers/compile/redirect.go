package compile

import (
	"regexp"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// redirectStatuses are those that the API allows.
var redirectStatuses = []int{301, 302, 303, 307, 308}

const defaultRedirectStatus = 302

// redirectFilter compiles a RequestRedirect. prefixOnly tells whether ReplacePrefixMatch can be used.
func redirectFilter(r *gwv1.HTTPRequestRedirectFilter, prefixOnly bool) (*wire.Redirect, *fault) {
	scheme := valueOr(r.Scheme, "")
	port := valueOr(r.Port, 0)
	status := valueOr(r.StatusCode, defaultRedirectStatus)
	switch {
	case !slices.Contains([]string{"", "http", "https"}, scheme):
		return nil, unsupported("scheme", "%q is not supported", scheme)
	case port < 0 || port > 65535:
		return nil, unsupported("port", "%d is not a port", port)
	case !slices.Contains(redirectStatuses, status):
		return nil, unsupported("statusCode", "%d is not supported", status)
	}
	path, f := pathModifier(r.Path, prefixOnly)
	if f != nil {
		return nil, f.under("path")
	}
	hostname, f := preciseHostname(r.Hostname)
	if f != nil {
		return nil, f
	}
	return &wire.Redirect{
		Scheme:   scheme,
		Hostname: hostname,
		Port:     uint16(port),
		Path:     path,
		Status:   status,
	}, nil
}

// rewriteFilter compiles a URLRewrite. prefixOnly tells whether ReplacePrefixMatch can be used.
func rewriteFilter(r *gwv1.HTTPURLRewriteFilter, prefixOnly bool) (*wire.URLRewrite, *fault) {
	path, f := pathModifier(r.Path, prefixOnly)
	if f != nil {
		return nil, f.under("path")
	}
	hostname, f := preciseHostname(r.Hostname)
	if f != nil {
		return nil, f
	}
	return &wire.URLRewrite{Hostname: hostname, Path: path}, nil
}

// hostnameForm is what the API allows as a hostname without wildcards.
var hostnameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// preciseHostname reads the field hostname of a filter; absent and empty are the same.
func preciseHostname(h *gwv1.PreciseHostname) (string, *fault) {
	hostname := string(valueOr(h, ""))
	if hostname != "" && !hostnameForm.MatchString(hostname) {
		return "", unsupported("hostname", "%q is not a hostname", hostname)
	}
	return hostname, nil
}

func pathModifier(m *gwv1.HTTPPathModifier, prefixOnly bool) (*wire.PathModifier, *fault) {
	switch {
	case m == nil:
		return nil, nil
	case m.Type == gwv1.FullPathHTTPPathModifier && m.ReplaceFullPath != nil:
		path := *m.ReplaceFullPath
		return &wire.PathModifier{ReplaceFullPath: &path}, badReplacement("replaceFullPath", path)
	case m.Type == gwv1.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil:
		if !prefixOnly {
			return nil, incompatible("replacePrefixMatch", "every match of the rule must be a PathPrefix")
		}
		path := *m.ReplacePrefixMatch
		return &wire.PathModifier{ReplacePrefixMatch: &path}, badReplacement("replacePrefixMatch", path)
	default:
		return nil, unsupported("type", "%q is not supported", m.Type)
	}
}

// badReplacement accepts what could be matched. The first slash may be left out, so an empty path stands
// for "/".
func badReplacement(field, path string) *fault {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return badPath(field, path)
}
