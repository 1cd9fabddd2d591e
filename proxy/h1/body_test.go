package h1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
)

// received is a connection on which some bytes have come, in pieces as reader has them, and then its end.
type received struct{ reader io.Reader }

func (r received) Read(p []byte) (int, error)     { return r.reader.Read(p) }
func (received) Write(p []byte) (int, error)      { return len(p), nil }
func (received) Close() error                     { return nil }
func (received) LocalAddr() net.Addr              { return nil }
func (received) RemoteAddr() net.Addr             { return nil }
func (received) SetDeadline(time.Time) error      { return nil }
func (received) SetReadDeadline(time.Time) error  { return nil }
func (received) SetWriteDeadline(time.Time) error { return nil }

var pieces = map[string]func(io.Reader) io.Reader{
	"at once":      func(r io.Reader) io.Reader { return r },
	"byte by byte": iotest.OneByteReader,
	"in halves":    iotest.HalfReader,
}

// readBody reads a body with one of the ways to do so, and returns what is left of the text.
func readBody(s *source, length int64, next bool) (content string, b *body, err error) {
	b = &body{}
	b.begin(s, length)
	var out []byte
	if next {
		for err == nil {
			var p []byte
			p, err = b.next()
			out = append(out, p...)
		}
	} else {
		p := make([]byte, 3)
		for err == nil {
			var n int
			n, err = b.read(p)
			out = append(out, p[:n]...)
		}
	}
	return string(out), b, err
}

func TestBody(t *testing.T) {
	const rest = "GET / HTTP/1.1\r\n"
	tests := map[string]struct {
		text        string
		length      int64
		want        string
		wantTrailer phttp.Header
	}{
		"nothing":              {"", 0, "", nil},
		"a length":             {"hello", 5, "hello", nil},
		"no chunk":             {"0\r\n\r\n", lengthChunked, "", nil},
		"zeros":                {"000\r\n\r\n", lengthChunked, "", nil},
		"chunks":               {"5\r\nhello\r\n1\r\n \r\n0B\r\nworld, and \r\n0\r\n\r\n", lengthChunked, "hello world, and ", nil},
		"sixteen digits":       {"0000000000000001\r\na\r\n0\r\n\r\n", lengthChunked, "a", nil},
		"extensions are lost":  {"1;a=b;c=\"d e\"\r\na\r\n0;x\r\n\r\n", lengthChunked, "a", nil},
		"a trailer":            {"1\r\na\r\n0\r\nX-Sum: 1\r\nx-y: 2\r\n\r\n", lengthChunked, "a", fields("X-Sum", "1", "x-y", "2")},
		"a trailer of control": {"0\r\nX: 1\r\nAuthorization: b\r\nWeft-Reason: c\r\nSet-Cookie: d\r\n\r\n", lengthChunked, "", fields("X", "1")},
		"data like an end":     {"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", lengthChunked, "\r\n0\r\n\r\n", nil},
	}
	for name, tc := range tests {
		for piece, in := range pieces {
			for _, next := range []bool{false, true} {
				t.Run(name+", "+piece, func(t *testing.T) {
					s := &source{conn: received{in(strings.NewReader(tc.text + rest))}}
					got, b, err := readBody(s, tc.length, next)
					if got != tc.want || !errors.Is(err, io.EOF) || !b.complete() {
						t.Errorf("body = %q, %v, want %q to its end", got, err, tc.want)
					}
					if diff := cmp.Diff(tc.wantTrailer, b.trailer); diff != "" {
						t.Errorf("trailer (-want +got):\n%s", diff)
					}
					left := string(s.buffered())
					more, err := io.ReadAll(s.conn)
					if left+string(more) != rest || err != nil {
						t.Errorf("left for the next message: %q, %v, want %q", left+string(more), err, rest)
					}
				})
			}
		}
	}
}

func TestBodyToTheEnd(t *testing.T) {
	got, b, err := readBody(&source{conn: received{strings.NewReader("all of it")}}, lengthToEnd, true)
	if got != "all of it" || !errors.Is(err, io.EOF) || !b.complete() {
		t.Errorf("body = %q, %v, want all of it", got, err)
	}
}

func TestBodyRefused(t *testing.T) {
	tests := map[string]struct {
		text   string
		length int64
		want   error
	}{
		"it ends early":                  {"hell", 5, io.ErrUnexpectedEOF},
		"no last chunk":                  {"1\r\na\r\n", lengthChunked, io.ErrUnexpectedEOF},
		"half a size":                    {"1", lengthChunked, io.ErrUnexpectedEOF},
		"half a chunk":                   {"5\r\nhel", lengthChunked, io.ErrUnexpectedEOF},
		"half a trailer":                 {"0\r\nX: 1\r\n", lengthChunked, io.ErrUnexpectedEOF},
		"no digits":                      {"\r\n", lengthChunked, errChunkSize},
		"a sign":                         {"+1\r\na\r\n0\r\n\r\n", lengthChunked, errChunkSize},
		"a negative size":                {"-1\r\n", lengthChunked, errChunkSize},
		"0x":                             {"0x1\r\na\r\n", lengthChunked, errChunkSize},
		"a space before":                 {" 1\r\na\r\n", lengthChunked, errChunkSize},
		"a space after":                  {"1 \r\na\r\n", lengthChunked, errChunkSize},
		"a space before the extension":   {"1 ;a\r\na\r\n", lengthChunked, errChunkSize},
		"an underscore":                  {"1_0\r\n", lengthChunked, errChunkSize},
		"seventeen digits":               {"00000000000000001\r\na\r\n", lengthChunked, errChunkSize},
		"2^63":                           {"8000000000000000\r\n", lengthChunked, errChunkSize},
		"2^64-1":                         {"ffffffffffffffff\r\n", lengthChunked, errChunkSize},
		"LF alone after a size":          {"1\na\r\n0\r\n\r\n", lengthChunked, errChunkSize},
		"LF alone after an extension":    {"1;a\na\r\n0\r\n\r\n", lengthChunked, errChunkExtension},
		"CR in an extension":             {"1;a\rb\r\na\r\n0\r\n\r\n", lengthChunked, errChunkExtension},
		"two CR after a size":            {"1\r\r\na\r\n0\r\n\r\n", lengthChunked, errChunkExtension},
		"NUL in an extension":            {"1;\x00\r\na\r\n0\r\n\r\n", lengthChunked, errChunkExtension},
		"a long extension":               {"1;" + strings.Repeat("a", maxChunkLine) + "\r\na\r\n0\r\n\r\n", lengthChunked, errChunkExtension},
		"an extension without end":       {"1;" + strings.Repeat("a", 2*maxChunkLine), lengthChunked, errChunkExtension},
		"many extensions":                {strings.Repeat("1;"+strings.Repeat("a", 900)+"\r\na\r\n", 20), lengthChunked, errChunkExtension},
		"data longer than its chunk":     {"1\r\nab\r\n0\r\n\r\n", lengthChunked, errChunkEnd},
		"LF alone after a chunk":         {"1\r\na\n0\r\n\r\n", lengthChunked, errChunkEnd},
		"nothing after a chunk":          {"1\r\na0\r\n\r\n", lengthChunked, errChunkEnd},
		"CR and something after a chunk": {"1\r\na\rb0\r\n\r\n", lengthChunked, errChunkEnd},
		"LF alone in a trailer":          {"0\r\nX: 1\n\r\n", lengthChunked, errBareLF},
		"LF alone after the last chunk":  {"0\r\n\n", lengthChunked, errBareLF},
		"folding in a trailer":           {"0\r\nX: 1\r\n 2\r\n\r\n", lengthChunked, errFolded},
		"no name in a trailer":           {"0\r\n: 1\r\n\r\n", lengthChunked, errFieldName},
		"a length in a trailer":          {"0\r\nContent-Length: 1\r\n\r\n", lengthChunked, errTrailerField},
		"a coding in a trailer":          {"0\r\nTransfer-Encoding: chunked\r\n\r\n", lengthChunked, errTrailerField},
		"a host in a trailer":            {"0\r\nHost: a\r\n\r\n", lengthChunked, errTrailerField},
		"a long trailer":                 {"0\r\nX: " + strings.Repeat("a", maxTrailer) + "\r\n\r\n", lengthChunked, errTrailerSize},
		"a trailer without end":          {"0\r\nX: " + strings.Repeat("a", 2*maxTrailer), lengthChunked, errTrailerSize},
		"a request after half a body":    {"5\r\nGET / HTTP/1.1\r\n\r\n", lengthChunked, errChunkEnd},
	}
	for name, tc := range tests {
		for piece, in := range pieces {
			for _, next := range []bool{false, true} {
				t.Run(name+", "+piece, func(t *testing.T) {
					s := &source{conn: received{in(strings.NewReader(tc.text))}}
					_, b, err := readBody(s, tc.length, next)
					if !errors.Is(err, tc.want) || b.complete() {
						t.Errorf("error = %v, want %v", err, tc.want)
					}
				})
			}
		}
	}
}
