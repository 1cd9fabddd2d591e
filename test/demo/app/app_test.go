package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the service on loopback and returns the address of each port.
func start(t *testing.T, version string) map[int]string {
	t.Helper()
	addresses := map[int]string{}
	listeners := map[int]net.Listener{}
	for _, port := range []int{portHTTP, portCount, portGRPC} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[port], addresses[port] = l, l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, version, func(port int) (net.Listener, error) { return listeners[port], nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return addresses
}

func count(t *testing.T, address string) counts {
	t.Helper()
	transport := newTransport()
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get("http://" + address + "/count")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var c counts
	if err := json.NewDecoder(res.Body).Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

// result returns the last line of a report.
func result(t *testing.T, out string) report {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var r report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("last line of %q: %v", out, err)
	}
	return r
}

func TestSend(t *testing.T) {
	tests := map[string]struct {
		sender func(string) (sender, func(), error)
		target func(addresses map[int]string) string
		want   counts
	}{
		"HTTP": {
			sender: httpSender,
			target: func(a map[int]string) string { return "http://" + a[portHTTP] },
			want:   counts{HTTP: 200},
		},
		"gRPC": {
			sender: grpcSender,
			target: func(a map[int]string) string { return "passthrough:///" + a[portGRPC] },
			want:   counts{GRPC: 200},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			addresses := start(t, "v1")
			var out bytes.Buffer
			if err := send(t.Context(), tc.sender, tc.target(addresses), 200, 4, &out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(report{Sent: 200, Done: true}, result(t, out.String())); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.want, count(t, addresses[portCount])); diff != "" {
				t.Errorf("counted by the service (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSendCountsFailures: a status, an answer of somebody else and a closed port are failures.
func TestSendCountsFailures(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a status": {
			handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) },
			want:    "status 503: busy\n",
		},
		"somebody else": {
			handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
			want:    "not the service's answer: hello",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			addresses := start(t, "v1")
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if seen.Add(1)%2 == 0 {
					tc.handler(w, r)
					return
				}
				_, _ = io.WriteString(w, `{"version": "v1"}`)
			}))
			t.Cleanup(server.Close)
			var out bytes.Buffer
			if err := send(t.Context(), httpSender, server.URL, 10, 2, &out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(report{Sent: 10, Failed: 5, Done: true, Errors: []string{tc.want}}, result(t, out.String())); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(counts{}, count(t, addresses[portCount])); diff != "" {
				t.Errorf("counting counts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRate: requests wait for their turn.
func TestRate(t *testing.T) {
	addresses := start(t, "v1")
	var out bytes.Buffer
	begun := time.Now()
	if err := send(t.Context(), paced(httpSender, 100), "http://"+addresses[portHTTP], 5, 2, &out); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 40*time.Millisecond {
		t.Errorf("5 requests at 100 a second took %s", took)
	}
	if diff := cmp.Diff(report{Sent: 5, Done: true}, result(t, out.String())); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// TestCaptured: on loopback the service is called by one of the client's own addresses, so nothing is
// captured; a proxy that answers with its own address is what is waited for.
func TestCaptured(t *testing.T) {
	addresses := start(t, "v1")
	if err := awaitCapture(t.Context(), "http://"+addresses[portHTTP], 10*time.Millisecond); err == nil {
		t.Error("a direct connection counts as captured")
	}
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		caller := "127.0.0.1"
		if asked.Add(1) > 1 {
			caller = "192.0.2.1"
		}
		writeJSON(w, answer{Version: "v1", Caller: caller})
	}))
	t.Cleanup(server.Close)
	if err := awaitCapture(t.Context(), server.URL, time.Minute); err != nil {
		t.Error(err)
	}
	if asked.Load() != 2 {
		t.Errorf("%d requests, want 2", asked.Load())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"what"}, {"send"}, {"serve", "x"}, {"send", "-what", "x"}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("nothing may run"))
		if err := run(ctx, args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
