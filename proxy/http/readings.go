package http

import "strings"

// Readings is how many ways of understanding a path there are.
const Readings = 4

// ReadPath returns what applications may take a normalised path for. They differ in what they do with a path
// before they look at it, so that a rule about access which knew only the path as it is sent could be passed
// by:
//
//   - the path as it is forwarded;
//   - with escapes decoded once, and the "." and ".." segments resolved that appear with it ("%2F" has
//     become a slash);
//   - like that, with backslashes for slashes and empty segments removed, as nginx and Go's ServeMux do;
//   - like that, without the parameters of segments (";v=1"), as servlet containers do.
//
// Applications that decode twice, or that do not tell upper from lower case, are not among them.
func ReadPath(path string) [Readings]string {
	read := [Readings]string{path, path, path, path}
	if path == "*" || !strings.ContainsAny(path, `%\;`) && !strings.Contains(path, "//") {
		return read
	}
	decoded := decodePath(path)
	merged := mergeSlashes(strings.ReplaceAll(decoded, `\`, "/"))
	plain := mergeSlashes(cutParameters(strings.ReplaceAll(decoded, `\`, "/")))
	for i, p := range []string{decoded, merged, plain} {
		if hasDotSegment(p) {
			p = removeDotSegments(p)
		}
		read[i+1] = p
	}
	return read
}

// decodePath decodes every escape of a normalised path, which has no broken one.
func decodePath(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
		}
		out = append(out, c)
	}
	return string(out)
}

// mergeSlashes makes one slash of several.
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			out = append(out, path[i])
		}
	}
	return string(out)
}

// cutParameters removes what follows a semicolon in each segment.
func cutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	var out strings.Builder
	for rest := path; rest != ""; {
		var segment string
		segment, rest = cutSegment(rest)
		segment, _, _ = strings.Cut(segment, ";")
		out.WriteByte('/')
		out.WriteString(segment)
	}
	return out.String()
}
