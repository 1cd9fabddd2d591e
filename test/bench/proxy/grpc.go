package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft.dev/weft/test/bench/load"
)

// grpcMessage is the payload of a call and of its answer: a message with its prefix.
const grpcMessage = 105

// Frames of HTTP/2 as load and backend write them: the flags are those of every message.
const (
	endHeaders = byte(http2.FlagHeadersEndHeaders)
	endStream  = byte(http2.FlagDataEndStream)
	// manyCredits is more than a measurement needs before the next are given.
	manyCredits = 1 << 30
)

// appendFrame appends a frame.
func appendFrame(b []byte, kind http2.FrameType, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(kind), flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// blocks returns a list of fields as it is encoded the first time on a connection, and every time after.
func blocks(fields ...string) (first, later []byte) {
	var out bytes.Buffer
	encoder := hpack.NewEncoder(&out)
	encode := func() []byte {
		out.Reset()
		for i := 0; i < len(fields); i += 2 {
			// A bytes.Buffer takes everything.
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return bytes.Clone(out.Bytes())
	}
	return encode(), encode()
}

// peer is one end of a connection of HTTP/2 that looks at nothing it need not look at: load and backend share a core.
type peer struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	// taken is how many bytes of bodies have come since credits were given.
	taken int
}

func newPeer(c net.Conn) *peer { return &peer{conn: c, in: bufio.NewReaderSize(c, 64<<10)} }

// settle sends the SETTINGS of this end.
func (p *peer) settle() {
	var window [6]byte
	binary.BigEndian.PutUint16(window[:], uint16(http2.SettingInitialWindowSize))
	binary.BigEndian.PutUint32(window[2:], 1<<20)
	p.out = appendFrame(p.out, http2.FrameSettings, 0, 0, window[:])
	p.out = appendFrame(p.out, http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, manyCredits))
}

// next returns the next frame that is of a stream, having answered what is of the connection. What has been written is
// sent before more is waited for.
func (p *peer) next() (kind http2.FrameType, flags byte, stream uint32, length int, err error) {
	for {
		if p.in.Buffered() < 9 && len(p.out) > 0 {
			if _, err := p.conn.Write(p.out); err != nil {
				return 0, 0, 0, 0, err
			}
			p.out = p.out[:0]
		}
		head, err := p.in.Peek(9)
		if err != nil {
			return 0, 0, 0, 0, err
		}
		length = int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		kind, flags, stream = http2.FrameType(head[3]), head[4], binary.BigEndian.Uint32(head[5:])
		if _, err := p.in.Discard(9); err != nil {
			return 0, 0, 0, 0, err
		}
		switch {
		case kind == http2.FramePing && flags == 0:
			payload := make([]byte, length)
			if _, err := io.ReadFull(p.in, payload); err != nil {
				return 0, 0, 0, 0, err
			}
			p.out = appendFrame(p.out, http2.FramePing, byte(http2.FlagPingAck), 0, payload)
			continue
		case kind == http2.FrameSettings && flags == 0:
			p.out = appendFrame(p.out, http2.FrameSettings, byte(http2.FlagSettingsAck), 0, nil)
		case kind == http2.FrameGoAway:
			return 0, 0, 0, 0, errors.New("the peer goes away")
		case kind == http2.FrameRSTStream:
			return 0, 0, 0, 0, errors.New("the peer resets a stream")
		case kind == http2.FrameData:
			if p.taken += length; p.taken > manyCredits/2 {
				p.out = appendFrame(p.out, http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(p.taken))) //nolint:gosec // it is small
				p.taken = 0
			}
		}
		if _, err := p.in.Discard(length); err != nil {
			return 0, 0, 0, 0, err
		}
		if stream != 0 {
			return kind, flags, stream, length, nil
		}
	}
}

// newGRPCBackend answers every call with a message.
func newGRPCBackend(ctx context.Context) (*load.Backend, error) {
	return load.Listen(ctx, func(c net.Conn) error {
		p := newPeer(c)
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.in, preface); err != nil || string(preface) != http2.ClientPreface {
			return fmt.Errorf("no preface: %w", err)
		}
		p.settle()
		head, later := blocks(":status", "200", "content-type", "application/grpc", "grpc-accept-encoding", "identity,deflate,gzip")
		end, laterEnd := blocks("grpc-status", "0", "grpc-message", "")
		message := make([]byte, grpcMessage)
		for {
			_, flags, stream, _, err := p.next()
			if err != nil {
				return err
			}
			if flags&endStream == 0 {
				continue
			}
			p.out = appendFrame(p.out, http2.FrameHeaders, endHeaders, stream, head)
			p.out = appendFrame(p.out, http2.FrameData, 0, stream, message)
			p.out = appendFrame(p.out, http2.FrameHeaders, endHeaders|endStream, stream, end)
			head, end = later, laterEnd
		}
	})
}

// calls keeps as many calls under way on each connection until the time is over.
func calls(ctx context.Context, address string, connections, streams int, d time.Duration) (load.Tally, error) {
	var count atomic.Int64
	begin := time.Now()
	end := begin.Add(d)
	err := load.OnConnections(ctx, load.To(address), connections, func(c net.Conn) error {
		p := newPeer(c)
		p.out = append(p.out, http2.ClientPreface...)
		p.settle()
		head, later := blocks(":method", "POST", ":scheme", "http", ":path", "/shop.Cart/Get", ":authority", "web.shop",
			"content-type", "application/grpc", "user-agent", "grpc-go/1.80.0", "te", "trailers", "grpc-accept-encoding", "identity,deflate,gzip")
		message := make([]byte, grpcMessage)
		stream := uint32(1)
		call := func() {
			p.out = appendFrame(p.out, http2.FrameHeaders, endHeaders, stream, head)
			p.out = appendFrame(p.out, http2.FrameData, endStream, stream, message)
			head = later
			stream += 2
		}
		for range streams {
			call()
		}
		for done, open, got := int64(0), streams, 0; ; {
			kind, flags, _, length, err := p.next()
			if err != nil {
				return err
			}
			if kind == http2.FrameData {
				got += length
			}
			if flags&endStream == 0 || kind != http2.FrameHeaders {
				continue
			}
			if done++; done&15 != 0 || time.Now().Before(end) {
				call()
				continue
			}
			if open--; open > 0 {
				continue
			}
			count.Add(done)
			if int64(got) != done*grpcMessage {
				return fmt.Errorf("%d answers have %d bytes", done, got)
			}
			return nil
		}
	})
	return load.Tally{Requests: count.Load(), Took: time.Since(begin)}, err
}

// called measures calls of gRPC.
func called(connections, streams int) func(context.Context, *plan, *subject) (map[string]float64, error) {
	return func(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
		cpu, t, err := perRequest(s, func() (load.Tally, error) { return calls(ctx, s.address, connections, streams, p.each) })
		return map[string]float64{"": cpu, "requests per second": float64(t.Requests) / t.Took.Seconds()}, err
	}
}
