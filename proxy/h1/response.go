package h1

import (
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

const (
	// MaxResponseHead and maxResponseFields bound the head of a response.
	MaxResponseHead   = 256 << 10
	maxResponseFields = 1000
)

// Response is the head of a response.
type Response struct {
	phttp.Response
	// Minor is the second number of the version, 0 or 1.
	Minor uint8
	// ContentLength is the length of the body, -1 if it is not known before its end. The response to HEAD and
	// the like has none, whatever it says; what it says is in Header.
	ContentLength int64

	// length is how the body is framed.
	length int64
	// closing tells that the backend takes no other request on this connection.
	closing bool
	// upgraded tells that another protocol follows the head.
	upgraded bool
}

// parse reads a complete head as Request.parse does. method is that of the request, and upgrade tells that it
// has asked for another protocol.
func (r *Response) parse(head, method string, upgrade bool) *Error {
	fields := r.Header[:0]
	*r = Response{}
	r.Header = fields
	end := strings.IndexByte(head, '\n')
	if err := r.parseLine(head[:end-1]); err != nil {
		return err
	}
	var f facts
	var err *Error
	if r.Header, f, err = parseFields(head[end+1:], fields, maxResponseFields); err != nil {
		return err
	}
	if f.hosts > 0 {
		// It means nothing in a response, but is the application's.
		r.Header.Add("Host", f.host)
	}
	length, err := f.framing(r.Minor)
	if err != nil {
		return err
	}
	r.closing = f.closing || r.Minor == 0
	r.upgraded = r.Status == 101
	if r.upgraded && (!upgrade || !f.upgrading || f.upgrades != 1) {
		return errSwitch
	}
	// RFC 9112 section 6.3, in its order.
	switch {
	case r.Status < 200 || r.Status == 204 || r.Status == 304 || method == "HEAD":
		length = 0
	case length == lengthNone:
		length, r.closing = lengthToEnd, true
	}
	r.length, r.ContentLength = length, max(length, -1)
	return nil
}

var errSwitch = malformed("a switch of protocols was not asked for, or does not say to which (RFC 9110 section 15.2.2)")

// parseLine reads the status line (RFC 9112 section 4). Servers that have no reason phrase often leave out the
// space before it as well, which nothing else can be taken for.
func (r *Response) parseLine(line string) *Error {
	const version, digits = len("HTTP/1.1"), 3
	if len(line) < version+1+digits || line[version] != ' ' {
		return errStatusLine
	}
	if !isVersion(line[:version]) || line[5] != '1' {
		return errStatusLine
	}
	if line[7] != '0' {
		r.Minor = 1 // a later one is understood like the last that is known (RFC 9110 section 6.2)
	}
	for _, c := range []byte(line[version+1 : version+1+digits]) {
		if !phttp.IsDigit(c) {
			return errStatusLine
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	reason := line[version+1+digits:]
	if r.Status < 100 || reason != "" && reason[0] != ' ' || !phttp.ValueOctets.All(reason) {
		return errStatusLine
	}
	return nil
}
