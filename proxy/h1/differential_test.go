package h1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

// stricter are the rules by which requests are refused that net/http's server takes, each with a reason.
var stricter = map[*Error]string{
	errBareLF:          "net/http takes LF for the end of a line",
	errHostDiffers:     "net/http goes by the target",
	errHostMissing:     "net/http takes CONNECT without one, which the engine refuses",
	errHost:            "net/http looks at single bytes of a Host only",
	errLengthTwice:     "net/http takes equal lengths",
	errLength:          "net/http takes a list of equal lengths, and trims it",
	errLengthAndCoding: "net/http goes by the coding",
	errCodingOld:       "net/http ignores the coding of HTTP/1.0",
	errVersion:         "net/http takes every version 1.x",
	errMethod:          "net/http takes long methods",
	errTarget:          "net/http hands other forms to the handler, where the engine refuses them",
	errFieldValue:      "net/http trims more than spaces and tabs",
	errFolded:          "net/http joins folded lines",
	errTrailerField:    "net/http takes every field of a trailer that was not announced",
	errChunkSize:       "net/http takes spaces after a chunk size",
	errChunkEnd:        "net/http takes LF alone after a chunk",
	errChunkExtension:  "net/http does not look into extensions",
	errExpect:          "net/http takes two fields",
	errFields:          "net/http does not count",
	errHeadSize:        "net/http takes a megabyte unless it is told otherwise",
	errTrailerSize:     "net/http takes more",
	errFieldName:       "net/http takes whitespace in lines without a colon",
	errRequestLine:     "net/http takes more spaces in a target",
}

// seen is one request as a handler has it.
type seen struct {
	Method, Target, Host string
	Header               []string
	Body                 string
	Whole                bool
	Trailer              []string
}

// script is a connection on which a client has sent everything it will.
type script struct {
	received
	closed chan struct{}
	once   sync.Once
}

func newScript(text []byte) *script {
	return &script{received: received{bytes.NewReader(text)}, closed: make(chan struct{})}
}

func (s *script) RemoteAddr() net.Addr { return &net.TCPAddr{} }
func (s *script) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// once is a listener with one connection.
type once struct {
	conn  chan net.Conn
	ended chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.ended:
		return nil, net.ErrClosed
	}
}
func (o *once) Close() error {
	close(o.ended)
	return nil
}
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// seenByStd returns what net/http's server makes of what a client sends.
func seenByStd(text []byte) []seen {
	var all []seen
	s := &http.Server{
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			target := r.RequestURI
			if rest, ok := strings.CutPrefix(strings.ToLower(target), "http://"); ok && r.Method != http.MethodConnect {
				target = target[len(target)-len(rest):]
				if at := strings.IndexAny(target, "/?"); at < 0 {
					target = "/"
				} else if target = target[at:]; target[0] == '?' {
					target = "/" + target
				}
			}
			all = append(all, seen{r.Method, target, r.Host, sorted(r.Header), string(body), err == nil, sorted(r.Trailer)})
		}),
	}
	o, c := &once{make(chan net.Conn, 1), make(chan struct{})}, newScript(text)
	o.conn <- c
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(o) }()
	<-c.closed
	_ = s.Shutdown(context.Background()) // waits for the handler
	<-served
	return all
}

func sorted(h http.Header) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if name == "Trailer" || name == "Transfer-Encoding" {
			continue // what net/http has used up
		}
		for _, value := range h[name] {
			list = append(list, name+": "+value)
		}
	}
	return list
}

// seenByOwn returns what Server makes of it, and why it has refused what comes after.
func seenByOwn(text []byte) (all []seen, refused *Error) {
	s := &Server{
		Refuse: func(_ *Conn, err *Error) { refused = err },
		Handle: func(c *Conn) {
			_, r := c.HTTP(context.Background())
			if !engineTakes(r) {
				refused = errTarget
				panic(http.ErrAbortHandler)
			}
			body, err := io.ReadAll(r.Body)
			errors.As(err, &refused)
			trailer := sorted(nethttp.Header(c.Trailer()))
			all = append(all, seen{r.Method, r.RequestURI, r.Host, sorted(r.Header), string(body), err == nil, trailer})
			_ = c.WriteHead(&noContent, 0)
		},
	}
	_ = s.Serve(newScript(text), nil)
	return all, refused
}

// engineTakes tells whether the engine takes a request that Server has taken: it looks into targets itself. net/http's
// server takes no escapes in the host of one.
func engineTakes(r *http.Request) bool {
	head := phttp.Request{Method: r.Method}
	return r.Method == http.MethodConnect || head.SetTarget(r.RequestURI) == nil && !strings.Contains(r.Host, "%")
}

// compare fails if the two servers disagree about what a client sends in a way that is not listed.
func compare(t *testing.T, text []byte) {
	t.Helper()
	std := seenByStd(text)
	own, refused := seenByOwn(text)
	old := oldVersion(own, text)
	for i := range own {
		if i == len(std) {
			t.Fatalf("%q is taken, and net/http has refused it", text)
		}
		if !own[i].Whole && std[i].Whole {
			if _, listed := stricter[refused]; !listed {
				t.Fatalf("the body of %q is refused for a reason that is not listed: %v", text, refused)
			}
			return
		}
		if own[i].Method == http.MethodConnect {
			own[i].Host = std[i].Host // net/http goes by the target; the engine refuses it in any case
		}
		if !own[i].Whole {
			own[i].Body, std[i].Body = "", ""
		}
		// net/http forgets a trailer that was not announced only in HTTP/1.0 and drops none.
		std[i].Trailer, own[i].Trailer = nil, nil
		if diff := cmp.Diff(std[i], own[i]); diff != "" {
			t.Fatalf("request %d of %q is understood in another way (-std +weft):\n%s", i, text, diff)
		}
	}
	if len(own) < len(std) && !old {
		if _, listed := stricter[refused]; !listed {
			t.Fatalf("%q is refused for a reason that is not listed: %v (net/http has %d requests, not %d)", text, refused, len(std), len(own))
		}
	}
}

// oldVersion tells whether the last request is one of HTTP/1.0, after which the connection ends here.
func oldVersion(own []seen, text []byte) bool {
	return len(own) > 0 && bytes.Contains(text, []byte("HTTP/1.0"))
}

var conversations = []string{
	head("GET / HTTP/1.1", "Host: a"),
	head("GET /a?b HTTP/1.1", "Host: a", "X: 1", "x: 2") + head("HEAD /second HTTP/1.1", "Host: b"),
	head("POST / HTTP/1.1", "Host: a", "Content-Length: 5") + "hello" + head("GET /next HTTP/1.1", "Host: a"),
	head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" + head("GET /next HTTP/1.1", "Host: a"),
	head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n" + head("GET /smuggled HTTP/1.1", "Host: a"),
	head("POST / HTTP/1.1", "Host: a", "Content-Length: 6", "Content-Length: 6") + "hello!",
	head("GET http://a/b HTTP/1.1", "Host: a"),
	head("GET http://a/b HTTP/1.1", "Host: b"),
	head("GET / HTTP/1.0", "Connection: keep-alive") + head("GET /next HTTP/1.0"),
	head("GET / HTTP/1.1", "Host: a", "Expect: 100-continue", "Connection: close"),
	"GET / HTTP/1.1\nHost: a\n\n",
	"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	head("OPTIONS * HTTP/1.1", "Host: a"),
	head("CONNECT a:1 HTTP/1.1", "Host: a:1"),
	head("CONNECT 0 HTTP/1.0"),
	head("GET / HTTP/1.1", "Host: a", " folded"),
	head("GET / HTTP/1.1", "Host: a", "X : 1"),
	head("POST / HTTP/1.1", "Host: a", "Content-Length: +5") + "hello",
	head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "5 \r\nhello\r\n0\r\n\r\n",
	head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n",
	head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding:\x0bchunked") + "0\r\n\r\n",
	head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n",
	head("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked") + "0\r\n\r\n",
	head("PRI * HTTP/2.0") + "SM\r\n\r\n",
}

func TestServerAgainstStd(t *testing.T) {
	for i, text := range conversations {
		t.Run(strconv.Itoa(i), func(t *testing.T) { compare(t, []byte(text)) })
	}
}

// FuzzServerAgainstStd looks for what the two servers disagree about: a request that hides in another one for one of
// them, or is another one.
func FuzzServerAgainstStd(f *testing.F) {
	for _, text := range conversations {
		f.Add([]byte(text))
	}
	f.Fuzz(compare)
}
