package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// header adds a header match. Of several for equivalent names only the first counts.
func (m *match) header(i int, kind, name, value string) {
	same := func(n wire.NamedMatch) bool { return strings.EqualFold(n.Name, name) }
	if !slices.ContainsFunc(m.wire.Headers, same) {
		named, f := namedMatch(kind, name, value)
		m.faults = f.under(fmt.Sprintf("headers[%d]", i)).appendTo(m.faults)
		m.wire.Headers = append(m.wire.Headers, named)
	}
}

// query adds a query parameter match. Of several for one name only the first counts.
func (m *match) query(i int, kind, name, value string) {
	same := func(n wire.NamedMatch) bool { return n.Name == name }
	if !slices.ContainsFunc(m.wire.Query, same) {
		named, f := namedMatch(kind, name, value)
		m.faults = f.under(fmt.Sprintf("queryParams[%d]", i)).appendTo(m.faults)
		m.wire.Query = append(m.wire.Query, named)
	}
}

// namedMatch reads the parts that header and query parameter matches of all kinds have in common.
func namedMatch(kind, name, value string) (wire.NamedMatch, *fault) {
	out := wire.NamedMatch{Name: name, Value: value}
	if !isToken(name) {
		return out, unsupported("name", "%q is not a valid name", name)
	}
	switch kind {
	case string(gwv1.HeaderMatchExact):
		out.Type = wire.MatchExact
		return out, nil
	case string(gwv1.HeaderMatchRegularExpression):
		out.Type = wire.MatchRegex
		return out, badRegex("value", value)
	default:
		return out, unsupported("type", "%q is not supported", kind)
	}
}

// badRegex says what is wrong with a regular expression. Weft's dialect is RE2, whose matching takes
// linear time whatever a client sends.
func badRegex(field, expr string) *fault {
	if expr == "" {
		return unsupported(field, "the regular expression is empty")
	}
	if _, err := regexp.Compile(expr); err != nil {
		return unsupported(field, "not an RE2 regular expression: %v", err)
	}
	return nil
}

// pathForm is what the API allows in the paths of Exact and PathPrefix matches.
var pathForm = regexp.MustCompile(`^/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*$`)

func badPath(field, path string) *fault {
	if !pathForm.MatchString(path) || strings.Contains(path, "%00") {
		return unsupported(field, "%q is not an absolute path", path)
	}
	return nil
}

// isToken tells whether s can be the name of a header: RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
