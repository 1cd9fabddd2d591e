package corpus

import "strings"

// ok is a response with the body "hello" and these lines.
func ok(lines ...string) string {
	return head(append([]string{"HTTP/1.1 200 OK", "Content-Length: 5"}, lines...)...) + "hello"
}

// status is such a response with another first line.
func status(l string) string { return head(l, "Content-Length: 5") + "hello" }

func statusLines() []Response {
	hello := answer(200, "hello").complete()
	bad := received(gatewayError)
	lenient := received(gatewayError, hello)
	return joinedResponses(
		responses(Rule{"RFC 9112 section 4", "A status line is version, code of three digits and reason, which counts for nothing."},
			received(hello), nil,
			Response{Name: "a plain response", Raw: ok(), Open: true},
			Response{Name: "no reason", Raw: status("HTTP/1.1 200 "), Open: true},
			Response{Name: "another reason", Raw: status("HTTP/1.1 200 Not Found"), Open: true},
			Response{Name: "bytes above 127 in the reason", Raw: status("HTTP/1.1 200 \xc3\xbc"), Open: true},
			Response{Name: "a code that nobody knows", Raw: status("HTTP/1.1 299 x"), Open: true, Must: received(answer(299, "hello").complete())},
			Response{Name: "a minor version that nobody knows", Raw: status("HTTP/1.2 200 OK"), Open: true},
			Response{Name: "no reason and no space", Raw: status("HTTP/1.1 200"), Open: true, Must: lenient},
			Response{Name: "HTTP/1.0", Raw: status("HTTP/1.0 200 OK"), Open: true, Must: received(answer(200, "hello").single())},
		),
		responses(Rule{"RFC 9112 section 4", "Other whitespace may be read as one space; Weft answers 502."},
			lenient, bad,
			Response{Name: "two spaces before the code", Raw: status("HTTP/1.1  200 OK")},
			Response{Name: "a tab before the code", Raw: status("HTTP/1.1\t200 OK")},
			Response{Name: "a space before the version", Raw: status(" HTTP/1.1 200 OK")},
			Response{Name: "an empty line first", Raw: "\r\n" + ok()},
			Response{Name: "a bare carriage return in the reason", Raw: status("HTTP/1.1 200 O\rK")},
			Response{Name: "a NUL in the reason", Raw: status("HTTP/1.1 200 O\x00K")},
			Response{Name: "a control character in the reason", Raw: status("HTTP/1.1 200 O\x01K")},
			Response{Name: "a bare line feed after the status line", Raw: "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello"},
			Response{Name: "bare line feeds alone", Raw: "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"},
			Response{Name: "a bare line feed as the empty line", Raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello"},
		),
		responses(Rule{"RFC 9112 section 4", "What is no response is answered with 502."},
			bad, nil,
			Response{Name: "nothing", Raw: ""},
			Response{Name: "a code of two digits", Raw: status("HTTP/1.1 20 OK")},
			Response{Name: "a code of four digits", Raw: status("HTTP/1.1 2000 OK")},
			Response{Name: "a code of letters", Raw: status("HTTP/1.1 abc OK")},
			Response{Name: "a code with a sign", Raw: status("HTTP/1.1 +20 OK")},
			Response{Name: "a code with a sign and three digits", Raw: status("HTTP/1.1 -200 OK")},
			Response{Name: "a code of nothing", Raw: status("HTTP/1.1 000 OK")},
			Response{Name: "a code below 100", Raw: status("HTTP/1.1 099 OK")},
			Response{Name: "no code", Raw: status("HTTP/1.1")},
			Response{Name: "a version in lower case", Raw: status("http/1.1 200 OK")},
			Response{Name: "a version of another protocol", Raw: status("ICY 200 OK")},
			Response{Name: "HTTP/2 as a version of a status line", Raw: status("HTTP/2.0 200 OK")},
			Response{Name: "HTTP/0.9 by name", Raw: status("HTTP/0.9 200 OK")},
			Response{Name: "a version of two digits", Raw: status("HTTP/1.10 200 OK")},
			Response{Name: "a body without a head", Raw: "hello, world\r\n\r\n"},
			Response{Name: "the greeting of another protocol", Raw: "SSH-2.0-OpenSSH_9.2\r\n"},
			Response{Name: "an alert of TLS", Raw: "\x15\x03\x01\x00\x02\x02\x46"},
			Response{Name: "a request", Raw: "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
			Response{Name: "a status line that does not end", Raw: "HTTP/1.1 200 OK"},
			Response{Name: "a head that does not end", Raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"},
			Response{Name: "a reason of 400 KB", Raw: status("HTTP/1.1 200 " + strings.Repeat("a", 400<<10))},
		),
		responses(Rule{"RFC 9110 section 15", "A code above 599 is invalid; a client takes it for one of 5xx."},
			received(gatewayError, answer(600, "hello").complete(), answer(500, "hello").complete()), nil,
			Response{Name: "a code of 600", Raw: status("HTTP/1.1 600 x"), Open: true},
			Response{Name: "a code of 999", Raw: status("HTTP/1.1 999 x"), Open: true, Must: received(gatewayError, answer(999, "hello").complete(), answer(500, "hello").complete())},
		),
	)
}

func responseFields() []Response {
	bad := received(gatewayError)
	has := func(fields ...string) Received { return answer(200, "hello").with(fields...).complete() }
	lacks := func(names ...string) []Received { return received(answer(200, "hello").without(names...).complete()) }
	return joinedResponses(
		responses(Rule{"RFC 9112 section 5.1", "Whitespace before a colon is removed from a response; Weft answers 502."},
			received(gatewayError, has("x-a: 1")), bad,
			Response{Name: "a space before the colon", Raw: ok("X-A : 1")},
			Response{Name: "a tab before the colon", Raw: ok("X-A\t: 1")},
			Response{Name: "a space before the colon of Content-Length", Raw: head("HTTP/1.1 200 OK", "Content-Length : 5") + "hello", Must: received(gatewayError, answer(200, "hello").complete()), Weft: bad},
		),
		responses(Rule{"RFC 9112 section 5.2", "A folded response is replaced by 502, or its lines are joined with a space; Weft answers 502."},
			received(gatewayError, has("x-a: 1 2")), bad,
			Response{Name: "a folded line", Raw: ok("X-A: 1", " 2")},
			Response{Name: "a folded line with a tab", Raw: ok("X-A: 1", "\t2")},
			Response{Name: "a folded Content-Length", Raw: head("HTTP/1.1 200 OK", "Content-Length:", " 5") + "hello", Must: received(gatewayError, answer(200, "hello").complete()), Weft: bad},
			Response{Name: "a space before the first field", Raw: head("HTTP/1.1 200 OK", " X-A: 1", "Content-Length: 5") + "hello", Must: received(gatewayError, answer(200, "hello").without("x-a").complete()), Weft: bad},
		),
		responses(Rule{"RFC 9110 section 5.1", "A name is a token and not empty."},
			bad, nil,
			Response{Name: "a field without a name", Raw: ok(": 1")},
			Response{Name: "a line without a colon", Raw: ok("X-A")},
			Response{Name: "a space in a name", Raw: ok("X A: 1")},
			Response{Name: "a parenthesis in a name", Raw: ok("X(A: 1")},
			Response{Name: "a NUL in a name", Raw: ok("X\x00A: 1")},
			Response{Name: "a byte above 127 in a name", Raw: ok("X\x80A: 1")},
			Response{Name: "a bare carriage return in a name", Raw: ok("X\rA: 1")},
		),
		responses(Rule{"RFC 9110 section 5.5", "CR, LF and NUL in a value must be refused or become spaces; Weft answers 502."},
			received(gatewayError, has("x-a: 1 2")), bad,
			Response{Name: "a NUL in a value", Raw: ok("X-A: 1\x002")},
			Response{Name: "a bare carriage return in a value", Raw: ok("X-A: 1\r2")},
			Response{Name: "a bare carriage return that hides a field", Raw: ok("X-A: 1\rSet-Cookie: a=b"), Must: received(gatewayError, answer(200, "hello").without("set-cookie").complete()), Weft: bad},
		),
		responses(Rule{"RFC 9110 section 5.5", "Other control characters in a value are invalid; keeping them is allowed, and Weft answers 502."},
			nil, nil,
			Response{Name: "a control character in a value", Raw: ok("X-A: 1\x012"), Must: received(gatewayError, has("x-a: 1\x012")), Weft: bad},
			Response{Name: "a DEL in a value", Raw: ok("X-A: 1\x7f2"), Must: received(gatewayError, has("x-a: 1\x7f2")), Weft: bad},
		),
		responses(Rule{"RFC 9110 section 5.5", "Values arrive as they were sent, without the whitespace around them."},
			nil, nil,
			Response{Name: "whitespace around a value", Raw: ok("X-A: \t 1 \t"), Open: true, Must: received(has("x-a: 1"))},
			Response{Name: "bytes above 127 in a value", Raw: ok("X-A: \xc3\xbc\xff"), Open: true, Must: received(has("x-a: \xc3\xbc\xff"))},
			Response{Name: "an empty value", Raw: ok("X-A:"), Open: true, Must: received(has("x-a: "))},
			Response{Name: "cookies in two lines", Raw: ok("Set-Cookie: a=1", "Set-Cookie: b=2"), Open: true, Must: received(has("set-cookie: a=1", "set-cookie: b=2"))},
		),
		responses(Rule{"RFC 9110 section 7.6.1", "Connection and the fields that it names are not forwarded, nor what belongs to the mesh."},
			nil, nil,
			Response{Name: "a field that Connection names", Raw: ok("Connection: x-a", "X-A: 1"), Open: true, Must: lacks("x-a")},
			Response{Name: "Keep-Alive", Raw: ok("Connection: keep-alive", "Keep-Alive: timeout=5"), Open: true, Must: lacks("keep-alive")},
			Response{Name: "Proxy-Connection", Raw: ok("Proxy-Connection: keep-alive"), Open: true, Must: lacks("proxy-connection")},
			Response{Name: "Upgrade without a switch", Raw: ok("Connection: Upgrade", "Upgrade: h2c"), Open: true, Must: lacks("upgrade")},
			Response{Name: "a reason of the mesh", Raw: ok("Weft-Reason: forged", "weft-endpoint: 192.0.2.1:1"), Open: true, Must: lacks("weft-reason", "weft-endpoint")},
			Response{Name: "Connection: close", Raw: ok("Connection: close"), Open: true, Must: received(answer(200, "hello").single())},
		),
		responses(Rule{"RFC 9112 section 3", "A head without bounds is not read: Weft's limit is 256 KiB."},
			bad, nil,
			Response{Name: "a field of 400 KB", Raw: ok("X-A: " + strings.Repeat("a", 400<<10))},
			Response{Name: "fields of 400 KB", Raw: ok(strings.TrimSuffix(strings.Repeat("X-A: "+strings.Repeat("a", 1<<10)+"\r\n", 400), "\r\n"))},
		),
	)
}
