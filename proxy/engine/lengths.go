package engine

import (
	"bytes"
	"net/http"
	"sync/atomic"
)

// lengthLines counts the lines of a connection that give a length. net/http hides that a request has had both
// a length and a coding, after which the connection must end, since somebody in front of this proxy may have
// taken the length for true (RFC 9112 section 6.1). Lines of bodies count as well: a connection may end that
// need not have, and none goes on that must end.
type lengthLines struct {
	// started tells that something was read, off that the connection is not HTTP/1.
	started, off bool
	// at is the place in contentLength up to which the present line is equal, -1 if it is not.
	at int
	// outstanding are lines that no request has accounted for. Requests ask while net/http reads on.
	outstanding atomic.Int64
}

const contentLength = "content-length"

// read looks at bytes in the order in which they come.
func (l *lengthLines) read(p []byte) {
	if !l.started && len(p) > 0 {
		// Only the preface of HTTP/2 begins so; a request that does is none.
		l.started, l.off = true, bytes.HasPrefix(p, []byte("PRI "))
	}
	if l.off {
		return
	}
	for len(p) > 0 {
		if l.at < 0 {
			end := bytes.IndexByte(p, '\n')
			if end < 0 {
				return
			}
			p, l.at = p[end+1:], 0
			continue
		}
		c := p[0]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		switch {
		case c == '\n':
			l.at = 0
		case c != contentLength[l.at]:
			l.at = -1
		case l.at == len(contentLength)-1:
			l.outstanding.Add(1)
			l.at = -1
		default:
			l.at++
		}
		p = p[1:]
	}
}

// ambiguous tells whether the end of a request may be understood in two ways, so that nothing else may come
// on its connection: one of HTTP/1.0, whose connections no proxy keeps (RFC 9112 section 9.3) and whose
// codings net/http ignores, or a coding and a length.
func ambiguous(c *conn, r *http.Request) bool {
	switch {
	case r.ProtoMajor != 1:
		return false
	case r.ProtoMinor == 0:
		return true
	case len(r.TransferEncoding) > 0:
		return c.lengths.outstanding.Load() > 0
	}
	c.lengths.outstanding.Add(-int64(len(r.Header["Content-Length"])))
	return false
}
