package http

// notTrailing are fields that change how a message is framed, routed, authenticated or understood, and that
// a recipient acts upon before the trailer has come (RFC 9110 section 6.5.1).
var notTrailing = []string{
	"authorization", "cache-control", "connection", "content-encoding", "content-length", "content-range",
	"content-type", "cookie", "expect", "forwarded", "host", "keep-alive", "max-forwards", "proxy-authenticate",
	"proxy-authorization", "proxy-connection", "range", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
	"www-authenticate",
}

// MayTrail tells whether a field may stand in a trailer. Others are dropped from it.
func MayTrail(name string) bool {
	if !IsToken(name) {
		return false
	}
	for _, never := range notTrailing {
		if equalFold(name, never) {
			return false
		}
	}
	return !hasPrefixFold(name, "x-forwarded-")
}
