package h2

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
)

func TestExchange(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read the request: %v", err)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", fmt.Sprintf("%s %s %s %d %q %q", r.Method, r.Host, r.RequestURI, r.ContentLength, r.Header["X-A"], r.Trailer["X-End"]))
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", "announced")
		w.Header().Set(http.TrailerPrefix+"X-Late", "not announced")
	}
	pairs(t, handler, func(t *testing.T, c *http.Client, address string) {
		for name, size := range map[string]int{"small": 5, "beyond a frame": 20_000, "beyond a window": 1 << 20} {
			body := strings.Repeat("x", size)
			req := request(t, "POST", address, "/a%2fb?q", strings.NewReader(body))
			req.Header["X-A"] = []string{"1", "2"}
			res, got := fetch(t, c, req) //nolint:bodyclose // fetch does
			if got != body {
				t.Errorf("%s: %d bytes come back, want %d", name, len(got), size)
			}
			want := fmt.Sprintf(`POST %s /a%%2fb?q %d ["1" "2"] []`, address, size)
			if res.Header.Get("X-Got") != want {
				t.Errorf("%s: the server got %s, want %s", name, res.Header.Get("X-Got"), want)
			}
			if res.Trailer.Get("X-Sum") != "announced" || res.Trailer.Get("X-Late") != "not announced" {
				t.Errorf("%s: trailer %v", name, res.Trailer)
			}
		}
		req := request(t, "POST", address, "/", io.NopCloser(strings.NewReader("hello")))
		req.Trailer = http.Header{"X-End": {"end"}}
		res, got := fetch(t, c, req) //nolint:bodyclose // fetch does
		if want := fmt.Sprintf(`POST %s / -1 [] ["end"]`, address); got != "hello" || res.Header.Get("X-Got") != want {
			t.Errorf("of unknown length: %q and %s, want %s", got, res.Header.Get("X-Got"), want)
		}
		res, got = fetch(t, c, request(t, "GET", address, "/", nil)) //nolint:bodyclose // fetch does
		if want := fmt.Sprintf(`GET %s / 0 [] []`, address); got != "" || res.Header.Get("X-Got") != want {
			t.Errorf("without a body: %q and %s, want %s", got, res.Header.Get("X-Got"), want)
		}
	})
}

func TestAnswersWithoutBody(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.Header().Set("X", "y")
		if r.Method == "HEAD" {
			w.Header().Set("Content-Length", "10")
		}
		w.WriteHeader(status)
	}
	// Our own server leaves the URL to its user.
	own := func(w http.ResponseWriter, r *http.Request) {
		r.URL = request(t, "GET", "a", r.RequestURI, nil).URL
		handler(w, r)
	}
	pairs(t, own, func(t *testing.T, c *http.Client, address string) {
		for target, method := range map[string]string{"/204": "GET", "/304": "GET", "/404": "GET", "/200": "HEAD"} {
			res, got := fetch(t, c, request(t, method, address, target, nil)) //nolint:bodyclose // fetch does
			if fmt.Sprintf("/%d", res.StatusCode) != target || got != "" || res.Header.Get("X") != "y" || res.Header.Get("Date") == "" {
				t.Errorf("%s %s: %d %q %v", method, target, res.StatusCode, got, res.Header)
			}
		}
	})
}

func TestInformationalResponses(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			w.Header().Set("Link", "a")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Link", "b")
			w.WriteHeader(http.StatusEarlyHints)
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}
	pairs(t, handler, func(t *testing.T, c *http.Client, address string) {
		for method, want := range map[string]string{"GET": "[103 [a] 103 [b]]", "POST": "[100 []]"} {
			req := request(t, method, address, "/", strings.NewReader("hello"))
			if method == "POST" {
				req.Header.Set("Expect", "100-continue")
			}
			var mu sync.Mutex
			var got []string
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, fmt.Sprint(code, header["Link"]))
					return nil
				},
			}))
			_, body := fetch(t, c, req) //nolint:bodyclose // fetch does
			mu.Lock()
			if fmt.Sprint(got) != want || body != "hello" {
				t.Errorf("%s: got %v and %q, want %s", method, got, body, want)
			}
			mu.Unlock()
		}
	})
}

// Each side is answered while the other still sends.
func TestFullDuplex(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		buf := make([]byte, 16)
		if err := control.Flush(); err != nil {
			t.Errorf("flush: %v", err)
		}
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = control.Flush()
			if err != nil {
				return
			}
		}
	}
	pairs(t, handler, func(t *testing.T, c *http.Client, address string) {
		in, out := io.Pipe()
		res, err := c.Do(request(t, "POST", address, "/", in))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		buf := make([]byte, 16)
		for i := range 100 {
			word := fmt.Sprint("word", i)
			if _, err := io.WriteString(out, word); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(res.Body, buf[:len(word)]); err != nil || string(buf[:n]) != word {
				t.Fatalf("got %q, %v, want %q", buf[:n], err, word)
			}
		}
		_ = out.Close()
		if n, err := res.Body.Read(buf); err != io.EOF {
			t.Errorf("read %d bytes, %v, want the end", n, err)
		}
	})
}
