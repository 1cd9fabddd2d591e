package h1

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// appendRequest appends the head of a request. length is that of the body, or one of the constants. upgrade writes the Connection that an
// Upgrade field needs.
func appendRequest(b []byte, r *phttp.Request, length int64, upgrade bool) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Path...)
	if r.HasQuery {
		b = append(b, '?')
		b = append(b, r.RawQuery...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Authority...)
	b = append(b, '\r', '\n')
	if upgrade {
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	return appendFields(b, r.Header, length)
}

// appendResponse appends the head of a response. length is as for appendRequest. closing tells the client that
// the connection ends with it. The reason phrase is net/http's: the application's own means nothing (RFC 9112
// section 4).
func appendResponse(b []byte, r *phttp.Response, length int64, closing bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(r.Status)...)
	b = append(b, '\r', '\n')
	if closing {
		b = append(b, "Connection: close\r\n"...)
	}
	if r.Status >= 200 && !r.Header.Has("Date") {
		// Whoever forwards a response without one adds it (RFC 9110 section 6.6.1).
		b = append(b, "Date: "...)
		b = append(b, date(time.Now())...)
		b = append(b, '\r', '\n')
	}
	return appendFields(b, r.Header, length)
}

// appendFields appends fields as they are, except those of framing, and the empty line.
func appendFields(b []byte, h phttp.Header, length int64) []byte {
	told, kept := length < 0, false
	for i := range h {
		f := &h[i]
		switch len(f.Name) {
		case len("content-length"):
			if equalFold(f.Name, "content-length") {
				if kept || !keepsLength(f.Value, length) {
					continue
				}
				told, kept = true, true
			}
		case len("transfer-encoding"):
			if equalFold(f.Name, "transfer-encoding") {
				continue
			}
		}
		b = appendField(b, f)
	}
	switch {
	case length == lengthChunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case !told:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, '\r', '\n')
	}
	return append(b, '\r', '\n')
}

// keepsLength tells whether a Content-Length stays where it was: if it is true.
func keepsLength(value string, length int64) bool {
	switch length {
	case lengthOther:
		return true
	case lengthChunked, lengthToEnd:
		return false
	case lengthNone:
		return value == "0"
	}
	n, err := parseLength(value)
	return err == nil && n == length
}

// appendField appends one field line. Names and values have been parsed or come from HTTP/2 or configuration,
// all of which check them; a control character here would still be a way to write a second message.
func appendField(b []byte, f *phttp.Field) []byte {
	if !phttp.IsToken(f.Name) || !phttp.ValueOctets.All(f.Value) {
		return b
	}
	b = append(b, f.Name...)
	b = append(b, ':', ' ')
	b = append(b, f.Value...)
	return append(b, '\r', '\n')
}

// appendChunk appends one chunk, not the last.
func appendChunk(b, data []byte) []byte {
	b = strconv.AppendInt(b, int64(len(data)), 16)
	b = append(b, '\r', '\n')
	b = append(b, data...)
	return append(b, '\r', '\n')
}

// appendChunks appends data as a chunk, if there is any, and with last the end of the body.
func appendChunks(b, data []byte, last bool) []byte {
	if len(data) > 0 {
		b = appendChunk(b, data)
	}
	if last {
		b = appendLastChunk(b, nil)
	}
	return b
}

// appendLastChunk ends a chunked body. Fields that must not be in a trailer are left out.
func appendLastChunk(b []byte, trailer phttp.Header) []byte {
	b = append(b, '0', '\r', '\n')
	for i := range trailer {
		if trails(trailer[i].Name) {
			b = appendField(b, &trailer[i])
		}
	}
	return append(b, '\r', '\n')
}

// stamp is the value of Date fields in one second.
type stamp struct {
	second int64
	value  string
}

var present atomic.Pointer[stamp]

// date returns the value of a Date field, which it makes once a second.
func date(at time.Time) string {
	second := at.Unix()
	if s := present.Load(); s != nil && s.second == second {
		return s.value
	}
	s := &stamp{second, at.UTC().Format(http.TimeFormat)}
	present.Store(s)
	return s.value
}
