package engine

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func bodyRequest(body io.Reader) *http.Request {
	return &http.Request{Body: io.NopCloser(body), ContentLength: -1}
}

func TestBodyIsReplayedFromItsBeginning(t *testing.T) {
	content := strings.Repeat("0123456789", 1000)
	var whole []byte
	b := newReplay(bodyRequest(iotest.OneByteReader(strings.NewReader(content))), func(body []byte) { whole = body })
	first := b.open(nil)
	if _, err := io.ReadFull(first, make([]byte, 100)); err != nil {
		t.Fatalf("first try: %v", err)
	}
	second := b.open(nil)
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errGivenUp) {
		t.Errorf("a try that was given up reads on: %v", err)
	}
	for body := io.Reader(second); ; body = b.open(nil) {
		if got, err := io.ReadAll(body); err != nil || string(got) != content {
			t.Fatalf("try got %d bytes, %v, want all %d", len(got), err, len(content))
		}
		if !b.possible() {
			t.Fatal("another try is not possible")
		}
		if string(whole) != content {
			t.Errorf("the whole body is %d bytes, want %d", len(whole), len(content))
		}
		if body != second {
			break
		}
	}
}

func TestLongBodyIsSentOnce(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	b := newReplay(bodyRequest(bytes.NewReader(content)), func([]byte) { t.Error("a long body was kept as a whole") })
	if got, err := io.ReadAll(b.open(nil)); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("got %d bytes, %v, want all %d", len(got), err, len(content))
	}
	if b.possible() {
		t.Error("another try is possible although the beginning is gone")
	}
	if cap(b.buf) > maxReplay {
		t.Errorf("%d bytes are kept, want at most %d", cap(b.buf), maxReplay)
	}
}

// TestRewoundBodyKeepsItsBeginning: between two tries the client goes on sending.
func TestRewoundBodyKeepsItsBeginning(t *testing.T) {
	content := strings.Repeat("0123456789", maxReplay/5)
	b := newReplay(bodyRequest(strings.NewReader(content)), func([]byte) {})
	first := b.open(nil)
	if _, err := io.ReadFull(first, make([]byte, 10)); err != nil {
		t.Fatalf("first try: %v", err)
	}
	if !b.rewind() {
		t.Fatal("the beginning is gone although the try has read little")
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errGivenUp) {
		t.Errorf("a try that was given up reads on: %v", err)
	}
	// What arrives now fills the buffer and must not push out its beginning.
	if got, err := io.ReadAll(b.open(nil)); err != nil || string(got) != content {
		t.Errorf("second try got %d bytes, %v, want all %d", len(got), err, len(content))
	}
	if b.rewind() {
		t.Error("a body that has outgrown the buffer was rewound")
	}
}

func TestTryThatEndsDoesNotWaitForTheClient(t *testing.T) {
	reader, writer := io.Pipe()
	b := newReplay(bodyRequest(reader), func([]byte) {})
	first := b.open(nil)
	ended := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1))
		ended <- err
	}()
	// Something has to arrive for the test to know that the read has begun.
	go func() { _, _ = writer.Write([]byte("a")) }()
	if err := <-ended; err != nil {
		t.Fatalf("read: %v", err)
	}
	go func() {
		_, err := first.Read(make([]byte, 1))
		ended <- err
	}()
	_ = first.Close()
	if err := <-ended; !errors.Is(err, errGivenUp) {
		t.Errorf("read = %v, want it to end with the try", err)
	}
	// What the client sends now belongs to the next try.
	second := b.open(nil)
	go func() {
		_, _ = writer.Write([]byte("b"))
		_ = writer.Close()
	}()
	if got, err := io.ReadAll(second); err != nil || string(got) != "ab" {
		t.Errorf("second try got %q, %v, want ab", got, err)
	}
	b.close()
}

func TestBodyErrorReachesEveryTry(t *testing.T) {
	broken := errors.New("broken")
	b := newReplay(bodyRequest(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(broken))), func([]byte) {
		t.Error("a broken body was taken for whole")
	})
	for range 2 {
		if got, err := io.ReadAll(b.open(nil)); !errors.Is(err, broken) || string(got) != "ab" {
			t.Errorf("try got %q, %v", got, err)
		}
	}
}

// TestNobodyReadsWhenTheExchangeIsOver: net/http panics when a read of its body lasts longer than the handler.
func TestNobodyReadsWhenTheExchangeIsOver(t *testing.T) {
	reader, writer := io.Pipe()
	reads := make(chan struct{}, 1)
	b := newReplay(bodyRequest(readerFunc(func(p []byte) (int, error) {
		reads <- struct{}{}
		return reader.Read(p)
	})), func([]byte) {})
	try := b.open(nil)
	go func() { _, _ = try.Read(make([]byte, 1)) }()
	<-reads
	b.close()
	if !b.join(func() { _ = writer.CloseWithError(errors.New("interrupted")) }) {
		t.Error("a read that waits for the client was not interrupted")
	}
	if b.reading {
		t.Error("somebody still reads")
	}
	if b.join(func() { t.Error("nobody reads, but somebody was interrupted") }) {
		t.Error("the end was taken for an interruption")
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
