package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// grpcRetries returns a policy that repeats gRPC calls on these statuses.
func grpcRetries(attempts int, codes ...string) *wire.Policy {
	return &wire.Policy{Retry: &wire.Retry{
		Attempts: &attempts, GRPCCodes: codes, Backoff: new(wire.Duration(time.Millisecond)),
		MaxRetryAfter: new(wire.Duration(2 * time.Second)), Budget: &wire.RetryBudget{Percent: new(100)},
	}}
}

// moody is a gRPC backend whose first calls fail in the way that how names.
type moody struct {
	testpb.UnimplementedTestServiceServer
	how   string
	fails int64
	calls atomic.Int64
}

func (m *moody) fail(stream grpc.ServerStream) error {
	unavailable := status.Error(codes.Unavailable, "moody")
	switch m.how {
	case "after a head":
		// The head leaves before the status: trailers follow it without a message.
		if err := stream.SendHeader(metadata.Pairs("x-header", "h")); err != nil {
			return err
		}
	case "after a message":
		if err := stream.SendMsg(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: []byte("half")}}); err != nil {
			return err
		}
	case "never again":
		stream.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", "-1"))
	case "in an hour":
		stream.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", "3600000"))
	case "in a second":
		stream.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", "1000"))
	case "otherwise":
		return status.Error(codes.FailedPrecondition, "moody")
	}
	return unavailable
}

func (m *moody) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	n := m.calls.Add(1)
	if n <= m.fails {
		return m.fail(stream)
	}
	return stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: fmt.Append(nil, "try ", n)}})
}

func startMoody(t *testing.T, m *moody) string {
	t.Helper()
	l := listenLoopback(t)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, m)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

func TestGRPCRetries(t *testing.T) {
	tests := map[string]struct {
		how    string
		policy *wire.Policy
		want   string // the message, or the code
		calls  int64
		least  time.Duration
	}{
		"a listed status":                       {policy: grpcRetries(2, "ABORTED", "UNAVAILABLE"), want: "try 3", calls: 3},
		"until the tries are used up":           {policy: grpcRetries(1, "UNAVAILABLE"), want: "Unavailable", calls: 2},
		"one that is not listed":                {policy: grpcRetries(2, "ABORTED"), want: "Unavailable", calls: 1},
		"none unasked":                          {want: "Unavailable", calls: 1},
		"HTTP codes are no gRPC codes":          {policy: retries(2, time.Millisecond, 500, 502, 503, 504), want: "Unavailable", calls: 1},
		"another status":                        {how: "otherwise", policy: grpcRetries(2, "UNAVAILABLE"), want: "FailedPrecondition", calls: 1},
		"a status after the head":               {how: "after a head", policy: grpcRetries(2, "UNAVAILABLE"), want: "try 3", calls: 3},
		"a stream that has begun is not":        {how: "after a message", policy: grpcRetries(2, "UNAVAILABLE"), want: "half Unavailable", calls: 1},
		"a backend that wants none has none":    {how: "never again", policy: grpcRetries(2, "UNAVAILABLE"), want: "Unavailable", calls: 1},
		"a backend that asks for too much time": {how: "in an hour", policy: grpcRetries(2, "UNAVAILABLE"), want: "Unavailable", calls: 1},
		"a backend that asks for time":          {how: "in a second", policy: grpcRetries(2, "UNAVAILABLE"), want: "try 3", calls: 3, least: 2 * time.Second},
	}
	for name, tc := range tests {
		for place, start := range places {
			t.Run(name+", "+place, func(t *testing.T) {
				t.Parallel()
				m := &moody{how: tc.how, fails: 2}
				address, _ := start(t, tc.policy, wire.ProtocolH2C, startMoody(t, m))
				begin := time.Now()
				stream, err := grpcClient(t, address).StreamingOutputCall(grpcContext(t), &testpb.StreamingOutputCallRequest{})
				if err != nil {
					t.Fatalf("call: %v", err)
				}
				var got []string
				for {
					res, err := stream.Recv()
					if err == nil {
						got = append(got, string(res.GetPayload().GetBody()))
						continue
					}
					if err != io.EOF { //nolint:errorlint // gRPC returns EOF itself
						got = append(got, status.Code(err).String())
					}
					break
				}
				if strings.Join(got, " ") != tc.want || m.calls.Load() != tc.calls {
					t.Errorf("got %v after %d calls, want %s after %d", got, m.calls.Load(), tc.want, tc.calls)
				}
				if took := time.Since(begin); took < tc.least {
					t.Errorf("it took %s, want at least %s", took, tc.least)
				}
			})
		}
	}
}

// TestHeadsOfStreamsAreNotKeptBack: a client may need the head before it sends more, and a server may have
// nothing else to say for long.
func TestHeadsOfStreamsAreNotKeptBack(t *testing.T) {
	p := newProxy(t)
	backend, _ := startGRPC(t, &grpcBackend{})
	c := grpcClient(t, p.policed(wire.ProtocolH2C, grpcRetries(2, "UNAVAILABLE"), backend))
	stream, err := c.FullDuplexCall(grpcContext(t))
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	if header, err := stream.Header(); err != nil || len(header.Get("x-header")) != 1 {
		t.Fatalf("header = %v, %v, want it although nothing has been sent", header, err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte("a")}}); err != nil {
		t.Fatalf("send: %v", err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("receive: %v", err)
	}

	release := make(chan struct{})
	address := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	p = newProxy(t)
	req := request(t, http.MethodPost, p.policed(wire.ProtocolH2C, grpcRetries(2, "UNAVAILABLE"), address), "/a.B/Watch", nil)
	req.Header.Set("Content-Type", "application/grpc")
	res, err := client(t, h2c).Do(req)
	if err != nil {
		t.Fatalf("the head did not come: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	close(release)
	if _, err := io.ReadAll(res.Body); err != nil || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("end = %v, %v, want status 0", res.Trailer, err)
	}
}

// TestGRPCRetriesGoToAnotherInstance: the caller's proxy learns which pod a status came from.
func TestGRPCRetriesGoToAnotherInstance(t *testing.T) {
	for place, start := range places {
		t.Run(place, func(t *testing.T) {
			var endpoints []string
			for range 3 {
				endpoints = append(endpoints, startMoody(t, &moody{fails: 1 << 30}))
			}
			endpoints = append(endpoints, startMoody(t, &moody{}))
			address, _ := start(t, grpcRetries(3, "UNAVAILABLE"), wire.ProtocolH2C, endpoints...)
			c := grpcClient(t, address)
			for range 20 {
				stream, err := c.StreamingOutputCall(grpcContext(t), &testpb.StreamingOutputCallRequest{})
				if err != nil {
					t.Fatalf("call: %v", err)
				}
				if _, err := stream.Recv(); err != nil {
					t.Fatalf("end = %v, want an answer of the instance that is well", err)
				}
				if header, _ := stream.Header(); len(header.Get("weft-endpoint")) > 0 {
					t.Fatalf("the client sees %v", header)
				}
			}
		})
	}
}

// TestReasonsOfApplicationsAreNotPassedOn: nobody but a proxy says why a proxy has failed a request.
func TestReasonsOfApplicationsAreNotPassedOn(t *testing.T) {
	address := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", reason.Header)
		w.Header().Set(reason.Header, "forged")
		w.Header().Set("Weft-Endpoint", "10.0.0.1:80")
		w.Header().Set("Weft-Not-Processed", "forged")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "sorry")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Weft-Other", "forged")
		w.Header().Set(http.TrailerPrefix+"X-Other", "kept")
	})
	for place, start := range places {
		for _, protocol := range []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolH2C} {
			t.Run(fmt.Sprint(place, ", ", protocol), func(t *testing.T) {
				at, _ := start(t, nil, protocol, address)
				got := do(t, client(t), request(t, http.MethodGet, at, "/", nil))
				if got.status != 503 || got.body != "sorry" || got.trailer.Get("X-Other") != "kept" {
					t.Errorf("answer = %v with trailer %v, want the application's", got, got.trailer)
				}
				for _, fields := range []http.Header{got.header, got.trailer} {
					if leaked := weftFields(fields); len(leaked) > 0 || fields.Get(reason.Header) != "" {
						t.Errorf("the client sees %v", fields)
					}
				}
			})
		}
	}
}
