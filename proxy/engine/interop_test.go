package engine

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"weft.dev/weft/proxy/wire"
)

// TestGRPCInterop runs the interoperability tests of gRPC through one proxy, and through two. A case that fails ends the
// process.
func TestGRPCInterop(t *testing.T) {
	l := listenLoopback(t)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	near := newProxy(t)
	near.apply(service("api", wire.ProtocolH2C, l.Addr().String())...)
	far := newHop(t, 1, wire.ProtocolH2C)
	stocked(far.peers[0], wire.ProtocolH2C, l.Addr().String())
	for name, address := range map[string]string{"one proxy": near.listen(key("api")), "two proxies": far.listen(stockKey)} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			client := testpb.NewTestServiceClient(conn)
			for _, test := range []func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
				interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
				interop.DoPingPong, interop.DoEmptyStream, interop.DoTimeoutOnSleepingServer, interop.DoCancelAfterBegin,
				interop.DoCancelAfterFirstResponse, interop.DoCustomMetadata, interop.DoStatusCodeAndMessage,
				interop.DoSpecialStatusMessage,
			} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				test(ctx, client, grpc.WaitForReady(true))
				cancel()
			}
			interop.DoUnimplementedMethod(t.Context(), conn)
			interop.DoUnimplementedService(t.Context(), testpb.NewUnimplementedServiceClient(conn))
		})
	}
}
