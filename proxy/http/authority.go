package http

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

var errAuthority = errors.New("invalid authority")

// CheckAuthority tells whether a value is what Host and :authority hold, and why not: a host that is not
// empty and perhaps a port (RFC 9110 sections 4.2.1 and 7.2, RFC 3986 section 3.2). Clients get a 400 for any
// other (RFC 9112 section 3.2), since those that read it differently would take the request for another host.
func CheckAuthority(authority string) error {
	host, port := authority, ""
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return fmt.Errorf("%w: bracket is not closed", errAuthority)
		}
		address, err := netip.ParseAddr(authority[1:end])
		if err != nil || !address.Is6() || address.Zone() != "" {
			return fmt.Errorf("%w: no IPv6 address in brackets", errAuthority)
		}
		port = authority[end+1:]
	} else {
		if colon := strings.IndexByte(authority, ':'); colon >= 0 {
			host, port = authority[:colon], authority[colon:]
		}
		if err := checkName(host); err != nil {
			return err
		}
	}
	if port != "" && port[0] != ':' {
		return fmt.Errorf("%w: %q behind the bracket", errAuthority, port)
	}
	for i := 1; i < len(port); i++ {
		if port[i] < '0' || '9' < port[i] {
			return fmt.Errorf("%w: port is no number", errAuthority)
		}
	}
	return nil
}

// checkName: reg-name of RFC 3986 section 3.2.2, and not empty. IPv4 is one, too.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: no host", errAuthority)
	}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case isUnreserved(c) || strings.IndexByte("!$&'()*+,;=", c) >= 0:
		case c == '%' && i+2 < len(name) && isHex(name[i+1]) && isHex(name[i+2]):
			i += 2
		default:
			return fmt.Errorf("%w: byte %#02x in host", errAuthority, c)
		}
	}
	return nil
}
