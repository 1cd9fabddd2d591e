package h1

import (
	"strings"

	phttp "weft.dev/weft/proxy/http"
)

// facts is what the fields of a head say about the message and its connection.
type facts struct {
	host      string
	hosts     int
	length    int64
	lengths   int
	codings   int
	chunked   bool
	closing   bool // "Connection: close"
	upgrading bool // "Connection: upgrade"
	upgrades  int
	expects   bool
	expectBad bool
}

// parseFields appends the field lines of section to h. section is what follows the start line, the empty line
// included, and every LF in it follows a CR. Host is a fact and not in h: it is written with the request line.
func parseFields(section string, h phttp.Header, most int) (phttp.Header, facts, *Error) {
	var f facts
	for {
		end := strings.IndexByte(section, '\n')
		line := section[:end-1]
		section = section[end+1:]
		if line == "" {
			return h, f, nil
		}
		name, value, err := parseField(line)
		if err != nil {
			return h, f, err
		}
		if isHost, err := f.learn(name, value); err != nil {
			return h, f, err
		} else if isHost {
			continue
		}
		if len(h) == most {
			return h, f, errFields
		}
		h = append(h, phttp.Field{Name: name, Value: value})
	}
}

// parseField splits one line, which has no CR LF at its end.
func parseField(line string) (name, value string, err *Error) {
	colon := 0
	for colon < len(line) && phttp.TokenOctets[line[colon]] {
		colon++
	}
	switch {
	case line[0] == ' ' || line[0] == '\t':
		return "", "", errFolded
	case colon == 0 || colon == len(line) || line[colon] != ':':
		return "", "", errFieldName
	}
	value = trim(line[colon+1:])
	if !phttp.ValueOctets.All(value) {
		return "", "", errFieldValue
	}
	return line[:colon], value, nil
}

// learn takes a field into account.
func (f *facts) learn(name, value string) (isHost bool, err *Error) {
	switch len(name) {
	case len("host"):
		if equalFold(name, "host") {
			if f.hosts++; f.hosts > 1 {
				return true, errHostTwice
			}
			f.host = value
			return true, nil
		}
	case len("expect"):
		if equalFold(name, "expect") {
			f.expectBad = f.expects || !equalFold(value, "100-continue")
			f.expects = true
		}
	case len("upgrade"):
		if equalFold(name, "upgrade") {
			f.upgrades++
		} else if equalFold(name, "trailer") {
			return false, checkTrailerNames(value)
		}
	case len("connection"):
		if equalFold(name, "connection") {
			f.closing = f.closing || listed(value, "close")
			f.upgrading = f.upgrading || listed(value, "upgrade")
		}
	case len("content-length"):
		if equalFold(name, "content-length") {
			if f.lengths++; f.lengths > 1 {
				return false, errLengthTwice
			}
			f.length, err = parseLength(value)
			return false, err
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			f.codings++
			f.chunked = equalFold(value, "chunked")
		}
	}
	return false, nil
}

// framing holds the facts about a body against each other (RFC 9112 section 6.1). It says how long the body
// is: lengthChunked, or lengthNone if nothing is said.
func (f *facts) framing(minor uint8) (int64, *Error) {
	switch {
	case f.codings > 0 && f.lengths > 0:
		return 0, errLengthAndCoding
	case f.codings > 0 && minor == 0:
		return 0, errCodingOld
	case f.codings > 1 || f.codings == 1 && !f.chunked:
		return 0, errCoding
	case f.chunked:
		return lengthChunked, nil
	case f.lengths > 0:
		return f.length, nil
	}
	return lengthNone, nil
}

// Lengths of bodies that are no numbers of bytes.
const (
	lengthChunked = -1
	// lengthNone: there is no body, and the head need not say so.
	lengthNone = -2
	// lengthToEnd: the body ends with the connection, and the head says nothing about it.
	lengthToEnd = -3
	// lengthOther: there is no body, and the head tells the length that another response would have.
	lengthOther = -4
)

// parseLength reads a Content-Length (RFC 9110 section 8.6): digits alone, no sign, list or space.
func parseLength(value string) (int64, *Error) {
	var n int64
	if value == "" {
		return 0, errLength
	}
	for i := range len(value) {
		c := value[i]
		if !phttp.IsDigit(c) || n > (1<<63-1-int64(c-'0'))/10 {
			return 0, errLength
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// listed tells whether a comma-separated list has a member, in lower case.
func listed(list, member string) bool {
	for list != "" {
		item, rest, _ := strings.Cut(list, ",")
		if equalFold(trim(item), member) {
			return true
		}
		list = rest
	}
	return false
}
