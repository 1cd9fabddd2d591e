package h1

import (
	"bytes"

	phttp "weft.dev/weft/proxy/http"
)

const (
	// maxChunkLine bounds the line before a chunk, maxChunkExtensions all extensions of a body together.
	maxChunkLine       = 1 << 10
	maxChunkExtensions = 16 << 10
	// maxChunkDigits are as many as 2^63-1 has, with leading zeros.
	maxChunkDigits = 16
)

// parseChunkLine reads the line before a chunk, at the front of b: its size, how long the line is with its
// end, and how much of it is extensions. length is zero if the line is not complete.
func parseChunkLine(b []byte) (size int64, length, extensions int, err *Error) {
	i := 0
	for ; i < len(b); i++ {
		digit, ok := hexDigit(b[i])
		if !ok {
			break
		}
		if i == maxChunkDigits || size >= 1<<59 {
			return 0, 0, 0, errChunkSize
		}
		size = size<<4 | digit
	}
	switch {
	case i == len(b):
		return 0, 0, 0, nil
	case i == 0, b[i] != '\r' && b[i] != ';':
		return 0, 0, 0, errChunkSize
	}
	end := bytes.IndexByte(b[i:], '\n')
	if end < 0 {
		if len(b) > maxChunkLine {
			return 0, 0, 0, errChunkExtension
		}
		return 0, 0, 0, nil
	}
	end += i
	if end > maxChunkLine || b[end-1] != '\r' {
		return 0, 0, 0, errChunkExtension
	}
	for _, c := range b[i : end-1] {
		if !phttp.ValueOctets[c] {
			return 0, 0, 0, errChunkExtension
		}
	}
	return size, end + 1, end - 1 - i, nil
}

func hexDigit(c byte) (int64, bool) {
	switch {
	case phttp.IsDigit(c):
		return int64(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return int64(c-'A') + 10, true
	}
	return 0, false
}
