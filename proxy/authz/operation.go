package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

func newOperation(in *wire.AuthorizationOperation) (operation, error) {
	o := operation{ports: in.Ports}
	if slices.Contains(o.ports, 0) {
		return o, FieldError{"ports", "0 is no port"}
	}
	if len(in.Methods) > 0 {
		if slices.Contains(in.Methods, "") {
			return o, FieldError{"methods", "one is empty"}
		}
		methods := in.Methods
		o.http = append(o.http, func(r *request, _ bool) bool { return slices.Contains(methods, r.HTTP.Method) })
	}
	if len(in.Paths) > 0 {
		patterns := make([]pathPattern, len(in.Paths))
		for i, p := range in.Paths {
			var err error
			if patterns[i], err = newPathPattern(p); err != nil {
				return o, below(item("paths", i), err)
			}
		}
		o.http = append(o.http, pathPart(patterns))
	}
	if len(in.GRPC) > 0 {
		patterns := make([]pathPattern, len(in.GRPC))
		for i, m := range in.GRPC {
			var err error
			if patterns[i], err = newGRPCPattern(m); err != nil {
				return o, below(item("grpc", i), err)
			}
		}
		o.http = append(o.http, pathPart(patterns))
	}
	for i := range in.Headers {
		part, err := newHeaderPart(&in.Headers[i])
		if err != nil {
			return o, below(item("headers", i), err)
		}
		o.http = append(o.http, part)
	}
	if len(o.ports) == 0 && len(o.http) == 0 {
		return o, errEmpty
	}
	return o, nil
}

// pathPart matches if one of the patterns does: in some reading of the path to deny, in all of them to allow.
func pathPart(patterns []pathPattern) httpPart {
	return func(r *request, deny bool) bool {
		for i, path := range r.paths {
			if slices.ContainsFunc(patterns, func(p pathPattern) bool { return p.matches(i, path) }) == deny {
				return deny
			}
		}
		return !deny
	}
}

// pathPattern compares paths.
type pathPattern struct {
	kind wire.PathPatternType
	// values are the readings of an exact path or of a prefix, which has no slash at its end.
	values [phttp.Readings]string
	// segments are a template's; one that ends with rest takes any number more.
	segments []string
	rest     bool
}

// anySegment stands for one segment in a template.
const (
	anySegment = "{*}"
	anyRest    = "{**}"
)

func newPathPattern(in wire.PathPattern) (pathPattern, error) {
	p := pathPattern{kind: in.Type}
	if in.Type == wire.PathTemplate {
		return p, p.setTemplate(in.Value)
	}
	if in.Type != wire.PathExact && in.Type != wire.PathPrefix {
		return p, fmt.Errorf("type %q is not supported", in.Type)
	}
	if in.Value == "" {
		return p, errors.New("value is empty")
	}
	path, err := phttp.NormalizePath(in.Value)
	if err != nil {
		return p, err
	}
	p.values = phttp.ReadPath(path)
	if in.Type == wire.PathPrefix {
		for i := range p.values {
			p.values[i] = strings.TrimSuffix(p.values[i], "/")
		}
	}
	return p, nil
}

func (p *pathPattern) setTemplate(value string) error {
	rest, ok := strings.CutPrefix(value, "/")
	if !ok {
		return errors.New("no slash at the beginning")
	}
	p.segments = strings.Split(rest, "/")
	if last := len(p.segments) - 1; p.segments[last] == anyRest {
		p.segments, p.rest = p.segments[:last], true
	}
	for _, segment := range p.segments {
		if segment == anySegment {
			continue
		}
		// What is read in several ways has no place in a template.
		normal, err := phttp.NormalizePath("/" + segment)
		if err != nil || normal != "/"+segment || segment == "" || strings.ContainsAny(segment, "%;") {
			return fmt.Errorf("segment %q is neither plain text nor {*}, nor {**} at the end", segment)
		}
	}
	return nil
}

// newGRPCPattern returns a template for the path of a gRPC call, "/package.Service/Method".
func newGRPCPattern(in wire.GRPCMethod) (pathPattern, error) {
	part := func(name string) string {
		if name == "" {
			return anySegment
		}
		return name
	}
	p := pathPattern{kind: wire.PathTemplate}
	switch {
	case in.Service == "" && in.Method == "":
		return p, errors.New("it names neither service nor method")
	case strings.Contains(in.Service+in.Method, "/"), strings.Contains(in.Service+in.Method, "{"):
		return p, fmt.Errorf("%q and %q are no names", in.Service, in.Method)
	}
	return p, p.setTemplate("/" + part(in.Service) + "/" + part(in.Method))
}

// matches compares one reading of a path.
func (p *pathPattern) matches(reading int, path string) bool {
	switch value := p.values[reading]; p.kind {
	case wire.PathTemplate:
		return p.matchesTemplate(path)
	case wire.PathExact:
		return path == value
	default:
		rest, ok := strings.CutPrefix(path, value)
		return ok && (rest == "" || rest[0] == '/') || value == ""
	}
}

func (p *pathPattern) matchesTemplate(path string) bool {
	if path == "*" {
		return p.rest && len(p.segments) == 0
	}
	for _, want := range p.segments {
		rest, ok := strings.CutPrefix(path, "/")
		if !ok {
			return false
		}
		segment, _, _ := strings.Cut(rest, "/")
		if segment == "" || want != anySegment && want != segment {
			return false
		}
		path = rest[len(segment):]
	}
	return p.rest || path == ""
}

// newHeaderPart matches by all values of a header: some of them to deny, of which each member of a list is
// looked at as well, and all of them to allow.
func newHeaderPart(in *wire.AuthorizedHeader) (httpPart, error) {
	name, value := in.Name, in.Value
	var matches func(string) bool
	switch {
	case name == "":
		return nil, FieldError{"name", "it is empty"}
	case (value == "") != (in.Type == wire.HeaderPresent):
		return nil, FieldError{"value", "it goes with Exact and Prefix, which need it"}
	}
	switch in.Type {
	case wire.HeaderPresent:
		matches = func(string) bool { return true }
	case wire.HeaderExact:
		matches = func(s string) bool { return s == value }
	case wire.HeaderPrefix:
		matches = func(s string) bool { return strings.HasPrefix(s, value) }
	default:
		return nil, FieldError{"type", fmt.Sprintf("%q is not supported", in.Type)}
	}
	return func(r *request, deny bool) bool {
		if !deny {
			values := valuesOf(r.HTTP, name)
			return len(values) > 0 && !slices.ContainsFunc(values, func(s string) bool { return !matches(s) })
		}
		return slices.ContainsFunc(valuesReadAs(r.HTTP, name), func(s string) bool { return matches(s) || matchesMember(s, matches) })
	}, nil
}

// valuesReadAs returns the values of all headers that an application may take for one of that name: where headers
// become variables, as in CGI and WSGI, dashes and underscores are the same.
func valuesReadAs(req *phttp.Request, name string) []string {
	values := valuesOf(req, name)
	dashed := strings.ReplaceAll(name, "_", "-")
	for _, f := range req.Header {
		if !strings.EqualFold(f.Name, name) && strings.EqualFold(strings.ReplaceAll(f.Name, "_", "-"), dashed) {
			values = append(values, f.Value)
		}
	}
	return values
}

// matchesMember tells whether a member of a list matches (RFC 9110 section 5.6.1).
func matchesMember(list string, matches func(string) bool) bool {
	for member := range strings.SplitSeq(list, ",") {
		if matches(strings.Trim(member, " \t")) {
			return true
		}
	}
	return false
}

// valuesOf returns the values of a header, of "host" the authority.
func valuesOf(req *phttp.Request, name string) []string {
	if strings.EqualFold(name, "host") {
		return []string{req.Authority}
	}
	return req.Header.Values(name)
}
