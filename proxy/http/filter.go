package http

import (
	"errors"
	"fmt"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// Exchange takes one request through the filters of its rule and the response back. Set the exported
// fields and call Request once, then BackendRequest once per try, then Response. It belongs to one
// request; nothing of it is shared with the rule. Rule and Matched are what Table.Match returned.
type Exchange struct {
	Rule    *Rule
	Matched Matched
	// Port is the Service port that the client called. It is the port of a redirection that names
	// neither scheme nor port, as a Gateway's listener port would be.
	Port uint16
	// Random decides which mirrors are taken. It must be uniformly distributed over all its values.
	Random uint64

	// origin is the client's, whatever filters do to the header.
	origin string
	// prefix is Matched.Prefix, or what the rule's filters have put in its place.
	prefix  string
	tried   bool
	mirrors []Mirror
}

// Mirror is a copy of a request that is sent to a backend, whose answer is ignored.
type Mirror struct {
	// Backend is the key of a wire.Backend.
	Backend string
	// Request is as it was when it came to the mirror filter and shares no memory with the original.
	Request Request
}

// NoBackend stands for the index of a backend in Exchange.Response when none answered.
const NoBackend = -1

// Request applies the request side of the rule's filters to req in place, in the order in which they
// are listed. If a filter answers the request itself (a redirection, a CORS preflight), that answer is
// returned complete, with the response side applied, and the request goes nowhere.
func (x *Exchange) Request(req *Request) *Response {
	x.origin = corsOrigin(req.Header)
	x.prefix = x.Matched.Prefix
	var res *Response
	x.prefix, res = x.Rule.filters.request(x, req)
	if res != nil {
		x.Rule.filters.response(x, res)
	}
	return res
}

// BackendRequest makes dst the request to backend i: a copy of req with the request side of that
// backend's filters applied. It leaves req as it was, so every try begins with the same request. The
// memory of dst.Header is reused and must not be req's. An answer is returned as by Request.
func (x *Exchange) BackendRequest(i int, req, dst *Request) *Response {
	req.copyTo(dst)
	_, res := x.Rule.backends[i].filters.request(x, dst)
	x.tried = true
	if res != nil {
		x.Response(i, res)
	}
	return res
}

// Mirrors returns the copies to send: those of the rule's filters after Request, and also those of the
// first backend's after BackendRequest. A retry is the same request and is not mirrored again.
func (x *Exchange) Mirrors() []Mirror { return x.mirrors }

// Response applies the response side of the filters to res in place: the rule's, then backend i's,
// whose word is the last because it is the more specific. Every response for the rule passes here, also
// one that the proxy makes itself, with NoBackend if no backend had been chosen: a browser hides a
// response without CORS headers, errors included.
func (x *Exchange) Response(i int, res *Response) {
	x.Rule.filters.response(x, res)
	if i != NoBackend {
		x.Rule.backends[i].filters.response(x, res)
	}
}

// filters are the filters of a rule or a backend, in order.
type filters []filter

// filter has exactly one field set.
type filter struct {
	requestHeaders  *headerModifier
	responseHeaders *headerModifier
	redirect        *redirect
	rewrite         *rewrite
	mirror          *mirror
	cors            *cors
}

func newFilters(fs []wire.Filter, prefixOnly bool) (filters, error) {
	var compiled filters
	for i := range fs {
		f, err := newFilter(&fs[i], prefixOnly)
		if err != nil {
			return nil, fmt.Errorf("filter %d: %w", i, err)
		}
		compiled = append(compiled, f)
	}
	return compiled, nil
}

func newFilter(f *wire.Filter, prefixOnly bool) (c filter, err error) {
	set := 0
	if f.RequestHeaders != nil {
		set++
		c.requestHeaders, err = newRequestModifier(f.RequestHeaders)
	}
	if f.ResponseHeaders != nil {
		set++
		c.responseHeaders, err = newResponseModifier(f.ResponseHeaders)
	}
	if f.Redirect != nil {
		set++
		c.redirect, err = newRedirect(f.Redirect, prefixOnly)
	}
	if f.URLRewrite != nil {
		set++
		c.rewrite, err = newRewrite(f.URLRewrite, prefixOnly)
	}
	if f.Mirror != nil {
		set++
		c.mirror, err = newMirror(f.Mirror)
	}
	if f.CORS != nil {
		set++
		c.cors, err = newCORS(f.CORS)
	}
	if err == nil && set != 1 {
		err = errors.New("not exactly one kind is set")
	}
	return c, err
}

func (fs filters) haveCORS() bool {
	return slices.ContainsFunc(fs, func(f filter) bool { return f.cors != nil })
}

// request applies the request side and returns the prefix that a further ReplacePrefixMatch replaces.
func (fs filters) request(x *Exchange, req *Request) (prefix string, answer *Response) {
	prefix = x.prefix
	for i := range fs {
		f := &fs[i]
		switch {
		case f.requestHeaders != nil:
			f.requestHeaders.request(req)
		case f.rewrite != nil:
			prefix = f.rewrite.request(prefix, req)
		case f.mirror != nil:
			f.mirror.request(x, req)
		case f.redirect != nil:
			return prefix, f.redirect.answer(prefix, x.Port, req)
		case f.cors != nil:
			if isPreflight(req) {
				return prefix, f.cors.preflight(x.origin, req)
			}
		}
	}
	return prefix, nil
}

func (fs filters) response(x *Exchange, res *Response) {
	for i := range fs {
		f := &fs[i]
		switch {
		case f.responseHeaders != nil:
			f.responseHeaders.response(res)
		case f.cors != nil:
			f.cors.response(x.origin, res)
		}
	}
}
