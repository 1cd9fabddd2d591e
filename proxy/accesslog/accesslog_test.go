package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/attribute"
)

func TestALineIsOneObject(t *testing.T) {
	line := Line{
		Start: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600)), Duration: 1234567 * time.Nanosecond, Upstream: time.Millisecond,
		Trace: "4bf9", Span: "00f0",
		Attributes: []attribute.Attribute{
			attribute.String(attribute.Path, "/a\n\"b\"\\"), attribute.Int(attribute.Status, 200), attribute.String(attribute.Reason, ""),
		},
	}
	want := `{"time":"2026-01-02T02:04:05.000006Z","duration_ms":1.234,"upstream_ms":1,` +
		`"url.path":"/a\u000a\"b\"\\","http.response.status_code":200,"weft.reason":"","trace_id":"4bf9","span_id":"00f0"}` + "\n"
	if diff := cmp.Diff(want, string(line.append(nil))); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func FuzzTexts(f *testing.F) {
	for _, seed := range []string{"", "plain", "a\r\n{\"time\":1}", "\x1b[2J", "\xff\xfe", "\u2028\u202e\u0085\x7f", "é世界", "\"\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := Line{Attributes: []attribute.Attribute{attribute.String("k", text)}}
		written := line.append(nil)
		if bytes.Count(written, []byte{'\n'}) != 1 || !bytes.HasSuffix(written, []byte("}\n")) || !utf8.Valid(written) {
			t.Fatalf("%q is not one line", written)
		}
		for _, r := range strings.TrimSuffix(string(written), "\n") {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0x2028 || r == 0x2029 {
				t.Fatalf("%q holds %U", written, r)
			}
		}
		var read map[string]any
		if err := json.Unmarshal(written, &read); err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if want := string([]rune(text)); read["k"] != want {
			t.Fatalf("%q became %q", want, read["k"])
		}
	})
}

// sink is a writer that can be held up.
type sink struct {
	mu   sync.Mutex
	got  []byte
	hold chan struct{}
	err  error
}

func (s *sink) Write(p []byte) (int, error) {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.got = append(s.got, p...)
	return len(p), nil
}

func TestAWriterThatIsHeldUpDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{hold: make(chan struct{})}
		l := New(w)
		line := &Line{Attributes: []attribute.Attribute{attribute.String("k", strings.Repeat("x", 1000))}}
		for range 10_000 {
			l.Write(line)
		}
		synctest.Wait()
		if _, overflowed, _ := l.Stats(); overflowed < 7000 || overflowed > 9900 {
			t.Errorf("%d lines were dropped", overflowed)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l.Close(ctx) // returns although nothing can be written
		close(w.hold)
		l.Close(t.Context())
		written, overflowed, failed := l.Stats()
		if written+overflowed != 10_000 || failed != 0 || uint64(bytes.Count(w.got, []byte{'\n'})) != written {
			t.Errorf("written %d, overflowed %d, failed %d, got %d lines", written, overflowed, failed, bytes.Count(w.got, []byte{'\n'}))
		}
	})
}

func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	l := New(&sink{err: errors.New("closed")})
	for range 3 {
		l.Write(&Line{})
	}
	l.Close(t.Context())
	if written, overflowed, failed := l.Stats(); written != 0 || overflowed != 0 || failed != 3 {
		t.Errorf("written %d, overflowed %d, failed %d", written, overflowed, failed)
	}
}

func TestALogWithoutLinesEnds(t *testing.T) {
	New(&sink{}).Close(t.Context())
}
