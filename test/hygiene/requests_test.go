package hygiene_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/hygiene/corpus"
)

// canary follows every request on its connection, next comes later on another one.
const (
	canary = "GET /canary"
	next   = "GET /next"
)

// observed is what could be seen of a request.
type observed struct {
	// arrived are the requests that reached the backend whole, without canary and next.
	arrived []*message
	// partly tells that the beginning of another one did.
	partly bool
	// canary tells that what followed was taken for a request.
	canary bool
	// answers are those on the client's connection but that to the canary, ended whether the connection did.
	answers []*message
	ended   bool
	// reset tells that it ended with a reset, after which an answer may be lost (RFC 9112 section 9.6).
	reset bool
}

func (o observed) String() string {
	return fmt.Sprintf("arrived: %s\nanswers: %s\npartly %t, canary %t, ended %t, reset %t",
		brief(o.arrived), brief(o.answers), o.partly, o.canary, o.ended, o.reset)
}

func TestRequests(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			p, l := k.start(t), &ledger{kind: k}
			t.Run("case", func(t *testing.T) {
				for i, c := range corpus.Requests() {
					t.Run(c.Name, func(t *testing.T) {
						b := newBackend(t, named)
						address := p.service(t, fmt.Sprintf("case-%d", i), b.address, wire.ProtocolHTTP)
						t.Parallel()
						o := observe(t, b, address, c)
						l.judge(t, verdict{c.Name, o.String(), c.Rule, o.fits(c.Must), o.fits(c.Weft)})
					})
				}
			})
			l.compare(t, "requests")
		})
	}
}

// observe sends a request and what follows it.
func observe(t *testing.T, b *backend, address string, c corpus.Request) observed {
	t.Helper()
	conn := dial(t, address)
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		// The proxy may stop reading at any byte.
		_, _ = io.WriteString(conn, c.Raw)
		if c.End {
			_ = conn.(*net.TCPConn).CloseWrite()
			return
		}
		_, _ = io.WriteString(conn, canary+" HTTP/1.1\r\nHost: h\r\n\r\n")
	}()
	var o observed
	method, _, _ := strings.Cut(c.Raw, " ")
	for r := newReader(conn); ; method = "" {
		m, err := r.response(method)
		var bad uncleanError
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("%s: neither answer nor end: %v", c.Clause, o)
		case errors.As(err, &bad):
			t.Fatalf("%s: the client got an answer that is %v", c.Clause, err)
		case err != nil:
			o.ended, o.reset = true, errors.Is(err, syscall.ECONNRESET)
		case m.body == canary:
			o.canary = true
		case m.status() < 200:
			continue
		default:
			o.answers = append(o.answers, m)
			continue
		}
		break
	}
	_ = conn.Close()
	<-sending
	if got := ask(t, address); got != next {
		t.Errorf("%s: another client got %q for %s", c.Clause, got, next)
	}
	for _, a := range b.seen() {
		var bad uncleanError
		switch {
		case errors.As(a.err, &bad):
			t.Errorf("%s: the backend got a request that is %v", c.Clause, a.err)
		case a.err != nil:
			o.partly = true
		case a.target() == canary:
			o.canary = true
		case a.target() != next:
			o.arrived = append(o.arrived, a.message)
		}
		if a.err == nil {
			for _, problem := range forbidden(a.message) {
				t.Errorf("%s: the backend got %s", c.Clause, problem)
			}
		}
	}
	return o
}

// ask sends a good request on a connection of its own and returns the body of the answer.
func ask(t *testing.T, address string) string {
	t.Helper()
	conn := dial(t, address)
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, next+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatalf("send %s: %v", next, err)
	}
	m, err := newReader(conn).response("GET")
	if err != nil {
		t.Fatalf("read the answer to %s: %v", next, err)
	}
	return m.body
}

// forbidden returns what no request may have when it reaches an application.
func forbidden(m *message) []string {
	var problems []string
	for _, f := range slices.Concat(m.fields, m.trailer) {
		switch f.name {
		case "keep-alive", "proxy-connection", "http2-settings":
			problems = append(problems, "the field "+f.name)
		case "connection":
			if v := strings.ToLower(f.value); v != "upgrade" && v != "close" {
				problems = append(problems, "Connection: "+f.value)
			}
		}
		if strings.HasPrefix(f.name, "weft-") {
			problems = append(problems, "the field "+f.name)
		}
	}
	for _, name := range []string{"host", "content-length", "transfer-encoding", "authorization", "connection"} {
		if len(valuesOf(m.trailer, name)) > 0 {
			problems = append(problems, "a trailer with "+name)
		}
	}
	return problems
}

// fits tells whether what was seen is one of these outcomes.
func (o observed) fits(allowed []corpus.Outcome) bool { return slices.ContainsFunc(allowed, o.is) }

func (o observed) is(want corpus.Outcome) bool {
	if o.partly && !want.Broken || !slices.EqualFunc(o.arrived, want.Arrive, sameRequest) {
		return false
	}
	if len(o.answers) < len(o.arrived) {
		return false
	}
	for i, m := range o.arrived {
		answer := o.answers[i]
		if head := strings.HasPrefix(m.line, "HEAD "); answer.status() != 200 || !head && answer.body+" HTTP/1.1" != m.line {
			return false
		}
	}
	more := o.answers[len(o.arrived):]
	if want.Refused {
		refused := len(more) <= 1 && o.ended && !o.canary
		if len(more) == 1 {
			code := more[0].status()
			return refused && code >= 400 && (want.Status == 0 || code == want.Status)
		}
		return refused && (want.Status == 0 || o.reset)
	}
	if len(more) > 0 {
		return false
	}
	if o.canary {
		return !want.Close
	}
	last := o.answers[len(o.answers)-1]
	return o.ended && (want.Close || slices.Contains(last.get("connection"), "close"))
}

// sameRequest tells whether a request is as a case wants it.
func sameRequest(got *message, want corpus.Message) bool {
	hosts := got.get("host")
	return got.line == want.Line+" HTTP/1.1" && got.body == want.Body &&
		(want.Host == "" || hosts[0] == want.Host) && sameFields(got, want)
}

// sameFields compares the fields that a case is about.
func sameFields(got *message, want corpus.Message) bool {
	values := map[string][]string{}
	for _, line := range want.Fields {
		name, value, _ := strings.Cut(line, ": ")
		values[name] = append(values[name], value)
	}
	for name, wanted := range values {
		if !slices.Equal(got.get(name), wanted) {
			return false
		}
	}
	for _, name := range want.Absent {
		if len(got.get(name)) > 0 || len(valuesOf(got.trailer, name)) > 0 {
			return false
		}
	}
	for _, line := range want.Trailer {
		name, value, _ := strings.Cut(line, ": ")
		if !slices.Equal(valuesOf(got.trailer, name), []string{value}) {
			return false
		}
	}
	return true
}
