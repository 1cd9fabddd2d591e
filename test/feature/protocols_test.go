package feature_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weft.dev/weft/test/feature/harness"
)

// dial connects as a client of a namespace. The connection ends with the test.
func dial(t *testing.T, m *harness.Mesh, namespace, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := m.Dial(ctx, namespace, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange expects a greeting, sends a line and expects it back.
func exchange(t *testing.T, c io.ReadWriter, from *bufio.Reader, greeting string) {
	t.Helper()
	if got, err := from.ReadString('\n'); got != greeting+"\n" {
		t.Fatalf("greeted with %q (%v), want %q", got, err, greeting)
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := from.ReadString('\n'); got != "hello\n" {
		t.Fatalf("got %q back (%v), want what was sent", got, err)
	}
}

// TestTCP: opaque bytes pass in both directions, each of which ends by itself.
func TestTCP(t *testing.T) {
	tests := map[string]struct{ from, to, want string }{
		"in the same namespace":  {"shop", "web:5432", "web"},
		"in another namespace":   {"bank", "web.shop:5432", "web"},
		"from outside the mesh":  {"plain", "web.shop:5432", "web"},
		"the other way":          {"shop", "ledger.bank:5432", "ledger"},
		"by a cluster IP":        {"shop", "10.96.0.1:5432", "web"},
		"a route does not apply": {"shop", "web:5432", "web"},
	}
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: every-port, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: web-v1, port: 80}]}]
`))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := dial(t, m, tc.from, tc.to)
			from := bufio.NewReader(c)
			exchange(t, c, from, tc.want)
			half, ok := c.(interface{ CloseWrite() error })
			if !ok {
				t.Fatalf("%T has no halves", c)
			}
			if _, err := io.WriteString(c, "the rest"); err != nil {
				t.Fatal(err)
			}
			if err := half.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(from)
			if string(rest) != "the rest" || err != nil {
				t.Errorf("after the end of what was sent: %q (%v), want the rest of it", rest, err)
			}
		})
	}
}

// TestOpaqueMeansOpaque: no protocol is guessed from what a client says. One that says something like
// HTTP gets its bytes back like any other.
func TestOpaqueMeansOpaque(t *testing.T) {
	m := start(t)
	apply(t, m, defaults(t))
	c := dial(t, m, "shop", "web:5432")
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web-v1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	want := "web\nGET / HTTP/1.1\r\nHost: web-v1\r\n\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWebSocket: an upgrade takes the route of its request, and then bytes pass in both directions.
func TestWebSocket(t *testing.T) {
	tests := map[string]struct{ from, to, path, want string }{
		"by a route":             {"shop", "web:80", "/v2", "web-v2"},
		"from another namespace": {"bank", "web.shop:80", "/v2", "web-v2"},
		"to another namespace":   {"shop", "web:80", "/far", "ledger"},
		"without a route":        {"shop", "web-v1:80", "/", "web-v1"},
	}
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /v2}}]
    # It does not end a connection that has become a WebSocket.
    timeouts: {request: 10s}
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /far}}]
    backendRefs: [{name: ledger, namespace: bank, port: 80}]
`))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			config, err := websocket.NewConfig("ws://"+tc.to+tc.path, "http://"+tc.to)
			if err != nil {
				t.Fatal(err)
			}
			c, err := websocket.NewClient(config, dial(t, m, tc.from, tc.to))
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, c, bufio.NewReader(c), tc.want)
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// TestWebSocketRefused: a request for an upgrade that matches no rule is answered as any other.
func TestWebSocketRefused(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{matches: [{path: {value: /v2}}], backendRefs: [{name: web-v2, port: 80}]}]
`))
	config, err := websocket.NewConfig("ws://web/", "http://web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := websocket.NewClient(config, dial(t, m, "shop", "web:80")); !errors.Is(err, websocket.ErrBadStatus) {
		t.Errorf("the handshake ended with %v, want a status that refuses it", err)
	}
}

// TestGRPCStream: messages of a stream pass one by one in both directions.
func TestGRPCStream(t *testing.T) {
	tests := map[string]struct{ from, to, want string }{
		"in the same namespace":  {"shop", "web:9000", "web-v1"},
		"from another namespace": {"bank", "web.shop:9000", "web-v1"},
	}
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 9000}]
  rules: [{backendRefs: [{name: web-v1, port: 9000}]}]
`))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conn, err := m.GRPC(tc.from, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/demo.Echo/Chat")
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
					t.Fatal(err)
				}
				reply := &wrapperspb.StringValue{}
				if err := stream.RecvMsg(reply); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(reply.GetValue(), `"pod":"`+tc.want+`"`) {
					t.Errorf("message %d is %s, want one from %s", i, reply.GetValue(), tc.want)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v, want its regular end", err)
			}
		})
	}
}
