package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func TestTrailersPassBothWays(t *testing.T) {
	for name, protocols := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   h2c,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			backend := server(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Announced")
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("read request: %v", err)
				}
				_, _ = w.Write(body)
				w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
				w.Header().Set(http.TrailerPrefix+"X-Surprise", "1")
			})
			protocol := wire.ProtocolHTTP
			if name == "HTTP/2" {
				protocol = wire.ProtocolH2C
			}
			p.apply(service("cart", protocol, backend)...)
			req := request(t, http.MethodPost, p.listen(key("cart")), "/", nil)
			req.Trailer = http.Header{"X-Sum": nil}
			req.Body = &trailing{Reader: strings.NewReader("body"), end: func() { req.Trailer.Set("X-Sum", "42") }}
			req.ContentLength = -1
			got := do(t, client(t, protocols), req)
			want := http.Header{"X-Announced": {"42"}, "X-Surprise": {"1"}}
			if diff := cmp.Diff(want, got.trailer); diff != "" || got.body != "body" {
				t.Errorf("answer = %v, trailer (-want +got):\n%s", got, diff)
			}
		})
	}
}

// trailing calls end when its reader has.
type trailing struct {
	io.Reader
	end func()
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		b.end()
	}
	return n, err
}

func (b *trailing) Close() error { return nil }

func TestInformationalResponsesArePassedOn(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "done")
	}))...)
	address := p.listen(key("cart"))
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
		t.Run(name, func(t *testing.T) {
			var hints []string
			req := request(t, http.MethodGet, address, "/", nil)
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					hints = append(hints, fmt.Sprint(code, " ", header.Get("Link")))
					return nil
				},
			}))
			got := do(t, c, req)
			if diff := cmp.Diff([]string{"103 </style.css>; rel=preload"}, hints); diff != "" {
				t.Errorf("hints (-want +got):\n%s", diff)
			}
			if got.body != "done" || got.header.Get("Link") != "" {
				t.Errorf("answer = %v with Link %q, want done without one", got, got.header.Get("Link"))
			}
		})
	}
}

func TestContinueComesFromTheBackend(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			// The body is not read, so it is not asked for.
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		_, _ = w.Write(body)
	}))...)
	address := p.listen(key("cart"))
	t.Run("wanted", func(t *testing.T) {
		c, r := raw(t, address, lines("POST / HTTP/1.1", "Host: cart", "Content-Length: 4", "Expect: 100-continue"))
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("first answer = %q, %v, want 100", line, err)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatalf("read: %v", err)
		}
		if _, err := io.WriteString(c, "body"); err != nil {
			t.Fatalf("write: %v", err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("read answer: %v", err)
		}
		defer func() { _ = res.Body.Close() }()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "body" {
			t.Errorf("answer = %q, %v, want the body", body, err)
		}
	})
	t.Run("not wanted", func(t *testing.T) {
		_, r := raw(t, address, lines("POST /refuse HTTP/1.1", "Host: cart", "Content-Length: 4", "Expect: 100-continue"))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("read answer: %v", err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusExpectationFailed {
			t.Errorf("status = %d, want 417 and no 100 before it", res.StatusCode)
		}
	})
}

func TestBodiesStreamBothWays(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil && r.ProtoMajor == 1 {
			t.Errorf("full duplex: %v", err)
		}
		if err := rc.Flush(); err != nil {
			t.Errorf("flush: %v", err)
		}
		for scanner := bufio.NewScanner(r.Body); scanner.Scan(); {
			fmt.Fprintf(w, "got %s\n", scanner.Text())
			if err := rc.Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
	}))...)
	address := p.listen(key("cart"))
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
		t.Run(name, func(t *testing.T) {
			reader, writer := io.Pipe()
			res, err := c.Do(request(t, http.MethodPost, address, "/", reader))
			if err != nil {
				t.Fatalf("the head did not come before the body: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			r := bufio.NewReader(res.Body)
			for i := range 3 {
				if _, err := fmt.Fprintln(writer, i); err != nil {
					t.Fatalf("write: %v", err)
				}
				line, err := r.ReadString('\n')
				if want := fmt.Sprintf("got %d\n", i); err != nil || line != want {
					t.Fatalf("line = %q, %v, want %q before the next is sent", line, err, want)
				}
			}
			_ = writer.Close()
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Errorf("rest = %q, %v", rest, err)
			}
		})
	}
}

func TestEarlyResponseIsPassedOn(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Errorf("full duplex: %v", err)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}))...)
	// The client goes on sending only when it has the answer.
	c, r := raw(t, p.listen(key("cart")), "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\nhalf")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status = %d, want 413 before the body has ended", res.StatusCode)
	}
	_ = c.Close()
}

func TestClientThatGoesAwayEndsTheRequestToTheBackend(t *testing.T) {
	p := newProxy(t)
	arrived, ended := make(chan struct{}), make(chan struct{})
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	}))...)
	ctx, cancel := context.WithCancel(t.Context())
	req := request(t, http.MethodGet, p.listen(key("cart")), "/", nil).WithContext(ctx)
	c := client(t)
	go func() {
		<-arrived
		cancel()
	}()
	res, err := c.Do(req)
	if err == nil {
		_ = res.Body.Close()
		t.Fatal("a canceled request got an answer")
	}
	<-ended
}

func TestResponseThatBreaksOffIsNotTakenForTheWhole(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "100")
		}
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))...)
	address := p.listen(key("cart"))
	for _, path := range []string{"/length", "/chunked"} {
		for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
			t.Run(name+path, func(t *testing.T) {
				res, err := c.Do(request(t, http.MethodGet, address, path, nil))
				if err != nil {
					t.Fatalf("get: %v", err)
				}
				defer func() { _ = res.Body.Close() }()
				if body, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("body = %q without an error, want one", body)
				}
			})
		}
	}
}
