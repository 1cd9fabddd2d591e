package corpus

import "strings"

// line is a GET request with that request line.
func line(l string) string { return l + "\r\nHost: h\r\n\r\n" }

func requestLines() []Request {
	lenient := outcomes(refused, arrive(get("/")))
	strict := outcomes(refused)
	return joined(
		requests(Rule{"RFC 9112 section 3", "A request line is method, target and version, one space between them; such a request is served."},
			outcomes(arrive(get("/"))), nil,
			Request{Name: "a plain request", Raw: line("GET / HTTP/1.1")},
			Request{Name: "a minor version that nobody knows", Raw: line("GET / HTTP/1.2"), Must: outcomes(refused, arrive(get("/")))},
			Request{Name: "a method that nobody knows", Raw: line("FROB / HTTP/1.1"), Must: outcomes(arrive(Message{Line: "FROB /", Host: Host}))},
			Request{Name: "a method in lower case is another method", Raw: line("get / HTTP/1.1"), Must: outcomes(refused, arrive(Message{Line: "get /", Host: Host}))},
			Request{Name: "every character of a token", Raw: line("A!#$%&'*+-.^_`|~9 / HTTP/1.1"), Must: outcomes(arrive(Message{Line: "A!#$%&'*+-.^_`|~9 /", Host: Host}))},
			Request{Name: "a request line of 8000 octets", Raw: line("GET /" + strings.Repeat("a", 8000-14) + " HTTP/1.1"), Must: outcomes(arrive(get("/" + strings.Repeat("a", 8000-14))))},
		),
		requests(Rule{"RFC 9112 section 2.2", "Empty lines before a request line may be ignored, nothing else may."},
			lenient, nil,
			Request{Name: "an empty line first", Raw: "\r\n" + line("GET / HTTP/1.1")},
			Request{Name: "two empty lines first", Raw: "\r\n\r\n" + line("GET / HTTP/1.1")},
			Request{Name: "an empty line that ends in a bare line feed first", Raw: "\n" + line("GET / HTTP/1.1")},
			Request{Name: "a line with a space first", Raw: " \r\n" + line("GET / HTTP/1.1"), Must: strict},
			Request{Name: "a byte order mark first", Raw: "\xef\xbb\xbf" + line("GET / HTTP/1.1"), Must: strict},
			Request{Name: "a NUL first", Raw: "\x00" + line("GET / HTTP/1.1"), Must: strict},
		),
		requests(Rule{"RFC 9112 section 3", "Other whitespace in a request line may be read as one space, or the request refused; Weft refuses."},
			lenient, strict,
			Request{Name: "a space before the method", Raw: line(" GET / HTTP/1.1")},
			Request{Name: "two spaces before the target", Raw: line("GET  / HTTP/1.1")},
			Request{Name: "two spaces before the version", Raw: line("GET /  HTTP/1.1")},
			Request{Name: "a space after the version", Raw: line("GET / HTTP/1.1 ")},
			Request{Name: "a tab before the target", Raw: line("GET\t/ HTTP/1.1")},
			Request{Name: "a tab before the version", Raw: line("GET /\tHTTP/1.1")},
			Request{Name: "a vertical tab before the version", Raw: line("GET /\vHTTP/1.1")},
			Request{Name: "a form feed before the target", Raw: line("GET\f/ HTTP/1.1")},
		),
		requests(Rule{"RFC 9112 section 2.2", "A line may be allowed to end in a bare line feed; Weft does not allow it."},
			lenient, strict,
			Request{Name: "bare line feeds alone", Raw: "GET / HTTP/1.1\nHost: h\n\n"},
			Request{Name: "a bare line feed after the request line", Raw: "GET / HTTP/1.1\nHost: h\r\n\r\n"},
			Request{Name: "a bare line feed after a field", Raw: "GET / HTTP/1.1\r\nHost: h\n\r\n"},
			Request{Name: "a bare line feed as the empty line", Raw: "GET / HTTP/1.1\r\nHost: h\r\n\n"},
		),
		requests(Rule{"RFC 9112 section 2.2", "A carriage return without a line feed must be refused or taken for a space; Weft refuses."},
			lenient, strict,
			Request{Name: "a bare carriage return before the target", Raw: line("GET\r/ HTTP/1.1")},
			Request{Name: "a bare carriage return before the version", Raw: line("GET /\rHTTP/1.1")},
			Request{Name: "two carriage returns at the end of the request line", Raw: "GET / HTTP/1.1\r\r\nHost: h\r\n\r\n"},
			Request{Name: "carriage returns alone", Raw: "GET / HTTP/1.1\rHost: h\r\r", End: true, Must: strict},
		),
		requests(Rule{"RFC 9112 section 3", "What is no method, target and version is refused."},
			strict, nil,
			Request{Name: "no version", Raw: line("GET /")},
			Request{Name: "no target", Raw: line("GET HTTP/1.1")},
			Request{Name: "an empty target", Raw: line("GET  HTTP/1.1")},
			Request{Name: "a method alone", Raw: line("GET")},
			Request{Name: "a fourth word", Raw: line("GET / HTTP/1.1 x")},
			Request{Name: "a response", Raw: head("HTTP/1.1 200 OK", "Host: h", "Content-Length: 0")},
			Request{Name: "a header without a request line", Raw: head("Host: h")},
			Request{Name: "a ClientHello", Raw: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", End: true},
			Request{Name: "lines of another protocol", Raw: "EHLO h\r\nMAIL FROM:<a@h>\r\n\r\n"},
			Request{Name: "a request line that does not end", Raw: "GET / HTTP/1.1", End: true},
			Request{Name: "a header that does not end", Raw: "GET / HTTP/1.1\r\nHost: h\r\n", End: true},
			Request{Name: "a field that does not end", Raw: "GET / HTTP/1.1\r\nHost: h", End: true},
		),
		requests(Rule{"RFC 9110 section 9.1", "A method is a token."},
			strict, nil,
			Request{Name: "a separator in the method", Raw: line("GE(T / HTTP/1.1")},
			Request{Name: "a colon in the method", Raw: line("GET: / HTTP/1.1")},
			Request{Name: "a slash in the method", Raw: line("GE/T / HTTP/1.1")},
			Request{Name: "a NUL in the method", Raw: line("GE\x00T / HTTP/1.1")},
			Request{Name: "a byte above 127 in the method", Raw: line("G\xc3\x89T / HTTP/1.1")},
			Request{Name: "a method of 100 KB", Raw: line(strings.Repeat("G", 100<<10) + " / HTTP/1.1")},
		),
		requests(Rule{"RFC 9112 section 2.3", "A version is HTTP in capitals, a slash, a digit, a dot and a digit."},
			strict, nil,
			Request{Name: "a version in lower case", Raw: line("GET / http/1.1")},
			Request{Name: "a version without a minor number", Raw: line("GET / HTTP/1")},
			Request{Name: "a version with an empty minor number", Raw: line("GET / HTTP/1.")},
			Request{Name: "a version of two digits", Raw: line("GET / HTTP/1.10")},
			Request{Name: "a version with a leading zero", Raw: line("GET / HTTP/01.1")},
			Request{Name: "a version with a sign", Raw: line("GET / HTTP/+1.1")},
			Request{Name: "a version with letters after it", Raw: line("GET / HTTP/1.1x")},
			Request{Name: "a version of another protocol", Raw: line("GET / RTSP/1.0")},
			Request{Name: "HTTP/0.9 by name", Raw: line("GET / HTTP/0.9")},
			Request{Name: "HTTP/2 as a version of a request line", Raw: line("GET / HTTP/2.0")},
			Request{Name: "HTTP/3 as a version of a request line", Raw: line("GET / HTTP/3.0")},
			Request{Name: "the preface of HTTP/2 with something else behind it", Raw: "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"},
		),
	)
}

func joined(groups ...[]Request) []Request {
	var all []Request
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

func joinedResponses(groups ...[]Response) []Response {
	var all []Response
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}
