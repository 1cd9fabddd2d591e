package corpus

import "strings"

func chunks() []Request {
	hello := outcomes(arrive(post("hello")))
	bad := outcomes(broken)
	lenient := outcomes(broken, arrive(post("hello")))
	sized := func(name, size string) Request {
		return Request{Name: name, Raw: chunked(size + "\r\nhello\r\n0\r\n\r\n")}
	}
	return joined(
		requests(Rule{"RFC 9112 section 7.1", "A size is hexadecimal digits alone, and large ones must not wrap around."},
			bad, nil,
			sized("a size with 0x", "0x5"),
			sized("a size with a plus sign", "+5"),
			sized("a negative size", "-5"),
			sized("a size with a letter that is no digit", "5g"),
			sized("a size of letters that are no digits", "xyz"),
			sized("an empty size", ""),
			sized("a size with an underscore", "0_5"),
			sized("a size with a NUL", "5\x00"),
			sized("a size in other digits", "\xd9\xa5"),
			sized("a size with a comma", "5,"),
			sized("a size of 17 digits", "FFFFFFFFFFFFFFFFF"),
			sized("a size of 2 to the power of 64, and 5", "10000000000000005"),
			Request{Name: "a size of 2 to the power of 63, and 5", Raw: chunked("8000000000000005\r\nhello\r\n0\r\n\r\n"), End: true},
			Request{Name: "a size of 2 to the power of 32, and 5", Raw: chunked("100000005\r\nhello\r\n0\r\n\r\n"), End: true},
			sized("a size of 100 digits", strings.Repeat("F", 100)),
			Request{Name: "a last chunk with a sign", Raw: chunked("5\r\nhello\r\n-0\r\n\r\n")},
			Request{Name: "a last chunk with 0x", Raw: chunked("5\r\nhello\r\n0x0\r\n\r\n")},
		),
		requests(Rule{"RFC 9112 section 7.1", "Whitespace does not belong to a size. Some take it; Weft does not."},
			lenient, bad,
			sized("a space before a size", " 5"),
			sized("a space after a size", "5 "),
			sized("a tab after a size", "5\t"),
			sized("a size with 20 digits of which most are zero", "00000000000000000005"),
		),
		requests(Rule{"RFC 9112 section 7.1", "Chunks are taken apart as their sizes say."},
			hello, nil,
			sized("a chunk", "5"),
			sized("a size with a leading zero", "05"),
			Request{Name: "two chunks", Raw: chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")},
			Request{Name: "a last chunk of zeros", Raw: chunked("5\r\nhello\r\n0000\r\n\r\n")},
			Request{Name: "sizes in capitals and small letters", Raw: chunked("a\r\nhellohello\r\nA\r\nhellohello\r\n0\r\n\r\n"), Must: outcomes(arrive(post("hellohellohellohello")))},
			Request{Name: "no chunk but the last", Raw: chunked("0\r\n\r\n"), Must: outcomes(arrive(post("")))},
			Request{Name: "a request in a chunk", Raw: chunked("23\r\n" + smuggled + "\r\n0\r\n\r\n"), Must: outcomes(arrive(post(smuggled)))},
			Request{Name: "a last chunk inside a chunk", Raw: chunked("5\r\n0\r\n\r\n\r\n0\r\n\r\n"), Must: outcomes(arrive(post("0\r\n\r\n")))},
			Request{Name: "chunks of one byte", Raw: chunked(strings.Repeat("1\r\na\r\n", 1000) + "0\r\n\r\n"), Must: outcomes(broken, arrive(post(strings.Repeat("a", 1000))))},
		),
		requests(Rule{"RFC 9112 section 7.1", "Each size and each chunk ends in CRLF, of which no part may be missing."},
			bad, nil,
			Request{Name: "a bare line feed after a size", Raw: chunked("5\nhello\r\n0\r\n\r\n")},
			Request{Name: "a bare line feed after a chunk", Raw: chunked("5\r\nhello\n0\r\n\r\n")},
			Request{Name: "a bare line feed after the last size", Raw: chunked("5\r\nhello\r\n0\n\r\n")},
			Request{Name: "a bare line feed as the end", Raw: chunked("5\r\nhello\r\n0\r\n\n"), Must: lenient, Weft: bad},
			Request{Name: "a bare carriage return after a size", Raw: chunked("5\rhello\r\n0\r\n\r\n")},
			Request{Name: "two carriage returns after a size", Raw: chunked("5\r\r\nhello\r\n0\r\n\r\n")},
			Request{Name: "two carriage returns after a chunk", Raw: chunked("5\r\nhello\r\r\n0\r\n\r\n")},
			Request{Name: "nothing after a chunk", Raw: chunked("5\r\nhello0\r\n\r\n")},
			Request{Name: "other bytes after a chunk", Raw: chunked("5\r\nhelloXX0\r\n\r\n")},
			Request{Name: "a chunk longer than its size", Raw: chunked("3\r\nhello\r\n0\r\n\r\n")},
			Request{Name: "a chunk shorter than its size", Raw: chunked("9\r\nhello\r\n0\r\n\r\n")},
			Request{Name: "a request instead of a size", Raw: chunked("5\r\nhello\r\n" + smuggled)},
		),
		requests(Rule{"RFC 9112 section 7.1.1", "Extensions that are not known are ignored and not forwarded."},
			hello, nil,
			sized("an extension", "5;a=b"),
			sized("an extension without a value", "5;a"),
			sized("an extension in quotation marks", `5;a="b;c"`),
			sized("two extensions", "5;a=b;c=d"),
			Request{Name: "an extension of the last chunk", Raw: chunked("5\r\nhello\r\n0;a=b\r\n\r\n")},
		),
		requests(Rule{"RFC 9112 section 7.1.1", "The size of extensions is limited, and they contain no line feed or carriage return."},
			bad, nil,
			sized("a bare line feed in an extension", "5;a\nb"),
			sized("a bare line feed at the end of an extension", "5;a=\n23"),
			sized("a bare carriage return in an extension", "5;a\rb"),
			sized("an extension of 100 KB", "5;a="+strings.Repeat("b", 100<<10)),
			Request{Name: "many chunks with extensions", Raw: chunked(strings.Repeat("1;"+strings.Repeat("b", 200)+"\r\na\r\n", 1000) + "0\r\n\r\n")},
		),
	)
}

func trailers() []Request {
	bad := outcomes(broken)
	ends := func(name string, lines ...string) Request {
		return Request{Name: name, Raw: chunked("5\r\nhello\r\n0\r\n" + head(lines...))}
	}
	safe := func(names ...string) []Outcome { return outcomes(broken, arrive(post("hello").without(names...))) }
	return joined(
		requests(Rule{"RFC 9110 section 6.5.1", "A trailer does not change how a message is framed, routed or authenticated; such fields are dropped or refused."},
			nil, nil,
			Request{Name: "a trailer that nobody announced", Raw: chunked("5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"), Must: outcomes(arrive(post("hello").without("x-t")), arrive(post("hello").ending("x-t: 1")))},
			Request{Name: "a trailer that was announced", Raw: sent("5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: X-T"), Must: outcomes(arrive(post("hello").ending("x-t: 1")), arrive(post("hello").without("x-t")))},
			withMust(ends("a length in the trailer", "Content-Length: 35"), safe("content-length")),
			withMust(ends("a coding in the trailer", "Transfer-Encoding: chunked"), safe()),
			withMust(ends("a Host in the trailer", "Host: other"), safe()),
			withMust(ends("credentials in the trailer", "Authorization: Bearer x"), safe("authorization")),
			withMust(ends("a field of the mesh in the trailer", "Weft-Backend: shop/other:80"), safe("weft-backend")),
			withMust(ends("Connection in the trailer", "Connection: x-a"), safe()),
			Request{Name: "a length that was announced for the trailer", Raw: sent("5\r\nhello\r\n0\r\nContent-Length: 35\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: Content-Length"), Must: safe("content-length")},
			Request{Name: "a field of the mesh that was announced for the trailer", Raw: sent("5\r\nhello\r\n0\r\nWeft-Backend: x\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: Weft-Backend"), Must: safe("weft-backend")},
		),
		requests(Rule{"RFC 9112 section 7.1.2", "A trailer is made of fields as a header is, and limited as one."},
			bad, nil,
			withMust(ends("a space before a colon in the trailer", "X-T : 1"), outcomes(broken, arrive(post("hello").without("x-t")))),
			ends("a trailer without a colon", "X-T"),
			ends("a trailer without a name", ": 1"),
			ends("a NUL in a name of the trailer", "X\x00T: 1"),
			withMust(ends("a NUL in the trailer", "X-T: 1\x002"), outcomes(broken, arrive(post("hello")))),
			withMust(ends("a folded trailer", "X-T: 1", " 2"), outcomes(broken, arrive(post("hello")))),
			withMust(ends("a bare line feed in the trailer", "X-T: 1\nX-U: 2"), outcomes(broken, arrive(post("hello")))),
			ends("a trailer of 200 KB", "X-T: "+strings.Repeat("a", 200<<10)),
			ends("a trailer that is a request", "GET /smuggled HTTP/1.1", "Host: h"),
		),
	)
}

// withMust gives a case outcomes of its own, of which our engine has the first.
func withMust(c Request, must []Outcome) Request {
	c.Must = must
	return c
}

func connections() []Request {
	arrives := func(name string, m Message, lines ...string) Request {
		return Request{Name: name, Raw: with(lines...), Must: outcomes(arrive(m))}
	}
	closes := func(name string, m Message, lines ...string) Request {
		return Request{Name: name, Raw: with(lines...), Must: outcomes(arrive(m).thenClose())}
	}
	g := get("/")
	return joined(
		requests(Rule{"RFC 9110 section 7.6.1", "Connection and the fields that it names are not forwarded."},
			nil, nil,
			arrives("a field that Connection names", g.without("x-a"), "Connection: x-a", "X-A: 1"),
			arrives("a field that Connection names in other letters", g.without("x-a"), "connection: X-a", "x-A: 1"),
			arrives("fields that Connection names in a list", g.without("x-a", "x-b").with("x-c: 3"), "Connection: x-a, ,x-b", "X-A: 1", "X-B: 2", "X-C: 3"),
			arrives("fields that two lines of Connection name", g.without("x-a", "x-b"), "Connection: x-a", "X-A: 1", "Connection: x-b", "X-B: 2"),
			arrives("all lines of a field that Connection names", g.without("x-a"), "X-A: 1", "Connection: x-a", "X-A: 2"),
			arrives("Keep-Alive", g.without("keep-alive"), "Connection: keep-alive", "Keep-Alive: timeout=5"),
			arrives("Keep-Alive that Connection does not name", g.without("keep-alive"), "Keep-Alive: timeout=5"),
			arrives("Proxy-Connection", g.without("proxy-connection"), "Proxy-Connection: keep-alive"),
			arrives("TE", g.without("te"), "TE: gzip"),
			arrives("TE: trailers stays", g.with("te: trailers"), "TE: trailers", "Connection: TE"),
			arrives("TE with trailers among others", g.with("te: trailers"), "TE: gzip;q=0.5, trailers"),
			arrives("a Connection that is empty", g, "Connection:"),
			closes("Connection: close", g, "Connection: close"),
			closes("close among others", g.without("x-a"), "Connection: x-a, Close", "X-A: 1"),
		),
		requests(Rule{"RFC 9110 section 7.6.1", "Connection must not name what concerns all recipients. Weft keeps what others have proven or added."},
			nil, nil,
			Request{Name: "Connection names Content-Length", Raw: sent("hello", "Content-Length: 5", "Connection: content-length"), Must: outcomes(refused, arrive(post("hello")))},
			Request{Name: "Connection names Transfer-Encoding", Raw: sent("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked", "Connection: transfer-encoding"), Must: outcomes(refused, arrive(post("hello")))},
			Request{Name: "Connection names Host", Raw: with("Connection: host"), Must: outcomes(refused, arrive(g))},
			Request{Name: "Connection names Authorization", Raw: with("Connection: authorization", "Authorization: Bearer x"), Must: outcomes(refused, arrive(g.without("authorization")), arrive(g.with("authorization: Bearer x"))), Weft: outcomes(arrive(g.with("authorization: Bearer x")))},
			Request{Name: "Connection names X-Forwarded-For", Raw: with("Connection: x-forwarded-for", "X-Forwarded-For: 192.0.2.1"), Must: outcomes(arrive(g.without("x-forwarded-for")), arrive(g.with("x-forwarded-for: 192.0.2.1"))), Weft: outcomes(arrive(g.with("x-forwarded-for: 192.0.2.1")))},
			Request{Name: "Connection names Forwarded", Raw: with("Connection: forwarded", "Forwarded: for=192.0.2.1"), Must: outcomes(arrive(g.without("forwarded")), arrive(g.with("forwarded: for=192.0.2.1"))), Weft: outcomes(arrive(g.with("forwarded: for=192.0.2.1")))},
		),
		requests(Rule{"RFC 9110 section 7.8", "Upgrade is for one connection; the only one that Weft passes on is websocket."},
			nil, nil,
			arrives("an upgrade that nobody knows", g.without("upgrade"), "Connection: upgrade", "Upgrade: x"),
			arrives("an upgrade to h2c", g.without("upgrade", "http2-settings"), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
			arrives("an upgrade to h2c without its settings", g.without("upgrade"), "Connection: Upgrade", "Upgrade: h2c"),
			arrives("an upgrade to TLS", g.without("upgrade"), "Connection: Upgrade", "Upgrade: TLS/1.0"),
			arrives("an upgrade that Connection does not name", g.without("upgrade"), "Upgrade: websocket"),
			Request{Name: "a list of upgrades", Raw: with("Connection: Upgrade", "Upgrade: h2c, websocket"), Must: outcomes(refused, arrive(g.without("upgrade")), arrive(g.with("upgrade: websocket")).thenClose())},
			Request{Name: "two lines of Upgrade", Raw: with("Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"), Must: outcomes(refused, arrive(g.without("upgrade")), arrive(g.with("upgrade: websocket")).thenClose())},
			Request{Name: "an upgrade of HTTP/1.0", Raw: head("GET / HTTP/1.0", "Host: h", "Connection: Upgrade", "Upgrade: websocket"), Must: outcomes(arrive(g.without("upgrade")).thenClose())},
			Request{Name: "an upgrade that is not granted, and a request behind it", Raw: with("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==") + smuggled, Must: outcomes(refused, arrive(g.with("upgrade: websocket")).thenClose())},
			Request{Name: "an upgrade with a body", Raw: sent("hello", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5"), Must: outcomes(refused, arrive(post("hello").without("upgrade"))), Weft: outcomes(refused)},
			Request{Name: "an upgrade with a body in chunks", Raw: sent("5\r\nhello\r\n0\r\n\r\n", "Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), Must: outcomes(refused, arrive(post("hello").without("upgrade"))), Weft: outcomes(refused)},
		),
		requests(Rule{"RFC 9112 section 9.3", "A proxy does not keep connections of HTTP/1.0 open."},
			outcomes(arrive(g).thenClose()), nil,
			Request{Name: "HTTP/1.0", Raw: head("GET / HTTP/1.0", "Host: h")},
			Request{Name: "HTTP/1.0 that asks to be kept alive", Raw: head("GET / HTTP/1.0", "Host: h", "Connection: keep-alive")},
		),
		requests(Rule{"RFC 9110 section 7.6.2", "Of TRACE and OPTIONS, Max-Forwards is counted down, and who gets 0 answers."},
			nil, nil,
			Request{Name: "Max-Forwards", Raw: head("OPTIONS / HTTP/1.1", "Host: h", "Max-Forwards: 9"), Must: outcomes(
				arrive(Message{Line: "OPTIONS /", Host: Host}.with("max-forwards: 8")), arrive(Message{Line: "OPTIONS /", Host: Host}.with("max-forwards: 7")),
			)},
			Request{Name: "Max-Forwards that is used up", Raw: head("TRACE / HTTP/1.1", "Host: h", "Max-Forwards: 0"), Must: outcomes(refused)},
			Request{Name: "Max-Forwards of GET", Raw: with("Max-Forwards: 0"), Must: outcomes(arrive(g.with("max-forwards: 0")))},
		),
		requests(Rule{"RFC 9110 section 7.6.3", "A gateway sends Via with what it forwards."},
			nil, nil,
			Request{Name: "Via", Raw: with(), Must: outcomes(arrive(g.with("via: 1.1 weft")))},
		),
		requests(Rule{"Weft, docs/security.md", "What only proxies of the mesh may say is dropped."},
			nil, nil,
			arrives("a backend for the hop", g.without("weft-backend"), "Weft-Backend: shop/other:80"),
			arrives("fields of the mesh in other letters", g.without("weft-client", "weft-anything"), "wEFT-cLIENT: 192.0.2.1:1", "weft-anything: 1"),
			arrives("Connection names a field of the mesh", g.without("weft-client"), "Connection: weft-client", "Weft-Client: 192.0.2.1:1"),
			arrives("a field of the mesh with underscores is another", g.with("weft_client: 1").without("weft-client"), "Weft_Client: 1"),
		),
	)
}

func expectations() []Request {
	return joined(
		requests(Rule{"RFC 9110 section 10.1.1", "100-continue is the only expectation; others may be refused with 417, and Weft does."},
			nil, nil,
			Request{Name: "100-continue", Raw: sent("hello", "Content-Length: 5", "Expect: 100-continue"), Must: outcomes(arrive(post("hello")))},
			Request{Name: "100-continue in capitals", Raw: sent("hello", "Content-Length: 5", "Expect: 100-CONTINUE"), Must: outcomes(arrive(post("hello")))},
			Request{Name: "100-continue of HTTP/1.0", Raw: head("POST / HTTP/1.0", "Host: h", "Content-Length: 5", "Expect: 100-continue") + "hello", Must: outcomes(arrive(post("hello")).thenClose())},
			Request{Name: "100-continue without a body", Raw: with("Expect: 100-continue"), Must: outcomes(refused, arrive(get("/")))},
			Request{Name: "another expectation", Raw: with("Expect: 200-ok"), Must: outcomes(refusedWith(417), arrive(get("/"))), Weft: outcomes(refusedWith(417))},
			Request{Name: "another expectation beside 100-continue", Raw: sent("hello", "Content-Length: 5", "Expect: 100-continue, x"), Must: outcomes(refusedWith(417), arrive(post("hello"))), Weft: outcomes(refusedWith(417))},
		),
	)
}

func sequences() []Request {
	return joined(
		requests(Rule{"RFC 9112 section 9.3.2", "Requests that follow each other are answered in their order, each as what it is."},
			nil, nil,
			Request{Name: "two requests", Raw: line("GET /a HTTP/1.1") + line("GET /b HTTP/1.1"), Must: outcomes(arrive(get("/a"), get("/b")))},
			Request{Name: "a body and a request", Raw: sent("hello", "Content-Length: 5") + line("GET /b HTTP/1.1"), Must: outcomes(arrive(post("hello"), get("/b")))},
			Request{Name: "chunks and a request", Raw: chunked("5\r\nhello\r\n0\r\n\r\n") + line("GET /b HTTP/1.1"), Must: outcomes(arrive(post("hello"), get("/b")))},
			Request{Name: "a body and an empty line and a request", Raw: sent("hello", "Content-Length: 5") + "\r\n" + line("GET /b HTTP/1.1"), Must: outcomes(arrive(post("hello"), get("/b")), arrive(post("hello")).thenRefused())},
			Request{Name: "twenty requests", Raw: strings.Repeat(line("GET /a HTTP/1.1"), 20), Must: outcomes(arrive(repeated(get("/a"), 20)...))},
		),
		requests(Rule{"RFC 9112 section 11.2", "What follows a request that is refused is not a request."},
			nil, nil,
			Request{Name: "a request after one with a bad Host", Raw: head("GET / HTTP/1.1", "Host: a b") + smuggled, Must: outcomes(refused)},
			Request{Name: "a request after one with a body that is not read", Raw: head("POST /%zz HTTP/1.1", "Host: h", "Content-Length: 35") + smuggled + smuggled, Must: outcomes(refused)},
			Request{Name: "a request after one with a bad length", Raw: sent(smuggled, "Content-Length: x"), Must: outcomes(refused)},
			Request{Name: "a bad request after a good one", Raw: line("GET /a HTTP/1.1") + head("GET /b HTTP/1.1", "Host: h", "X-A : 1"), Must: outcomes(arrive(get("/a")).thenRefused())},
			Request{Name: "a request after Connection: close", Raw: with("Connection: close") + smuggled, Must: outcomes(arrive(get("/")).thenClose())},
		),
	)
}

func repeated(m Message, n int) []Message {
	all := make([]Message, n)
	for i := range all {
		all[i] = m
	}
	return all
}
