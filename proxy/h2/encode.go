package h2

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	phttp "weft.dev/weft/proxy/http"
)

// encode begins a block of fields. The lock is held until head has written it.
func (l *link) encode() { l.encoded.Reset() }

// field adds a field to the block.
func (l *link) field(name, value string) {
	// The encoder writes to memory, which takes everything.
	_ = l.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive(name)})
}

// fields adds fields to the block, but for those that HTTP/2 does not have (RFC 9113 section 8.2.2).
func (l *link) fields(h phttp.Header) {
	for i := range h {
		name := l.lower(h[i].Name)
		switch name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host":
			continue
		}
		l.field(name, h[i].Value)
	}
}

// sensitive tells whether a value must not get into a table, where its length could be found out by who may have other
// values beside it (RFC 7541 section 7.1.3).
func sensitive(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "proxy-authorization":
		return true
	}
	return false
}

// Bounds of the names that a connection remembers in lower case.
const (
	mostNames = 64
	mostName  = 64
)

// lower returns a name in lower case, and remembers those that may come again because a policy sets them. The lock is held.
func (l *link) lower(name string) string {
	if !hasUpper(name) {
		return name
	}
	if known, ok := common[name]; ok {
		return known
	}
	if known, ok := l.names[name]; ok {
		return known
	}
	low := strings.ToLower(name)
	if len(l.names) < mostNames && len(name) <= mostName {
		if l.names == nil {
			l.names = map[string]string{}
		}
		l.names[strings.Clone(name)] = low
	}
	return low
}

// lower returns a name in lower case.
func lower(name string) string {
	if !hasUpper(name) {
		return name
	}
	if known, ok := common[name]; ok {
		return known
	}
	return strings.ToLower(name)
}

func hasUpper(name string) bool {
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

// common are names that need not be made each time, as net/http writes them.
var common = func() map[string]string {
	names := map[string]string{}
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Content-Encoding", "Content-Length",
		"Content-Type", "Cookie", "Date", "Etag", "Grpc-Accept-Encoding", "Grpc-Encoding", "Grpc-Message", "Grpc-Status",
		"Grpc-Timeout", "Last-Modified", "Location", "Server", "Set-Cookie", "TE", "Te", "Trailer", "Traceparent", "Tracestate",
		"User-Agent", "Vary", "X-Forwarded-For", "X-Request-Id",
		"Weft-Backend", "Weft-Time-Left", "Weft-Attempt", "Weft-Zone", "Weft-Client", "Weft-Node", "Weft-Endpoint",
	} {
		names[name] = strings.ToLower(name)
	}
	return names
}()
