package engine

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// TestClientsThatStallAtEveryByte: a request that stands still anywhere is answered once it goes on, and one whose client
// resets the connection instead is never taken for a whole one.
func TestClientsThatStallAtEveryByte(t *testing.T) {
	var active, whole atomic.Int64
	handler := func(w http.ResponseWriter, r *http.Request) {
		active.Add(1)
		defer active.Add(-1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if string(body) != "body" {
			t.Errorf("the body has become %q", body)
		}
		whole.Add(1)
		_, _ = w.Write(body)
	}
	eachWay(t, nil, handler, func(t *testing.T, w way) {
		text, read := []byte(lines("POST / HTTP/1.1", "Host: cart", "Transfer-Encoding: chunked")+"4\r\nbody\r\n0\r\n\r\n"), readAnswer
		if w.version == "HTTP/2" {
			var b block
			text = appendTestFrame([]byte(http2.ClientPreface), http2.FrameSettings, 0, 0, nil)
			text = appendTestFrame(text, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, b.fields(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "cart"))
			text = appendTestFrame(text, http2.FrameData, http2.FlagDataEndStream, 1, []byte("body"))
			read = readAnswerHTTP2
		}
		whole.Store(0)
		// Some stand still at the same time, but not for as long as the time that a head has.
		const together = 8
		for from := 0; from < len(text); from += together {
			var goOn, giveUp [together]net.Conn
			for at := from; at < min(from+together, len(text)); at++ {
				goOn[at-from], _ = raw(t, w.address, string(text[:at]))
				giveUp[at-from], _ = raw(t, w.address, string(text[:at]))
			}
			for at := from; at < min(from+together, len(text)); at++ {
				if err := giveUp[at-from].(*net.TCPConn).SetLinger(0); err != nil {
					t.Errorf("prepare a reset: %v", err)
				}
				_ = giveUp[at-from].Close()
				if _, err := goOn[at-from].Write(text[at:]); err != nil {
					t.Fatalf("go on at byte %d: %v", at, err)
				}
				if status, body, err := read(goOn[at-from]); err != nil || status != http.StatusOK || body != "body" {
					t.Errorf("answer to a request that stood still at byte %d = %d %q, %v", at, status, body, err)
				}
			}
		}
		until(t, func() bool { return active.Load() == 0 })
		if n := whole.Load(); n != int64(len(text)) {
			t.Errorf("%d requests have arrived whole, and %d were sent", n, len(text))
		}
		w.first(t)
	})
}

// readAnswer reads the answer to a POST.
func readAnswer(c net.Conn) (status int, body string, err error) {
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodPost})
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// readAnswerHTTP2 reads the answer on the first stream of a connection. That it has a head stands for 200.
func readAnswerHTTP2(c net.Conn) (status int, body string, err error) {
	f := http2.NewFramer(c, c)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return status, body, err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck() // a failure shows in what is read next
			}
		case *http2.HeadersFrame:
			status = http.StatusOK
		case *http2.DataFrame:
			body += string(frame.Data())
		case *http2.RSTStreamFrame:
			return status, body, fmt.Errorf("reset: %v", frame.ErrCode)
		}
		if h := frame.Header(); (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) && h.Flags.Has(http2.FlagDataEndStream) {
			return status, body, nil
		}
	}
}
