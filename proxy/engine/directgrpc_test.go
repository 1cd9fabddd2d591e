package engine

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// block encodes fields as on a connection that has had them before.
type block struct {
	encoder *hpack.Encoder
	out     bytes.Buffer
}

func (b *block) fields(fields ...string) []byte {
	if b.encoder == nil {
		b.encoder = hpack.NewEncoder(&b.out)
	}
	b.out.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = b.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(b.out.Bytes())
}

func appendTestFrame(b []byte, kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(kind), byte(flags))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// frames reads frames without garbage. Those of the connection are skipped, but for SETTINGS, which are answered.
type frames struct {
	conn net.Conn
	buf  []byte
	out  []byte
	sum  int
}

// untilEnd reads until a stream has ended, and returns which.
func (f *frames) untilEnd() (stream uint32, err error) {
	for {
		if _, err := io.ReadFull(f.conn, f.buf[:9]); err != nil {
			return 0, err
		}
		length := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
		kind, flags := http2.FrameType(f.buf[3]), http2.Flags(f.buf[4])
		stream = binary.BigEndian.Uint32(f.buf[5:])
		if _, err := io.ReadFull(f.conn, f.buf[:length]); err != nil {
			return 0, err
		}
		switch {
		case kind == http2.FrameSettings && flags == 0:
			f.out = appendTestFrame(f.out[:0], http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
			if _, err := f.conn.Write(f.out); err != nil {
				return 0, err
			}
		case kind == http2.FrameData:
			f.sum += length
		case kind == http2.FrameRSTStream || kind == http2.FrameGoAway:
			return 0, io.ErrUnexpectedEOF
		}
		if (kind == http2.FrameData || kind == http2.FrameHeaders) && flags&http2.FlagDataEndStream != 0 {
			return stream, nil
		}
	}
}

// unary starts a backend of gRPC that answers every call with a message.
func unary(t *testing.T, message []byte) string {
	t.Helper()
	return accepting(t, func(c net.Conn) {
		f := frames{conn: c, buf: make([]byte, 64<<10)}
		if _, err := io.ReadFull(c, f.buf[:len(http2.ClientPreface)]); err != nil {
			return
		}
		if _, err := c.Write(appendTestFrame(nil, http2.FrameSettings, 0, 0, nil)); err != nil {
			return
		}
		var b block
		var head, end []byte
		for {
			stream, err := f.untilEnd()
			if err != nil {
				return
			}
			if len(end) == 0 || stream < 6 {
				head = b.fields(":status", "200", "content-type", "application/grpc", "grpc-accept-encoding", "identity")
				end = b.fields("grpc-status", "0", "grpc-message", "")
			}
			f.out = appendTestFrame(f.out[:0], http2.FrameHeaders, http2.FlagHeadersEndHeaders, stream, head)
			f.out = appendTestFrame(f.out, http2.FrameData, 0, stream, message)
			f.out = appendTestFrame(f.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, stream, end)
			f.out = appendTestFrame(f.out, http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 1, 0})
			if _, err := c.Write(f.out); err != nil {
				return
			}
		}
	})
}

// TestGRPCCallsMakeNoGarbage: a unary call goes from stream to stream, through routes, filters, balancing, metrics and the
// memory of exchanges, without an allocation.
func TestGRPCCallsMakeNoGarbage(t *testing.T) {
	if tested != HTTPWeft || raceEnabled {
		return // net/http has many, and so has the race detector
	}
	seconds := wire.Duration(30 * time.Second)
	for name, timeouts := range map[string]*wire.Timeouts{
		"no timeouts": nil,
		"timeouts":    {Request: &seconds, BackendRequest: &seconds, Idle: &seconds, Stream: &seconds},
	} {
		t.Run(name, func(t *testing.T) {
			message := make([]byte, 105)
			p := newProxy(t, func(o *Options) { o.Exchanges = admin.NewExchanges() })
			p.apply(service("cart", wire.ProtocolH2C, unary(t, message))...)
			p.apply(route("r", "cart", func(r *wire.Route) {
				r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/shop.Cart"}}}
				r.Backends = to("cart")
				r.Filters = []wire.Filter{{RequestHeaders: &wire.HeaderModifier{Set: []wire.HeaderField{{Name: "X-Team", Value: "shop"}}}}}
				r.Policy = &wire.Policy{Timeouts: timeouts}
			}))
			c, _ := raw(t, p.listen(key("cart")), http2.ClientPreface+string(appendTestFrame(nil, http2.FrameSettings, 0, 0, nil)))
			f := frames{conn: c, buf: make([]byte, 64<<10)}
			var b block
			var head, out []byte
			stream := uint32(1)
			one := func() {
				if stream < 6 {
					head = b.fields(":method", "POST", ":scheme", "http", ":path", "/shop.Cart/Get", ":authority", "cart.shop",
						"content-type", "application/grpc", "user-agent", "test", "te", "trailers", "grpc-accept-encoding", "identity")
				}
				out = appendTestFrame(out[:0], http2.FrameHeaders, http2.FlagHeadersEndHeaders, stream, head)
				out = appendTestFrame(out, http2.FrameData, http2.FlagDataEndStream, stream, message)
				out = appendTestFrame(out, http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 1, 0})
				if _, err := c.Write(out); err != nil {
					t.Fatalf("write: %v", err)
				}
				f.sum = 0
				if ended, err := f.untilEnd(); err != nil || ended != stream || f.sum != len(message) {
					t.Fatalf("stream %d has ended after %d bytes, %v; want %d after %d", ended, f.sum, err, stream, len(message))
				}
				stream += 2
			}
			for range 4 {
				one()
			}
			if allocated := testing.AllocsPerRun(2000, one); allocated >= 1 {
				t.Errorf("%v allocations for each call", allocated)
			}
		})
	}
}
