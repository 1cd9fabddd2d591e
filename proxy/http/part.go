package http

import "strings"

// Field returns the value of a header, several lines as one; "host" is the authority. It is "" if there is
// none.
func (r *Request) Field(name string) string {
	if equalFold(name, "host") {
		return r.Authority
	}
	value, _ := r.Header.joined(name)
	return value
}

// Query returns the first value of a query parameter, decoded as in HTML forms; "" if there is none.
func (r *Request) Query(name string) string {
	value, _ := queryValue(r.RawQuery, name)
	return value
}

// Cookie returns the value of the first cookie called name as it was sent (RFC 6265 section 4.2); "" if
// there is none. Names of cookies are case-sensitive.
func (r *Request) Cookie(name string) string {
	for i := range r.Header {
		if !equalFold(r.Header[i].Name, "cookie") {
			continue
		}
		for rest := r.Header[i].Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			if key, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && key == name {
				return value
			}
		}
	}
	return ""
}
