package engine

import (
	"strings"
	"testing"
)

// FuzzLengthLines compares the counting of lines as they come with that of the whole.
func FuzzLengthLines(f *testing.F) {
	f.Add("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 20)
	f.Add("a\ncontent-lengthcontent-length\nCONTENT-LENGTH", 5)
	f.Add("\n\nContent-Lengt\nContent-Length", 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		if strings.HasPrefix(text, "P") || cut < 0 || cut > len(text) {
			return // a preface is none of its business
		}
		var l lengthLines
		l.read([]byte(text[:cut]))
		l.read([]byte(text[cut:]))
		want := int64(0)
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) >= len(contentLength) && strings.EqualFold(line[:len(contentLength)], contentLength) {
				want++
			}
		}
		if got := l.outstanding.Load(); got != want {
			t.Errorf("%q has %d lines with a length, counted %d", text, want, got)
		}
	})
}

// FuzzGRPCTimeout checks that a deadline never shrinks by being passed on.
func FuzzGRPCTimeout(f *testing.F) {
	for _, seed := range []string{"1n", "99999999H", "1S", "0m", "100u", "-1S", "1", "1x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		d, err := parseGRPCTimeout(value)
		if err != nil {
			return
		}
		again, err := parseGRPCTimeout(formatGRPCTimeout(d))
		if err != nil || again < d {
			t.Errorf("%q is passed on as %q, %v", value, formatGRPCTimeout(d), err)
		}
	})
}
