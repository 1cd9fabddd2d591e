package h1

import (
	"slices"
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

// maxTrailer and maxTrailerFields bound a trailer.
const (
	maxTrailer       = 16 << 10
	maxTrailerFields = 100
)

// framing are fields that nobody sends after the content but to confuse the next reader. Messages with one of them
// are refused; others that must not be in a trailer are left out (phttp.MayTrail).
var framing = []string{"content-length", "host", "transfer-encoding"}

func isFraming(name string) bool {
	return slices.ContainsFunc(framing, func(f string) bool { return equalFold(name, f) })
}

// trails tells whether a field of a trailer is passed on.
func trails(name string) bool { return phttp.MayTrail(name) && !phttp.Internal(name) }

// checkTrailerNames refuses a Trailer field that announces framing.
func checkTrailerNames(value string) *Error {
	for list := value; list != ""; {
		name, rest, _ := strings.Cut(list, ",")
		if isFraming(trim(name)) {
			return errTrailerField
		}
		list = rest
	}
	return nil
}

// parseTrailer reads a complete trailer section, the empty line included.
func parseTrailer(section string) (phttp.Header, *Error) {
	h, f, err := parseFields(section, nil, maxTrailerFields)
	if err != nil {
		return nil, err
	}
	if f.hosts > 0 {
		return nil, errTrailerField
	}
	kept := h[:0]
	for _, f := range h {
		switch {
		case isFraming(f.Name):
			return nil, errTrailerField
		case trails(f.Name):
			kept = append(kept, f)
		}
	}
	return kept, nil
}
