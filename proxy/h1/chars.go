package h1

import "strings"

// Classes of bytes. They are tables because every byte of every head is looked up.
var (
	// tokenBytes: tchar, RFC 9110 section 5.6.2.
	tokenBytes = bytesOf(isAlphanumeric, "!#$%&'*+-.^_`|~")
	// valueBytes: field-vchar, space and tab, RFC 9110 section 5.5; obs-text is passed on as it is. No CR,
	// LF, NUL or other control character is among them.
	valueBytes = bytesOf(func(c byte) bool { return c >= ' ' && c != 0x7f }, "\t")
	// targetBytes: whatever cannot end the target or the line. What of it a path may have is for
	// proxy/http to say, which escapes what RFC 3986 does not allow.
	targetBytes = bytesOf(func(c byte) bool { return c > ' ' && c != 0x7f }, "")
)

func bytesOf(class func(byte) bool, more string) (table [256]bool) {
	for c := range 256 {
		table[c] = class(byte(c)) || strings.IndexByte(more, byte(c)) >= 0
	}
	return table
}

func isAlphanumeric(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// consistsOf tells whether every byte of s is of a class.
func consistsOf(s string, class *[256]bool) bool {
	for i := range len(s) {
		if !class[s[i]] {
			return false
		}
	}
	return true
}

// isToken tells whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool { return s != "" && consistsOf(s, &tokenBytes) }

// equalFold compares s with a name in lower case, without regard to the case of ASCII letters.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// trim removes optional whitespace (RFC 9110 section 5.6.3).
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
