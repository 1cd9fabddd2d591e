package hygiene_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/hygiene/corpus"
)

// obtained is what a client could see of a response.
type obtained struct {
	// first are informational responses, final the one that counts, nil if there was none.
	first []*message
	final *message
	// cut tells that the response was not complete.
	cut bool
	// shared tells that the connection of the backend has carried another request.
	shared bool
}

func (o obtained) String() string {
	if o.final == nil {
		return fmt.Sprintf("no response, cut %t", o.cut)
	}
	return fmt.Sprintf("%scut %t, shared %t", brief(append(o.first, o.final)), o.cut, o.shared)
}

// rounds is how often a response is given that must not be shared: whether it is may depend on who is faster.
const rounds = 10

func TestResponses(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			p, l := k.start(t), &ledger{kind: k}
			t.Run("case", func(t *testing.T) {
				for i, c := range corpus.Responses() {
					t.Run(c.Name, func(t *testing.T) {
						b := newBackend(t, answering(c))
						address := p.service(t, fmt.Sprintf("case-%d", i), b.address, wire.ProtocolHTTP)
						t.Parallel()
						for range times(c) {
							o := obtain(t, b, address, c)
							l.judge(t, verdict{c.Name, o.String(), c.Rule, o.fits(c.Must), o.fits(c.Weft)})
						}
					})
				}
			})
			l.compare(t, "responses")
		})
	}
}

// answering gives the response of a case to everything but next.
func answering(c corpus.Response) func(*message) (string, bool) {
	return func(m *message) (string, bool) {
		if strings.HasPrefix(m.line, next+" ") {
			return named(m)
		}
		return c.Raw, c.Open
	}
}

// times is how often a response is given.
func times(c corpus.Response) int {
	if c.Open && slices.ContainsFunc(c.Must, func(r corpus.Received) bool { return r.Single }) {
		return rounds
	}
	return 1
}

// obtain asks for a response, and for something else right after that.
func obtain(t *testing.T, b *backend, address string, c corpus.Response) obtained {
	t.Helper()
	before := len(b.seen())
	conn := dial(t, address)
	defer func() { _ = conn.Close() }()
	asked := cmp.Or(c.Request, "GET / HTTP/1.1")
	if _, err := io.WriteString(conn, asked+"\r\nHost: h\r\n"+c.Fields+"\r\n"); err != nil {
		t.Fatalf("send: %v", err)
	}
	var o obtained
	method, _, _ := strings.Cut(asked, " ")
	for r := newReader(conn); o.final == nil && !o.cut; {
		m, err := r.response(method)
		var bad uncleanError
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("%s: neither answer nor end", c.Clause)
		case errors.As(err, &bad):
			t.Fatalf("%s: the client got an answer that is %v", c.Clause, err)
		case err != nil:
			o.cut, o.final = true, m
		case m.status() < 200:
			if strings.HasSuffix(asked, "1.0") {
				t.Errorf("%s: a client of HTTP/1.0 got %q", c.Clause, m.line)
			}
			o.first = append(o.first, m)
		default:
			o.final = m
		}
	}
	if got := ask(t, address); got != next {
		t.Errorf("%s: another client got %q for %s", c.Clause, got, next)
	}
	var used []int
	for _, a := range b.seen()[before:] {
		switch {
		case a.err != nil:
			t.Errorf("%s: the backend got a request that is %v", c.Clause, a.err)
		case a.target() == next:
			o.shared = o.shared || slices.Contains(used, a.conn)
		default:
			used = append(used, a.conn)
		}
	}
	return o
}

// fits tells whether what was seen is one of these outcomes.
func (o obtained) fits(allowed []corpus.Received) bool { return slices.ContainsFunc(allowed, o.is) }

func (o obtained) is(want corpus.Received) bool {
	if o.cut != want.Cut || o.shared && want.Single {
		return false
	}
	for _, m := range o.first {
		if !sameFields(m, corpus.Message{Absent: want.Absent}) {
			return false
		}
	}
	if want.Cut && (o.final == nil || want.Line == "0") {
		return true
	}
	if o.final == nil {
		return false
	}
	if want.Line == "" {
		return o.final.status() == 502 && len(o.final.get("weft-reason")) == 1
	}
	if len(o.final.get("weft-reason")) > 0 {
		return false
	}
	return strconv.Itoa(o.final.status()) == want.Line && (want.Cut || o.final.body == want.Body) && sameFields(o.final, want.Message)
}
