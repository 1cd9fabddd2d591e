package capture_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/wire"
)

// Loopback addresses that nothing else on a machine uses, since the port of a probe is fixed.
var (
	loopback      = netip.MustParseAddr("127.87.69.1")
	quietLoopback = netip.MustParseAddr("127.87.69.2")
)

func TestProbeHTTP(t *testing.T) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(loopback, wire.PortHealth).String())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		answer http.HandlerFunc
		want   capture.Verdict
	}{
		"accepting": {answer: func(http.ResponseWriter, *http.Request) {}, want: capture.Accepting},
		"draining": {
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			want:   capture.Draining,
		},
		"slow": {answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: capture.Slow},
		"ended in the middle": {
			answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			want:   capture.Slow,
		},
	}
	answers := make(chan http.HandlerFunc, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/accepting" {
			t.Errorf("asked for %s %s", r.Method, r.URL.Path)
		}
		(<-answers)(w, r)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			answers <- tc.answer
			if got := capture.ProbeHTTP(t.Context(), loopback); got != tc.want {
				t.Errorf("verdict %v, want %v", got, tc.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		if got := capture.ProbeHTTP(t.Context(), quietLoopback); got != capture.Refused {
			t.Errorf("verdict %v, want %v", got, capture.Refused)
		}
	})
	t.Run("the agent ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		answers <- func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		}
		if got := capture.ProbeHTTP(ctx, loopback); got != capture.Unknown {
			t.Errorf("verdict %v, want %v", got, capture.Unknown)
		}
	})
	_ = server.Close()
	<-served
}
