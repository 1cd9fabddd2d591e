package http

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// source says where in a request a condition looks.
type source byte

const (
	fromHeader source = iota
	fromQuery
)

// conditionKey names a header, in lower case, or a query parameter.
type conditionKey struct {
	source source
	name   string
}

// condition compares one header or query parameter with an exact value or an expression.
type condition struct {
	key   conditionKey
	exact string
	regex *regexp.Regexp
}

// newConditions compiles header or query matches. Of several with one name only the first counts
// (HTTPHeaderMatch.name, HTTPQueryParamMatch.name).
func newConditions(src source, matches []wire.NamedMatch) ([]condition, error) {
	var conds []condition
	for _, m := range matches {
		key := conditionKey{source: src, name: m.Name}
		if src == fromHeader {
			key.name = strings.ToLower(m.Name)
		}
		if slices.ContainsFunc(conds, func(c condition) bool { return c.key == key }) {
			continue
		}
		cond := condition{key: key, exact: m.Value}
		var err error
		switch {
		case m.Name == "":
			err = errors.New("name is empty")
		case m.Type == wire.MatchRegex:
			cond.regex, err = compileRegex(m.Value)
		case m.Type != wire.MatchExact:
			err = errMatchType(m.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", m.Name, err)
		}
		conds = append(conds, cond)
	}
	return conds, nil
}

func (c *condition) holds(req *Request) bool {
	value, ok := c.key.lookup(req)
	if !ok {
		return false
	}
	if c.regex != nil {
		return c.regex.MatchString(value)
	}
	return value == c.exact
}

func (k conditionKey) lookup(req *Request) (value string, ok bool) {
	switch {
	case k.source == fromQuery:
		return queryValue(req.RawQuery, k.name)
	case k.name == "host":
		return req.Authority, req.Authority != ""
	default:
		return req.Header.joined(k.name)
	}
}

// joined returns the lines called name as one value. A repeated header is a list (RFC 9110 section
// 5.3); cookie pairs are split and joined with semicolons instead (RFC 9113 section 8.2.3).
func (h Header) joined(name string) (value string, ok bool) {
	for i := range h {
		if !equalFold(h[i].Name, name) {
			continue
		}
		if ok {
			separator := ","
			if equalFold(name, "cookie") {
				separator = "; "
			}
			return strings.Join(h.Values(name), separator), true
		}
		value, ok = h[i].Value, true
	}
	return value, ok
}

// queryValue returns the first value of a query parameter, decoded as in HTML forms. The Gateway API
// leaves repeated parameters open and recommends the first value (HTTPQueryParamMatch.name).
func queryValue(query, name string) (value string, ok bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if decodeQuery(key) == name {
			return decodeQuery(value), true
		}
	}
	return "", false
}

// decodeQuery decodes escapes and '+'. What is no valid escape stands for itself.
func decodeQuery(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}

// HeaderMatches are compiled conditions on headers, all of which must hold. They compare as those of route
// matches do. The zero value holds always.
type HeaderMatches struct{ conditions []condition }

// NewHeaderMatches compiles header matches.
func NewHeaderMatches(matches []wire.NamedMatch) (HeaderMatches, error) {
	conditions, err := newConditions(fromHeader, matches)
	if err != nil {
		return HeaderMatches{}, fmt.Errorf("header %w", err)
	}
	return HeaderMatches{conditions}, nil
}

// Hold tells whether a request has all of the headers.
func (m HeaderMatches) Hold(req *Request) bool {
	for i := range m.conditions {
		if !m.conditions[i].holds(req) {
			return false
		}
	}
	return true
}
