package engine

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// lie is an answer over HTTP/2 that is none. The connection ends unless it stays open.
type lie func(l *lying) (open bool)

// lying is a connection of a backend, and the stream that is to be answered.
type lying struct {
	*http2.Framer
	conn   net.Conn
	block  block
	stream uint32
}

// head sends a head. That it cannot be sent, because the proxy has seen enough, does not matter.
func (l *lying) head(last bool, fields ...string) {
	_ = l.WriteHeaders(http2.HeadersFrameParam{StreamID: l.stream, BlockFragment: l.block.fields(fields...), EndHeaders: true, EndStream: last})
}

// body sends a part of a body.
func (l *lying) body(last bool, text string) { _ = l.WriteData(l.stream, last, []byte(text)) }

// liar starts a backend of HTTP/2 that answers requests for /first as it should, and others with the present lie.
func liar(t *testing.T, present *atomic.Pointer[lie]) string {
	t.Helper()
	return accepting(t, func(c net.Conn) { lieTo(c, present) })
}

// lieTo serves one connection.
func lieTo(c net.Conn, present *atomic.Pointer[lie]) {
	l := lying{Framer: http2.NewFramer(c, c), conn: c}
	l.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil || l.WriteSettings() != nil {
		return
	}
	for {
		frame, err := l.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() && l.WriteSettingsAck() != nil {
				return
			}
		case *http2.PingFrame:
			if !frame.IsAck() && l.WritePing(true, frame.Data) != nil {
				return
			}
		case *http2.MetaHeadersFrame:
			l.stream = frame.StreamID
			if frame.PseudoValue("path") == "/first" {
				l.head(true, ":status", "200")
			} else if !(*present.Load())(&l) {
				return
			}
		}
	}
}

// TestBackendsOfHTTP2ThatLie: on a connection that requests use directly. The client has the right status or sees that the
// answer is not whole, one metric tells one reason, and the next request is none the wiser.
func TestBackendsOfHTTP2ThatLie(t *testing.T) {
	lies := map[string]struct {
		lie lie
		// cut tells that the client has a head.
		cut bool
	}{
		"a reset instead of an answer": {func(l *lying) bool {
			_ = l.WriteRSTStream(l.stream, http2.ErrCodeInternal)
			return true
		}, false},
		"the end instead of an answer": {func(*lying) bool { return false }, false},
		"a body without a head": {func(l *lying) bool {
			l.body(true, "body")
			return true
		}, false},
		"a name in capitals": {func(l *lying) bool {
			l.head(true, ":status", "200", "X-A", "b")
			return true
		}, false},
		"no status": {func(l *lying) bool {
			l.head(true, "x-a", "b")
			return true
		}, false},
		"a switch of protocols": {func(l *lying) bool {
			l.head(false, ":status", "101")
			l.head(true, ":status", "200")
			return true
		}, false},
		"a storm of heads before the answer": {func(l *lying) bool {
			for range 1000 {
				l.head(false, ":status", "103", "link", "</a>")
			}
			l.head(true, ":status", "200")
			return true
		}, false},
		"half a frame": {func(l *lying) bool {
			l.head(false, ":status", "200")
			l.body(false, "part")
			var frame bytes.Buffer
			_ = http2.NewFramer(&frame, nil).WriteData(l.stream, true, []byte("the rest"))
			_, _ = l.conn.Write(frame.Bytes()[:12])
			return false
		}, true},
		"a body shorter than its length": {func(l *lying) bool {
			l.head(false, ":status", "200", "content-length", "10")
			l.body(true, "part")
			return true
		}, true},
		"a body longer than its length": {func(l *lying) bool {
			l.head(false, ":status", "200", "content-length", "6")
			l.body(false, "part")
			l.body(true, "and more")
			return true
		}, true},
		"a reset within the body": {func(l *lying) bool {
			l.head(false, ":status", "200")
			l.body(false, "part")
			_ = l.WriteRSTStream(l.stream, http2.ErrCodeCancel)
			return true
		}, true},
		"a second head within the body": {func(l *lying) bool {
			l.head(false, ":status", "200")
			l.body(false, "part")
			l.head(true, ":status", "200")
			return true
		}, true},
		"a farewell within the body": {func(l *lying) bool {
			l.head(false, ":status", "200")
			l.body(false, "part")
			_ = l.WriteGoAway(l.stream, http2.ErrCodeProtocol, nil)
			return false
		}, true},
	}
	var present atomic.Pointer[lie]
	eachWayTo(t, "HTTP/2", wire.ProtocolH2C, nil, liar(t, &present), func(t *testing.T, w way) {
		for name, tc := range lies {
			if tested == HTTPStd && believed[name] {
				continue
			}
			t.Run(name, func(t *testing.T) {
				present.Store(&tc.lie)
				before := blamed(t, w.far)
				res, err := w.client.Do(request(t, http.MethodPost, w.address, "/lie", strings.NewReader("order")))
				switch {
				case err != nil:
					if !tc.cut {
						t.Fatalf("no answer: %v", err)
					}
				case tc.cut:
					// Whether it was seen before the answer has begun is chance; that it is not whole must be seen.
					body, err := io.ReadAll(res.Body)
					if err == nil && res.StatusCode == http.StatusOK {
						t.Errorf("the answer has ended as if it were whole: %q", body)
					}
				case res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(reason.Header) == "":
					t.Errorf("answer = %d, reason %q", res.StatusCode, res.Header.Get(reason.Header))
				}
				if err == nil {
					_ = res.Body.Close()
				}
				until(t, func() bool { return !maps.Equal(blamed(t, w.far), before) })
				more := 0.0
				for why, n := range blamed(t, w.far) {
					more += n - before[why]
				}
				if more != 1 {
					t.Errorf("%v reasons were counted, from %v to %v", more, before, blamed(t, w.far))
				}
				w.first(t)
			})
		}
	})
}

// believed are what net/http passes on: a switch of protocols is informational to it, and what is beyond the length of a
// body it leaves out.
var believed = map[string]bool{"a switch of protocols": true, "a body longer than its length": true}

// blamed are the reasons that a proxy has counted, of answers of its own and of those that it has cut.
func blamed(t *testing.T, p *proxy) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, name := range []string{"weft_local_responses_total", "weft_exchanges_cut_total"} {
		for why, n := range metrics(t, p.engine, name) {
			all[name+" "+why] = n
		}
	}
	return all
}
