package h2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	phttp "weft.dev/weft/proxy/http"
)

// brokenBody stands for a body that was refused, maybe after the handler has begun.
const brokenBody = "<broken>"

// seen is what a handler got to see of a request.
func seen(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(brokenBody)
	}
	var lines []string
	for name, values := range r.Header {
		if name != "Trailer" && name != "Expect" {
			lines = append(lines, fmt.Sprintf("%s: %q", name, values))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%s %q %q %d %q %s", r.Method, r.Host, r.RequestURI, r.ContentLength, body, strings.Join(lines, "\n"))
}

// verdict sends one message to a server that serves one end of a pipe, and returns what its handler got to see; "" if it
// was refused.
func verdict(t *testing.T, serve func(net.Conn, http.HandlerFunc), send []byte) string {
	t.Helper()
	near, far := net.Pipe()
	got := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(far, func(w http.ResponseWriter, r *http.Request) {
			select {
			case got <- seen(r):
			default:
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}()
	defer func() {
		_ = near.Close()
		<-done
	}()
	_ = near.SetDeadline(time.Now().Add(patience))
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = near.Write(send) // it fails if the server has had enough
	}()
	defer func() {
		_ = near.Close()
		<-written
	}()
	concluded, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		framer := http2.NewFramer(io.Discard, near)
		for {
			f, err := framer.ReadFrame()
			if err != nil || concludes(f) {
				break
			}
		}
		close(concluded)
		_, _ = io.Copy(io.Discard, near) // a pipe has no room: what is sent after that has to be read
	}()
	defer func() {
		_ = near.Close()
		<-over
	}()
	select {
	case what := <-got:
		return what
	case <-concluded:
	}
	select {
	case what := <-got:
		return what
	default:
		return ""
	}
}

// concludes tells whether a frame is the last of an answer, which no informational head is.
func concludes(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return f.StreamEnded()
	case *http2.DataFrame:
		return f.StreamEnded()
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return true
	}
	return false
}

// served tells whether a proxy serves a request: it reads the target after this package, and net/http's server reads it
// before its handler and takes no escapes in a host.
func served(r *http.Request) bool {
	var head phttp.Request
	return r.Method == http.MethodConnect || head.SetTarget(r.RequestURI) == nil && !strings.Contains(r.Host, "%")
}

func serveOurs(c net.Conn, handler http.HandlerFunc) {
	s := &Server{
		Handle: func(s *Stream) {
			w, r := s.HTTP(context.Background())
			if served(r) {
				handler(w, r)
			}
			w.EndHTTP()
		},
		Refuse:  func(net.Conn, *Stream, *Error) {},
		Streams: 10, Limits: limits,
	}
	_ = s.Serve(c, nil)
}

func serveStd(c net.Conn, handler http.HandlerFunc) {
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols), DisableGeneralOptionsHandler: true}
	server.Protocols.SetUnencryptedHTTP2(true)
	l := &single{conn: c, ended: make(chan struct{})}
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(l.ended)
		}
	}
	_ = server.Serve(l)
}

// single is a listener with one connection, which ends with that.
type single struct {
	conn  net.Conn
	ended chan struct{}
	given bool
}

func (l *single) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}
func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.TCPAddr{} }

// message is a connection with one request: its fields are lines, and what follows an empty line is its body.
func message(text string) []byte {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	// A bytes.Buffer takes everything.
	_ = framer.WriteSettings()
	encoder := hpack.NewEncoder(&block)
	head, body, _ := strings.Cut(text, "\n\n")
	for line := range strings.SplitSeq(head, "\n") {
		name, value, _ := strings.Cut(line, "= ")
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	if block.Len() > frameSize || len(body) > frameSize {
		return nil
	}
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = framer.WriteData(1, true, []byte(body))
	}
	return out.Bytes()
}

const plainHead = ":method= GET\n:scheme= http\n:authority= a\n:path= /"

// FuzzRequestAgainstStd holds that nothing is accepted which net/http refuses, and that both see the same.
func FuzzRequestAgainstStd(f *testing.F) {
	for _, more := range []string{
		"", "\nx= 1\nx= 2", "\ncookie= a=1\ncookie= b=2", "\ncontent-length= 5\n\nhello", "\ncontent-length= 4\n\nhello", "\nte= trailers",
		"\nte= gzip", "\nconnection= close", "\nhost= b", "\nX= 1", "\nx=  1 ", "\n:path= /", "\ntrailer= x", "\ncontent-length= 0", "\nexpect= 100-continue\n\nx",
	} {
		f.Add(plainHead + more)
	}
	f.Add(":method= CONNECT\n:authority= a:1")
	f.Add(":method= OPTIONS\n:scheme= http\n:path= *\nhost= a")
	f.Add(":method= GET\n:scheme= ftp\n:path= a")
	f.Add(":method= GET\n:scheme= http\n:path= /%0X")
	f.Fuzz(func(t *testing.T, text string) {
		send := message(text)
		if send == nil {
			return
		}
		ours := verdict(t, serveOurs, send)
		if ours == "" || strings.Contains(ours, brokenBody) {
			return // refusing is always allowed; that the usual is accepted is for other tests
		}
		if std := verdict(t, serveStd, send); std != ours {
			t.Errorf("%q: net/http sees\n%s\nwe see\n%s", text, std, ours)
		}
	})
}

// FuzzFrames holds that no sequence of frames makes a server hang or panic.
func FuzzFrames(f *testing.F) {
	f.Add(message(plainHead)[len(http2.ClientPreface):])
	f.Add(message(plainHead + "\n\nhello")[len(http2.ClientPreface):])
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x06\x00\x00\x00\x00\x00weftping"))
	f.Add([]byte("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, frames []byte) {
		near, far := net.Pipe()
		_ = near.SetDeadline(time.Now().Add(patience))
		done := make(chan struct{})
		go func() {
			defer close(done)
			serveOurs(far, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
			})
		}()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, near) // it ends with the connection
		}()
		_, _ = near.Write(append([]byte(http2.ClientPreface), frames...))
		_ = near.Close()
		<-read
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("it goes on after the end of its connection")
		}
	})
}
