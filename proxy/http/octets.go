package http

import "strings"

// Octets is a set of bytes. Every byte of every head is looked up, so sets are tables.
type Octets [256]bool

// What the parts of a head consist of, whatever version of HTTP it is of. They must not be changed.
var (
	// TokenOctets: tchar, RFC 9110 section 5.6.2.
	TokenOctets = octetsOf(func(c byte) bool { return IsDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }, "!#$%&'*+-.^_`|~")
	// LowerTokenOctets is TokenOctets but for upper-case letters: the names of HTTP/2, RFC 9113 section 8.2.1.
	LowerTokenOctets = octetsOf(func(c byte) bool { return TokenOctets[c] && (c < 'A' || c > 'Z') }, "")
	// ValueOctets: field-vchar, space and tab, RFC 9110 section 5.5; obs-text is passed on as it is. No CR, LF, NUL or other
	// control character is among them.
	ValueOctets = octetsOf(func(c byte) bool { return c >= ' ' && c != 0x7f }, "\t")
	// TargetOctets: whatever cannot end the target or the line of HTTP/1.1. What of it a path may have NormalizePath says,
	// which escapes what RFC 3986 does not allow.
	TargetOctets = octetsOf(func(c byte) bool { return c > ' ' && c != 0x7f }, "")
)

func octetsOf(class func(byte) bool, more string) (table Octets) {
	for c := range 256 {
		table[c] = class(byte(c)) || strings.IndexByte(more, byte(c)) >= 0
	}
	return table
}

// IsDigit tells whether c is an ASCII digit.
func IsDigit(c byte) bool { return '0' <= c && c <= '9' }

// All tells whether every byte of s is of the set.
func (c *Octets) All(s string) bool {
	for i := range len(s) {
		if !c[s[i]] {
			return false
		}
	}
	return true
}

// IsToken tells whether s is a token (RFC 9110 section 5.6.2).
func IsToken(s string) bool { return s != "" && TokenOctets.All(s) }
