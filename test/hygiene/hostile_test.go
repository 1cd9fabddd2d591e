package hygiene_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft.dev/weft/proxy/wire"
)

// TestHostileBackendsOfHTTP2 has backends that attack the proxy which calls them.
func TestHostileBackendsOfHTTP2(t *testing.T) {
	answer := func(f *http2.Framer, stream uint32) error {
		var head bytes.Buffer
		// A bytes.Buffer takes everything.
		_ = hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true})
	}
	for name, tc := range map[string]struct {
		settings []http2.Setting
		answer   func(f *http2.Framer, stream uint32) error
		want     string
	}{
		"one that behaves":           {answer: answer, want: "204"},
		"a frame size of nothing":    {settings: []http2.Setting{{ID: http2.SettingMaxFrameSize}}, answer: answer, want: "50"},
		"a window that is too large": {settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 31}}, answer: answer, want: "50"},
		"frames that nobody knows": {answer: func(f *http2.Framer, stream uint32) error {
			for i := range uint8(6) {
				if err := f.WriteRawFrame(http2.FrameType(0x0a+i), 0xff, stream, []byte("abc")); err != nil {
					return err
				}
			}
			return answer(f, stream)
		}, want: "204"},
		"a body before a head": {answer: func(f *http2.Framer, stream uint32) error {
			return f.WriteData(stream, true, []byte("hello"))
		}, want: "502"},
		"a head that goes on for ever": {answer: func(f *http2.Framer, stream uint32) error {
			var head bytes.Buffer
			_ = hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes()})
			for i := 0; err == nil && i < 10_000; i++ {
				head.Reset()
				_ = hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 8<<10), Sensitive: true})
				err = f.WriteContinuation(stream, false, head.Bytes())
			}
			if err == nil {
				t.Error("the proxy has taken 80 MB of a head")
			}
			return err
		}, want: "502"},
		"an answer to nobody": {answer: func(f *http2.Framer, stream uint32) error {
			return errors.Join(answer(f, stream+2), answer(f, stream))
		}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t)
			serve(t, l, func() error {
				for {
					c, err := l.Accept()
					if err != nil {
						return err
					}
					attack(c, tc.settings, tc.answer)
				}
			})
			p := kinds[0].start(t)
			address := p.service(t, "hostile", l.Addr().String(), wire.ProtocolH2C)
			t.Parallel()
			c := dial(t, address)
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				t.Fatalf("send: %v", err)
			}
			m, err := newReader(c).response("GET")
			if err != nil {
				t.Fatalf("read the answer: %v", err)
			}
			if !strings.HasPrefix(m.line, "HTTP/1.1 "+tc.want) {
				t.Errorf("answered %q, want %s", m.line, tc.want)
			}
		})
	}
}

// attack is one connection of a backend, until the proxy ends it or nothing is left to do.
func attack(c io.ReadWriteCloser, settings []http2.Setting, answer func(*http2.Framer, uint32) error) {
	defer func() { _ = c.Close() }()
	f := http2.NewFramer(c, c)
	if f.WriteSettings(settings...) != nil {
		return
	}
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if frame.Header().Type == http2.FrameHeaders && answer(f, frame.Header().StreamID) != nil {
			return
		}
	}
}
