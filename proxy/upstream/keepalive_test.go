package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A server closes an idle connection at the very moment the next request is sent. The client's kernel has
// the request written before it knows; the peer never saw a byte of it.
func TestKeepAliveRaceIsProvablyNotSent(t *testing.T) {
	for name, tc := range map[string]struct {
		req         *http.Request
		want        outcome // zero if the request is sent again on another connection
		wantArrived []string
	}{
		"without body": {newRequest("DELETE", "/second", nil), outcome{}, []string{"/first", "/second"}},
		"body was read": {
			newRequest("POST", "/second", strings.NewReader("x")), outcome{ReasonStale, true, false}, []string{"/first"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			arrived, closing := make(chan string, 10), make(chan struct{})
			address := accept(t, func(_ int, c net.Conn) {
				if req, err := readHead(c); err == nil {
					arrived <- req.URL.Path
					_, _ = io.WriteString(c, okResponse)
					<-closing
				}
			})
			var gate gatedDialer
			s := newTestSet(t, Options{DialContext: gate.dial})
			s.Update(direct(address))
			to := choose(t, s, webKey)
			gate.hold() // the end of the stream is not noticed
			mustFetch(t, s, to, newRequest("GET", "/first", nil))
			if own {
				// It looks before it writes, so that the end must come in between.
				first := gate.conn
				if tc.req.ContentLength != 0 {
					tc.req.Body = &noticedBody{tc.req.Body, sync.OnceFunc(first.release)}
				} else {
					first.release()
				}
				first.beforeWrite(func() {
					close(closing)
					first.awaitFIN(t)
				})
			} else {
				close(closing)
				first := gate.awaitEnd(t)
				first.onWrite(first.release) // until the request is written
			}

			status, _, err := fetch(t.Context(), s, to, Call{}, tc.req)
			var got outcome
			if err != nil {
				got = asError(t, err).outcome()
			} else if status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, err)
			}
			for _, want := range tc.wantArrived {
				if path := <-arrived; path != want {
					t.Errorf("%s arrived, want %s", path, want)
				}
			}
			if len(arrived) > 0 {
				t.Errorf("%s arrived as well", <-arrived)
			}
		})
	}
}

// The same race, but the server took the request in before it closed: nothing is proven.
func TestKeepAliveRaceThatTheServerSawIsNotRepeated(t *testing.T) {
	requests := make(chan string, 10)
	address := accept(t, func(_ int, c net.Conn) {
		reader := bufio.NewReader(c)
		for i := range 2 {
			req, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			requests <- req.URL.Path
			if i == 0 {
				_, _ = io.WriteString(c, okResponse)
			}
		}
	})
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, webKey)
	mustFetch(t, s, to, newRequest("GET", "/first", nil))
	got := failure(t.Context(), t, s, to, newRequest("GET", "/second", nil))
	if diff := cmp.Diff(outcome{ReasonReset, false, true}, got.outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
	}
	for _, want := range []string{"/first", "/second"} {
		if path := <-requests; path != want {
			t.Errorf("request for %s, want %s", path, want)
		}
	}
	if len(requests) > 0 {
		t.Errorf("the server saw %s again", <-requests)
	}
}

// gatedDialer lets a test decide when a connection notices that the peer has closed.
type gatedDialer struct {
	conn *gatedConn
	held bool
}

type gatedConn struct {
	*net.TCPConn
	held     bool
	ended    chan struct{} // closed when the end of the stream was read
	released chan struct{}
	// writing and written are called once, before and after a Write.
	writing, written atomic.Pointer[func()]
}

func (g *gatedDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := &gatedConn{
		TCPConn: c.(*net.TCPConn), held: g.held, ended: make(chan struct{}), released: make(chan struct{}),
	}
	g.conn, g.held = conn, false
	return conn, nil
}

// hold makes the next connection keep the end of its stream back.
func (g *gatedDialer) hold() { g.held = true }

func (g *gatedDialer) awaitEnd(t *testing.T) *gatedConn {
	t.Helper()
	select {
	case <-g.conn.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the server did not close")
	}
	return g.conn
}

// noticedBody calls read before each Read.
type noticedBody struct {
	io.ReadCloser
	read func()
}

func (b *noticedBody) Read(p []byte) (int, error) {
	b.read()
	return b.ReadCloser.Read(p)
}

func (c *gatedConn) release()             { close(c.released) }
func (c *gatedConn) onWrite(f func())     { c.written.Store(&f) }
func (c *gatedConn) beforeWrite(f func()) { c.writing.Store(&f) }

// awaitFIN waits until the end of the peer's stream has arrived, without reading it.
func (c *gatedConn) awaitFIN(t *testing.T) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatalf("socket: %v", err)
	}
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n == 0 && err == nil
	})
	if err != nil {
		t.Errorf("await the end: %v", err)
	}
}

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil && c.held {
		close(c.ended)
		<-c.released
	}
	return n, err
}

func (c *gatedConn) Write(p []byte) (int, error) {
	if f := c.writing.Swap(nil); f != nil {
		(*f)()
	}
	n, err := c.TCPConn.Write(p)
	if f := c.written.Swap(nil); f != nil {
		(*f)()
	}
	return n, err
}

// A GOAWAY that excludes a request is repaired without the caller seeing anything of it.
func TestRequestExcludedByGoAwayIsSentAgain(t *testing.T) {
	s := newTestSet(t, Options{})
	s.Update(direct(closing(t)))
	to := choose(t, s, rpcKey)
	conns := map[string]bool{}
	for range 20 {
		conns[mustFetch(t, s, to, newRequest("GET", "/", nil))] = true
	}
	if len(conns) != 20 {
		t.Errorf("%d connections for 20 requests", len(conns))
	}
}

// closing serves like remotes, but announces the end of the connection with every response.
func closing(t *testing.T) netip.AddrPort {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, r.RemoteAddr)
	})
}
