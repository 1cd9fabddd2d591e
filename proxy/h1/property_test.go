package h1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	phttp "weft.dev/weft/proxy/http"
)

var noContent = phttp.Response{Status: http.StatusNoContent}

// endToEnd are the fields that an engine passes on.
func endToEnd(h phttp.Header) phttp.Header {
	kept := h.Clone()
	phttp.StripHopByHop(&kept, false)
	return kept
}

// FuzzForwardedRequest holds that what is forwarded of a request is read back as the same message.
func FuzzForwardedRequest(f *testing.F) {
	for _, text := range conversations {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := &source{conn: received{bytes.NewReader(text)}}
		first, body, trailer, err := readMessage(in)
		if err != nil {
			return
		}
		sent := phttp.Request{Method: first.Method, Authority: first.Authority, Header: endToEnd(first.Header)}
		if sent.SetTarget(first.Target) != nil || sent.Authority == "" || sent.Method == http.MethodConnect {
			return // the engine refuses it, or names the Service
		}
		length := first.ContentLength
		if length == 0 {
			length = lengthNone
		}
		out := appendRequest(nil, &sent, length, false)
		switch {
		case length > 0:
			out = append(out, body...)
		case length == lengthChunked:
			if body != "" {
				out = appendChunk(out, []byte(body))
			}
			out = appendLastChunk(out, trailer)
		}
		const marker = "marker"
		again := &source{conn: received{strings.NewReader(string(out) + marker)}}
		second, bodyAgain, trailerAgain, err := readMessage(again)
		if err != nil {
			t.Fatalf("%q is forwarded as %q, which is refused: %v", text, out, err)
		}
		rest, _ := io.ReadAll(again.conn)
		if left := string(again.buffered()) + string(rest); left != marker {
			t.Fatalf("%q is forwarded as %q, of which %q is left", text, out, left)
		}
		want := phttp.Request{Method: sent.Method, Authority: sent.Authority, Path: sent.Target(), Header: withoutFraming(sent.Header)}
		got := phttp.Request{Method: second.Method, Authority: second.Authority, Path: second.Target, Header: withoutFraming(second.Header)}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q is forwarded as another message (-sent +read):\n%s", text, diff)
		}
		if body != bodyAgain || !cmp.Equal(trailer, trailerAgain, cmpopts.EquateEmpty()) {
			t.Fatalf("%q is forwarded with body %q and trailer %v, not %q and %v", text, bodyAgain, trailerAgain, body, trailer)
		}
		// And as net/http reads it.
		std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if err != nil {
			t.Fatalf("%q is forwarded as %q, which net/http refuses: %v", text, out, err)
		}
		bodyOfStd, err := io.ReadAll(std.Body)
		if err != nil || string(bodyOfStd) != body || std.Host != sent.Authority || std.RequestURI != sent.Target() {
			t.Fatalf("%q is forwarded as %q, which net/http reads as %q of %q with %q, %v", text, out, std.RequestURI, std.Host, bodyOfStd, err)
		}
	})
}

func withoutFraming(h phttp.Header) phttp.Header {
	return slices.DeleteFunc(h.Clone(), func(f phttp.Field) bool {
		return equalFold(f.Name, "content-length") || equalFold(f.Name, "transfer-encoding")
	})
}

// readMessage reads one request with its body.
func readMessage(s *source) (*Request, string, phttp.Header, error) {
	text, err := s.head(MaxRequestHead, "", nil)
	if err != nil {
		return nil, "", nil, err
	}
	r := &Request{}
	if failed := r.parse(text); failed != nil {
		return nil, "", nil, failed
	}
	content, b, err := readBody(s, r.ContentLength, true)
	if !errors.Is(err, io.EOF) || !b.complete() {
		return nil, "", nil, err
	}
	return r, content, b.trailer, nil
}

// FuzzResponse holds that what is taken for a response is the same one for net/http, and that what is passed on of
// it is read back as the same message.
func FuzzResponse(f *testing.F) {
	for _, text := range []string{
		head("HTTP/1.1 200 OK", "Content-Length: 5", "X: 1") + "hello",
		head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
		head("HTTP/1.1 200 OK") + "to the end",
		head("HTTP/1.0 200 OK", "Content-Length: 2") + "ok",
		head("HTTP/1.1 204 No Content", "Content-Length: 5") + "hello",
		head("HTTP/1.1 304 Not Modified", "ETag: \"a\""),
		head("HTTP/1.1 200", "Content-Length: 0"),
		head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 5") + "hello",
		head("HTTP/1.1 200 OK", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, isHead bool) {
		method := http.MethodGet
		if isHead {
			method = http.MethodHead
		}
		c := NewClient(received{bytes.NewReader(text)})
		if c.Head(method, false) != nil || c.Response.Status < 200 {
			return
		}
		content, err := io.ReadAll(readerFunc(c.Read))
		if err != nil {
			return
		}
		std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q is taken, and net/http refuses it: %v", text, err)
		}
		body, err := io.ReadAll(std.Body)
		_ = std.Body.Close()
		if err != nil || string(body) != string(content) || std.StatusCode != c.Response.Status {
			t.Fatalf("%q is read as %d %q, and by net/http as %d %q, %v", text, c.Response.Status, content, std.StatusCode, body, err)
		}
		sent := phttp.Response{Status: c.Response.Status, Header: endToEnd(c.Response.Header)}
		length := int64(len(content))
		if isHead || sent.Status == 304 {
			length = lengthOther
		} else if sent.Status == 204 {
			length = lengthToEnd
		}
		out := append(appendResponse(nil, &sent, length, false), content...)
		again := NewClient(received{bytes.NewReader(out)})
		if err := again.Head(method, false); err != nil {
			t.Fatalf("%q is passed on as %q, which is refused: %v", text, out, err)
		}
		contentAgain, err := io.ReadAll(readerFunc(again.Read))
		if err != nil || string(contentAgain) != string(content) || again.Response.Status != sent.Status {
			t.Fatalf("%q is passed on as %q, which is %d %q, %v", text, out, again.Response.Status, contentAgain, err)
		}
		got := withoutFraming(again.Response.Header)
		if !sent.Header.Has("Date") {
			got.Del("Date")
		}
		if diff := cmp.Diff(withoutFraming(sent.Header), got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q is passed on with other fields (-sent +read):\n%s", text, diff)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
