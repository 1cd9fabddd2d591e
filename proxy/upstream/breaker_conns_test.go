package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft.dev/weft/proxy/wire"
)

func TestIdleConnectionsMakeRoom(t *testing.T) {
	var open, most atomic.Int32
	counted := func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			if n := open.Add(1); n > most.Load() {
				most.Store(n)
			}
			c = &countedConn{Conn: c, closed: sync.OnceFunc(func() { open.Add(-1) })}
		}
		return c, err
	}
	x := newLimited(t, 0, nil)
	x.set.options.DialContext = counted
	for range 4 {
		x.endpoints = append(x.endpoints, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	}
	x.use(&wire.CircuitBreaking{MaxConnections: new(2)})
	for range 40 {
		mustFetch(t, x.set, choose(t, x.set, webKey), newRequest("GET", "/", nil))
	}
	if n := most.Load(); n > 2 {
		t.Errorf("%d connections were open at once", n)
	}
	if n := x.set.services[webKey].connections(); n != 0 {
		t.Errorf("%d connections count as in use", n)
	}
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func TestSharedConnectionsAreLimited(t *testing.T) {
	release := make(chan struct{})
	server := &http.Server{Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1}}
	server.Protocols.SetUnencryptedHTTP2(true)
	begun := make(chan struct{}, 8)
	server.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-release
	})
	x := newLimited(t, 0, nil)
	x.protocol = wire.ProtocolH2C
	x.endpoints = []netip.AddrPort{run(t, server, listen(t))}
	for _, want := range []struct {
		limits *wire.CircuitBreaking
		reason Reason
	}{
		{&wire.CircuitBreaking{MaxConnections: new(1)}, ReasonFull},
		{&wire.CircuitBreaking{PerEndpoint: &wire.EndpointBreaking{MaxConnections: new(1)}}, ReasonEndpointFull},
	} {
		x.use(want.limits)
		done := make(chan error, 1)
		go func() {
			_, _, err := fetch(t.Context(), x.set, choose(t, x.set, webKey), Call{}, newRequest("GET", "/", nil))
			done <- err
		}()
		<-begun
		if f := failure(t.Context(), t, x.set, choose(t, x.set, webKey), newRequest("GET", "/", nil)); f.Reason != want.reason || !f.NotSent || !f.BodyIntact {
			t.Errorf("%v, want reason %s", f, want.reason)
		}
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	mustServe := make(chan error, 1)
	go func() {
		_, _, err := fetch(t.Context(), x.set, choose(t, x.set, webKey), Call{}, newRequest("GET", "/", nil))
		mustServe <- err
	}()
	<-begun
	close(release)
	if err := <-mustServe; err != nil {
		t.Errorf("the connection with room is not used: %v", err)
	}
}

func TestTCPConnectionsCount(t *testing.T) {
	x := newLimited(t, 0, nil)
	x.protocol = wire.ProtocolTCP
	x.endpoints = []netip.AddrPort{accept(t, func(_ int, c net.Conn) { drain(c) })}
	x.use(&wire.CircuitBreaking{MaxConnections: new(2)})
	var conns []net.Conn
	for range 2 {
		c, err := x.set.Dial(t.Context(), choose(t, x.set, webKey), Call{})
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	x.wantFull(x.begin())
	for _, c := range slices.Backward(conns) {
		c.Close()
		c.Close()
	}
	x.fill(2)
	x.wantFull(x.begin())
}

func TestConnectTimeoutOfThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			policy *wire.Duration
			want   time.Duration
		}{{nil, 30 * time.Second}, {new(wire.Duration(time.Second)), time.Second}, {new(wire.Duration(0)), time.Hour}} {
			s := newTestSet(t, Options{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			r := direct(at(1))
			for _, b := range r.Backends {
				b.Policy = &wire.Policy{Timeouts: &wire.Timeouts{Connect: tc.policy}}
			}
			s.Update(r)
			for _, key := range []string{webKey, rpcKey} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				start := time.Now()
				f := failure(ctx, t, s, choose(t, s, key), newRequest("GET", "/", nil))
				cancel()
				synctest.Wait()
				if took := time.Since(start); took != tc.want || (f.Reason == ReasonConnectTimeout) != (tc.want < time.Hour) {
					t.Errorf("%s, connect timeout %v: %s after %v", key, tc.policy, f.Reason, took)
				}
			}
		}
	})
}
