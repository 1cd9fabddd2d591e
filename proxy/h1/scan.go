package h1

import "bytes"

// scanHead looks for the empty line that ends a head. b begins with the head, and its first from bytes have
// been scanned before. It returns the length of the head with that line, zero if it is not complete yet, and
// from where to go on then.
//
// It refuses at once what no more bytes could make valid, so that a peer that ends lines otherwise is told so
// instead of being waited for.
func scanHead(b []byte, from int) (length, next int, err *Error) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, len(b), nil
		}
		i += from
		switch {
		case i == 0 || b[i-1] != '\r':
			return 0, 0, errBareLF
		case i == 1:
			return 0, 0, errEmptyLine
		case b[i-2] == '\n':
			return i + 1, 0, nil
		}
		from = i + 1
	}
}
