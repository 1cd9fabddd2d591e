package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// ownedHeaders frame a message or belong to one connection: a filter could only break it.
var ownedHeaders = []string{
	"connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade",
}

// internalPrefix begins the names of the headers that Weft's proxies talk to each other with.
const internalPrefix = "weft-"

// authorityForm is what can become the authority of a request: a host with or without a port.
var authorityForm = regexp.MustCompile(`^[-A-Za-z0-9._~:\[\]%]+$`)

// headerActions knows which header has which action. Only one is permitted for each, or the result
// would depend on their order (HTTPHeaderFilter).
type headerActions map[string]string

// requestHeaders compiles a RequestHeaderModifier. It can set Host, which changes the authority.
func requestHeaders(m *gwv1.HTTPHeaderFilter) (*wire.HeaderModifier, *fault) {
	return headerModifier(m, "host")
}

// responseHeaders compiles a ResponseHeaderModifier.
func responseHeaders(m *gwv1.HTTPHeaderFilter) (*wire.HeaderModifier, *fault) {
	return headerModifier(m, "")
}

// headerModifier compiles a header filter. settable is a header that can be set, but neither added to
// nor removed.
func headerModifier(m *gwv1.HTTPHeaderFilter, settable string) (*wire.HeaderModifier, *fault) {
	actions := make(headerActions)
	set, f := actions.fields("set", m.Set, settable)
	if f != nil {
		return nil, f
	}
	add, f := actions.fields("add", m.Add, "")
	if f != nil {
		return nil, f
	}
	for i, name := range m.Remove {
		if why := actions.note("remove", name, ""); why != "" {
			return nil, unsupported(fmt.Sprintf("remove[%d]", i), "%s", why)
		}
	}
	return &wire.HeaderModifier{Set: set, Add: add, Remove: slices.Clone(m.Remove)}, nil
}

// fields reads the headers of one action. Of several with equivalent names the first counts.
func (a headerActions) fields(action string, headers []gwv1.HTTPHeader, settable string) ([]wire.HeaderField, *fault) {
	var fields []wire.HeaderField
	for i, h := range headers {
		name := string(h.Name)
		if why := a.note(action, name, settable); why != "" {
			return nil, unsupported(fmt.Sprintf("%s[%d].name", action, i), "%s", why)
		}
		switch {
		case strings.ContainsFunc(h.Value, isControl):
			return nil, unsupported(fmt.Sprintf("%s[%d].value", action, i), "control characters are not allowed in a header")
		case strings.EqualFold(name, settable) && !authorityForm.MatchString(h.Value):
			return nil, unsupported(fmt.Sprintf("%s[%d].value", action, i), "%q is not a host", h.Value)
		}
		if !slices.ContainsFunc(fields, func(f wire.HeaderField) bool { return strings.EqualFold(f.Name, name) }) {
			fields = append(fields, wire.HeaderField{Name: name, Value: h.Value})
		}
	}
	return fields, nil
}

// isControl holds for what cannot stand in a header's value. A line break would turn one into two.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// note remembers the action of a header, or says why it cannot have it.
func (a headerActions) note(action, name, settable string) (why string) {
	lower := strings.ToLower(name)
	switch {
	case !isToken(name):
		return fmt.Sprintf("%q is not a header name", name)
	case lower == settable:
	case lower == "host", slices.Contains(ownedHeaders, lower), strings.HasPrefix(lower, internalPrefix):
		return "the header " + name + " belongs to the proxy"
	}
	if other := a[lower]; other != "" && other != action {
		return "the header " + name + " is already in " + other
	}
	a[lower] = action
	return ""
}
