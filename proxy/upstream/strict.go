package upstream

import (
	"fmt"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// checkResponse refuses what net/http takes for a response although it is none: a status line of another
// version (RFC 9112 section 2.3), a code that is no three digits or below 200 at the end (RFC 9110 section
// 15), and names that are no tokens, of which net/http would write the rest (RFC 9112 section 5.1).
func checkResponse(resp *http.Response, l lease) error {
	if _, ok := l.(*http1Lease); ok && resp.ProtoMajor != 1 {
		return fmt.Errorf("response of version %q on a connection of HTTP/1.1", resp.Proto)
	}
	switch code := resp.StatusCode; {
	case code < 100, code > 999, code < 200 && code != http.StatusSwitchingProtocols:
		return fmt.Errorf("response with code %d", code)
	}
	for name := range resp.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("response with a field %q", name)
		}
	}
	return nil
}
