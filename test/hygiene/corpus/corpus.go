// Package corpus holds malformed and hostile HTTP/1.1 messages, written from RFC 9110 and RFC 9112, and what
// must become of each. It is data: whoever runs it decides which proxy it is for and how to see the outcome.
//
// Every case names the clause that it comes from and says in our own words what that clause asks. Must lists
// the outcomes that the clause allows, to whatever engine. Weft lists those that our own engine has, where it
// is stricter. The package must not know any engine; where one falls short of Must, its test says so.
package corpus

import (
	"slices"
	"strconv"
	"strings"
)

// Host is the authority of requests that do not say otherwise, in a Host line that the runner never adds.
const Host = "h"

// Rule is what a case is judged by.
type Rule struct {
	// Clause is where the rule stands, such as "RFC 9112 section 5.1".
	Clause string
	// Says is what it asks, in our own words.
	Says string
}

// Request is a request, or several, as a client sends them in one piece.
type Request struct {
	Rule
	Name string
	Raw  string
	// End tells that the client ends its side after Raw. Otherwise it sends another request behind it, which
	// must be answered as what it is, or not at all.
	End  bool
	Must []Outcome
	Weft []Outcome
}

// Outcome is what may become of a request. Without Arrive nothing complete reaches the backend.
type Outcome struct {
	// Arrive are the requests that reach the backend, complete and in this order, and no others.
	Arrive []Message
	// Refused tells that after Arrive one request is refused: with an answer of 400 or more, or with none, and
	// the end of the connection.
	Refused bool
	// Status is what the refusal must have, if it has one; zero means any of 400 and more.
	Status int
	// Broken tells that the beginning of a refused request may have reached the backend, which can see that it
	// is not complete.
	Broken bool
	// Close tells that the connection must end after Arrive, whatever follows.
	Close bool
}

// Message is a request as the backend sees it, or a response as the client does.
type Message struct {
	// Line is "GET /path" of a request and "200" of a response.
	Line string
	// Host is the authority of a request.
	Host string
	Body string
	// Fields are "name: value", the name in lower case. All values of each name that occurs in them must be
	// there, in that order, and no others.
	Fields []string
	// Absent are names of fields that must not be there, neither in the header nor in the trailer.
	Absent []string
	// Trailer are fields that must be in the trailer.
	Trailer []string
}

// Response is an answer that a backend gives, in one piece, to one request.
type Response struct {
	Rule
	Name string
	Raw  string
	// Request is how the client asks; empty for "GET / HTTP/1.1".
	Request string
	// Fields are lines of the request beside Host.
	Fields string
	// Open tells that the backend keeps the connection open after Raw. It does wherever Raw may be a complete
	// response, since it has not said otherwise.
	Open bool
	Must []Received
	Weft []Received
}

// Received is what a client may see of a response.
type Received struct {
	// Message is what it gets, complete. Its Line is empty if it gets an answer of the proxy's own, 502.
	Message
	// Cut tells that the client gets the head in Message and can see that the body is not complete.
	Cut bool
	// Single tells that the backend's connection must not carry another request.
	Single bool
}

// Requests are all cases of requests, in a fixed order.
func Requests() []Request {
	return slices.Concat(
		requestLines(), targets(), paths(), hosts(), fields(), fieldValues(), lengths(), codings(), chunks(),
		trailers(), connections(), expectations(), sequences(),
	)
}

// Responses are all cases of responses, in a fixed order.
func Responses() []Response {
	return slices.Concat(
		statusLines(), responseFields(), responseLengths(), responseCodings(), bodiless(), informational(), excess(),
	)
}

// requests completes cases that share a rule. Cases that say nothing of their own have its outcomes.
func requests(rule Rule, must, weft []Outcome, cases ...Request) []Request {
	for i := range cases {
		c := &cases[i]
		c.Rule = rule
		if c.Must == nil {
			c.Must, c.Weft = must, weft
		}
		if c.Weft == nil {
			c.Weft = c.Must
		}
	}
	return cases
}

func responses(rule Rule, must, weft []Received, cases ...Response) []Response {
	for i := range cases {
		c := &cases[i]
		c.Rule = rule
		if c.Must == nil {
			c.Must, c.Weft = must, weft
		}
		if c.Weft == nil {
			c.Weft = c.Must
		}
		c.Open = c.Open || slices.ContainsFunc(c.Must, func(r Received) bool { return !r.Single })
	}
	return cases
}

// outcomes is a list of what may happen.
func outcomes(o ...Outcome) []Outcome { return o }

func received(r ...Received) []Received { return r }

var (
	// refused is an answer of 400 or more, or none, and the end of the connection.
	refused = Outcome{Refused: true}
	// broken is like refused, but the head had been forwarded by then.
	broken = Outcome{Refused: true, Broken: true}
	// gatewayError is an answer of the proxy's own.
	gatewayError = Received{Single: true}
)

func refusedWith(status int) Outcome { return Outcome{Refused: true, Status: status} }

// arrive is the arrival of these requests and nothing else.
func arrive(m ...Message) Outcome { return Outcome{Arrive: m} }

func (o Outcome) thenClose() Outcome {
	o.Close = true
	return o
}

// thenRefused is that what follows is refused.
func (o Outcome) thenRefused() Outcome {
	o.Refused = true
	return o
}

// get is a request without a body for Host.
func get(target string) Message { return Message{Line: "GET " + target, Host: Host} }

func post(body string) Message { return Message{Line: "POST /", Host: Host, Body: body} }

// answer is a response.
func answer(status int, body string) Message { return Message{Line: strconv.Itoa(status), Body: body} }

func (m Message) with(fields ...string) Message {
	m.Fields = slices.Concat(m.Fields, fields)
	return m
}

func (m Message) without(names ...string) Message {
	m.Absent = slices.Concat(m.Absent, names)
	return m
}

func (m Message) at(host string) Message {
	m.Host = host
	return m
}

func (m Message) ending(trailer ...string) Message {
	m.Trailer = trailer
	return m
}

// complete is a response that reaches the client whole.
func (m Message) complete() Received { return Received{Message: m} }

// single is like complete, and its connection carries no other request.
func (m Message) single() Received { return Received{Message: m, Single: true} }

// cut is a response that breaks off.
func (m Message) cut() Received { return Received{Message: m, Cut: true, Single: true} }

// head joins lines of a head with CRLF and ends it.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// with is a GET request with these lines.
func with(lines ...string) string {
	return head(append([]string{"GET / HTTP/1.1", "Host: h"}, lines...)...)
}

// sent is a POST request with these lines and a body as it stands.
func sent(body string, lines ...string) string {
	return head(append([]string{"POST / HTTP/1.1", "Host: h"}, lines...)...) + body
}

// chunked is a POST request whose body is in chunks, as they stand.
func chunked(body string) string { return sent(body, "Transfer-Encoding: chunked") }
