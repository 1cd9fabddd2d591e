package h1

import (
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

// Limits of heads. Targets have none of their own: they are part of the head.
const (
	maxMethod = 32
	// MaxRequestHead and MaxRequestFields bound the head of a request.
	MaxRequestHead   = 64 << 10
	MaxRequestFields = 100
)

// Request is the head of a request.
type Request struct {
	Method string
	// Target is in origin form ("/path?query") or "*"; for CONNECT it is as received.
	Target string
	// Authority is the Host or, what is the same, the authority of a target in absolute form. Only in
	// HTTP/1.0 may it be empty, or where the Host was sent empty.
	Authority string
	// Minor is the second number of the version, 0 or 1.
	Minor uint8
	// Header has all fields but Host, as received.
	Header phttp.Header
	// ContentLength is the length of the body, -1 if it is chunked.
	ContentLength int64
	// Close tells that the client sends nothing more on this connection.
	Close bool
	// Continue tells that the client waits for 100 Continue before it sends the body.
	Continue bool
	// Upgrade tells that the client asks for another protocol on this connection.
	Upgrade bool
}

// parse reads a complete head: lines that end with CR LF, the last of them empty. Memory of r.Header is
// reused. The strings of the result are parts of head.
func (r *Request) parse(head string) *Error {
	fields := r.Header[:0]
	*r = Request{Header: fields}
	end := strings.IndexByte(head, '\n')
	if err := r.parseLine(head[:end-1]); err != nil {
		return err
	}
	var f facts
	var err *Error
	if r.Header, f, err = parseFields(head[end+1:], fields, MaxRequestFields); err != nil {
		return err
	}
	if err := r.authorize(&f); err != nil {
		return err
	}
	length, err := f.framing(r.Minor)
	if err != nil {
		return err
	}
	// A request without either has no body (RFC 9112 section 6.3).
	r.ContentLength = max(length, lengthChunked)
	if length == lengthNone {
		r.ContentLength = 0
	}
	if f.expectBad {
		return errExpect
	}
	if r.Minor == 0 {
		// A proxy does not keep connections of HTTP/1.0 (RFC 9112 section 9.3), and ignores what that version
		// does not know (RFC 9110 sections 7.8 and 10.1.1).
		r.Close = true
		return nil
	}
	r.Close = f.closing
	r.Continue = f.expects && r.ContentLength != 0
	r.Upgrade = f.upgrading && f.upgrades > 0
	return nil
}

// parseLine reads the request line (RFC 9112 section 3).
func (r *Request) parseLine(line string) *Error {
	method, rest, ok := strings.Cut(line, " ")
	if !ok {
		return errRequestLine
	}
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok || target == "":
		return errRequestLine
	case len(method) > maxMethod || !phttp.IsToken(method):
		return errMethod
	case !phttp.TargetOctets.All(target):
		return errTarget
	}
	switch version {
	case "HTTP/1.1":
		r.Minor = 1
	case "HTTP/1.0":
	default:
		if isVersion(version) {
			return errVersion
		}
		return errRequestLine
	}
	r.Method, r.Target = method, target
	return nil
}

// isVersion tells whether s is an HTTP version, whichever (RFC 9112 section 2.3).
func isVersion(s string) bool {
	return len(s) == len("HTTP/1.1") && strings.HasPrefix(s, "HTTP/") && phttp.IsDigit(s[5]) && s[6] == '.' && phttp.IsDigit(s[7])
}

// authorize finds the authority and brings the target into origin form.
func (r *Request) authorize(f *facts) *Error {
	switch {
	case f.hosts == 0 && r.Minor > 0:
		return errHostMissing
	case f.host != "" && phttp.CheckAuthority(f.host) != nil:
		return errHost
	}
	r.Authority = f.host
	if r.Target[0] == '/' || r.Target == "*" || r.Method == "CONNECT" {
		return nil
	}
	scheme, rest, ok := strings.Cut(r.Target, "://")
	if !ok || !equalFold(scheme, "http") {
		return errTarget
	}
	authority, path := rest, "/"
	if r.Method == "OPTIONS" {
		path = "*" // RFC 9112 section 3.2.4
	}
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	switch {
	case phttp.CheckAuthority(authority) != nil:
		return errTarget
	case f.hosts > 0 && !strings.EqualFold(authority, f.host):
		return errHostDiffers
	case path[0] == '?' || path[0] == '#':
		path = "/" + path
	}
	r.Authority, r.Target = authority, path
	return nil
}
