package engine

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// TestGRPCBackendThatEndsFirst: a backend is told how much time a call has, and may reset it a moment before
// the proxy knows that it is over. That is the deadline all the same, and no failure of the backend.
func TestGRPCBackendThatEndsFirst(t *testing.T) {
	for name, begins := range map[string]bool{"before the response": false, "within it": true} {
		for place, start := range places {
			t.Run(name+", "+place, func(t *testing.T) {
				t.Parallel()
				backend := server(t, func(w http.ResponseWriter, r *http.Request) {
					left, err := parseGRPCTimeout(r.Header.Get("Grpc-Timeout"))
					if err != nil {
						t.Errorf("timeout: %v", err)
					}
					due := time.NewTimer(left - dueSoon/2)
					defer due.Stop()
					if begins {
						w.Header().Set("Content-Type", "application/grpc")
						_ = http.NewResponseController(w).Flush()
					}
					select {
					case <-due.C:
					case <-r.Context().Done():
					}
					panic(http.ErrAbortHandler)
				})
				address, _ := start(t, timeouts(brief, 0), wire.ProtocolH2C, backend)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				call, err := grpcClient(t, address).FullDuplexCall(ctx)
				if err != nil {
					t.Fatalf("stream: %v", err)
				}
				if _, err := call.Recv(); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("end = %v, want DEADLINE_EXCEEDED", err)
				}
			})
		}
	}
}

func TestGRPCStreamsEndWithAStatusWhenTimeIsUp(t *testing.T) {
	tests := map[string]struct {
		policy *wire.Policy
		client time.Duration
		want   reason.Reason
	}{
		"idle": {policy: idle(brief), want: reason.IdleTimeout},
		// Every hop and the backend itself know this deadline, and whoever is first says so.
		"request":                          {policy: timeouts(brief, 0)},
		"stream":                           {policy: wire.Overlay(timeouts(brief, 0), stream(2*brief))},
		"the client's own, despite stream": {policy: stream(patience), client: 2 * brief},
	}
	for name, tc := range tests {
		for place, start := range places {
			t.Run(name+", "+place, func(t *testing.T) {
				t.Parallel()
				backend, _ := startGRPC(t, &grpcBackend{})
				address, p := start(t, tc.policy, wire.ProtocolH2C, backend)
				limit := patience
				if tc.client > 0 {
					limit = tc.client
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				call, err := grpcClient(t, address).FullDuplexCall(ctx)
				if err != nil {
					t.Fatalf("stream: %v", err)
				}
				if err := call.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte("a")}}); err != nil {
					t.Fatalf("send: %v", err)
				}
				if _, err := call.Recv(); err != nil {
					t.Fatalf("receive: %v", err)
				}
				if _, err := call.Recv(); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("end = %v, want DEADLINE_EXCEEDED", err)
				}
				if tc.want == "" {
					return
				}
				if got := call.Trailer().Get(reason.Header); len(got) != 1 || got[0] != string(tc.want) {
					t.Errorf("reason in the trailer = %v, want %s", got, tc.want)
				}
				until(t, func() bool {
					return metrics(t, p.engine, "weft_exchanges_cut_total")["weft_reason="+string(tc.want)] == 1
				})
			})
		}
	}
}
