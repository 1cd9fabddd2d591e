package tcp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a loopback TCP connection.
func pair(t *testing.T) (dialled, accepted *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client.(*net.TCPConn), server.(*net.TCPConn)
}

type outcome struct {
	result Result
	err    error
}

// start relays between two loopback connections and returns their far ends.
func start(ctx context.Context, t *testing.T, options Options) (client, backend *net.TCPConn, ended chan outcome) {
	t.Helper()
	client, nearClient := pair(t)
	nearBackend, backend := pair(t)
	ended = make(chan outcome, 1)
	go func() {
		result, err := Relay(ctx, nearClient, nearBackend, options)
		ended <- outcome{result, err}
	}()
	return client, backend, ended
}

func send(t *testing.T, w io.Writer, data string) {
	t.Helper()
	if _, err := io.WriteString(w, data); err != nil {
		t.Errorf("write: %v", err)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}

func TestRelayPassesOnTheEndOfOneDirection(t *testing.T) {
	for name, options := range map[string]Options{"spliced": {}, "timed": {IdleTimeout: time.Minute}} {
		t.Run(name, func(t *testing.T) {
			client, backend, ended := start(t.Context(), t, options)
			send(t, client, "question")
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			question, err := io.ReadAll(backend)
			if err != nil || string(question) != "question" {
				t.Errorf("backend read %q, %v", question, err)
			}
			// The other direction still works after the first has ended.
			send(t, backend, "a longer answer")
			expect(t, client, "a longer answer")
			backend.Close()
			got := <-ended
			if got.err != nil {
				t.Errorf("relay: %v", got.err)
			}
			if diff := cmp.Diff(Result{Sent: 8, Received: 15}, got.result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("client read %v, want EOF", err)
			}
		})
	}
}

func TestRelayMovesManyBytesBothWays(t *testing.T) {
	client, backend, ended := start(t.Context(), t, Options{})
	payload := make([]byte, 8<<20)
	rand.Read(payload)
	for _, end := range []*net.TCPConn{client, backend} {
		go func() {
			_, err := end.Write(payload)
			if err == nil {
				err = end.CloseWrite()
			}
			if err != nil {
				t.Errorf("write: %v", err)
			}
		}()
	}
	received := make(chan []byte, 2)
	for _, end := range []*net.TCPConn{client, backend} {
		go func() {
			data, err := io.ReadAll(end)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			received <- data
		}()
	}
	for range 2 {
		if !bytes.Equal(payload, <-received) {
			t.Error("bytes differ after the relay")
		}
	}
	want := outcome{result: Result{Sent: 8 << 20, Received: 8 << 20}}
	if got := <-ended; got != want {
		t.Errorf("relay ended with %+v, want %+v", got, want)
	}
}

func TestRelayPassesOnReset(t *testing.T) {
	client, backend, ended := start(t.Context(), t, Options{})
	send(t, client, "x")
	expect(t, backend, "x")
	if err := backend.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	backend.Close()
	if got := <-ended; !errors.Is(got.err, syscall.ECONNRESET) {
		t.Errorf("relay ended with %v, want a reset", got.err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read %v, want a reset", err)
	}
}

func TestRelayShutdown(t *testing.T) {
	t.Run("finishes within the grace period", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, backend, ended := start(ctx, t, Options{Grace: time.Hour})
		cancel()
		send(t, client, "late")
		expect(t, backend, "late")
		client.Close()
		backend.Close()
		want := outcome{result: Result{Sent: 4}}
		if got := <-ended; got != want {
			t.Errorf("relay ended with %+v, want %+v", got, want)
		}
	})
	t.Run("cut after it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, _, ended := start(ctx, t, Options{Grace: time.Millisecond})
		cancel()
		if got := <-ended; !errors.Is(got.err, ErrShutdown) {
			t.Errorf("relay ended with %v, want ErrShutdown", got.err)
		}
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Error("client is still connected")
		}
	})
}

func TestRelayEndsWhenIdleOverTCP(t *testing.T) {
	_, _, ended := start(t.Context(), t, Options{IdleTimeout: 20 * time.Millisecond})
	if got := <-ended; !errors.Is(got.err, ErrIdle) {
		t.Errorf("relay ended with %v, want ErrIdle", got.err)
	}
}

func TestKernelTellsWhenDataArrived(t *testing.T) {
	client, server := pair(t)
	_, last := watchOne(server)
	before := time.Now()
	send(t, client, "x")
	expect(t, server, "x")
	// The kernel counts in milliseconds, or in ticks of at most 10 ms.
	if got := last(); got.Before(before.Add(-20*time.Millisecond)) || got.After(time.Now()) {
		t.Errorf("data arrived at %v, want between %v and now", got, before)
	}
}

// In a bubble with fake time: bytes in either direction keep a relay alive, silence ends it on time.
func TestRelayIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nearClient := net.Pipe()
		nearBackend, backend := net.Pipe()
		begin := time.Now()
		ended := make(chan error, 1)
		go func() {
			_, err := Relay(t.Context(), nearClient, nearBackend, Options{IdleTimeout: 10 * time.Second})
			ended <- err
		}()
		for i := range 4 {
			<-time.After(9 * time.Second)
			if i%2 == 0 {
				go send(t, client, "x")
				expect(t, backend, "x")
			} else {
				go send(t, backend, "x")
				expect(t, client, "x")
			}
		}
		if err := <-ended; !errors.Is(err, ErrIdle) {
			t.Errorf("relay ended with %v, want ErrIdle", err)
		}
		if got, want := time.Since(begin), 46*time.Second; got != want {
			t.Errorf("relay ended after %v, want %v", got, want)
		}
	})
}

// In a bubble with fake time: a relay ends on time although bytes keep moving.
func TestRelayMaxDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nearClient := net.Pipe()
		nearBackend, backend := net.Pipe()
		begin := time.Now()
		ended := make(chan error, 1)
		go func() {
			_, err := Relay(t.Context(), nearClient, nearBackend, Options{IdleTimeout: 10 * time.Second, MaxDuration: 20 * time.Second})
			ended <- err
		}()
		for range 2 {
			<-time.After(9 * time.Second)
			go send(t, client, "x")
			expect(t, backend, "x")
		}
		if err := <-ended; !errors.Is(err, ErrTimeout) {
			t.Errorf("relay ended with %v, want ErrTimeout", err)
		}
		if got, want := time.Since(begin), 20*time.Second; got != want {
			t.Errorf("relay ended after %v, want %v", got, want)
		}
	})
}

func TestRelayWithoutHalfCloseEndsAsAWhole(t *testing.T) {
	client, nearClient := net.Pipe()
	nearBackend, backend := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := Relay(t.Context(), nearClient, nearBackend, Options{})
		ended <- err
	}()
	client.Close()
	if err := <-ended; err != nil {
		t.Errorf("relay ended with %v", err)
	}
	if _, err := backend.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("backend read %v, want EOF", err)
	}
}
