package http

import (
	"errors"
	"fmt"
	"strings"
)

var errPath = errors.New("invalid path")

// NormalizePath returns the one form of a path that is matched, shown to policies and forwarded, so
// that no two parts of the mesh, nor the application behind it, can see different paths. It follows RFC
// 3986 section 6.2.2 and changes nothing about a path that is already normal, which it returns as it is:
//
//   - escapes of unreserved characters are decoded, all others stay with upper-case digits. "%2F"
//     remains a part of its segment and is never taken for a slash;
//   - "." and ".." segments are resolved after that, so "%2e%2e" cannot hide one;
//   - bytes that RFC 3986 does not allow in a path, a backslash among them, are escaped;
//   - empty segments stay. "//" is legal, applications use it (object keys, embedded URLs), and a mesh
//     that an application does not ask for must not rewrite it;
//   - an empty path is "/" (section 6.2.3).
//
// A path with a broken escape, "%00", a control character, a space, '?' or '#', or one that does not
// begin with a slash is refused; clients get a 400. The result is a fixed point.
func NormalizePath(path string) (string, error) {
	if path == "" {
		return "/", nil
	}
	if path[0] != '/' {
		return "", fmt.Errorf("%w: no slash at the beginning", errPath)
	}
	normal, err := normalBytes(path)
	if err != nil {
		return "", err
	}
	if !normal {
		path = rewriteBytes(path)
	}
	if hasDotSegment(path) {
		path = removeDotSegments(path)
	}
	return path, nil
}

func hasDotSegment(path string) bool {
	for path != "" {
		i := strings.Index(path, "/.")
		if i < 0 {
			return false
		}
		var segment string
		segment, path = cutSegment(path[i:])
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// normalBytes tells whether every byte of the path is as it should be, and why a path is refused.
func normalBytes(path string) (normal bool, err error) {
	normal = true
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case isPathByte(c):
		case c == '%':
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return false, fmt.Errorf("%w: broken escape at byte %d", errPath, i)
			}
			b := unhex(path[i+1])<<4 | unhex(path[i+2])
			if b == 0 {
				return false, fmt.Errorf("%w: %%00 at byte %d", errPath, i)
			}
			if isUnreserved(b) || isLowerHex(path[i+1]) || isLowerHex(path[i+2]) {
				normal = false
			}
			i += 2
		case c <= ' ' || c == 0x7f || c == '?' || c == '#':
			return false, fmt.Errorf("%w: byte %#02x at %d", errPath, c, i)
		default:
			normal = false
		}
	}
	return normal, nil
}

// rewriteBytes decodes and encodes as NormalizePath says. The path has passed normalBytes.
func rewriteBytes(path string) string {
	const digits = "0123456789ABCDEF"
	var out strings.Builder
	out.Grow(len(path) + 8)
	for i := 0; i < len(path); i++ {
		c := path[i]
		escaped := c == '%'
		if escaped {
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
		}
		if isUnreserved(c) || !escaped && isPathByte(c) {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// removeDotSegments implements RFC 3986 section 5.2.4 for a path that begins with a slash.
func removeDotSegments(path string) string {
	out := make([]byte, 0, len(path))
	for path != "" {
		var segment string
		segment, path = cutSegment(path)
		last := path == ""
		switch segment {
		case ".":
		case "..":
			for len(out) > 0 {
				c := out[len(out)-1]
				out = out[:len(out)-1]
				if c == '/' {
					break
				}
			}
		default:
			out = append(out, '/')
			out = append(out, segment...)
			continue
		}
		if last {
			out = append(out, '/')
		}
	}
	return string(out)
}

// isUnreserved: RFC 3986 section 2.3.
func isUnreserved(c byte) bool {
	return isAlphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

// isPathByte tells whether c may stand unescaped in a path: pchar and slash, RFC 3986 section 3.3.
func isPathByte(c byte) bool { return pathBytes[c] }

// pathBytes is a table because every byte of every request's path is looked up.
var pathBytes = func() (table [256]bool) {
	for c := range 256 {
		table[c] = isUnreserved(byte(c)) || strings.IndexByte("/!$&'()*+,;=:@", byte(c)) >= 0
	}
	return table
}()

func isAlphanumeric(c byte) bool {
	return 'a' <= lower(c) && lower(c) <= 'z' || '0' <= c && c <= '9'
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= lower(c) && lower(c) <= 'f' }

func isLowerHex(c byte) bool { return 'a' <= c && c <= 'f' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return lower(c) - 'a' + 10
}
