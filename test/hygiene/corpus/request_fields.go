package corpus

import (
	"fmt"
	"strings"
)

func hosts() []Request {
	strict := outcomes(refusedWith(400))
	at := func(host string) []Outcome { return outcomes(arrive(get("/").at(host))) }
	named := func(name, host string) Request {
		return Request{Name: name, Raw: head("GET / HTTP/1.1", "Host: "+host)}
	}
	ok := func(name, host string) Request {
		c := named(name, host)
		c.Must = at(host)
		return c
	}
	return joined(
		requests(Rule{"RFC 9112 section 3.2", "A request of HTTP/1.1 without Host, and any with more than one, gets 400."},
			strict, nil,
			Request{Name: "no Host", Raw: head("GET / HTTP/1.1")},
			Request{Name: "no Host in an absolute form", Raw: head("GET http://h/ HTTP/1.1")},
			Request{Name: "two hosts", Raw: head("GET / HTTP/1.1", "Host: h", "Host: other")},
			Request{Name: "the same Host twice", Raw: head("GET / HTTP/1.1", "Host: h", "Host: h")},
			Request{Name: "two hosts whose names differ in case", Raw: head("GET / HTTP/1.1", "HOST: h", "host: other")},
			Request{Name: "two hosts far apart", Raw: head("GET / HTTP/1.1", "Host: h", "X-A: 1", "X-B: 2", "Host: other")},
			Request{Name: "two hosts in an absolute form", Raw: head("GET http://h/ HTTP/1.1", "Host: h", "Host: h")},
			Request{Name: "a Host and an empty one", Raw: head("GET / HTTP/1.1", "Host: h", "Host:")},
			Request{Name: "two hosts in HTTP/1.0", Raw: head("GET / HTTP/1.0", "Host: h", "Host: other")},
			Request{Name: "HTTP/1.0 without Host", Raw: head("GET / HTTP/1.0"), Must: outcomes(arrive(Message{Line: "GET /"}).thenClose())},
		),
		requests(Rule{"RFC 9110 section 7.2", "Host is a host and perhaps a port, by RFC 3986 section 3.2.2; a value that is neither gets 400."},
			strict, nil,
			named("two hosts in one line", "h, other"),
			named("a space in Host", "h other"),
			named("a tab in Host", "h\tother"),
			named("a path in Host", "h/a"),
			named("a query in Host", "h?a"),
			named("a fragment in Host", "h#a"),
			named("a user in Host", "u@h"),
			named("a URI as Host", "http://h/"),
			named("a port that is no number", "h:http"),
			named("a port with a sign", "h:+80"),
			named("two ports", "h:80:80"),
			named("a bracket that does not close", "[::1"),
			named("a bracket that does not open", "::1]"),
			named("IPv6 without brackets", "::1"),
			named("a name in brackets", "[h]"),
			named("something between bracket and port", "[::1]x:80"),
			named("an escape that is none in Host", "h%zz"),
			named("a backslash in Host", `h\a`),
			named("a quotation mark in Host", `"h"`),
			named("angle brackets in Host", "<h>"),
			named("a NUL in Host", "h\x00a"),
			named("a byte above 127 in Host", "h\xc3\xbc"),
			named("a port and no host", ":80"),
		),
		requests(Rule{"RFC 9110 section 7.2", "A valid Host is forwarded as it is."},
			nil, nil,
			ok("a Host with a port", "h:8080"),
			ok("a Host with an empty port", "h:"),
			ok("a Host in capitals", "H.Example"),
			ok("a Host with a dot at the end", "h.example."),
			ok("IPv4", "192.0.2.1"),
			ok("IPv6", "[2001:db8::1]"),
			ok("IPv6 and a port", "[::1]:80"),
			ok("an underscore in Host", "h_a"),
			ok("every punctuation of a name", "h!$&'()*+,;=-._~a"),
			Request{Name: "an escape in Host", Raw: head("GET / HTTP/1.1", "Host: h%41"), Must: outcomes(refused, arrive(get("/").at("h%41")))},
			Request{Name: "an empty Host", Raw: head("GET / HTTP/1.1", "Host:"), Must: outcomes(refused, arrive(Message{Line: "GET /"}))},
			Request{Name: "a port above 65535", Raw: head("GET / HTTP/1.1", "Host: h:99999"), Must: outcomes(refused, arrive(get("/").at("h:99999")))},
		),
	)
}

func fields() []Request {
	strict := outcomes(refused)
	return joined(
		requests(Rule{"RFC 9112 section 5.1", "Whitespace between a name and its colon gets 400."},
			outcomes(refusedWith(400)), nil,
			Request{Name: "a space before the colon", Raw: with("X-A : 1")},
			Request{Name: "a tab before the colon", Raw: with("X-A\t: 1")},
			Request{Name: "a space before the colon of Host", Raw: head("GET / HTTP/1.1", "Host : h")},
			Request{Name: "a space before the colon of Content-Length", Raw: sent("hello", "Content-Length : 5")},
			Request{Name: "a space before the colon of Transfer-Encoding", Raw: sent("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding : chunked")},
			Request{Name: "a tab before the colon of Transfer-Encoding, beside a length", Raw: sent("0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding\t: chunked")},
		),
		requests(Rule{"RFC 9112 section 5.2", "A line that continues the one before must be refused or joined with a space; Weft refuses."},
			outcomes(refused, arrive(get("/").with("x-a: 1 2"))), strict,
			Request{Name: "a folded line", Raw: with("X-A: 1", " 2")},
			Request{Name: "a folded line with a tab", Raw: with("X-A: 1", "\t2")},
			Request{Name: "a folded line that looks like a field", Raw: with("X-A: 1", " X-B: 2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1 X-B: 2").without("x-b"))), Weft: strict},
			Request{Name: "a folded Host", Raw: head("GET / HTTP/1.1", "Host: h", " other"), Must: strict},
			Request{Name: "a folded Host that begins on the next line", Raw: head("GET / HTTP/1.1", "Host:", " h"), Must: outcomes(refused, arrive(get("/"))), Weft: strict},
			Request{Name: "a folded Content-Length", Raw: sent("hello", "Content-Length:", " 5"), Must: outcomes(refused, arrive(post("hello"))), Weft: strict},
			Request{Name: "a folded Transfer-Encoding", Raw: sent("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding:", " chunked"), Must: outcomes(refused, arrive(post("hello"))), Weft: strict},
			Request{Name: "a fold that hides a Transfer-Encoding", Raw: sent("hello", "Content-Length: 5", "X-A: 1", " Transfer-Encoding: chunked"), Must: outcomes(refused, arrive(post("hello").without("transfer-encoding"))), Weft: strict},
			Request{Name: "a fold of whitespace alone", Raw: with("X-A: 1", " "), Must: outcomes(refused, arrive(get("/").with("x-a: 1"))), Weft: strict},
		),
		requests(Rule{"RFC 9112 section 2.2", "Whitespace between request line and header must be refused or those lines skipped; Weft refuses."},
			outcomes(refused, arrive(get("/").without("x-a"))), strict,
			Request{Name: "a space before the first field", Raw: head("GET / HTTP/1.1", " X-A: 1", "Host: h")},
			Request{Name: "a tab before the first field", Raw: head("GET / HTTP/1.1", "\tX-A: 1", "Host: h")},
			Request{Name: "a space before a Host that comes first", Raw: head("GET / HTTP/1.1", " Host: other", "Host: h")},
		),
		requests(Rule{"RFC 9110 section 5.1", "A name is a token and not empty."},
			strict, nil,
			Request{Name: "a field without a name", Raw: with(": 1")},
			Request{Name: "a line without a colon", Raw: with("X-A")},
			Request{Name: "a space in a name", Raw: with("X A: 1")},
			Request{Name: "a parenthesis in a name", Raw: with("X(A: 1")},
			Request{Name: "an at sign in a name", Raw: with("X@A: 1")},
			Request{Name: "a slash in a name", Raw: with("X/A: 1")},
			Request{Name: "brackets in a name", Raw: with("X[A]: 1")},
			Request{Name: "a quotation mark in a name", Raw: with(`"X-A": 1`)},
			Request{Name: "a comma in a name", Raw: with("X,A: 1")},
			Request{Name: "a NUL in a name", Raw: with("X\x00A: 1")},
			Request{Name: "a control character in a name", Raw: with("X\x01A: 1")},
			Request{Name: "a DEL in a name", Raw: with("X\x7fA: 1")},
			Request{Name: "a byte above 127 in a name", Raw: with("X\x80A: 1")},
			Request{Name: "a bare carriage return in a name", Raw: with("X\rA: 1")},
			Request{Name: "a vertical tab after the name of Transfer-Encoding", Raw: sent("0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding\v: chunked")},
			Request{Name: "a name of 100 KB", Raw: with(strings.Repeat("X", 100<<10) + ": 1")},
		),
		requests(Rule{"RFC 9110 section 5.4", "A header that is larger than the server wants gets a 4xx. Weft's limits are 64 KiB and 100 fields, cookies included."},
			outcomes(refused), outcomes(refusedWith(431)),
			Request{Name: "a field of 100 KB", Raw: with("X-A: " + strings.Repeat("a", 100<<10))},
			Request{Name: "fields of 100 KB", Raw: with(strings.Repeat("X-A: "+strings.Repeat("a", 1<<10)+"\r\n", 99) + "X-B: 1")},
			Request{Name: "cookies of 100 KB", Raw: with(strings.Repeat("Cookie: "+strings.Repeat("a", 2<<10)+"\r\n", 49) + "X-B: 1")},
			Request{Name: "101 fields", Raw: with(numbered(101)...)},
			Request{Name: "101 cookies", Raw: with(strings.Repeat("Cookie: a=b\r\n", 100) + "Cookie: a=b")},
			Request{Name: "10000 fields", Raw: with(numbered(10000)...)},
			Request{Name: "99 fields beside Host", Raw: with(numbered(99)...), Must: outcomes(arrive(get("/").with("x-1: 1", "x-99: 99")))},
			Request{Name: "a field of 48 KiB", Raw: with("X-A: " + strings.Repeat("a", 48<<10)), Must: outcomes(arrive(get("/").with("x-a: " + strings.Repeat("a", 48<<10))))},
		),
	)
}

// numbered are n fields with names of their own.
func numbered(n int) []string {
	var lines []string
	for i := 1; i <= n; i++ {
		lines = append(lines, fmt.Sprintf("X-%d: %d", i, i))
	}
	return lines
}

func fieldValues() []Request {
	strict := outcomes(refused)
	arrives := func(name, line, field string) Request {
		return Request{Name: name, Raw: with(line), Must: outcomes(arrive(get("/").with(field)))}
	}
	return joined(
		requests(Rule{"RFC 9110 section 5.5", "CR, LF and NUL in a value must be refused or become spaces; Weft refuses."},
			outcomes(refused, arrive(get("/").with("x-a: 1 2"))), strict,
			Request{Name: "a NUL in a value", Raw: with("X-A: 1\x002")},
			Request{Name: "a bare carriage return in a value", Raw: with("X-A: 1\r2")},
			Request{Name: "a bare carriage return that hides a field", Raw: with("X-A: 1\rX-B: 2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1 X-B: 2").without("x-b"))), Weft: strict},
			Request{Name: "a bare carriage return at the end of a value", Raw: "GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\r\n\r\n", Must: outcomes(refused, arrive(get("/").with("x-a: 1"))), Weft: strict},
			Request{Name: "carriage returns around an empty line", Raw: "GET / HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n", Must: strict},
			Request{Name: "a bare line feed in a value", Raw: with("X-A: 1\nX-B: 2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1", "x-b: 2"))), Weft: strict},
		),
		requests(Rule{"RFC 9110 section 5.5", "Other control characters in a value are invalid; keeping them is allowed, and Weft refuses."},
			nil, nil,
			Request{Name: "a control character in a value", Raw: with("X-A: 1\x012"), Must: outcomes(refused, arrive(get("/").with("x-a: 1\x012"))), Weft: strict},
			Request{Name: "a vertical tab in a value", Raw: with("X-A: 1\v2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1\v2"))), Weft: strict},
			Request{Name: "an escape character in a value", Raw: with("X-A: 1\x1b2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1\x1b2"))), Weft: strict},
			Request{Name: "a DEL in a value", Raw: with("X-A: 1\x7f2"), Must: outcomes(refused, arrive(get("/").with("x-a: 1\x7f2"))), Weft: strict},
		),
		requests(Rule{"RFC 9110 section 5.5", "Whitespace around a value does not belong to it; everything inside does."},
			nil, nil,
			arrives("no whitespace before a value", "X-A:1", "x-a: 1"),
			arrives("whitespace around a value", "X-A: \t 1 \t ", "x-a: 1"),
			arrives("a tab inside a value", "X-A: 1\t2", "x-a: 1\t2"),
			arrives("an empty value", "X-A:", "x-a: "),
			arrives("a value of whitespace", "X-A: \t ", "x-a: "),
			arrives("a colon in a value", "X-A: b:c", "x-a: b:c"),
			arrives("bytes above 127 in a value", "X-A: \xc3\xbc\xff", "x-a: \xc3\xbc\xff"),
			arrives("a quoted string", `X-A: "a\"b, c"`, `x-a: "a\"b, c"`),
		),
		requests(Rule{"RFC 9110 section 5.3", "Lines of one name keep their order."},
			nil, nil,
			Request{Name: "lines of one name", Raw: with("X-A: 1", "x-a: 2", "X-a: 3"), Must: outcomes(arrive(get("/").with("x-a: 1", "x-a: 2", "x-a: 3")), arrive(get("/").with("x-a: 1, 2, 3")))},
			Request{Name: "cookies in two lines", Raw: with("Cookie: a=1", "Cookie: b=2"), Must: outcomes(arrive(get("/").with("cookie: a=1", "cookie: b=2")), arrive(get("/").with("cookie: a=1; b=2")))},
		),
		requests(Rule{"RFC 9110 section 5.1", "Names that differ are different fields, also those with underscores."},
			nil, nil,
			Request{Name: "an underscore for a dash", Raw: with("X_User: a", "X-User: b"), Must: outcomes(arrive(get("/").with("x_user: a", "x-user: b")))},
			Request{Name: "a dot for a dash", Raw: with("X.User: a"), Must: outcomes(arrive(get("/").with("x.user: a").without("x-user")))},
			Request{Name: "Content_Length is not a length", Raw: sent("", "Content_Length: 5"), Must: outcomes(refused, arrive(post("").with("content_length: 5")))},
			Request{Name: "Transfer_Encoding is not a coding", Raw: sent("hello", "Content-Length: 5", "Transfer_Encoding: chunked"), Must: outcomes(refused, arrive(post("hello").with("transfer_encoding: chunked")))},
			Request{Name: "X-Content-Length is not a length", Raw: with("X-Content-Length: 5"), Must: outcomes(arrive(get("/").with("x-content-length: 5")))},
		),
	)
}
