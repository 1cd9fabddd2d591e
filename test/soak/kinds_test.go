package soak

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// reconnectAfter is after how many requests a client leaves its connection.
const reconnectAfter = 200

// client sends requests of its kinds in turn.
type client struct {
	plane *plane
	kinds []kind
	http  *http.Client
	calls []testpb.TestServiceClient
	close func()
}

// kind is a way to use the proxies, which fails if the answer is not what was asked for.
type kind struct {
	name string
	// times is how often a client does so while it does everything once.
	times int
	send  func(*client) error
}

// planned returns kinds as often as they are done.
func planned(kinds []kind) []kind {
	var all []kind
	for _, k := range kinds {
		all = append(all, slices.Repeat([]kind{k}, k.times)...)
	}
	return all
}

// clients returns what connects each of them.
func clients() []func(*plane) *client {
	connect := slices.Repeat([]func(*plane) *client{http1Client}, 12)
	connect = append(connect, slices.Repeat([]func(*plane) *client{http2Client}, 4)...)
	connect = append(connect, slices.Repeat([]func(*plane) *client{grpcClient}, 4)...)
	return append(connect, slices.Repeat([]func(*plane) *client{rawClient}, 2)...)
}

var kinds = slices.Concat(httpKinds, grpcKinds, rawKinds)

func http1Client(p *plane) *client { return newHTTPClient(p, false) }
func http2Client(p *plane) *client { return newHTTPClient(p, true) }

func newHTTPClient(p *plane, http2 bool) *client {
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(http2)
	transport.Protocols.SetHTTP1(!http2)
	var conns connections
	transport.DialContext = conns.dial
	return &client{plane: p, kinds: planned(httpKinds), http: &http.Client{Transport: transport}, close: conns.close}
}

// connections are those of a client, also those on which nothing was sent because the request was given up before.
type connections struct {
	mu     sync.Mutex
	open   []net.Conn
	closed bool
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c.open = append(c.open, conn)
	return conn, nil
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.open {
		_ = conn.Close()
	}
}

var bulk = bytes.Repeat([]byte("0123456789abcdef"), 4<<10)

var httpKinds = []kind{
	{"get", 100, func(c *client) error { return c.exchange("/v1/small", nil, "v1") }},
	{"get of another backend", 1, func(c *client) error { return c.exchange("/v2/small", nil, "v2") }},
	{"body with a length", 1, func(c *client) error { return c.exchange("/v1/echo", bytes.NewReader(bulk), string(bulk)) }},
	{"body without a length", 1, func(c *client) error {
		return c.exchange("/v1/echo", io.MultiReader(strings.NewReader("a"), strings.NewReader("b")), "ab")
	}},
	{"answer in chunks", 1, func(c *client) error { return c.exchange("/v1/chunks", nil, strings.Repeat("chunk", 10)) }},
	{"answer given up", 1, func(c *client) error { return c.giveUp("/v1/bulk", nil) }},
	{"body given up", 1, func(c *client) error { return c.giveUp("/v1/echo", endless{}) }},
	{"mirrored", 1, func(c *client) error { return c.exchange("/mirrored/echo", strings.NewReader("order"), "order") }},
	{"get over the hop", 20, func(c *client) error { return c.exchange("/far/small", nil, "far") }},
	{"body over the hop", 1, func(c *client) error { return c.exchange("/far/echo", bytes.NewReader(bulk), string(bulk)) }},
	{"chunks over the hop", 1, func(c *client) error { return c.exchange("/far/chunks", nil, strings.Repeat("chunk", 10)) }},
	{"answer given up over the hop", 1, func(c *client) error { return c.giveUp("/far/bulk", nil) }},
	{"body given up over the hop", 1, func(c *client) error { return c.giveUp("/far/echo", endless{}) }},
}

// exchange sends a request and holds the answer to what was asked.
func (c *client) exchange(path string, body io.Reader, want string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := c.do(ctx, path, body)
	if err != nil {
		return err
	}
	if got.status != http.StatusOK || got.body != want {
		return fmt.Errorf("%s answered %d %.40q (%s), want %.40q", path, got.status, got.body, got.reason, want)
	}
	if strings.HasSuffix(path, "/chunks") && got.sum != "10" {
		return fmt.Errorf("%s answered with the trailer X-Sum: %q", path, got.sum)
	}
	return nil
}

// answer is a response; sum is what its trailer has.
type answer struct {
	status            int
	body, reason, sum string
}

func (c *client) do(ctx context.Context, path string, body io.Reader) (answer, error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.plane.web+path, body)
	if err != nil {
		return answer{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	got, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(got), res.Header.Get("Weft-Reason"), res.Trailer.Get("X-Sum")}, errors.Join(err, res.Body.Close())
}

// giveUp sends a request that ends at some time within it; whatever was answered before is right, and however it failed
// after: net/http may say of a request that was given up that its connection was, as well.
func (c *client) giveUp(path string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
	defer cancel()
	_, err := c.do(ctx, path, body)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bulk), nil }

func grpcClient(p *plane) *client {
	c := &client{plane: p, kinds: planned(grpcKinds)}
	var conns []*grpc.ClientConn
	for _, address := range []string{p.calls, p.farCalls} {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			panic(err) // what it is made of is fixed
		}
		conns = append(conns, conn)
		c.calls = append(c.calls, testpb.NewTestServiceClient(conn))
	}
	c.close = func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	return c
}

var grpcKinds = []kind{
	{"call", 20, func(c *client) error { return unary(c.calls[0]) }},
	{"stream of answers", 1, func(c *client) error { return answers(c.calls[0]) }},
	{"stream of requests", 1, func(c *client) error { return requests(c.calls[0]) }},
	{"stream both ways", 1, func(c *client) error { return pingPong(c.calls[0]) }},
	{"stream given up", 1, func(c *client) error { return giveUpStream(c.calls[0]) }},
	{"call over the hop", 10, func(c *client) error { return unary(c.calls[1]) }},
	{"stream of answers over the hop", 1, func(c *client) error { return answers(c.calls[1]) }},
	{"stream of requests over the hop", 1, func(c *client) error { return requests(c.calls[1]) }},
	{"stream both ways over the hop", 1, func(c *client) error { return pingPong(c.calls[1]) }},
	{"stream given up over the hop", 1, func(c *client) error { return giveUpStream(c.calls[1]) }},
}

const messages = 5

func unary(calls testpb.TestServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := calls.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 1000, Payload: &testpb.Payload{Body: bulk[:100]}})
	if err == nil && len(res.GetPayload().GetBody()) != 1000 {
		err = fmt.Errorf("answered %d bytes", len(res.GetPayload().GetBody()))
	}
	return err
}

func sizes() []*testpb.ResponseParameters {
	all := make([]*testpb.ResponseParameters, messages)
	for i := range all {
		all[i] = &testpb.ResponseParameters{Size: int32(20_000 + i)} //nolint:gosec // it is small
	}
	return all
}

func answers(calls testpb.TestServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := calls.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{ResponseParameters: sizes()})
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) && n == messages {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d messages: %w", n, err)
		}
		if got := len(res.GetPayload().GetBody()); got != 20_000+n {
			return fmt.Errorf("message %d has %d bytes", n, got)
		}
	}
}

func requests(calls testpb.TestServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := calls.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for range messages {
		if err := stream.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: bulk[:20_000]}}); err != nil {
			break // CloseAndRecv tells why
		}
	}
	res, err := stream.CloseAndRecv()
	if err == nil && res.GetAggregatedPayloadSize() != messages*20_000 {
		err = fmt.Errorf("%d bytes arrived", res.GetAggregatedPayloadSize())
	}
	return err
}

func pingPong(calls testpb.TestServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := calls.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for i, size := range sizes() {
		// An error of Send is told by Recv.
		_ = stream.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{size}})
		res, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if got := len(res.GetPayload().GetBody()); got != 20_000+i {
			return fmt.Errorf("message %d has %d bytes", i, got)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the end is %w", err)
	}
	return nil
}

// giveUpStream ends a stream at some time within it.
func giveUpStream(calls testpb.TestServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
	defer cancel()
	stream, err := calls.FullDuplexCall(ctx)
	for err == nil {
		if err = stream.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: sizes()}); err == nil {
			_, err = stream.Recv()
		}
	}
	if errors.Is(err, io.EOF) { // Send's, and Recv tells why
		_, err = stream.Recv()
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Canceled, codes.Internal:
		return nil // Internal if a proxy was the first to see that the time was over, in the middle of a message
	}
	return err
}

// rawClient writes bytes, each time on a connection of its own.
func rawClient(p *plane) *client {
	return &client{plane: p, kinds: planned(rawKinds), close: func() {}}
}

var rawKinds = []kind{
	{"upgrade", 1, func(c *client) error { return c.upgrade("/v1", false) }},
	{"upgrade given up", 1, func(c *client) error { return c.upgrade("/v1", true) }},
	{"upgrade over the hop", 1, func(c *client) error { return c.upgrade("/far", false) }},
	{"upgrade over the hop given up", 1, func(c *client) error { return c.upgrade("/far", true) }},
	{"request cut off", 1, func(c *client) error { return c.cutOff() }},
}

// upgrade leaves HTTP and has bytes come back; giveUp ends in the middle of that.
func (c *client) upgrade(prefix string, giveUp bool) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET "+prefix+"/upgrade HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	_ = res.Body.Close() // it has none
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("answered %d (%s)", res.StatusCode, res.Header.Get("Weft-Reason"))
	}
	got := make([]byte, 1000)
	for i := range messages {
		part := bulk[i : i+len(got)]
		if _, err := conn.Write(part); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if giveUp && i == messages/2 {
			return conn.SetLinger(0) // the end is a reset
		}
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, part) {
			return fmt.Errorf("message %d comes back as %.40q, %w", i, got, err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		return fmt.Errorf("at the end came %.40q, %w", rest, err)
	}
	return nil
}

// cutOff ends its connection at some byte of a request, by an end or by a reset.
func (c *client) cutOff() error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	const request = "POST /v1/echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"
	if _, err := io.WriteString(conn, request[:rand.IntN(len(request))]); err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		_ = conn.SetLinger(0)
	}
	return conn.Close()
}

func (c *client) dial() (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", c.plane.web)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patience))
}
