package http

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft.dev/weft/proxy/wire"
)

// headerModifier is a RequestHeaderModifier or ResponseHeaderModifier.
type headerModifier struct {
	set, add []Field
	remove   []string
	// host is the new authority, if Host is set.
	host string
}

// newRequestModifier compiles a RequestHeaderModifier. Host can be set, which changes the authority.
func newRequestModifier(m *wire.HeaderModifier) (*headerModifier, error) {
	var host string
	rest := *m
	rest.Set = nil
	for _, f := range m.Set {
		if !equalFold(f.Name, "host") {
			rest.Set = append(rest.Set, f)
			continue
		}
		if !isHost(f.Value) {
			return nil, fmt.Errorf("header %q: %q is no host", f.Name, f.Value)
		}
		host = cmp.Or(host, f.Value)
	}
	c, err := newHeaderModifier(&rest)
	if err != nil {
		return nil, err
	}
	c.host = host
	return c, nil
}

func newResponseModifier(m *wire.HeaderModifier) (*headerModifier, error) {
	return newHeaderModifier(m)
}

// newHeaderModifier compiles set, add and remove. Of several entries with one name the first counts
// (HTTPHeader.name).
func newHeaderModifier(m *wire.HeaderModifier) (*headerModifier, error) {
	c := &headerModifier{}
	var err error
	if c.set, err = modifierFields(m.Set); err != nil {
		return nil, err
	}
	if c.add, err = modifierFields(m.Add); err != nil {
		return nil, err
	}
	for _, name := range m.Remove {
		if err := Modifiable(name); err != nil {
			return nil, err
		}
		c.remove = append(c.remove, name)
	}
	return c, nil
}

func modifierFields(fields []wire.HeaderField) ([]Field, error) {
	var compiled []Field
	for _, f := range fields {
		if err := Modifiable(f.Name); err != nil {
			return nil, err
		}
		if i := strings.IndexFunc(f.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			return nil, fmt.Errorf("header %q: control character in value", f.Name)
		}
		if !slices.ContainsFunc(compiled, func(g Field) bool { return equalFold(g.Name, f.Name) }) {
			compiled = append(compiled, Field(f))
		}
	}
	return compiled, nil
}

var errReservedHeader = errors.New("the proxy owns this header")

// Modifiable refuses the headers that frame a message or belong to one connection, which a filter could
// only break (request smuggling), and those that Weft's proxies talk to each other with.
func Modifiable(name string) error {
	if !IsToken(name) {
		return fmt.Errorf("header name %q is no token", name)
	}
	if isHopByHop(name) || Internal(name) || equalFold(name, "host") || equalFold(name, "content-length") {
		return fmt.Errorf("header %q: %w", name, errReservedHeader)
	}
	return nil
}

func (m *headerModifier) request(req *Request) {
	if m.host != "" {
		req.Authority = m.host
	}
	m.apply(&req.Header)
}

func (m *headerModifier) response(res *Response) { m.apply(&res.Header) }

func (m *headerModifier) apply(h *Header) {
	for _, f := range m.set {
		h.Set(f.Name, f.Value)
	}
	for _, f := range m.add {
		h.Add(f.Name, f.Value)
	}
	for _, name := range m.remove {
		h.Del(name)
	}
}
