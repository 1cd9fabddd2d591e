package http

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Field is one field line of a header: a name, in the case in which it was received, and a value
// without surrounding whitespace.
type Field struct{ Name, Value string }

// Header is a list of field lines in the order in which they were received. Names are compared without
// regard to case (RFC 9110 section 5.1). It holds neither Host nor pseudo-header fields; the authority
// is a part of Request.
//
// The methods with a pointer receiver work in place: whoever shares the slice must Clone it first.
type Header []Field

// Get returns the value of the first line called name, or "".
func (h Header) Get(name string) string {
	for i := range h {
		if equalFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has tells whether there is a line called name, even an empty one.
func (h Header) Has(name string) bool {
	return slices.ContainsFunc(h, func(f Field) bool { return equalFold(f.Name, name) })
}

// Single returns the value of the line called name; it is not ok if there is none, or more than one.
func (h Header) Single(name string) (value string, ok bool) {
	for i := range h {
		if !equalFold(h[i].Name, name) {
			continue
		}
		if ok {
			return "", false
		}
		value, ok = h[i].Value, true
	}
	return value, ok
}

// Values returns the values of all lines called name in order, nil if there are none.
func (h Header) Values(name string) []string {
	var values []string
	for i := range h {
		if equalFold(h[i].Name, name) {
			values = append(values, h[i].Value)
		}
	}
	return values
}

// Set replaces all lines called name by one, which takes the place of the first.
func (h *Header) Set(name, value string) {
	for i := range *h {
		if equalFold((*h)[i].Name, name) {
			(*h)[i] = Field{Name: name, Value: value}
			h.delFrom(i+1, name)
			return
		}
	}
	h.Add(name, value)
}

// Add appends a line. Repeated lines mean the same as one with their values joined by commas (RFC 9110
// section 5.3), and unlike the joined form they are right for Set-Cookie too.
func (h *Header) Add(name, value string) { *h = append(*h, Field{Name: name, Value: value}) }

// Del removes all lines called name.
func (h *Header) Del(name string) { h.delFrom(0, name) }

func (h *Header) delFrom(start int, name string) {
	rest := (*h)[start:]
	kept := slices.DeleteFunc(rest, func(f Field) bool { return equalFold(f.Name, name) })
	*h = (*h)[:start+len(kept)]
}

// Clone returns a copy that shares no memory with h.
func (h Header) Clone() Header { return slices.Clone(h) }

// Request is the head of a request.
type Request struct {
	// Method is case-sensitive.
	Method string
	// Scheme is "http" or "https", as the client used it.
	Scheme string
	// Authority is the Host header or the :authority pseudo-header: a host with an optional port.
	Authority string
	// Path is the normalised path, as it is matched and forwarded; "*" for OPTIONS * alone.
	Path string
	// RawQuery is what follows the first '?', as received. HasQuery tells "/a?" from "/a".
	RawQuery string
	HasQuery bool
	Header   Header
}

// Response is the head of a response.
type Response struct {
	Status int
	Header Header
}

var errTarget = errors.New("invalid request target")

// SetTarget fills in path and query from a request target in origin form ("/path?query") or asterisk
// form ("*", for OPTIONS alone), the path normalised by NormalizePath. The error says why a client
// deserves a 400; the request is then unchanged.
func (r *Request) SetTarget(target string) error {
	path, query, hasQuery := strings.Cut(target, "?")
	if path == "*" {
		if r.Method != "OPTIONS" || hasQuery {
			return fmt.Errorf("%w: asterisk form with method %q", errTarget, r.Method)
		}
		r.Path, r.RawQuery, r.HasQuery = path, "", false
		return nil
	}
	path, err := NormalizePath(path)
	if err != nil {
		return err
	}
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == '#' || c == 0x7f {
			return fmt.Errorf("%w: byte %#02x in query", errTarget, c)
		}
	}
	r.Path, r.RawQuery, r.HasQuery = path, query, hasQuery
	return nil
}

// CountForward counts Max-Forwards down, which only TRACE and OPTIONS have (RFC 9110 section 7.6.2). It is
// false if the request must go no further. A value that is no number has no meaning and stays.
func (r *Request) CountForward() bool {
	if r.Method != "TRACE" && r.Method != "OPTIONS" {
		return true
	}
	left, err := strconv.ParseUint(r.Header.Get("Max-Forwards"), 10, 31)
	if err != nil {
		return true
	}
	if left == 0 {
		return false
	}
	r.Header.Set("Max-Forwards", strconv.FormatUint(left-1, 10))
	return true
}

// Target returns path and query as they are sent on.
func (r *Request) Target() string {
	if !r.HasQuery {
		return r.Path
	}
	return r.Path + "?" + r.RawQuery
}

// Clone returns a copy that shares no memory with r.
func (r *Request) Clone() Request {
	c := *r
	c.Header = r.Header.Clone()
	return c
}

// copyTo makes dst equal to r and reuses the memory of dst.Header.
func (r *Request) copyTo(dst *Request) {
	memory := dst.Header[:0]
	*dst = *r
	dst.Header = memory
	dst.Header = append(dst.Header, r.Header...)
}

// equalFold compares ASCII strings without regard to case. Header names are tokens, so no other letters
// need folding, and most differ in length.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
