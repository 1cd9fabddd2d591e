package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// What is malformed reaches no handler: the head is refused, or the body breaks off. h2spec and the fuzz targets have the
// rest.
func TestMalformedRequests(t *testing.T) {
	for name, text := range map[string]string{
		"no path":                 ":method= GET\n:scheme= http",
		"an empty path":           ":method= GET\n:scheme= http\n:path= ",
		"a path without a slash":  ":method= GET\n:scheme= http\n:path= a",
		"an asterisk of GET":      ":method= GET\n:scheme= http\n:path= *",
		"a space in the path":     ":method= GET\n:scheme= http\n:path= /a b",
		"another scheme":          ":method= GET\n:scheme= ftp\n:path= /",
		"two paths":               plainHead + "\n:path= /",
		"a status":                plainHead + "\n:status= 200",
		"an unknown pseudo-field": plainHead + "\n:x= y",
		"a pseudo-field late":     ":method= GET\n:scheme= http\nx= y\n:path= /",
		"a method with a space":   ":method= G T\n:scheme= http\n:path= /",
		"a path of CONNECT":       ":method= CONNECT\n:authority= a:1\n:path= /",
		"no authority of CONNECT": ":method= CONNECT",
		"upper case":              plainHead + "\nX= y",
		"a space in a name":       plainHead + "\nx y= z",
		"a NUL in a value":        plainHead + "\nx= \x00",
		"a padded value":          plainHead + "\nx=  y",
		"Connection":              plainHead + "\nconnection= x",
		"Transfer-Encoding":       plainHead + "\ntransfer-encoding= chunked",
		"Upgrade":                 plainHead + "\nupgrade= h2c",
		"another TE":              plainHead + "\nte= gzip",
		"two lengths":             plainHead + "\ncontent-length= 1\ncontent-length= 1\n\nx",
		"a signed length":         plainHead + "\ncontent-length= +1\n\nx",
		"a length without a body": plainHead + "\ncontent-length= 1",
		"a body that is too long": plainHead + "\ncontent-length= 1\n\nxy",
		"one that is too short":   plainHead + "\ncontent-length= 3\n\nxy",
	} {
		t.Run(name, func(t *testing.T) {
			if got := verdict(t, serveOurs, message(text)); got != "" && !strings.Contains(got, brokenBody) {
				t.Errorf("the handler sees %s", got)
			}
		})
	}
	if got := verdict(t, serveOurs, message(plainHead+"\nte= trailers\ncontent-length= 2\n\nxy")); got == "" {
		t.Error("a request with nothing wrong is refused")
	}
}

// A sender is let on only as fast as what it sends is taken.
func TestWindowsOpenAsBytesAreTaken(t *testing.T) {
	release := make(chan struct{})
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}, func(s *Server) { s.Limits.StreamWindow = 64 << 10 })
	c := dial(t, address)
	in, out := io.Pipe()
	if err := c.Reserve(); err != nil {
		t.Fatal(err)
	}
	req := request(t, "POST", address, "/", in)
	answered := make(chan error, 1)
	go func() {
		res, err := c.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
		}
		answered <- err
	}()
	const size = 1 << 20
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = out.Write(make([]byte, size))
		_ = out.Close()
	}()
	select {
	case <-wrote:
		t.Error("a body that nobody takes was sent whole")
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	<-wrote
}

// Who gives a request up ends it at the other side, and nothing else on the connection.
func TestGivingUp(t *testing.T) {
	ended := make(chan error, 1)
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI == "/wait" {
			<-r.Context().Done()
			ended <- r.Context().Err()
		}
	})
	c := dial(t, address)
	client := &http.Client{Transport: roundTripper{c}}
	ctx, cancel := context.WithCancel(t.Context())
	req := request(t, "GET", address, "/wait", nil).WithContext(ctx)
	time.AfterFunc(10*time.Millisecond, cancel)
	res, err := client.Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want that of the context", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the exchange ends with %v", err)
	}
	if res, _ := fetch(t, client, request(t, "GET", address, "/", nil)); res.StatusCode != http.StatusOK { //nolint:bodyclose // fetch does
		t.Errorf("status %d", res.StatusCode)
	}
	if n := c.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// Shutdown serves what has begun, and what begins before the client can know.
func TestShutdown(t *testing.T) {
	var server *Server
	begun, release := make(chan struct{}), make(chan struct{})
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		begun <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "whole")
	}, func(s *Server) { server = s })
	c := dial(t, address)
	client := &http.Client{Transport: roundTripper{c}}
	answers := make(chan string, 1)
	go func() {
		_, body := fetch(t, client, request(t, "GET", address, "/", nil)) //nolint:bodyclose // fetch does
		answers <- body
	}()
	<-begun
	done := make(chan error, 1)
	go func() { done <- server.Shutdown(t.Context()) }()
	for c.Err() == nil {
		select {
		case <-t.Context().Done():
			t.Fatal("the client is not told")
		case <-time.After(time.Millisecond):
		}
	}
	close(release)
	if got := <-answers; got != "whole" {
		t.Errorf("answer %q", got)
	}
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	<-c.Done()
}

// What a server has not processed, as it says, is told apart: it may be sent again.
func TestUnprocessed(t *testing.T) {
	for name, refuse := range map[string]func(*http2.Framer){
		"REFUSED_STREAM": func(f *http2.Framer) { _ = f.WriteRSTStream(1, http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(f *http2.Framer) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			address := accept(t, func(c net.Conn) {
				defer c.Close()
				preface := make([]byte, len(http2.ClientPreface))
				if _, err := io.ReadFull(c, preface); err != nil {
					return
				}
				framer := http2.NewFramer(c, c)
				_ = framer.WriteSettings()
				for {
					f, err := framer.ReadFrame()
					if err != nil {
						return
					}
					if f.Header().Type == http2.FrameHeaders {
						refuse(framer)
					}
				}
			}, func() {})
			res, err := (&http.Client{Transport: roundTripper{dial(t, address)}}).Do(request(t, "GET", address, "/", nil))
			if err == nil {
				_ = res.Body.Close()
			}
			failed, ok := errors.AsType[*Error](err)
			if !ok || !failed.Unprocessed || !failed.Remote {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// A peer that sends nothing but what has to be answered is left soon, whether or not it reads the answers.
func TestPingsWithoutEnd(t *testing.T) {
	conn, err := net.Dial("tcp", serve(t, func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(message(plainHead)); err != nil {
		t.Fatal(err)
	}
	pings := []byte(strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping", 1000))
	for range 1000 {
		if _, err := conn.Write(pings); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it neither reads nor ends the connection")
			}
			return
		}
	}
	t.Error("it goes on after a million")
}
