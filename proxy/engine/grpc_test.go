package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/wire"
)

// grpcBackend answers as the request tells it to.
type grpcBackend struct {
	testpb.UnimplementedTestServiceServer
	name string
	// left is how much time the last call had when it arrived.
	left chan time.Duration
}

func (b *grpcBackend) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if deadline, ok := ctx.Deadline(); ok && b.left != nil {
		b.left <- time.Until(deadline)
	}
	if req.GetResponseStatus() != nil {
		return nil, status.Error(codes.Code(req.GetResponseStatus().GetCode()), req.GetResponseStatus().GetMessage())
	}
	if req.GetResponseSize() < 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	return &testpb.SimpleResponse{ServerId: b.name, Payload: req.GetPayload()}, nil
}

func (b *grpcBackend) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	if err := stream.SendHeader(metadata.Pairs("x-header", "h")); err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
}

// startGRPC starts a backend and returns its address and what ends it at once.
func startGRPC(t *testing.T, b *grpcBackend) (address string, kill func()) {
	t.Helper()
	l := listenLoopback(t)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, b)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("gRPC server: %v", err)
		}
	})
	return l.Addr().String(), s.Stop
}

func grpcClient(t *testing.T, address string) testpb.TestServiceClient {
	t.Helper()
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("gRPC client: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return testpb.NewTestServiceClient(c)
}

func grpcContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestGRPCCalls(t *testing.T) {
	// A Backend that does not say so is spoken to in HTTP/2 all the same.
	for _, protocol := range []wire.Protocol{wire.ProtocolH2C, wire.ProtocolHTTP} {
		t.Run(string(protocol), func(t *testing.T) {
			p := newProxy(t)
			backend, _ := startGRPC(t, &grpcBackend{name: "cart"})
			p.apply(service("cart", protocol, backend)...)
			c := grpcClient(t, p.listen(key("cart")))

			var trailer metadata.MD
			res, err := c.UnaryCall(grpcContext(t), &testpb.SimpleRequest{}, grpc.Trailer(&trailer))
			if err != nil || res.GetServerId() != "cart" {
				t.Fatalf("unary call = %v, %v", res, err)
			}
			if diff := cmp.Diff([]string{"t"}, trailer.Get("x-trailer")); diff != "" {
				t.Errorf("trailer (-want +got):\n%s", diff)
			}

			stream, err := c.FullDuplexCall(grpcContext(t))
			if err != nil {
				t.Fatalf("stream: %v", err)
			}
			if header, err := stream.Header(); err != nil || len(header.Get("x-header")) != 1 {
				t.Fatalf("header = %v, %v, want it before the first message", header, err)
			}
			for _, body := range []string{"a", "b"} {
				if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte(body)}}); err != nil {
					t.Fatalf("send: %v", err)
				}
				if res, err := stream.Recv(); err != nil || string(res.GetPayload().GetBody()) != body {
					t.Fatalf("message = %v, %v, want %q before the next is sent", res, err, body)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatalf("close: %v", err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("end = %v, want EOF", err)
			}
		})
	}
}

func TestGRPCStatusOfTheBackendIsPassedOn(t *testing.T) {
	p := newProxy(t)
	backend, _ := startGRPC(t, &grpcBackend{})
	p.apply(service("cart", wire.ProtocolH2C, backend)...)
	c := grpcClient(t, p.listen(key("cart")))
	_, err := c.UnaryCall(grpcContext(t), &testpb.SimpleRequest{
		ResponseStatus: &testpb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "no, 100% no"},
	})
	if got := status.Convert(err); got.Code() != codes.FailedPrecondition || got.Message() != "no, 100% no" {
		t.Errorf("status = %v", got)
	}
	if _, err := c.EmptyCall(grpcContext(t), &testpb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("status = %v, want UNIMPLEMENTED from the backend", err)
	}
}

func TestGRPCAnswersOfTheProxy(t *testing.T) {
	grpcRoute := func(edit func(*wire.Route)) wire.Resource {
		r := route("calls", "cart", func(r *wire.Route) {
			r.Kind = wire.RouteGRPC
			r.Backends = to("cart")
			edit(r)
		}).Route
		return resource(r.Key(), r)
	}
	tests := map[string]struct {
		route wire.Resource
		want  codes.Code
	}{
		"no rule matched": {
			grpcRoute(func(r *wire.Route) {
				r.Matches = []wire.Match{{GRPC: &wire.GRPCMatch{Type: wire.MatchExact, Service: "other"}}}
			}),
			codes.Unimplemented,
		},
		"a route without rules": {grpcRoute(func(r *wire.Route) { r.Matches = nil }), codes.Unimplemented},
		"backend not resolved": {
			grpcRoute(func(r *wire.Route) { r.Backends = []wire.WeightedBackend{{Weight: 1}} }), codes.Unavailable,
		},
		"no endpoints": {grpcRoute(func(r *wire.Route) { r.Backends = to("empty") }), codes.Unavailable},
		"time is up": {
			grpcRoute(func(r *wire.Route) { r.Policy = timeouts(50*time.Millisecond, 0) }),
			codes.DeadlineExceeded,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			address, _ := startGRPC(t, &grpcBackend{name: "cart"})
			p.apply(service("cart", wire.ProtocolH2C, address)...)
			p.apply(backend("empty", wire.ProtocolH2C)...)
			p.apply(tc.route)
			c := grpcClient(t, p.listen(key("cart")))
			_, err := c.UnaryCall(grpcContext(t), &testpb.SimpleRequest{ResponseSize: -1})
			if status.Code(err) != tc.want {
				t.Errorf("status = %v, want %s", err, tc.want)
			}
		})
	}
}

func TestGRPCDeadlineIsPassedOnShortened(t *testing.T) {
	p := newProxy(t)
	b := &grpcBackend{left: make(chan time.Duration, 1)}
	address, _ := startGRPC(t, b)
	p.apply(service("cart", wire.ProtocolH2C, address)...)
	p.apply(route("limit", "cart", func(r *wire.Route) {
		r.Backends = to("cart")
		r.Policy = timeouts(patience/2, 0)
	}))
	c := grpcClient(t, p.listen(key("cart")))
	for want, limit := range map[time.Duration]time.Duration{
		patience / 2: patience,     // the rule's is shorter
		patience / 4: patience / 4, // the client's is shorter
	} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if _, err := c.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil {
			t.Errorf("call: %v", err)
		}
		cancel()
		if left := <-b.left; left > want {
			t.Errorf("with a deadline of %s the backend was left %s, want at most %s", limit, left, want)
		}
	}
}

func TestGRPCStreamWhoseBackendDiesEndsWithAStatus(t *testing.T) {
	p := newProxy(t)
	address, kill := startGRPC(t, &grpcBackend{})
	p.apply(service("cart", wire.ProtocolH2C, address)...)
	stream, err := grpcClient(t, p.listen(key("cart"))).FullDuplexCall(grpcContext(t))
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatalf("header: %v", err)
	}
	kill()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("end = %v, want UNAVAILABLE", err)
	}
}

func TestGRPCTimeoutFormat(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1n": 1, "99999999n": 99999999, "5u": 5 * time.Microsecond, "7m": 7 * time.Millisecond,
		"2S": 2 * time.Second, "3M": 3 * time.Minute, "1H": time.Hour, "0m": 0, "99999999H": 1<<63 - 1,
	} {
		got, err := parseGRPCTimeout(value)
		if err != nil || got != want {
			t.Errorf("parseGRPCTimeout(%q) = %v, %v, want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"", "1", "m", "-1m", "+1m", "1 m", "1s", "123456789n", "1.5S"} {
		if got, err := parseGRPCTimeout(value); err == nil {
			t.Errorf("parseGRPCTimeout(%q) = %v, want an error", value, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "1n", -time.Second: "1n", 1: "1n", 1500 * time.Millisecond: "1500000u", 101 * time.Second: "101000m",
		time.Hour: "3600000m", 40 * time.Hour: "144000S", 1<<63 - 1: "2562048H",
	} {
		if got := formatGRPCTimeout(d); got != want {
			t.Errorf("formatGRPCTimeout(%v) = %q, want %q", d, got, want)
		}
	}
}
