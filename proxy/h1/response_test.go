package h1

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	phttp "weft.dev/weft/proxy/http"
)

func readResponse(text, method string, upgrade bool) (*Response, *Error) {
	length, _, err := scanHead([]byte(text), 0)
	if err != nil {
		return nil, err
	}
	if length != len(text) {
		return nil, malformed("the head does not end with the text")
	}
	r := &Response{}
	return r, r.parse(text, method, upgrade)
}

func TestResponse(t *testing.T) {
	response := func(status int, minor uint8, contentLength, length int64, closing bool, text ...string) Response {
		return Response{
			Response: phttp.Response{Status: status, Header: fields(text...)}, Minor: minor,
			ContentLength: contentLength, length: length, closing: closing,
		}
	}
	tests := map[string]struct {
		head, method string
		upgrade      bool
		want         Response
	}{
		"a length": {
			head: head("HTTP/1.1 200 OK", "content-length: 5", "X: 1"),
			want: response(200, 1, 5, 5, false, "content-length", "5", "X", "1"),
		},
		"chunks": {
			head: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"),
			want: response(200, 1, -1, lengthChunked, false, "Transfer-Encoding", "chunked"),
		},
		"to the end":         {head: head("HTTP/1.1 200 OK"), want: response(200, 1, -1, lengthToEnd, true)},
		"a later version":    {head: head("HTTP/1.2 204 No Content"), want: response(204, 1, 0, 0, false)},
		"no reason":          {head: head("HTTP/1.1 200 ", "Content-Length: 0"), want: response(200, 1, 0, 0, false, "Content-Length", "0")},
		"no space":           {head: head("HTTP/1.1 200", "Content-Length: 0"), want: response(200, 1, 0, 0, false, "Content-Length", "0")},
		"an unusual status":  {head: head("HTTP/1.1 999 x", "Content-Length: 0"), want: response(999, 1, 0, 0, false, "Content-Length", "0")},
		"close":              {head: head("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 0"), want: response(200, 1, 0, 0, true, "Connection", "close", "Content-Length", "0")},
		"an old version":     {head: head("HTTP/1.0 200 OK", "Content-Length: 1"), want: response(200, 0, 1, 1, true, "Content-Length", "1")},
		"HEAD":               {head: head("HTTP/1.1 200 OK", "Content-Length: 5"), method: "HEAD", want: response(200, 1, 0, 0, false, "Content-Length", "5")},
		"HEAD with a coding": {head: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), method: "HEAD", want: response(200, 1, 0, 0, false, "Transfer-Encoding", "chunked")},
		"204":                {head: head("HTTP/1.1 204 No Content", "Content-Length: 5"), want: response(204, 1, 0, 0, false, "Content-Length", "5")},
		"304":                {head: head("HTTP/1.1 304 Not Modified", "Content-Length: 5"), want: response(304, 1, 0, 0, false, "Content-Length", "5")},
		"103":                {head: head("HTTP/1.1 103 Early Hints", "Link: a"), want: response(103, 1, 0, 0, false, "Link", "a")},
		"a Host, which is the application's": {
			head: head("HTTP/1.1 204 No Content", "Host: a"), want: response(204, 1, 0, 0, false, "Host", "a"),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readResponse(tc.head, tc.method, tc.upgrade)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if diff := cmp.Diff(&tc.want, got, cmp.AllowUnexported(Response{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResponseRefused(t *testing.T) {
	with := func(fields ...string) string { return head(append([]string{"HTTP/1.1 200 OK"}, fields...)...) }
	tests := map[string]struct {
		head string
		want *Error
	}{
		"LF alone":               {"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", errBareLF},
		"no HTTP":                {head("SSH-2.0-x"), errStatusLine},
		"HTTP/2":                 {head("HTTP/2.0 200 OK"), errStatusLine},
		"two digits":             {head("HTTP/1.1 20 OK"), errStatusLine},
		"four digits":            {head("HTTP/1.1 2000 OK"), errStatusLine},
		"no digits":              {head("HTTP/1.1 abc OK"), errStatusLine},
		"status 099":             {head("HTTP/1.1 099 OK"), errStatusLine},
		"two spaces":             {head("HTTP/1.1  200 OK"), errStatusLine},
		"NUL in the reason":      {head("HTTP/1.1 200 O\x00K"), errStatusLine},
		"folding":                {with("X: 1", " 2"), errFolded},
		"space before the colon": {with("X : 1"), errFieldName},
		"NUL in a value":         {with("X: \x00"), errFieldValue},
		"length and coding":      {with("Content-Length: 5", "Transfer-Encoding: chunked"), errLengthAndCoding},
		"two lengths":            {with("Content-Length: 5", "Content-Length: 5"), errLengthTwice},
		"a list of lengths":      {with("Content-Length: 5, 5"), errLength},
		"a negative length":      {with("Content-Length: -1"), errLength},
		"another coding":         {with("Transfer-Encoding: gzip"), errCoding},
		"chunked twice":          {with("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), errCoding},
		"a coding in HTTP/1.0":   {head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"), errCodingOld},
		"a switch nobody wanted": {head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"), errSwitch},
		"a trailer of framing":   {with("Transfer-Encoding: chunked", "Trailer: Transfer-Encoding"), errTrailerField},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := readResponse(tc.head, "GET", false); err == nil || !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestSwitchOfProtocols(t *testing.T) {
	got, err := readResponse(head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"), "GET", true)
	if err != nil || !got.upgraded {
		t.Errorf("upgraded = %t, %v, want it", got.upgraded, err)
	}
	if _, err := readResponse(head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade"), "GET", true); !errors.Is(err, errSwitch) {
		t.Errorf("error = %v, want %v for a switch to nothing", err, errSwitch)
	}
}
