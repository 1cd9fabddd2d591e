package h1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// requestTo returns a request as an engine makes it.
func requestTo(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req := &http.Request{Method: method, Host: "a", URL: &url.URL{Path: path, RawPath: path}, Header: http.Header{}}
	if body != nil {
		closer, ok := body.(io.ReadCloser)
		if !ok {
			closer = io.NopCloser(body)
		}
		req.Body, req.ContentLength = closer, -1
		if text, ok := body.(*strings.Reader); ok {
			req.ContentLength = int64(text.Len())
		}
	}
	return req.WithContext(ctx)
}

// scripted is a backend that reads requests and sends what answers holds for each.
func scripted(t *testing.T, answers ...string) *Transport {
	return NewTransport(pipe(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for _, answer := range answers {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
		_, _ = r.ReadByte() // until the client ends it
	}))
}

// fetch sends a request and reads the whole response.
func fetch(t *testing.T, tr *Transport, req *http.Request) (status int, body string, err error) {
	t.Helper()
	if err := tr.Reserve(); err != nil {
		return 0, "", err
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	content, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	return res.StatusCode, string(content), err
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestConnectionIsUsedAgain(t *testing.T) {
	tr := scripted(t, ok, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", ok)
	for i, want := range []string{"ok", "a", "", "ok"} {
		_, got, err := fetch(t, tr, requestTo(t, http.MethodPost, "/", strings.NewReader("body")))
		if got != want || err != nil || tr.Available() != 1 {
			t.Errorf("response %d = %q, %v, and %d requests may follow, want %q and one", i, got, err, tr.Available(), want)
		}
	}
}

// After these the connection is not used again: what comes next on it may not be a response to the next request.
func TestConnectionIsNotUsedAgain(t *testing.T) {
	for name, answer := range map[string]string{
		"a second response":         ok + ok,
		"one byte more":             ok + "x",
		"close":                     "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0":                  "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"a body that must not be":   "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
		"a body that must not be 2": "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			tr := scripted(t, answer)
			if _, _, err := fetch(t, tr, requestTo(t, http.MethodGet, "/", nil)); err != nil {
				t.Fatalf("fetch: %v", err)
			}
			// What has come late is seen before the next request is sent.
			for end := time.Now().Add(patience); tr.Available() == 1 && tr.Reserve() == nil; {
				if time.Now().After(end) {
					t.Fatal("another request may follow")
				}
			}
		})
	}
}

func TestBadResponses(t *testing.T) {
	for name, answer := range map[string]string{
		"no HTTP":           "220 mail.example ESMTP\r\n",
		"half a head":       "HTTP/1.1 200 OK\r\nContent-",
		"half a body":       "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
		"half a chunk":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
		"no last chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
		"a chunk too long":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
		"a head too long":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", MaxResponseHead) + "\r\n\r\n",
		"1xx without end":   strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInformational+1) + ok,
		"an unwanted 101":   "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"length and coding": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			tr := NewTransport(pipe(t, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, answer)
				}
			}))
			if status, body, err := fetch(t, tr, requestTo(t, http.MethodGet, "/", nil)); err == nil {
				t.Errorf("response = %d %q, want a failure", status, body)
			}
			if tr.Available() != 0 || tr.Err() == nil {
				t.Error("another request may follow")
			}
		})
	}
}

func TestFieldsGoAsTheyAre(t *testing.T) {
	arrived := make(chan string, 1)
	tr := NewTransport(pipe(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		arrived <- string(buf[:n])
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nx-B: 1\r\nContent-Length: 0\r\nX-a: 2\r\n\r\n")
		_, _ = c.Read(buf)
	}))
	res, err := tr.RoundTripFields(requestTo(t, http.MethodGet, "/a%2fb", nil), fields("x-c", "1", "Accept", "a", "X-C", "2"))
	if err != nil {
		t.Fatalf("round trip: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	if got, want := <-arrived, "GET /a%2fb HTTP/1.1\r\nHost: a\r\nx-c: 1\r\nAccept: a\r\nX-C: 2\r\n\r\n"; got != want {
		t.Errorf("arrived %q, want %q", got, want)
	}
	received, _ := res.Body.(interface{ Fields() phttp.Header })
	if h := received.Fields(); len(h) != 3 || h[0].Name != "x-B" || h[1].Name != "Content-Length" || h[2].Name != "X-a" {
		t.Errorf("fields = %v", h)
	}
}

// A response that comes before the end of the request is passed on, and the rest of the request is given up with the
// connection.
func TestEarlyResponse(t *testing.T) {
	tr := NewTransport(pipe(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, c)
		}
	}))
	body, w := io.Pipe()
	defer func() { _ = w.Close() }()
	status, got, err := fetch(t, tr, requestTo(t, http.MethodPost, "/", body))
	if status != http.StatusRequestEntityTooLarge || got != "no" || err != nil {
		t.Errorf("response = %d %q, %v", status, got, err)
	}
	if tr.Available() != 0 {
		t.Error("another request may follow half a body")
	}
	if _, err := w.Write([]byte("more")); err == nil {
		t.Error("the body is still wanted")
	}
}

// Both directions flow at the same time.
func TestFullDuplex(t *testing.T) {
	tr := NewTransport(pipe(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(c, req.Body)
	}))
	body, w := io.Pipe()
	res, err := tr.RoundTrip(requestTo(t, http.MethodPost, "/", body))
	if err != nil {
		t.Fatalf("round trip: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	for _, text := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatalf("write: %v", err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != text {
			t.Fatalf("read %q, %v, want %q", got, err, text)
		}
	}
	_ = w.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest = %q, %v", rest, err)
	}
}

// A body that breaks off must not look like a whole one to the backend.
func TestBodyThatBreaksOff(t *testing.T) {
	broken := make(chan error, 1)
	tr := NewTransport(pipe(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			_, err = io.ReadAll(req.Body)
		}
		broken <- err
	}))
	_, _, err := fetch(t, tr, requestTo(t, http.MethodPost, "/", io.MultiReader(strings.NewReader("half"), failing{})))
	if err == nil {
		t.Error("round trip succeeded")
	}
	_ = tr.Close()
	if err := <-broken; err == nil {
		t.Error("the backend takes the body for a whole one")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestContextEndsTheExchange(t *testing.T) {
	for name, answer := range map[string]string{"before the head": "", "in the body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"} {
		t.Run(name, func(t *testing.T) {
			tr := NewTransport(pipe(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(c, answer)
					_, _ = r.ReadByte()
				}
			}))
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("enough")
			req := requestTo(t, http.MethodGet, "/", nil).WithContext(ctx)
			time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
			if _, _, err := fetch(t, tr, req); !errors.Is(err, why) {
				t.Errorf("error = %v, want %v", err, why)
			}
			if tr.Available() != 0 {
				t.Error("another request may follow")
			}
		})
	}
}

func TestInformationalResponses(t *testing.T) {
	tr := scripted(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"+ok)
	var got []int
	req := requestTo(t, http.MethodPost, "/", strings.NewReader("x"))
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, code)
			if code == http.StatusEarlyHints && h.Get("Link") != "a" {
				t.Errorf("103 with %v", h)
			}
			return nil
		},
	}))
	if _, body, err := fetch(t, tr, req); body != "ok" || err != nil || len(got) != 2 {
		t.Errorf("response = %q, %v after %v", body, err, got)
	}
}

func TestRequestThatIsNoMessage(t *testing.T) {
	tr := NewTransport(received{strings.NewReader("")})
	for name, edit := range map[string]func(*http.Request){
		"method": func(r *http.Request) { r.Method = "G T" },
		"host":   func(r *http.Request) { r.Host = "a\r\nX: 1" },
		"path":   func(r *http.Request) { r.URL.RawPath = "/ HTTP/1.1\r\n\r\n" },
		"query":  func(r *http.Request) { r.URL.RawQuery = "\n" },
		"name":   func(r *http.Request) { r.Header["A: b\r\nC"] = []string{"1"} },
		"value":  func(r *http.Request) { r.Header["A"] = []string{"1\r\nB: 2"} },
	} {
		req := requestTo(t, http.MethodGet, "/", nil)
		edit(req)
		if res, err := tr.RoundTrip(req); err == nil || tr.Err() != nil {
			_ = res.Body.Close()
			t.Errorf("%s: error = %v, connection %v, want a refusal that leaves the connection alone", name, err, tr.Err())
		}
	}
}
