package corpus

import "strings"

// poisoned is a response that nobody has asked for.
const poisoned = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"

func responseLengths() []Response {
	bad := received(gatewayError)
	of := func(name, value string) Response {
		return Response{Name: name, Raw: head("HTTP/1.1 200 OK", "Content-Length: "+value) + "hello"}
	}
	return joinedResponses(
		responses(Rule{"RFC 9112 section 6.3", "A length that is no number, without a coding: the proxy closes the backend's connection and answers 502."},
			bad, nil,
			of("a negative length", "-5"),
			of("a length with a plus sign", "+5"),
			of("a hexadecimal length", "0x5"),
			of("a length of letters", "five"),
			of("a length with a fraction", "5.0"),
			of("two numbers in a length", "5 5"),
			of("an empty length", ""),
			of("lengths that differ in one line", "5, 6"),
			of("a length of 2 to the power of 63", "9223372036854775808"),
			of("a length of 2 to the power of 64, and 5", "18446744073709551621"),
			Response{Name: "lengths that differ", Raw: head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6") + "hello"},
		),
		responses(Rule{"RFC 9112 section 6.3", "Equal lengths may count as one; Weft answers 502."},
			received(gatewayError, answer(200, "hello").with("content-length: 5").complete()), bad,
			of("equal lengths in one line", "5, 5"),
			Response{Name: "equal lengths", Raw: head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 5") + "hello"},
		),
		responses(Rule{"RFC 9112 section 8", "A response that ends early is not complete, and the client must see that."},
			nil, nil,
			Response{Name: "a body that ends early", Raw: head("HTTP/1.1 200 OK", "Content-Length: 9") + "hello", Must: received(gatewayError, answer(200, "").cut())},
			Response{Name: "a body that does not begin", Raw: head("HTTP/1.1 200 OK", "Content-Length: 9"), Must: received(gatewayError, answer(200, "").cut())},
			Response{Name: "a long body that ends early", Raw: head("HTTP/1.1 200 OK", "Content-Length: 200000") + strings.Repeat("a", 100<<10), Must: received(gatewayError, answer(200, "").cut())},
			Response{Name: "neither length nor coding", Raw: head("HTTP/1.1 200 OK") + "hello", Must: received(answer(200, "hello").single())},
			Response{Name: "neither length nor coding nor body", Raw: head("HTTP/1.1 200 OK"), Must: received(answer(200, "").single())},
		),
	)
}

func responseCodings() []Response {
	bad := received(gatewayError)
	cut := received(gatewayError, answer(200, "").cut())
	hello := received(answer(200, "hello").complete())
	coded := func(name, value string) Response {
		return Response{Name: name, Raw: head("HTTP/1.1 200 OK", "Transfer-Encoding: "+value) + "5\r\nhello\r\n0\r\n\r\n"}
	}
	sized := func(name, body string) Response {
		return Response{Name: name, Raw: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + body}
	}
	open := func(r Response) Response {
		r.Open = true
		return r
	}
	return joinedResponses(
		responses(Rule{"RFC 9112 section 6.3", "With a coding and a length the coding counts and the length goes; Weft answers 502."},
			received(gatewayError, answer(200, "hello").without("content-length").complete(), answer(200, "hello").with("content-length: 5").complete()), bad,
			Response{Name: "a length and a coding", Raw: head("HTTP/1.1 200 OK", "Content-Length: 15", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"},
			Response{Name: "a coding and a length", Raw: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Content-Length: 3") + "5\r\nhello\r\n0\r\n\r\n"},
		),
		responses(Rule{"RFC 9112 section 6.1", "A coding that is not understood is answered with 502, and one of HTTP/1.0 is faulty."},
			bad, nil,
			coded("another coding", "gzip"),
			coded("another coding after chunked", "chunked, gzip"),
			coded("chunked twice", "chunked, chunked"),
			coded("identity", "identity"),
			coded("a coding that begins like chunked", "chunkedx"),
			coded("chunked and a NUL", "chunked\x00"),
			Response{Name: "chunked in two lines", Raw: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"},
			Response{
				Name: "a coding of HTTP/1.0", Raw: head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
				Must: received(gatewayError, answer(200, "hello").single(), answer(200, "5\r\nhello\r\n0\r\n\r\n").single()), Weft: bad,
			},
		),
		responses(Rule{"RFC 9112 section 7.1", "Chunks are taken apart as their sizes say, and extensions are not forwarded."},
			hello, nil,
			open(coded("chunked in capitals", "CHUNKED")),
			open(sized("chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")),
			open(sized("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n")),
			open(sized("a last chunk of zeros", "5\r\nhello\r\n000\r\n\r\n")),
		),
		responses(Rule{"RFC 9112 section 7.1", "A body that is not made of chunks is not complete, and the client must see that."},
			cut, nil,
			sized("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
			sized("a size with a plus sign", "+5\r\nhello\r\n0\r\n\r\n"),
			sized("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
			sized("an empty size", "\r\nhello\r\n0\r\n\r\n"),
			sized("a size with a letter that is no digit", "5g\r\nhello\r\n0\r\n\r\n"),
			sized("a size of 17 digits", "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
			sized("a size of 2 to the power of 64, and 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
			sized("a size of 2 to the power of 63, and 5", "8000000000000005\r\nhello\r\n0\r\n\r\n"),
			sized("a bare line feed after a size", "5\nhello\r\n0\r\n\r\n"),
			sized("a bare line feed after a chunk", "5\r\nhello\n0\r\n\r\n"),
			sized("a bare line feed in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
			sized("nothing after a chunk", "5\r\nhello0\r\n\r\n"),
			sized("a chunk longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
			sized("no last chunk", "5\r\nhello\r\n"),
			sized("no empty line after the last chunk", "5\r\nhello\r\n0\r\n"),
			sized("a response instead of a size", "5\r\nhello\r\n"+poisoned),
			sized("an extension of 100 KB", "5;a="+strings.Repeat("b", 100<<10)+"\r\nhello\r\n0\r\n\r\n"),
		),
		responses(Rule{"RFC 9110 section 6.5", "A trailer is forwarded or dropped, and never becomes a part of the header."},
			nil, nil,
			open(withReceived(sized("a trailer", "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"), received(answer(200, "hello").ending("x-t: 1").complete(), answer(200, "hello").without("x-t").complete()))),
			withReceived(sized("a length in the trailer", "5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n"), received(gatewayError, answer(200, "").cut(), answer(200, "hello").without("content-length").complete())),
			withReceived(sized("a field of the mesh in the trailer", "5\r\nhello\r\n0\r\nWeft-Reason: x\r\n\r\n"), received(gatewayError, answer(200, "").cut(), answer(200, "hello").without("weft-reason").complete())),
			withReceived(sized("a space before a colon in the trailer", "5\r\nhello\r\n0\r\nX-T : 1\r\n\r\n"), received(gatewayError, answer(200, "").cut(), answer(200, "hello").complete())),
			withReceived(sized("a NUL in the trailer", "5\r\nhello\r\n0\r\nX-T: 1\x002\r\n\r\n"), received(gatewayError, answer(200, "").cut(), answer(200, "hello").without("x-t").complete())),
			withReceived(sized("a trailer without a colon", "5\r\nhello\r\n0\r\nX-T\r\n\r\n"), cut),
		),
	)
}

func withReceived(r Response, must []Received) Response {
	r.Must = must
	return r
}

func bodiless() []Response {
	return joinedResponses(
		responses(Rule{"RFC 9112 section 6.3", "Responses to HEAD and those of 204 and 304 have no body, whatever they say."},
			nil, nil,
			Response{Name: "HEAD with a length", Request: "HEAD / HTTP/1.1", Raw: head("HTTP/1.1 200 OK", "Content-Length: 5"), Open: true, Must: received(answer(200, "").with("content-length: 5").complete())},
			Response{Name: "HEAD with a coding", Request: "HEAD / HTTP/1.1", Raw: head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), Open: true, Must: received(gatewayError, answer(200, "").complete())},
			Response{Name: "HEAD without a length", Request: "HEAD / HTTP/1.1", Raw: head("HTTP/1.1 200 OK"), Open: true, Must: received(answer(200, "").complete())},
			Response{Name: "HEAD with a body", Request: "HEAD / HTTP/1.1", Raw: ok(), Open: true, Must: received(gatewayError, answer(200, "").single())},
			Response{Name: "HEAD with a response as its body", Request: "HEAD / HTTP/1.1", Raw: head("HTTP/1.1 200 OK", "Content-Length: 46") + poisoned, Open: true, Must: received(gatewayError, answer(200, "").single())},
			Response{Name: "204", Raw: head("HTTP/1.1 204 No Content"), Open: true, Must: received(answer(204, "").complete())},
			Response{Name: "204 with a length", Raw: head("HTTP/1.1 204 No Content", "Content-Length: 5"), Open: true, Must: received(gatewayError, answer(204, "").complete())},
			Response{Name: "204 with a body", Raw: head("HTTP/1.1 204 No Content", "Content-Length: 5") + "hello", Open: true, Must: received(gatewayError, answer(204, "").single())},
			Response{Name: "204 with a response as its body", Raw: head("HTTP/1.1 204 No Content") + poisoned, Open: true, Must: received(gatewayError, answer(204, "").single())},
			Response{Name: "204 with a coding", Raw: head("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", Open: true, Must: received(gatewayError, answer(204, "").single())},
			Response{Name: "304", Raw: head("HTTP/1.1 304 Not Modified", "ETag: \"a\""), Open: true, Must: received(answer(304, "").with("etag: \"a\"").complete())},
			Response{Name: "304 with a length", Raw: head("HTTP/1.1 304 Not Modified", "Content-Length: 5"), Open: true, Must: received(answer(304, "").complete())},
			Response{Name: "304 with a body", Raw: head("HTTP/1.1 304 Not Modified", "Content-Length: 5") + "hello", Open: true, Must: received(gatewayError, answer(304, "").single())},
			Response{Name: "304 with a response as its body", Raw: head("HTTP/1.1 304 Not Modified") + poisoned, Open: true, Must: received(gatewayError, answer(304, "").single())},
		),
	)
}

func informational() []Response {
	hello := received(answer(200, "hello").complete())
	bad := received(gatewayError)
	websocket := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
	return joinedResponses(
		responses(Rule{"RFC 9110 section 15.2", "Any number of informational responses may come first; they have no body."},
			hello, nil,
			Response{Name: "100 first", Raw: head("HTTP/1.1 100 Continue") + ok(), Open: true},
			Response{Name: "103 first", Raw: head("HTTP/1.1 103 Early Hints", "Link: </a>") + ok(), Open: true},
			Response{Name: "a code of 1xx that nobody knows first", Raw: head("HTTP/1.1 199 x") + ok(), Open: true, Must: received(gatewayError, hello[0])},
			Response{Name: "three informational responses first", Raw: strings.Repeat(head("HTTP/1.1 103 Early Hints", "Link: </a>"), 3) + ok(), Open: true},
			Response{Name: "an informational response with a length", Raw: head("HTTP/1.1 103 Early Hints", "Content-Length: 5") + ok(), Open: true, Must: received(gatewayError, hello[0])},
			Response{Name: "an informational response that Connection names fields in", Raw: head("HTTP/1.1 103 Early Hints", "Connection: x-a", "X-A: 1") + ok(), Open: true, Must: received(answer(200, "hello").without("x-a").complete())},
			Response{Name: "an informational response of the mesh", Raw: head("HTTP/1.1 103 Early Hints", "Weft-Reason: x") + ok(), Open: true, Must: received(answer(200, "hello").without("weft-reason").complete())},
			Response{Name: "103 to HTTP/1.0", Request: "GET / HTTP/1.0", Raw: head("HTTP/1.1 103 Early Hints", "Link: </a>") + ok(), Open: true},
			Response{Name: "100 and the end", Raw: head("HTTP/1.1 100 Continue"), Must: bad},
			Response{Name: "10000 informational responses", Raw: strings.Repeat(head("HTTP/1.1 103 Early Hints", "Link: </"+strings.Repeat("a", 100)+">"), 10000) + ok(), Must: received(gatewayError, answer(0, "").cut())},
		),
		responses(Rule{"RFC 9110 section 7.8", "Protocols are switched only if asked for, to what was asked for."},
			bad, nil,
			Response{Name: "a switch that nobody asked for", Raw: head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"), Open: true},
			Response{Name: "a switch and a response", Raw: head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket") + poisoned, Open: true},
			Response{Name: "a switch to something else", Fields: websocket, Raw: head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: h2c"), Open: true},
			Response{Name: "a switch to nothing", Fields: websocket, Raw: head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"), Open: true},
			Response{Name: "a switch of HTTP/1.0", Request: "GET / HTTP/1.0", Fields: websocket, Raw: head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"), Open: true},
		),
	)
}

func excess() []Response {
	after := func(name, raw string) Response { return Response{Name: name, Raw: raw, Open: true} }
	return responses(Rule{"RFC 9112 section 9.2", "What follows a response is no answer to a request that comes later."},
		received(gatewayError, answer(200, "hello").single()), nil,
		after("a response after a body", ok()+poisoned),
		after("bytes after a body", ok()+"x"),
		after("an empty line after a body", ok()+"\r\n"),
		after("a response after chunks", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")+"5\r\nhello\r\n0\r\n\r\n"+poisoned),
		after("a body longer than its length", head("HTTP/1.1 200 OK", "Content-Length: 5")+"hello, world"),
		Response{Name: "a response after no body", Raw: head("HTTP/1.1 200 OK", "Content-Length: 0") + poisoned, Open: true, Must: received(gatewayError, answer(200, "").single())},
		after("an informational response after a body", ok()+head("HTTP/1.1 100 Continue")),
	)
}
