// Package nethttp turns fields as proxy/http has them into net/http's headers and back, for the adapters of proxy/h1 and
// proxy/h2. It knows nothing of connections and frames, and judges nothing.
package nethttp

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

// Header returns fields as a header of net/http. Values stay in their order.
func Header(fields phttp.Header) http.Header {
	h := make(http.Header, len(fields))
	// One piece of memory for the values of all names.
	values := make([]string, len(fields))
	for i := range fields {
		name := http.CanonicalHeaderKey(fields[i].Name)
		if before := h[name]; before != nil {
			h[name] = append(before, fields[i].Value)
			continue
		}
		values[i] = fields[i].Value
		h[name] = values[i : i+1 : i+1]
	}
	return h
}

// Fields returns the fields of a header of net/http, sorted by name. Left out is what net/http means otherwise: an empty
// User-Agent says that there is none, and names with http.TrailerPrefix belong to the trailer.
func Fields(h http.Header) phttp.Header {
	var fields phttp.Header
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		for _, value := range h[name] {
			if name == "User-Agent" && value == "" {
				continue
			}
			fields.Add(name, value)
		}
	}
	return fields
}

// Announced returns the names in the values of Trailer fields, without values (RFC 9110 section 6.6.2).
func Announced(values []string) http.Header {
	h := http.Header{}
	for _, list := range values {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				h[http.CanonicalHeaderKey(name)] = nil
			}
		}
	}
	return h
}

// Trailer returns what a handler of net/http has left for the trailer in the header of its response: values of names in
// the values of Trailer fields, and of names with http.TrailerPrefix. It is sorted by name.
func Trailer(h http.Header, announced []string) phttp.Header {
	var trailer phttp.Header
	if len(announced) > 0 {
		for name := range Announced(announced) {
			for _, value := range h[name] {
				trailer.Add(name, value)
			}
		}
	}
	for name, values := range h {
		if plain, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			for _, value := range values {
				trailer.Add(plain, value)
			}
		}
	}
	slices.SortStableFunc(trailer, func(a, b phttp.Field) int { return strings.Compare(a.Name, b.Name) })
	return trailer
}
