package h1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	phttp "weft.dev/weft/proxy/http"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen. It is only used up by a failure.
const patience = 30 * time.Second

// start serves connections on loopback and returns the address.
func start(t *testing.T, s *Server) string {
	t.Helper()
	if s.HeadTimeout == 0 {
		s.HeadTimeout, s.IdleTimeout = patience, patience
	}
	if s.Refuse == nil {
		s.Refuse = func(c *Conn, err *Error) {
			res := phttp.Response{Status: http.StatusBadRequest}
			if c.WriteHead(&res, int64(len(err.Error()))) == nil {
				_, _ = io.WriteString(c, err.Error())
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Add(1)
			go func() {
				if s.Serve(c, serving.Done) != nil {
					_ = c.Close()
					serving.Done()
				}
			}()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// echo answers with the method, the target and the body.
func echo(c *Conn) {
	body, err := io.ReadAll(readerFunc(c.ReadBody))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text := fmt.Sprintf("%s %s %s", c.Request.Method, c.Request.Target, body)
	_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, int64(len(text)))
	_, _ = io.WriteString(c, text)
}

// dial connects and sends a text.
func dial(t *testing.T, address, text string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	return c.(*net.TCPConn), bufio.NewReader(c)
}

// readAnswer reads one response.
func readAnswer(t *testing.T, r *bufio.Reader, method string) (received reply, content string) {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	_ = res.Body.Close()
	return reply{res.StatusCode, res.Header, res.Close}, string(body)
}

// reply is the head of a response.
type reply struct {
	StatusCode int
	Header     http.Header
	Close      bool
}

// ended fails unless the connection ends.
func ended(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if b, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("read %q, %v, want the end of the connection", b, err)
	}
}

func TestRequestsOfOneConnection(t *testing.T) {
	address := start(t, &Server{Handle: echo})
	_, r := dial(t, address, head("GET /1 HTTP/1.1", "Host: a")+
		head("POST /2 HTTP/1.1", "Host: a", "Content-Length: 3")+"abc"+
		head("POST /3 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")+"1\r\nd\r\n2\r\nef\r\n0\r\n\r\n"+
		head("GET /4 HTTP/1.1", "Host: a", "Connection: close"))
	for _, want := range []string{"GET /1 ", "POST /2 abc", "POST /3 def", "GET /4 "} {
		res, got := readAnswer(t, r, "GET")
		if got != want || res.Close != strings.HasPrefix(want, "GET /4") || res.Header.Get("Date") == "" {
			t.Errorf("answer = %q with %v, close %t, want %q", got, res.Header, res.Close, want)
		}
	}
	ended(t, r)
}

// A client that sends one byte at a time gets the same answers.
func TestRequestByteByByte(t *testing.T) {
	address := start(t, &Server{Handle: echo})
	c, r := dial(t, address, "")
	text := head("POST /slow HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "1;x\r\na\r\n0\r\nX: 1\r\n\r\n"
	for i := range text {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	if _, got := readAnswer(t, r, "POST"); got != "POST /slow a" {
		t.Errorf("answer = %q", got)
	}
}

func TestInvalidRequestEndsTheConnection(t *testing.T) {
	address := start(t, &Server{Handle: echo})
	_, r := dial(t, address, head("GET /1 HTTP/1.1", "Host: a")+head("GET / HTTP/1.1", "Host: a", "Host: b")+head("GET /hidden HTTP/1.1", "Host: a"))
	if _, got := readAnswer(t, r, "GET"); got != "GET /1 " {
		t.Errorf("answer = %q", got)
	}
	res, got := readAnswer(t, r, "GET")
	if res.StatusCode != http.StatusBadRequest || !res.Close || got != errHostTwice.Error() {
		t.Errorf("answer = %d %q, close %t, want 400 and the end", res.StatusCode, got, res.Close)
	}
	ended(t, r)
}

func TestFramingOfAnswers(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		status, length := http.StatusOK, int64(-1)
		res := phttp.Response{Status: status, Header: fields("content-type", "a", "X-a", "b", "x-A", "c")}
		switch c.Request.Target {
		case "/204":
			res.Status, length = http.StatusNoContent, 5
		case "/304":
			res.Status = http.StatusNotModified
			res.Header.Add("Content-Length", "5")
		case "/length":
			length = 5
		case "/told":
			length = 5
			res.Header.Add("content-LENGTH", "5")
		case "/lie":
			length = 5
			res.Header.Add("Content-Length", "7")
		case "/smuggle":
			length = 5
			res.Header.Add("X", "1\r\nContent-Length: 0")
			res.Header.Add("X: 2\r\nY", "3")
			res.Header.Add("Transfer-Encoding", "chunked")
		}
		_ = c.WriteHead(&res, length)
		_, _ = io.WriteString(c, "he")
		_ = c.Flush()
		_, _ = io.WriteString(c, "llo")
		c.SetTrailer(fields("X-Sum", "1", "Content-Length", "7", "Weft-Reason", "a"))
	}})
	fixed := "content-type: a\r\nX-a: b\r\nx-A: c\r\n"
	tests := map[string]struct{ request, want string }{
		"length":                      {head("GET /length HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "Content-Length: 5\r\n\r\nhello"},
		"length is told":              {head("GET /told HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "content-LENGTH: 5\r\n\r\nhello"},
		"length is wrong":             {head("GET /lie HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "Content-Length: 5\r\n\r\nhello"},
		"a second message in a field": {head("GET /smuggle HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "Content-Length: 5\r\n\r\nhello"},
		"chunks":                      {head("GET / HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n"},
		"HTTP/1.0":                    {head("GET / HTTP/1.0"), "HTTP/1.1 200 OK\r\nConnection: close\r\n" + fixed + "\r\nhello"},
		"HEAD":                        {head("HEAD / HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "\r\n"},
		"HEAD, length":                {head("HEAD /told HTTP/1.1", "Host: a"), "HTTP/1.1 200 OK\r\n" + fixed + "content-LENGTH: 5\r\n\r\n"},
		"204":                         {head("GET /204 HTTP/1.1", "Host: a"), "HTTP/1.1 204 No Content\r\n" + fixed + "\r\n"},
		"304":                         {head("GET /304 HTTP/1.1", "Host: a"), "HTTP/1.1 304 Not Modified\r\n" + fixed + "Content-Length: 5\r\n\r\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, r := dial(t, address, tc.request)
			if err := c.CloseWrite(); err != nil {
				t.Fatalf("close: %v", err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			text := string(got)
			if start := strings.Index(text, "Date: "); start < 0 {
				t.Errorf("answer = %q, want a Date", text)
			} else {
				text = text[:start] + text[start+strings.Index(text[start:], "\n")+1:]
			}
			if text != tc.want {
				t.Errorf("answer = %q, want %q", text, tc.want)
			}
		})
	}
}

func TestContinue(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		if c.Request.Target == "/refused" {
			_ = c.WriteHead(&phttp.Response{Status: http.StatusForbidden}, 0)
			return
		}
		echo(c)
	}})
	c, r := dial(t, address, head("POST / HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"))
	if res, _ := readAnswer(t, r, "POST"); res.StatusCode != http.StatusContinue {
		t.Fatalf("answer = %d, want 100", res.StatusCode)
	}
	if _, err := io.WriteString(c, "ok"); err != nil {
		t.Fatalf("write: %v", err)
	}
	if _, got := readAnswer(t, r, "POST"); got != "POST / ok" {
		t.Errorf("answer = %q", got)
	}
	// Without 100 nobody knows whether the body will come.
	_, r = dial(t, address, head("POST /refused HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"))
	if res, _ := readAnswer(t, r, "POST"); res.StatusCode != http.StatusForbidden {
		t.Errorf("answer = %d, want 403 and no 100 before", res.StatusCode)
	} else if !res.Close {
		t.Error("the client is not told that the connection ends")
	}
	ended(t, r)
}

func TestInformational(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		_ = c.WriteInformational(&phttp.Response{Status: http.StatusEarlyHints, Header: fields("Link", "a", "Content-Length", "5")})
		_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 0)
	}})
	_, r := dial(t, address, head("GET / HTTP/1.1", "Host: a"))
	if res, _ := readAnswer(t, r, "GET"); res.StatusCode != http.StatusEarlyHints || res.Header.Get("Link") != "a" || res.Header["Content-Length"] != nil {
		t.Errorf("answer = %d %v, want 103 with a link and no length", res.StatusCode, res.Header)
	}
	if res, _ := readAnswer(t, r, "GET"); res.StatusCode != http.StatusOK {
		t.Errorf("answer = %d, want 200", res.StatusCode)
	}
	_, r = dial(t, address, head("GET / HTTP/1.0"))
	if res, _ := readAnswer(t, r, "GET"); res.StatusCode != http.StatusOK {
		t.Errorf("answer = %d, want no 103 for HTTP/1.0", res.StatusCode)
	}
}

// What is left of a body that the handler did not want is not taken for a request.
func TestUnreadBody(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) { _ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 0) }})
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, text := range map[string]string{
		"length": head("POST / HTTP/1.1", "Host: a", fmt.Sprint("Content-Length: ", len(hidden))) + hidden,
		"chunks": head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden),
	} {
		t.Run(name, func(t *testing.T) {
			c, r := dial(t, address, text+head("GET /next HTTP/1.1", "Host: a"))
			if err := c.CloseWrite(); err != nil {
				t.Fatalf("close: %v", err)
			}
			for range 2 {
				if res, _ := readAnswer(t, r, "GET"); res.StatusCode != http.StatusOK {
					t.Errorf("answer = %d", res.StatusCode)
				}
			}
			ended(t, r)
		})
	}
	t.Run("it does not come", func(t *testing.T) {
		_, r := dial(t, address, head("POST / HTTP/1.1", "Host: a", "Content-Length: 5")+"he")
		if res, _ := readAnswer(t, r, "POST"); res.StatusCode != http.StatusOK {
			t.Errorf("answer = %d", res.StatusCode)
		}
		ended(t, r)
	})
}

// A reader of the body in another goroutine does not outlive the exchange.
func TestReadOfTheBodyEndsWithTheExchange(t *testing.T) {
	failed := make(chan error, 1)
	address := start(t, &Server{Handle: func(c *Conn) {
		reading := make(chan struct{})
		go func() {
			close(reading)
			_, err := c.ReadBody(make([]byte, 1))
			failed <- err
		}()
		<-reading
		_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 0)
	}})
	_, r := dial(t, address, head("POST / HTTP/1.1", "Host: a", "Content-Length: 5"))
	if res, _ := readAnswer(t, r, "POST"); res.StatusCode != http.StatusOK {
		t.Errorf("answer = %d", res.StatusCode)
	}
	if err := <-failed; err == nil {
		t.Error("the read returned without an error")
	}
	ended(t, r)
}

// A reader that comes when its exchange is over gets nothing of the next one's body.
func TestBodyBelongsToItsExchange(t *testing.T) {
	var late io.Reader
	address := start(t, &Server{Handle: func(c *Conn) {
		_, req := c.HTTP(t.Context())
		if late == nil {
			late = req.Body
			_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 0)
			return
		}
		if n, err := late.Read(make([]byte, 10)); n > 0 || err == nil {
			t.Errorf("the late reader had %d bytes, %v", n, err)
		}
		if body, err := io.ReadAll(req.Body); err != nil || string(body) != "second" {
			t.Errorf("body = %q, %v", body, err)
		}
		_ = c.WriteHead(&phttp.Response{Status: http.StatusNoContent}, 0)
	}})
	_, r := dial(t, address, head("POST / HTTP/1.1", "Host: a", "Content-Length: 5")+"first"+
		head("POST / HTTP/1.1", "Host: a", "Content-Length: 6")+"second")
	for _, want := range []int{http.StatusOK, http.StatusNoContent} {
		if res, _ := readAnswer(t, r, "POST"); res.StatusCode != want {
			t.Errorf("answer = %d, want %d", res.StatusCode, want)
		}
	}
}

// A handler that answers before its helper has read the body leaves nothing for the two exchanges to share: the race
// detector sees it if it does.
func TestBodyReadBesideTheHandler(t *testing.T) {
	var readers sync.WaitGroup
	address := start(t, &Server{Handle: func(c *Conn) {
		w, req := c.HTTP(t.Context())
		readers.Go(func() { _, _ = io.ReadAll(req.Body) })
		w.WriteHeader(http.StatusNoContent)
		w.EndHTTP()
	}})
	const requests = 20
	_, r := dial(t, address, strings.Repeat(head("POST / HTTP/1.1", "Host: a", "Content-Length: 5")+"hello", requests))
	for range requests {
		if res, _ := readAnswer(t, r, "POST"); res.StatusCode != http.StatusNoContent {
			t.Fatalf("answer = %d", res.StatusCode)
		}
	}
	readers.Wait()
}

func TestAnswersThatAreNotWhole(t *testing.T) {
	address := start(t, &Server{Handle: func(c *Conn) {
		switch c.Request.Target {
		case "/nothing":
			return
		case "/short":
			_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 5)
			_, _ = io.WriteString(c, "he")
			return
		case "/long":
			_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, 1)
			_, _ = io.WriteString(c, "he")
			return
		}
		_ = c.WriteHead(&phttp.Response{Status: http.StatusOK}, -1)
		_, _ = io.WriteString(c, "he")
		_ = c.Flush()
		panic(http.ErrAbortHandler)
	}})
	for _, request := range []string{
		head("GET /nothing HTTP/1.1", "Host: a"), head("GET /short HTTP/1.1", "Host: a"), head("GET /long HTTP/1.1", "Host: a"),
		head("GET /chunks HTTP/1.1", "Host: a"), head("GET /to-the-end HTTP/1.0"),
	} {
		_, r := dial(t, address, request)
		res, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		if err == nil {
			t.Errorf("the client takes the answer to %q for a whole one", request)
		}
	}
}

func TestPanicIsTold(t *testing.T) {
	told := make(chan any, 1)
	address := start(t, &Server{Handle: func(*Conn) { panic("help") }, Failed: func(p any) { told <- p }})
	_, r := dial(t, address, head("GET / HTTP/1.1", "Host: a"))
	if got := <-told; got != "help" {
		t.Errorf("told %v", got)
	}
	ended(t, r)
}
