package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/ports"
)

// echo accepts a preface and sends back what comes.
func echo(t *testing.T, seen chan<- Metadata) func(*tls.Conn) {
	return func(c *tls.Conn) {
		m, err := ReadPreface(c)
		if err != nil {
			t.Errorf("preface: %v", err)
			return
		}
		if seen != nil {
			seen <- m
		}
		if err := WriteAccept(c); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	}
}

func TestDialHop(t *testing.T) {
	seen := make(chan Metadata, 1)
	h := newHop(t, nil, echo(t, seen))
	c, err := h.set.Dial(t.Context(), h.to, cartCall)
	if err != nil {
		t.Fatal(err)
	}
	want := Metadata{Backend: ledgerKey, Zone: "b", Client: cartCall.Source.Address}
	if diff := cmp.Diff(want, <-seen, compareAddresses); diff != "" {
		t.Errorf("preface (-want +got):\n%s", diff)
	}
	exchange(t, c)
	if n := h.to.state.inFlight.Load(); n != 1 {
		t.Errorf("%d in flight", n)
	}
	c.Close()
	c.Close()
	if n := h.to.state.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight after closing", n)
	}
}

// exchange sends, half-closes, and reads the echo to its end.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Error(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestDialPod(t *testing.T) {
	address := accept(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, tcpKey)
	c, err := s.Dial(t.Context(), to, Call{})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c)
	if _, ok := c.(*opaqueTCP); !ok {
		t.Errorf("%T cannot be spliced", c)
	}
	c.Close()
	if n := to.state.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight after closing", n)
	}

	s.Update(direct(ports.Refusing(t)))
	_, err = s.Dial(t.Context(), choose(t, s, tcpKey), Call{})
	if diff := cmp.Diff(outcome{Reason: ReasonConnect, NotSent: true}, asError(t, err).outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, err)
	}
}

func TestDialHopFails(t *testing.T) {
	for name, tc := range map[string]struct {
		opaque func(*tls.Conn)
		want   Reason
	}{
		"rejected": {func(c *tls.Conn) { _, _ = ReadPreface(c); _ = WriteReject(c, "unknown backend") }, ReasonRefused},
		"closed":   {func(c *tls.Conn) { _, _ = ReadPreface(c) }, ReasonConnect},
		"silent":   {func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }, ReasonConnectTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, nil, tc.opaque, func(o *Options) {
				if tc.want == ReasonConnectTimeout {
					o.DialTimeout = 250 * time.Millisecond
				}
			})
			_, err := h.set.Dial(t.Context(), h.to, cartCall)
			if diff := cmp.Diff(outcome{Reason: tc.want, NotSent: true}, asError(t, err).outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, err)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHop(t, nil, func(c *tls.Conn) {
			_, _ = ReadPreface(c)
			cancel()
			_, _ = io.Copy(io.Discard, c)
		})
		_, err := h.set.Dial(ctx, h.to, cartCall)
		if got := asError(t, err); got.Reason != ReasonCanceled || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// Over the hop an upgraded request takes an opaque connection; the receiver relays it to a pod.
func TestUpgradeOverTheHop(t *testing.T) {
	h := newHop(t, nil, func(c *tls.Conn) {
		if m, err := ReadPreface(c); err != nil || m.Backend != ledgerKey {
			t.Errorf("preface %+v, %v", m, err)
		}
		if err := WriteAccept(c); err != nil {
			t.Error(err)
		}
		req, err := readHead(c)
		if err != nil {
			t.Error(err)
			return
		}
		if req.Host != "web.shop" || req.Header.Get("Upgrade") != "echo" || req.Header.Get(FieldBackend) != "" {
			t.Errorf("request %s %v", req.Host, req.Header)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
	req := newRequest("GET", "/", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := h.set.RoundTrip(t.Context(), h.to, cartCall, req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := resp.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	if _, err := io.WriteString(stream, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(stream); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestUpgrade(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		if r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Upgrade") != "echo" || r.ProtoMajor != 1 {
			t.Errorf("request %s %v", r.Proto, r.Header)
		}
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
		_, _ = io.Copy(c, buffered)
	})
	for name, key := range map[string]string{"HTTP": webKey, "H2C": rpcKey} {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(direct(address))
			to := choose(t, s, key)
			upgrade := func(path string) *http.Request {
				req := newRequest("GET", path, nil)
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", "echo")
				return req
			}
			resp, err := s.RoundTrip(t.Context(), to, Call{}, upgrade("/"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d", resp.StatusCode)
			}
			stream := resp.Body.(interface {
				io.ReadWriteCloser
				CloseWrite() error
			})
			if _, err := io.WriteString(stream, "there"); err != nil {
				t.Fatal(err)
			}
			if n := to.state.inFlight.Load(); n != 1 {
				t.Errorf("%d in flight", n)
			}
			if err := stream.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(stream); err != nil || string(got) != "hello there" {
				t.Errorf("read %q, %v", got, err)
			}
			stream.Close()
			if n := to.state.inFlight.Load(); n != 0 {
				t.Errorf("%d in flight after the end", n)
			}
			status, body, err := fetch(t.Context(), s, to, Call{}, upgrade("/no"))
			if err != nil || status != http.StatusForbidden || body != "no\n" {
				t.Errorf("refused upgrade: %d %q, %v", status, body, err)
			}
			if n := s.idle.Load(); n != 0 {
				t.Errorf("%d idle connections of upgrades", n)
			}
		})
	}
}
