package h1

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
)

// head joins the lines of a head.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// fields returns a header of names and values.
func fields(text ...string) phttp.Header {
	var h phttp.Header
	for i := 0; i < len(text); i += 2 {
		h.Add(text[i], text[i+1])
	}
	return h
}

// readRequest reads one head as a server does.
func readRequest(text string) (*Request, *Error) {
	length, _, err := scanHead([]byte(text), 0)
	if err != nil {
		return nil, err
	}
	if length != len(text) {
		return nil, malformed("the head does not end with the text")
	}
	r := &Request{}
	return r, r.parse(text)
}

func TestRequest(t *testing.T) {
	tests := map[string]struct {
		head string
		want Request
	}{
		"the least": {
			head("GET / HTTP/1.1", "Host: a"),
			Request{Method: "GET", Target: "/", Authority: "a", Minor: 1},
		},
		"fields keep their bytes and order": {
			head("GET /a?b=%20 HTTP/1.1", "x-B:  1 2\t", "HOST: a:80", "X-b:", "X-A: \"\x80\xff\""),
			Request{Method: "GET", Target: "/a?b=%20", Authority: "a:80", Minor: 1, Header: fields("x-B", "1 2", "X-b", "", "X-A", "\"\x80\xff\"")},
		},
		"an unknown method": {
			head("M-SEARCH /~ HTTP/1.1", "Host: a"),
			Request{Method: "M-SEARCH", Target: "/~", Authority: "a", Minor: 1},
		},
		"a length": {
			head("POST / HTTP/1.1", "Host: a", "content-length: 007"),
			Request{Method: "POST", Target: "/", Authority: "a", Minor: 1, ContentLength: 7, Header: fields("content-length", "007")},
		},
		"the longest length": {
			head("POST / HTTP/1.1", "Host: a", "Content-Length: 9223372036854775807"),
			Request{Method: "POST", Target: "/", Authority: "a", Minor: 1, ContentLength: 1<<63 - 1, Header: fields("Content-Length", "9223372036854775807")},
		},
		"chunks": {
			head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: Chunked", "Trailer: X-Sum, Date"),
			Request{Method: "POST", Target: "/", Authority: "a", Minor: 1, ContentLength: -1, Header: fields("Transfer-Encoding", "Chunked", "Trailer", "X-Sum, Date")},
		},
		"close": {
			head("GET / HTTP/1.1", "Host: a", "Connection: x, CLOSE"),
			Request{Method: "GET", Target: "/", Authority: "a", Minor: 1, Close: true, Header: fields("Connection", "x, CLOSE")},
		},
		"continue": {
			head("PUT / HTTP/1.1", "Host: a", "Expect: 100-Continue", "Content-Length: 1"),
			Request{Method: "PUT", Target: "/", Authority: "a", Minor: 1, ContentLength: 1, Continue: true, Header: fields("Expect", "100-Continue", "Content-Length", "1")},
		},
		"continue without a body": {
			head("GET / HTTP/1.1", "Host: a", "Expect: 100-continue"),
			Request{Method: "GET", Target: "/", Authority: "a", Minor: 1, Header: fields("Expect", "100-continue")},
		},
		"an upgrade": {
			head("GET / HTTP/1.1", "Host: a", "Connection: keep-alive, Upgrade", "Upgrade: websocket"),
			Request{Method: "GET", Target: "/", Authority: "a", Minor: 1, Upgrade: true, Header: fields("Connection", "keep-alive, Upgrade", "Upgrade", "websocket")},
		},
		"an old version has no connection to keep, no expectations and no upgrades": {
			head("GET / HTTP/1.0", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Expect: 100-continue"),
			Request{Method: "GET", Target: "/", Close: true, Header: fields("Connection", "keep-alive, Upgrade", "Upgrade", "websocket", "Expect", "100-continue")},
		},
		"an empty host": {
			head("GET / HTTP/1.1", "Host:"),
			Request{Method: "GET", Target: "/", Minor: 1},
		},
		"an address as host": {
			head("GET / HTTP/1.1", "Host: [::1]:8080"),
			Request{Method: "GET", Target: "/", Authority: "[::1]:8080", Minor: 1},
		},
		"absolute form": {
			head("GET HTTP://A.example:80/b?c HTTP/1.1", "Host: a.example:80"),
			Request{Method: "GET", Target: "/b?c", Authority: "A.example:80", Minor: 1},
		},
		"absolute form without a path": {
			head("OPTIONS http://a?c HTTP/1.1", "Host: a"),
			Request{Method: "OPTIONS", Target: "/?c", Authority: "a", Minor: 1},
		},
		"asterisk form": {
			head("OPTIONS * HTTP/1.1", "Host: a"),
			Request{Method: "OPTIONS", Target: "*", Authority: "a", Minor: 1},
		},
		"authority form": {
			head("CONNECT a:443 HTTP/1.1", "Host: a:443"),
			Request{Method: "CONNECT", Target: "a:443", Authority: "a:443", Minor: 1},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readRequest(tc.head)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if len(got.Header) == 0 {
				got.Header = nil
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	with := func(fields ...string) string {
		return head(append([]string{"POST / HTTP/1.1", "Host: a"}, fields...)...)
	}
	tests := map[string]struct {
		head string
		want *Error
	}{
		// RFC 9112 section 2.2.
		"LF alone after the request line": {"GET / HTTP/1.1\nHost: a\r\n\r\n", errBareLF},
		"LF alone after a field":          {"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", errBareLF},
		"LF alone for the empty line":     {"GET / HTTP/1.1\r\nHost: a\r\n\n", errBareLF},
		"LF at the beginning":             {"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errBareLF},
		"CR alone in a value":             {with("X: a\rb"), errFieldValue},
		"CR before CR LF":                 {with("X: a\r"), errFieldValue},
		"CR alone in the request line":    {head("GET /\rX HTTP/1.1", "Host: a"), errTarget},
		"an empty line first":             {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errEmptyLine},

		// RFC 9112 section 3.
		"no version":                     {head("GET /", "Host: a"), errRequestLine},
		"two spaces after the method":    {head("GET  / HTTP/1.1", "Host: a"), errRequestLine},
		"two spaces before the version":  {head("GET /  HTTP/1.1", "Host: a"), errRequestLine},
		"space at the end":               {head("GET / HTTP/1.1 ", "Host: a"), errRequestLine},
		"tab for a space":                {head("GET\t/ HTTP/1.1", "Host: a"), errRequestLine},
		"space first":                    {head(" GET / HTTP/1.1", "Host: a"), errMethod},
		"a method that is no token":      {head("G(T / HTTP/1.1", "Host: a"), errMethod},
		"a long method":                  {head(strings.Repeat("A", maxMethod+1)+" / HTTP/1.1", "Host: a"), errMethod},
		"NUL in the target":              {head("GET /\x00 HTTP/1.1", "Host: a"), errTarget},
		"DEL in the target":              {head("GET /\x7f HTTP/1.1", "Host: a"), errTarget},
		"a target without a slash":       {head("GET a HTTP/1.1", "Host: a"), errTarget},
		"another scheme":                 {head("GET https://a/ HTTP/1.1", "Host: a"), errTarget},
		"a user in the target":           {head("GET http://u@a/ HTTP/1.1", "Host: a"), errTarget},
		"no authority in the target":     {head("GET http:///b HTTP/1.1", "Host: a"), errTarget},
		"HTTP/0.9":                       {head("GET / HTTP/0.9", "Host: a"), errVersion},
		"HTTP/1.2":                       {head("GET / HTTP/1.2", "Host: a"), errVersion},
		"HTTP/2.0":                       {head("PRI * HTTP/2.0"), errVersion},
		"a version in lower case":        {head("GET / http/1.1", "Host: a"), errRequestLine},
		"a version with too many digits": {head("GET / HTTP/1.10", "Host: a"), errRequestLine},
		"a version that is none":         {head("GET / HTTP/1.x", "Host: a"), errRequestLine},
		"a version of another protocol":  {head("GET / RTSP/1.0", "Host: a"), errRequestLine},
		"a field instead of the request": {head("Host: a"), errRequestLine},
		"a second request line":          {with("GET / HTTP/1.1"), errFieldName},

		// RFC 9112 section 5 and RFC 9110 section 5.5.
		"space before the colon":    {with("X : 1"), errFieldName},
		"tab before the colon":      {with("X\t: 1"), errFieldName},
		"no name":                   {with(": 1"), errFieldName},
		"no colon":                  {with("X"), errFieldName},
		"a name that is no token":   {with("X[]: 1"), errFieldName},
		"NUL in a name":             {with("X\x00: 1"), errFieldName},
		"a byte over 127 in a name": {with("X\xe4: 1"), errFieldName},
		"folding":                   {with("X: 1", " 2"), errFolded},
		"folding with a tab":        {with("X: 1", "\t2"), errFolded},
		"whitespace first":          {head("GET / HTTP/1.1", " Host: a"), errFolded},
		"a line of one space":       {with(" "), errFolded},
		"NUL in a value":            {with("X: \x00"), errFieldValue},
		"BEL in a value":            {with("X: \x07"), errFieldValue},
		"DEL in a value":            {with("X: \x7f"), errFieldValue},
		"too many fields":           {with(strings.Split(strings.Repeat("X: 1,", MaxRequestFields)+"X: 1", ",")...), errFields},

		// RFC 9112 section 3.2.
		"no host":                      {head("GET / HTTP/1.1"), errHostMissing},
		"no host, absolute form":       {head("GET http://a/ HTTP/1.1"), errHostMissing},
		"two hosts":                    {with("host: a"), errHostTwice},
		"two hosts in HTTP/1.0":        {head("GET / HTTP/1.0", "Host: a", "Host: a"), errHostTwice},
		"a list of hosts":              {head("GET / HTTP/1.1", "Host: a, b"), errHost},
		"a host with a path":           {head("GET / HTTP/1.1", "Host: a/b"), errHost},
		"a host with a user":           {head("GET / HTTP/1.1", "Host: u@a"), errHost},
		"a port that is none":          {head("GET / HTTP/1.1", "Host: a:b"), errHost},
		"no host before the port":      {head("GET / HTTP/1.1", "Host: :80"), errHost},
		"two ports":                    {head("GET / HTTP/1.1", "Host: a:80:80"), errHost},
		"half an address":              {head("GET / HTTP/1.1", "Host: [::1"), errHost},
		"the target names another":     {head("GET http://b/ HTTP/1.1", "Host: a"), errHostDiffers},
		"the target names a port":      {head("GET http://a:80/ HTTP/1.1", "Host: a"), errHostDiffers},
		"an empty host, absolute form": {head("GET http://b/ HTTP/1.1", "Host:"), errHostDiffers},

		// RFC 9110 section 8.6 and RFC 9112 sections 6.1 and 6.3.
		"length and coding":        {with("Content-Length: 5", "Transfer-Encoding: chunked"), errLengthAndCoding},
		"coding and length":        {with("Transfer-Encoding: chunked", "Content-Length: 5"), errLengthAndCoding},
		"two lengths":              {with("Content-Length: 5", "Content-Length: 6"), errLengthTwice},
		"two equal lengths":        {with("Content-Length: 5", "Content-Length: 5"), errLengthTwice},
		"a list of lengths":        {with("Content-Length: 5, 5"), errLength},
		"an empty length":          {with("Content-Length:"), errLength},
		"a negative length":        {with("Content-Length: -1"), errLength},
		"a length with a sign":     {with("Content-Length: +1"), errLength},
		"a hexadecimal length":     {with("Content-Length: 0x1"), errLength},
		"a length with a space":    {with("Content-Length: 1 2"), errLength},
		"a length of 2^63":         {with("Content-Length: 9223372036854775808"), errLength},
		"a length of 2^64+1":       {with("Content-Length: 18446744073709551617"), errLength},
		"another coding":           {with("Transfer-Encoding: gzip"), errCoding},
		"chunked twice":            {with("Transfer-Encoding: chunked, chunked"), errCoding},
		"two codings":              {with("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), errCoding},
		"chunked last":             {with("Transfer-Encoding: gzip, chunked"), errCoding},
		"chunked first":            {with("Transfer-Encoding: chunked, identity"), errCoding},
		"chunked with a parameter": {with("Transfer-Encoding: chunked;a"), errCoding},
		"chunked in quotes":        {with("Transfer-Encoding: \"chunked\""), errCoding},
		"an empty coding":          {with("Transfer-Encoding:"), errCoding},
		"identity":                 {with("Transfer-Encoding: identity"), errCoding},
		"a vertical tab":           {with("Transfer-Encoding: \x0bchunked"), errFieldValue},
		"a coding in HTTP/1.0":     {head("POST / HTTP/1.0", "Transfer-Encoding: chunked"), errCodingOld},
		"a trailer of framing":     {with("Transfer-Encoding: chunked", "Trailer: X, content-length"), errTrailerField},

		// RFC 9110 section 10.1.1.
		"another expectation":    {with("Expect: tea"), errExpect},
		"two expectations":       {with("Expect: 100-continue", "Expect: 100-continue"), errExpect},
		"a list of expectations": {with("Expect: 100-continue, tea"), errExpect},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := readRequest(tc.head)
			if err == nil || !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}

// A head that comes byte by byte is judged like one that comes at once, and as soon.
func TestScanHeadInPieces(t *testing.T) {
	text := head("GET / HTTP/1.1", "Host: a", "X: 1") + "rest"
	want := len(text) - len("rest")
	from := 0
	for n := range len(text) {
		length, next, err := scanHead([]byte(text[:n]), from)
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if length > 0 {
			if n != want || length != want {
				t.Fatalf("length = %d after %d bytes, want %d after as many", length, n, want)
			}
			return
		}
		from = next
	}
	t.Fatal("the end was not found")
}
