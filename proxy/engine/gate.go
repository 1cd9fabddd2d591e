package engine

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
)

// gate turns the request into a head that may be routed, or says why it is
// refused. What it lets through is what is matched and what is forwarded. net/http itself refuses
// invalid names and values, more than one Host, a missing Host in HTTP/1.1, unknown transfer codings and
// headers of more than maxHeaderBytes. It is lenient about bare line feeds and about Content-Length beside
// Transfer-Encoding; neither can hide a request, because what is forwarded is written anew. Package h1 refuses
// all of it. memory is where the header of the head may lie.
//
// Headers that tell of the client's address (X-Forwarded-For, Forwarded) are the application's own here:
// they are neither added nor removed nor believed.
func (x *exchange) gate(memory phttp.Header) (phttp.Request, reason.Reason, error) {
	r := x.r
	head := phttp.Request{Method: r.Method, Scheme: "http", Authority: r.Host}
	if r.Method == http.MethodConnect {
		return head, reason.MethodUnsupported, fmt.Errorf("method %s", r.Method)
	}
	target, err := originForm(r)
	if err != nil {
		return head, reason.BadRequest, err
	}
	if err := head.SetTarget(target); err != nil {
		return head, reason.BadRequest, err
	}
	// HTTP/2 knows the authority twice (RFC 9113 section 8.3.1).
	if r.Host != "" {
		if err := phttp.CheckAuthority(r.Host); err != nil {
			return head, reason.BadRequest, err
		}
	}
	for _, host := range r.Header["Host"] { // the one name that our own servers leave there
		if !strings.EqualFold(host, r.Host) {
			return head, reason.BadRequest, fmt.Errorf("host %q differs from authority %q", host, r.Host)
		}
	}
	fields := 0
	for i := range x.fields {
		if !phttp.Internal(x.fields[i].Name) { // what proxies add must not be what is too much
			fields++
		}
	}
	if fields > maxHeaderFields {
		return head, reason.HeaderTooLarge, fmt.Errorf("%d header fields", fields)
	}
	if x.webSocket && (r.ContentLength != 0 || r.Method != http.MethodGet) {
		// What would be left of a body could be taken for the upgraded protocol.
		return head, reason.BadRequest, fmt.Errorf("upgrade of a %s request of length %d", r.Method, r.ContentLength)
	}
	head.Header = append(slices.Grow(memory[:0], len(x.fields)+2), x.fields...)
	phttp.StripHopByHop(&head.Header, x.webSocket)
	phttp.StripInternal(&head.Header)
	if !x.webSocket {
		// It belongs to the upgrade to h2c, which is never forwarded: the requests in it would pass by
		// all rules.
		head.Header.Del("HTTP2-Settings")
	}
	if !head.CountForward() {
		return head, reason.MethodUnsupported, fmt.Errorf("%s with Max-Forwards: 0", r.Method)
	}
	return head, "", nil
}

// listed returns a header of net/http as a list, without Host.
func listed(header http.Header) phttp.Header {
	list := make(phttp.Header, 0, len(header)+2)
	for name, values := range header {
		if name == "Host" {
			continue
		}
		for _, value := range values {
			list.Add(name, value)
		}
	}
	return list
}

// originForm returns the request target without scheme and authority. Only HTTP/1.1 has the absolute
// form (RFC 9112 section 3.2.2); net/http has taken the authority from it.
func originForm(r *http.Request) (string, error) {
	target := r.RequestURI
	if r.ProtoMajor != 1 || strings.HasPrefix(target, "/") || target == "*" {
		return target, nil
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") {
		return "", fmt.Errorf("target %q has no form that a server takes", target)
	}
	authority, path := rest, "/"
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	switch {
	case authority == "":
		// net/http takes Host instead.
		return "", fmt.Errorf("target %q has no host", target)
	case strings.Contains(authority, "@"):
		return "", fmt.Errorf("target %q names a user", target)
	case path == "/" && r.Method == http.MethodOptions && len(rest) == len(authority):
		return "*", nil // RFC 9112 section 3.2.4
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path, nil
}

// isWebSocket tells whether a request asks for the one upgrade that is forwarded. All others are
// ignored, as a server may (RFC 9110 section 7.8).
func isWebSocket(r *http.Request, fields phttp.Header) bool {
	if r.ProtoMajor != 1 || r.ProtoMinor == 0 {
		return false
	}
	if upgrade, ok := fields.Single("Upgrade"); !ok || !strings.EqualFold(upgrade, "websocket") {
		return false
	}
	for _, value := range fields.Values("Connection") {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), "upgrade") {
				return true
			}
		}
	}
	return false
}
