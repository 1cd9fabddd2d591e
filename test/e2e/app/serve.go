package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/e2e/traffic"
)

// The ports of a backend.
const (
	portHTTP        = 8080
	portGRPC        = 9000
	portLines       = 9090
	portServerFirst = 9091
	portWebhook     = 8443
)

// onceTimeout bounds the one request of `app once`.
const onceTimeout = 20 * time.Second

// backend counts what it is asked.
type backend struct {
	mu sync.Mutex
	// seen counts requests by their key (query parameter or header e2e-key).
	seen map[string]int
	// requests counts HTTP requests, which are treated as behaviour says.
	requests  int
	behaviour traffic.Behaviour
}

func (b *backend) count(key string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen[key]++
	return b.seen[key]
}

// admit counts an HTTP request and returns how to treat it.
func (b *backend) admit() traffic.Behaviour {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests++
	return b.behaviour
}

// serve runs every server until ctx ends, those of the hop and of admission reviews if there are folders with their
// certificates.
func serve(ctx context.Context, hop, webhook string) error {
	b := &backend{seen: map[string]int{}}
	control := (&traffic.Controller{}).Handler()
	control.HandleFunc("GET /seen/{key}", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		fmt.Fprint(w, b.seen[r.PathValue("key")])
	})
	ended := make(chan error, 7)
	port := &httpPort{handler: b, failed: ended}
	control.HandleFunc("POST /behaviour", b.behave(port))
	if err := port.open(); err != nil {
		return err
	}
	commands, err := listen(traffic.ControlPort)
	if err != nil {
		return err
	}
	go func() { ended <- newServer(control).Serve(commands) }()
	for port, first := range map[int]bool{portLines: false, portServerFirst: true} {
		l, err := listen(port)
		if err != nil {
			return err
		}
		go func() { ended <- serveLines(l, first) }()
	}
	l, err := listen(portGRPC)
	if err != nil {
		return err
	}
	if hop != "" {
		l, err := listen(wire.PortHop)
		if err != nil {
			return err
		}
		go func() { ended <- serveHop(l, hop) }()
	}
	if webhook != "" {
		l, err := listen(portWebhook)
		if err != nil {
			return err
		}
		go func() { ended <- serveWebhook(l, webhook) }()
	}
	calls := grpc.NewServer(grpc.UnknownServiceHandler(b.call))
	go func() { ended <- calls.Serve(l) }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// ServeHTTP echoes a request. Query parameters change that: status=N answers with it, fail=N answers the
// first N requests of the same key with 503, delay=D waits, reset=1 cuts the connection, and the paths
// /websocket and /events speak WebSocket and server-sent events.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	key := query.Get("key")
	if key == "" {
		key = r.Header.Get("E2e-Key")
	}
	seen := b.count(key)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	echo := self(local, r.RemoteAddr)
	echo.Proto, echo.Method, echo.Path, echo.Host, echo.Header = r.Proto, r.Method, r.RequestURI, r.Host, r.Header
	behaviour := b.admit()
	if !pause(r.Context(), behaviour.Delay) {
		return
	}
	if delay, err := time.ParseDuration(query.Get("delay")); err == nil && !pause(r.Context(), delay) {
		return
	}
	if query.Has("reset") {
		reset(w)
		return
	}
	code := cmp.Or(behaviour.Status, http.StatusOK)
	if n, err := strconv.Atoi(query.Get("status")); err == nil {
		code = n
	}
	if n, err := strconv.Atoi(query.Get("fail")); err == nil && seen <= n {
		code = http.StatusServiceUnavailable
	}
	switch r.URL.Path {
	case "/websocket":
		websocket.Handler(func(conn *websocket.Conn) { serveSocket(conn, echo) }).ServeHTTP(w, r)
		return
	case "/events":
		serveEvents(w, r, echo)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	echo.Body = string(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("E2e-Version", echo.Version)
	w.WriteHeader(code)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(echo)
}

// pause waits. It returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// reset cuts a connection without an answer.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: the stream is reset
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// serveSocket answers each message with how it was seen.
func serveSocket(conn *websocket.Conn, echo traffic.Echo) {
	for {
		if websocket.Message.Receive(conn, &echo.Body) != nil {
			return
		}
		data, err := json.Marshal(echo)
		if err != nil || websocket.Message.Send(conn, string(data)) != nil {
			return
		}
	}
}

// serveEvents sends three events, each when the client has had time to see the one before.
func serveEvents(w http.ResponseWriter, r *http.Request, echo traffic.Echo) {
	w.Header().Set("Content-Type", "text/event-stream")
	for n := range 3 {
		fmt.Fprintf(w, "data: %s %d\n\n", echo.Version, n)
		if http.NewResponseController(w).Flush() != nil || !pause(r.Context(), 300*time.Millisecond) {
			return
		}
	}
}

// serveLines answers each line with how it was seen. With first it sends a line before any has come.
func serveLines(l net.Listener, first bool) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer func() { _ = conn.Close() }()
			echo := self(conn.LocalAddr(), conn.RemoteAddr().String())
			if first && json.NewEncoder(conn).Encode(echo) != nil {
				return
			}
			answerLines(conn, echo)
		}()
	}
}

// call answers any gRPC method. Metadata changes that: e2e-code answers with a code, e2e-fail=N fails the
// first N calls of the same e2e-key with Unavailable, e2e-delay waits.
func (b *backend) call(_ any, stream grpc.ServerStream) error {
	in := &wrapperspb.StringValue{}
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	first := func(name string) string {
		if values := md.Get(name); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	seen := b.count(first("e2e-key"))
	if delay, err := time.ParseDuration(first("e2e-delay")); err == nil && !pause(stream.Context(), delay) {
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if n, err := strconv.Atoi(first("e2e-fail")); err == nil && seen <= n {
		return status.Error(codes.Unavailable, "as asked for")
	}
	if n, err := strconv.ParseUint(first("e2e-code"), 10, 32); err == nil {
		return status.Error(codes.Code(n), "as asked for")
	}
	p, ok := peer.FromContext(stream.Context())
	if !ok {
		return errors.New("no peer")
	}
	echo := self(p.LocalAddr, p.Addr.String())
	echo.Proto, echo.Body, echo.Header = "gRPC", in.Value, map[string][]string{}
	echo.Path, _ = grpc.MethodFromServerStream(stream)
	echo.Host = first(":authority")
	for name, values := range md {
		echo.Header[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	data, err := json.Marshal(echo)
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	return stream.SendMsg(wrapperspb.String(string(data)))
}
