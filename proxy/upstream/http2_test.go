package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Peer is a server of HTTP/2 frames for one connection, with prior knowledge.
type http2Peer struct {
	*http2.Framer
	t *testing.T
	c net.Conn
}

// acceptHTTP2 serves each connection with a script, which begins after the SETTINGS.
func acceptHTTP2(t *testing.T, script func(n int, p http2Peer)) netip.AddrPort {
	t.Helper()
	return accept(t, func(n int, c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		p := http2Peer{http2.NewFramer(c, c), t, c}
		if err := p.WriteSettings(); err != nil {
			return
		}
		script(n, p)
	})
}

// nextStream reads until a request begins and returns its stream.
func (p http2Peer) nextStream() uint32 {
	for {
		frame, err := p.ReadFrame()
		if err != nil {
			return 0
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			return frame.StreamID
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = p.WriteSettingsAck()
			}
		}
	}
}

func (p http2Peer) respond(stream uint32, fields ...string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			p.t.Error(err)
		}
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
}

func TestHTTP2NotSent(t *testing.T) {
	for name, tc := range map[string]struct {
		script func(p http2Peer, stream uint32)
		want   outcome
	}{
		"REFUSED_STREAM":     {func(p http2Peer, stream uint32) { _ = p.WriteRSTStream(stream, http2.ErrCodeRefusedStream) }, outcome{ReasonRefused, true, true}},
		"other reset":        {func(p http2Peer, stream uint32) { _ = p.WriteRSTStream(stream, http2.ErrCodeInternal) }, outcome{ReasonReset, false, true}},
		"reset by protocol":  {func(p http2Peer, stream uint32) { _ = p.WriteRSTStream(stream, http2.ErrCodeProtocol) }, outcome{ReasonReset, false, true}},
		"GOAWAY before it":   {func(p http2Peer, stream uint32) { _ = p.WriteGoAway(stream-1, http2.ErrCodeNo, nil) }, outcome{ReasonRefused, true, true}},
		"error before it":    {func(p http2Peer, stream uint32) { _ = p.WriteGoAway(stream-1, http2.ErrCodeEnhanceYourCalm, nil) }, outcome{ReasonRefused, true, true}},
		"GOAWAY after it":    {func(p http2Peer, stream uint32) { _ = p.WriteGoAway(stream, http2.ErrCodeNo, nil); p.c.Close() }, outcome{ReasonReset, false, true}},
		"closed":             {func(p http2Peer, _ uint32) { p.c.Close() }, outcome{ReasonReset, false, true}},
		"connection reset":   {func(p http2Peer, _ uint32) { reset(p.c) }, outcome{ReasonReset, false, true}},
		"no status":          {func(p http2Peer, stream uint32) { p.respond(stream, "x", "y") }, outcome{ReasonProtocol, false, true}},
		"malformed status":   {func(p http2Peer, stream uint32) { p.respond(stream, ":status", "OK") }, outcome{ReasonProtocol, false, true}},
		"upper-case header":  {func(p http2Peer, stream uint32) { p.respond(stream, ":status", "200", "X", "y") }, outcome{ReasonProtocol, false, true}},
		"frame out of place": {func(p http2Peer, stream uint32) { _ = p.WriteData(stream, true, []byte("x")) }, outcome{ReasonProtocol, false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			address := acceptHTTP2(t, func(_ int, p http2Peer) {
				tc.script(p, p.nextStream())
				p.nextStream() // until the client is done
			})
			s := newTestSet(t, Options{})
			s.Update(direct(address))
			got := failure(t.Context(), t, s, choose(t, s, rpcKey), newRequest("GET", "/", nil))
			if diff := cmp.Diff(tc.want, got.outcome()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
			}
		})
	}
}

// A stream that the peer refused because it is busy is not repeated behind the caller's back.
func TestRefusedStreamOfAReusedConnection(t *testing.T) {
	var streams atomic.Int32
	address := acceptHTTP2(t, func(_ int, p http2Peer) {
		for stream := p.nextStream(); stream != 0; stream = p.nextStream() {
			if streams.Add(1) == 1 {
				p.respond(stream, ":status", "200")
			} else {
				_ = p.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			}
		}
	})
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, rpcKey)
	mustFetch(t, s, to, newRequest("GET", "/", nil))
	got := failure(t.Context(), t, s, to, newRequest("GET", "/", nil))
	if diff := cmp.Diff(outcome{ReasonRefused, true, true}, got.outcome()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s\n%v", diff, got)
	}
	if n := streams.Load(); n != 2 {
		t.Errorf("%d streams", n)
	}
}

// together sends n requests at once and holds them at the server until all have arrived.
func together(t *testing.T, n int32, configure func(*http.Server)) (conns int32) {
	t.Helper()
	var arrived, count atomic.Int32
	all := make(chan struct{})
	server := &http.Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if arrived.Add(1) == n {
				close(all)
			}
			<-all
		}),
		Protocols: new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				count.Add(1)
			}
		},
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	configure(server)
	s := newTestSet(t, Options{})
	s.Update(direct(run(t, server, listen(t))))
	to := choose(t, s, rpcKey)
	done := make(chan error)
	for range n {
		go func() {
			status, _, err := fetch(t.Context(), s, to, Call{}, newRequest("GET", "/", nil))
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("status %d", status)
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return count.Load()
}

func TestConcurrentStreamsShareAConnection(t *testing.T) {
	if n := together(t, 50, func(*http.Server) {}); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestStreamLimitMakesMoreConnections(t *testing.T) {
	limit := func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10} }
	if n := together(t, 50, limit); n != 5 {
		t.Errorf("%d connections, want 5 with 10 streams each", n)
	}
}

// The stream whose response nobody reads keeps its own window and no more.
func TestStalledStreamDoesNotStopOthersOfAPod(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 4<<20))
	})
	s := newTestSet(t, Options{})
	s.Update(direct(address))
	to := choose(t, s, rpcKey)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 20 {
		resp, err := s.RoundTrip(ctx, to, Call{}, newRequest("GET", "/endless", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	if got := mustFetch(t, s, to, newRequest("GET", "/", nil)); len(got) != 4<<20 {
		t.Errorf("%d bytes", len(got))
	}
}
