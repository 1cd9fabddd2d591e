package http

import (
	"slices"
	"strings"
)

// InternalPrefix begins the names of the headers that Weft's proxies talk to each other with.
const InternalPrefix = "weft-"

// StripHopByHop removes what concerns one connection and must not be forwarded (RFC 9110 section
// 7.6.1): Connection and what it names, Keep-Alive, Proxy-Connection, TE, Transfer-Encoding and Upgrade.
// "TE: trailers" stays, which gRPC needs. With upgrade, for a request or response that switches
// protocols, Upgrade stays; the engine writes a Connection header of its own for it.
//
// Connection cannot name away what routing, framing or authentication rest on, see endToEnd.
func StripHopByHop(h *Header, upgrade bool) {
	trailers := false
	var few [4]string // most name none or one
	named := few[:0]
	for _, f := range *h {
		switch {
		case equalFold(f.Name, "te"):
			trailers = trailers || listHas(f.Value, "trailers")
		case equalFold(f.Name, "connection"):
			for rest := f.Value; rest != ""; {
				var name string
				name, rest, _ = strings.Cut(rest, ",")
				if name = strings.Trim(name, " \t"); name != "" && !endToEnd(name) {
					named = append(named, name)
				}
			}
		}
	}
	*h = slices.DeleteFunc(*h, func(f Field) bool {
		if upgrade && equalFold(f.Name, "upgrade") {
			return false
		}
		return isHopByHop(f.Name) ||
			slices.ContainsFunc(named, func(name string) bool { return equalFold(name, f.Name) })
	})
	if trailers {
		h.Add("TE", "trailers")
	}
}

// StripInternal removes the headers that only authenticated proxies may send. It is applied to what
// comes from an application, and to what goes to one.
func StripInternal(h *Header) {
	*h = slices.DeleteFunc(*h, func(f Field) bool { return Internal(f.Name) })
}

// endToEnd tells whether a header is forwarded even if Connection names it. A client could otherwise
// make a proxy drop what a peer in front of it had added.
func endToEnd(name string) bool {
	for _, kept := range []string{"host", "content-length", "authorization", "forwarded"} {
		if equalFold(name, kept) {
			return true
		}
	}
	return Internal(name) || hasPrefixFold(name, "x-forwarded-")
}

func isHopByHop(name string) bool {
	for _, hop := range []string{
		"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade",
	} {
		if equalFold(name, hop) {
			return true
		}
	}
	return false
}

// Internal tells whether a field is one that proxies of the mesh talk to each other with.
func Internal(name string) bool { return hasPrefixFold(name, InternalPrefix) }

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && equalFold(s[:len(prefix)], prefix)
}

// listHas tells whether a comma-separated list has a member, parameters aside.
func listHas(list, member string) bool {
	for m := range strings.SplitSeq(list, ",") {
		m, _, _ = strings.Cut(m, ";")
		if equalFold(strings.Trim(m, " \t"), member) {
			return true
		}
	}
	return false
}
